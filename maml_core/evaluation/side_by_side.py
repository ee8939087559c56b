"""One task adapted from several initializations: what a run has learned, joint pretraining, and a random start."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from maml_core.evaluation.curves import random_start
from maml_core.evaluation.of_runs import learned_by, pretrained_run
from maml_core.evaluation.rivals import RIVAL_NAMES
from maml_core.learning.adaptation import fit_tasks
from maml_core.learning.fits import TaskFit
from maml_core.learning.fresh_rows import RowTasks
from maml_core.learning.fresh_tasks import Tasks
from maml_core.learning.initialization import Initialization
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.words import counted_steps

NAMES = {"learned": "meta-learned", "pretrained": "pretrained", "random": "random"}
"""What the compared initializations are called on screen, by the name they have in code."""


class Ending(NamedTuple):
    """What adaptation came to, in words."""

    title: str
    error: str


def starts(store: Store, run: Run, learned: Initialization) -> dict[str, Initialization]:
    """The initializations to compare with what `run` has learned, by name."""
    found = {"learned": learned}
    other = pretrained_run(store, run)
    pretrained = learned_by(store, other) if other and other.iteration else None
    if pretrained:
        found["pretrained"] = pretrained
    return found | {"random": random_start(run.config)}


def fit_all(
    starts: Mapping[str, Initialization], tasks: Tasks | RowTasks, steps: int, inner_lr: float
) -> dict[str, TaskFit]:
    """The first of `tasks`, adapted from each initialization at that inner learning rate."""
    return {name: fit_tasks(start.at_rate(inner_lr), tasks, steps)[0] for name, start in starts.items()}


def endings(fits: Mapping[str, TaskFit]) -> list[Ending]:
    """What each initialization ends with, and what methods without a step of adaptation come to."""
    found = []
    for name, label in NAMES.items():
        if name in fits:
            fit = fits[name]
            steps = len(fit.query_loss) - 1
            error = "diverged" if fit.blew_up_at is not None else _shown(float(fit.query_loss[-1]), fit)
            if fit.naming and fit.blew_up_at is None:
                best = max(fit.naming)
                error = f"class {fit.naming.index(best) + 1}, {best:.0%}"
            found.append(Ending(f"{label.capitalize()}, after {counted_steps(steps)}", error))
    main = fits["learned"]
    found += [Ending(RIVAL_NAMES[name].capitalize(), _shown(error, main)) for name, error in main.beside.items()]
    return found if main.naming else [*found, Ending(main.problem.guess.capitalize(), _shown(main.mean_error(), main))]


def _shown(error: float, fit: TaskFit) -> str:
    return f"{fit.problem.in_words(error)} {fit.unit}".strip() if math.isfinite(error) else "diverged"
