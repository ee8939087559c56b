"""Named configurations: the classic linear and sine set-ups, and the paper's."""

import math
from dataclasses import dataclass
from typing import Any

from maml_core.adaptation import counted_steps
from maml_core.config import RunConfig
from maml_core.errors import ConfigError
from maml_core.models import MLP, Linear
from maml_core.tasks import Line, Sine, Uniform

DEFAULT = "sine"
"""The preset that the lab opens with and `train` runs when none is named."""


REPORT_TASKS = 600
"""Held-out tasks that an error is measured on."""

REPORT_SEEDS = (21, 22, 23)
"""Training seeds of the errors that presets carry; nothing was tuned on them."""


@dataclass(frozen=True)
class Reached:
    """What training a preset came to: its error after `steps` steps of adaptation, for each of `REPORT_SEEDS`.

    Mean squared error on `REPORT_TASKS` held-out tasks (evaluation seed 0, a noise-free grid of 100 points) at the
    checkpoint with the lowest held-out loss, which is computed on yet other tasks.
    """

    steps: int
    errors: tuple[float, float, float]

    @property
    def mean(self) -> float:
        """Over the training seeds."""
        return sum(self.errors) / len(self.errors)

    def __str__(self) -> str:
        """As part of a sentence: 0.05 (0.04 to 0.06 with three seeds) after 5 steps."""
        low, high = min(self.errors), max(self.errors)
        return f"{self.mean:.3g} ({low:.3g} to {high:.3g} with three seeds) after {counted_steps(self.steps)}"


@dataclass(frozen=True)
class Preset:
    """A configuration worth a name."""

    title: str
    description: str
    config: RunConfig
    reached: Reached | None = None


_CLASSIC: dict[str, Any] = {
    "shots": 10,
    "query_shots": 5,
    "inner_lr": 0.01,
    "meta_lr": 0.001,
    "meta_batch_size": 5,
    "meta_iterations": 1000,
}
_PAPER: dict[str, Any] = {
    "model": MLP(hidden_sizes=(40, 40)),
    "tasks": Sine(),  # its defaults are the paper's ranges
    "inner_lr": 0.01,
    "inner_steps": 1,
    "meta_lr": 0.001,
    "meta_batch_size": 25,
    "meta_iterations": 70_000,
}

_BEST: dict[str, Any] = {
    "algorithm": "fo-meta-sgd",
    "inner_steps": 5,
    "clip_norm": 10.0,
    "schedule": "cosine",
}

_ANY_FREQUENCY = Sine(frequency=Uniform(low=0.5, high=2.0), phase=Uniform(low=0.0, high=2 * math.pi))

PRESETS: dict[str, Preset] = {
    "linear": Preset(
        "Lines, linear model",
        "The smallest case: one weight and one bias learn to adapt to any line in a single step.",
        RunConfig(**_CLASSIC, model=Linear(), tasks=Line(), inner_steps=1),
    ),
    "sine": Preset(
        "Sine waves, 1-64-1 network",
        "Amplitude and frequency vary; five inner steps. Trains in seconds.",
        RunConfig(
            **_CLASSIC,
            model=MLP(hidden_sizes=(64,)),
            tasks=Sine(
                amplitude=Uniform(low=0.0, high=5.0),
                frequency=Uniform(low=0.1, high=2.1),
                phase=Uniform(low=0.0, high=0.0),
                x=Uniform(low=0.0, high=2 * math.pi),
            ),
            inner_steps=5,
        ),
    ),
    "paper-5-shot": Preset(
        "The MAML paper's sines, 5 shots",
        "arXiv:1703.03400, section 5.1: 40-40 network, 70,000 iterations, 5 support points.",
        RunConfig(**_PAPER, shots=5, query_shots=5),
    ),
    "paper-10-shot": Preset(
        "The MAML paper's sines, 10 shots",
        "arXiv:1703.03400, section 5.1: 40-40 network, 70,000 iterations, 10 support points.",
        RunConfig(**_PAPER, shots=10, query_shots=10),
    ),
    "best-5-shot": Preset(
        "Best first-order recipe, 5 shots",
        "The paper's sines by first-order Meta-SGD: five inner steps at learned rates, clipping, a cosine schedule.",
        RunConfig(**(_PAPER | _BEST), shots=5, query_shots=5),
    ),
    "best-10-shot": Preset(
        "Best first-order recipe, 10 shots",
        "The paper's sines by first-order Meta-SGD: five inner steps at learned rates, clipping, a cosine schedule.",
        RunConfig(**(_PAPER | _BEST), shots=10, query_shots=10),
    ),
    "best-random-frequency": Preset(
        "Best first-order recipe, any frequency",
        "Amplitude, frequency and phase vary: much harder for a 40-40 network. Predicting zero scores 4.25.",
        RunConfig(
            **(
                _PAPER
                | _BEST
                | {"tasks": Sine(frequency=Uniform(low=0.5, high=2.0), phase=Uniform(low=0.0, high=2 * math.pi))}
            ),
            shots=10,
            query_shots=10,
        ),
    ),
}
for _name, _title, _changes in (
    ("maml-10-shot", "MAML, second-order, 10 shots", {"algorithm": "maml"}),
    ("reptile-10-shot", "Reptile, 10 shots", {"algorithm": "reptile", "inner_steps": 5}),
    ("anil-10-shot", "ANIL, 10 shots", {"algorithm": "anil", "inner_steps": 5, "clip_norm": 10.0}),
    ("meta-sgd-10-shot", "Meta-SGD, second-order, 10 shots", {"algorithm": "meta-sgd", "clip_norm": 10.0}),
    ("joint-10-shot", "Joint pretraining, 10 shots", {"algorithm": "joint"}),
):
    PRESETS[_name] = Preset(
        _title,
        "The MAML paper's sines and network, by another algorithm.",
        RunConfig(**(_PAPER | _changes), shots=10, query_shots=10),
    )


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset = {name!r} is not known: it must be one of {', '.join(PRESETS)}.")
    return PRESETS[name]
