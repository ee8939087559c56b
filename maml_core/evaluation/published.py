"""Published errors on the sines of arXiv:1703.03400, and returns on its navigation, to hold a run's own against."""

import textwrap
from dataclasses import dataclass

from maml_core.config import RunConfig
from maml_core.evaluation.curves import Evaluation, Level
from maml_core.evaluation.rivals import RIVAL_NAMES
from maml_core.learning.families import Navigation, Sine
from maml_core.learning.models import MLP
from maml_core.presets import PRESETS
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


@dataclass(frozen=True)
class PublishedReturns:
    """Mean returns on the 2D navigation of arXiv:1703.03400 before adaptation and after each step of it."""

    method: str
    kind: str  # what it is compared with: "learned" or "random"
    returns: tuple[float, ...]


PUBLISHED_RETURNS = (
    PublishedReturns("published: MAML by TRPO, second order", "learned", (-40.4, -11.7, -3.33, -3.23)),
    PublishedReturns("published: random start", "random", (-82.7, -58.0, -53.8, -46.8)),
)
"""The curves that the authors of arXiv:1703.03400 released: 40 goals, a 100-100 ReLU policy, at least 40 rollouts a
step (4,000 places, in their script for it), and a rate that is halved after the first step."""


def published_returns(config: RunConfig) -> tuple[PublishedReturns, ...]:
    """The published curves for a run's tasks; none if they are not the paper's."""
    return PUBLISHED_RETURNS if config.tasks == Navigation() else ()


PARTS = ("gradient steps, first order", "gradient steps, second order", "any method")
"""Three claims that are not to be mixed: what is best among methods of one kind says nothing of another."""


def comparison(config: RunConfig, result: Evaluation) -> str:
    """Published errors for a run's set-up, this lab's own, and the run's, by kind of method, as one table's lines."""
    rows: list[tuple[str, str, str, str]] = [
        (PARTS[row.order - 1], row.error, row.method, row.source + " *" * row.is_quoted) for row in comparable(config)
    ]
    for name, preset in PRESETS.items():
        other = preset.config
        if (other.tasks, other.model, other.shots) == (config.tasks, config.model, config.shots) and preset.reached:
            source = f"this lab, mean of three seeds, after {counted_steps(preset.reached.steps)}"
            rows.append((_part(other), f"{preset.reached.mean:.3g}", name, source))
    on_these = f"the same {result.tasks} held-out tasks"
    rows += [
        (PARTS[2], _with_interval(level), RIVAL_NAMES[name], on_these)
        for name, level in result.rivals.items()
        if name != "oracle"
    ]
    steps = min(config.inner_steps, len(result.learned.error) - 1)
    mine = _with_interval(result.after(steps))
    rows.append((_part(config), mine, f"this run: {config.algorithm}", f"{on_these}, after {counted_steps(steps)}"))
    wide = max(len(method) for _, _, method, _ in rows)
    lines = [f"{'error':>17}  {'method':<{wide}}  source, {config.shots} shots"]
    for part in PARTS:
        lines.append(part)
        lines += [f"{error:>17}  {method:<{wide}}  {source}" for which, error, method, source in rows if which == part]
    return "\n".join([*lines, *textwrap.wrap(PROTOCOL, 100)])


def _part(config: RunConfig) -> str:
    algorithm = config.method
    return PARTS[2] if algorithm.solves else PARTS[0 if algorithm.is_first_order else 1]


def _with_interval(level: Level) -> str:
    return f"{level.error:.3g} ± {level.ci95:.2g}"


def comparable(config: RunConfig) -> list[Published]:
    """The published figures for a run's set-up; none if it is not the paper's family and network."""
    if config.tasks != Sine() or config.model != MLP(hidden_sizes=(40, 40)):
        return []
    return [row for row in PUBLISHED if row.shots == config.shots]
