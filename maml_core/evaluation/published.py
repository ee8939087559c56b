"""Published errors on the sines of arXiv:1703.03400, to hold a run's own against."""

import textwrap
from dataclasses import dataclass

from maml_core.config import RunConfig
from maml_core.evaluation.curves import Evaluation
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.families import Sine
from maml_core.learning.models import MLP
from maml_core.words import counted_steps

PROTOCOL = (
    "Published errors are as each source reports them, after the method's own steps and on tasks and points of its own;"
    " those marked * are quoted from other papers' tables."
)


@dataclass(frozen=True)
class Published:
    """Mean squared error on the paper's sines, 40-40 network; as reported, after each method's own steps."""

    shots: int
    source: str
    method: str
    order: int  # 1: first-order, 2: with second derivatives
    error: str
    is_quoted: bool = False  # not read at the source itself


PUBLISHED = (
    Published(5, "arXiv:1707.09835", "MAML", 2, "1.13", is_quoted=True),
    Published(5, "arXiv:1707.09835", "Meta-SGD", 2, "0.90", is_quoted=True),
    Published(5, "Zigolox, OptML project", "MAML", 2, "0.72"),
    Published(5, "Zigolox, OptML project", "FOMAML", 1, "0.81"),
    Published(5, "Zigolox, OptML project", "Reptile", 1, "1.3"),
    Published(5, "arXiv:1902.03356", "MAML", 2, "0.686", is_quoted=True),
    Published(5, "arXiv:1902.03356", "MC2", 2, "0.405", is_quoted=True),
    Published(5, "PARL", "MAML++", 2, "0.34"),
    Published(10, "arXiv:1707.09835", "MAML", 2, "0.77", is_quoted=True),
    Published(10, "arXiv:1707.09835", "Meta-SGD", 2, "0.53", is_quoted=True),
    Published(10, "63days", "MAML", 2, "0.67"),
    Published(10, "63days", "Meta-SGD", 2, "0.31"),
    Published(10, "arXiv:1902.03356", "MAML", 2, "0.435", is_quoted=True),
    Published(10, "arXiv:1902.03356", "MC2", 2, "0.201", is_quoted=True),
    Published(10, "arXiv:1810.03642", "MAML", 2, "0.23-0.33", is_quoted=True),
    Published(10, "arXiv:1810.03642", "CAVIA", 2, "0.19", is_quoted=True),
)


def comparison(config: RunConfig, result: Evaluation) -> str:
    """The published errors for a run's set-up and, last, the run's own, as the lines of one table."""
    steps = min(config.inner_steps, len(result.learned.mse) - 1)
    algorithm = ALGORITHMS[config.algorithm]
    rows = [(row.error, row.order, row.method, row.source + " *" * row.is_quoted) for row in comparable(config)]
    rows.append(
        (
            f"{result.learned.mse[steps]:.3g} ± {result.learned.ci95[steps]:.2g}",
            1 if algorithm.is_first_order else 2,
            f"this run: {algorithm.name}",
            f"{result.tasks} held-out tasks, after {counted_steps(steps)}",
        )
    )
    orders = {1: "first", 2: "second"}
    lines = [f"{'error':>15}  {'order':<6}  {'method':<22}  source, {config.shots} shots"]
    lines += [f"{error:>15}  {orders[order]:<6}  {method:<22}  {source}" for error, order, method, source in rows]
    return "\n".join([*lines, *textwrap.wrap(PROTOCOL, 100)])


def comparable(config: RunConfig) -> list[Published]:
    """The published figures for a run's set-up; none if it is not the paper's family and network."""
    if config.tasks != Sine() or config.model != MLP(hidden_sizes=(40, 40)):
        return []
    return [row for row in PUBLISHED if row.shots == config.shots]
