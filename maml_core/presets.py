"""Named configurations: the classic linear and sine set-ups, and the paper's."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from maml_core.config import RunConfig
from maml_core.errors import ConfigError
from maml_core.learning.control import Control
from maml_core.learning.convolution import Conv
from maml_core.learning.families import Circles, Glyphs, Line, Navigation, OwnImages, Sine, Spiral, Steering
from maml_core.learning.models import MLP, FourierMLP, Linear, Policy
from maml_core.learning.problems import PROBLEMS, Classification, Regression
from maml_core.learning.table import Table, keep
from maml_core.learning.table_tasks import TableFamily
from maml_core.learning.tasks import Uniform
from maml_core.words import counted_steps

DEFAULT = "first-run"
"""The preset that the lab opens with and `train` runs when none is named."""


REPORT_TASKS = 600
"""Held-out tasks that an error is measured on."""

REPORT_SEEDS = (21, 22, 23)
"""Training seeds of the errors that presets carry; nothing was tuned on them."""


@dataclass(frozen=True)
class Reached:
    """What training a preset came to: its error after `steps` steps of adaptation, for each of `REPORT_SEEDS`.

    The error on `REPORT_TASKS` held-out tasks (evaluation seed 0, a noise-free grid of 100 points, 50 further points
    or 10 further images of each class, or 20 further rollouts) at the checkpoint with the lowest held-out loss, which
    is computed on yet other tasks.
    """

    steps: int
    errors: tuple[float, float, float]
    problem: str = Regression.name

    @property
    def mean(self) -> float:
        """Over the training seeds."""
        return sum(self.errors) / len(self.errors)

    def in_short(self) -> str:
        """Its mean alone."""
        if self.problem == Regression.name:
            return f"{self.mean:.2g}"
        return PROBLEMS[self.problem].in_words(self.mean)

    def __str__(self) -> str:
        """As part of a sentence: 0.05 (0.04 to 0.06 with three seeds) after 5 steps; of classes, the accuracy."""
        words = PROBLEMS[self.problem].in_words
        low, high = sorted((min(self.errors), max(self.errors)), key=PROBLEMS[self.problem].score)
        return f"{words(self.mean)} ({words(low)} to {words(high)} with three seeds) after {counted_steps(self.steps)}"


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
_TUNED: dict[str, Any] = {"clip_norm": 0.3, "ema_decay": 0.9995}
_LEARNED_STEPS: dict[str, Any] = {
    "algorithm": "fo-meta-sgd",
    "inner_steps": 5,
    "clip_norm": 10.0,
    "schedule": "cosine",
    "ema_decay": 0.9995,
}
_BEST: dict[str, Any] = _LEARNED_STEPS | {"algorithm": "fo-meta-curvature"}
_CLOSED: dict[str, Any] = {
    "algorithm": "ridge-head",
    "query_shots": 10,
    "meta_lr": 0.003,
    "meta_iterations": 40_000,
    "clip_norm": 10.0,
    "schedule": "cosine",
}
_CLASSES: dict[str, Any] = {
    "model": MLP(hidden_sizes=(64, 64, 64)),
    "query_shots": 20,
    "inner_lr": 0.1,
    "inner_steps": 5,
    "meta_lr": 0.001,
    "meta_batch_size": 16,
    "meta_iterations": 3000,
    "clip_norm": 1.0,
    "schedule": "cosine",
}
_IMAGES: dict[str, Any] = {
    "model": Conv(channels=64),
    "tasks": Glyphs(),
    "shots": 1,
    "query_shots": 5,
    "algorithm": "fo-meta-sgd",
    "inner_lr": 0.1,
    "inner_steps": 5,
    "meta_lr": 0.003,
    "meta_batch_size": 8,
    "meta_iterations": 4000,
    "clip_norm": 10.0,
    "schedule": "cosine",
    "ema_decay": 0.995,
}
# By first-order MAML with REINFORCE; arXiv:1703.03400, section 5.3, has TRPO and second derivatives.
_CONTROL: dict[str, Any] = {
    "model": Policy(),
    "shots": 20,
    "query_shots": 20,
    "inner_lr": 0.1,
    "inner_steps": 3,
    "meta_lr": 0.003,
    "meta_batch_size": 20,
    "meta_iterations": 100,
    "clip_norm": 1.0,
    "schedule": "cosine",
}
_ANY_FREQUENCY = Sine(frequency=Uniform(low=0.5, high=2.0), phase=Uniform(low=0.0, high=2 * math.pi))


def _recipe(
    settings: dict[str, Any], title: str, description: str, reached: Reached | None = None, **changes: Any
) -> Preset:
    """The settings, with changes."""
    return Preset(title, description, RunConfig(**(settings | changes)), reached)


def _paper(shots: int, title: str, description: str, reached: Reached | None = None, **changes: Any) -> Preset:
    """The set-up of arXiv:1703.03400, section 5.1, with changes."""
    sized = {"shots": shots, "query_shots": shots} | changes
    return _recipe(_PAPER, f"{title}, {shots} shots", description, reached, **sized)


_plane, _control, _images = (partial(_recipe, settings) for settings in (_CLASSES, _CONTROL, _IMAGES))


PRESETS: dict[str, Preset] = {
    "first-run": Preset(
        "Sine waves, a first run",
        "The MAML paper's sines by first-order MAML, five inner steps, clipped. Fits well within seconds.",
        RunConfig(
            **_PAPER
            | {
                "inner_lr": 0.005,
                "inner_steps": 5,
                "meta_lr": 0.003,
                "meta_iterations": 20_000,
                "clip_norm": 1.0,
                "schedule": "cosine",
            }
        ),
        reached=Reached(5, (0.207, 0.121, 0.124)),
    ),
    "linear": Preset(
        "Lines, linear model",
        "The smallest case: one weight and one bias learn to adapt to any line in a single step.",
        RunConfig(**_CLASSIC, model=Linear(), tasks=Line(), inner_steps=1),
        reached=Reached(1, (7.63, 7.62, 7.61)),
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
        reached=Reached(5, (2.77, 2.66, 2.61)),
    ),
    "paper-5-shot": _paper(
        5,
        "The MAML paper's sines",
        "arXiv:1703.03400, section 5.1, by first-order MAML: 40-40 network, one inner step, 70,000 iterations.",
        reached=Reached(1, (0.662, 0.632, 0.608)),
    ),
    "paper-10-shot": _paper(
        10,
        "The MAML paper's sines",
        "arXiv:1703.03400, section 5.1, by first-order MAML: 40-40 network, one inner step, 70,000 iterations.",
        reached=Reached(1, (0.373, 0.36, 0.361)),
    ),
    "fomaml-5-shot": _paper(
        5,
        "First-order MAML, tuned",
        "The paper's set-up with larger meta-steps, clipped, and averaged; smaller inner steps.",
        inner_lr=0.005,
        meta_lr=0.002,
        **_TUNED,
        reached=Reached(1, (0.646, 0.586, 0.606)),
    ),
    "fomaml-10-shot": _paper(
        10,
        "First-order MAML, tuned",
        "The paper's set-up with larger meta-steps, clipped, and averaged.",
        meta_lr=0.003,
        **_TUNED,
        reached=Reached(1, (0.369, 0.362, 0.384)),
    ),
    "best-5-shot": _paper(
        5,
        "Best first-order recipe",
        "First-order Meta-Curvature: matrices that multiply each inner gradient are learned too. Three inner steps, "
        "clipping, a cosine schedule, averaging.",
        **(_BEST | {"inner_steps": 3}),
        reached=Reached(3, (0.126, 0.0919, 0.128)),
    ),
    "best-10-shot": _paper(
        10,
        "Best first-order recipe",
        "First-order Meta-Curvature: matrices that multiply each inner gradient are learned too. Five inner steps, "
        "clipping, a cosine schedule, averaging.",
        **_BEST,
        reached=Reached(5, (0.015, 0.0151, 0.0126)),
    ),
    "best-random-frequency": _paper(
        10,
        "Best first-order recipe, any frequency",
        "Amplitude, frequency and phase vary: much harder for a 40-40 network. Predicting zero scores 4.25. By "
        "first-order Meta-SGD.",
        tasks=_ANY_FREQUENCY,
        **(_LEARNED_STEPS | {"inner_steps": 6, "clip_norm": 1.0}),
        reached=Reached(6, (0.993, 1.02, 0.947)),
    ),
    "ridge-5-shot": _paper(
        5,
        "Ridge head",
        "No gradient step at all: the last layer is solved for, on features that were trained for it.",
        **_CLOSED,
        reached=Reached(1, (0.00986, 0.007, 0.00602)),
    ),
    "ridge-10-shot": _paper(
        10,
        "Ridge head",
        "No gradient step at all: the last layer is solved for, on features that were trained for it.",
        **_CLOSED,
        reached=Reached(1, (0.00042, 0.000208, 0.000166)),
    ),
    "ridge-random-frequency": _paper(
        10,
        "Ridge head, any frequency",
        "Amplitude, frequency and phase vary; the last layer is solved for, on a perceptron on Fourier features.",
        tasks=_ANY_FREQUENCY,
        **(_CLOSED | {"model": FourierMLP(hidden_sizes=(40, 40))}),
        reached=Reached(1, (0.0864, 0.102, 0.0864)),
    ),
    "maml-10-shot": _paper(
        10,
        "MAML, second-order",
        "The paper's own algorithm, with second derivatives.",
        algorithm="maml",
        reached=Reached(1, (0.348, 0.365, 0.34)),
    ),
    "fo-meta-sgd-5-shot": _paper(
        5,
        "Meta-SGD, first-order",
        "A rate for each parameter is learned too. Five inner steps, clipping, a cosine schedule, averaging.",
        **_LEARNED_STEPS,
        reached=Reached(5, (0.168, 0.161, 0.186)),
    ),
    "fo-meta-sgd-10-shot": _paper(
        10,
        "Meta-SGD, first-order",
        "A rate for each parameter is learned too. Five inner steps, clipping, a cosine schedule, averaging.",
        **_LEARNED_STEPS,
        reached=Reached(5, (0.0631, 0.038, 0.0427)),
    ),
    "fo-b-maml-10-shot": _paper(
        10,
        "B-MAML, first-order",
        "The paper's sines by a finite difference of the adapted weights: five inner steps, clipped.",
        algorithm="fo-b-maml",
        inner_steps=5,
        meta_lr=0.002,
        meta_iterations=20_000,
        clip_norm=1.0,
        schedule="cosine",
        reached=Reached(5, (0.163, 0.155, 0.15)),
    ),
    "reptile-10-shot": _paper(
        10,
        "Reptile",
        "The paper's sines by Reptile: five inner steps.",
        algorithm="reptile",
        inner_steps=5,
        reached=Reached(5, (0.154, 0.152, 0.158)),
    ),
    "anil-10-shot": _paper(
        10,
        "ANIL",
        "The paper's sines, with only the last layer adapting: five inner steps.",
        algorithm="anil",
        inner_steps=5,
        clip_norm=10.0,
        reached=Reached(5, (0.0904, 0.083, 0.0776)),
    ),
    "meta-sgd-10-shot": _paper(
        10,
        "Meta-SGD, second-order",
        "The paper's sines, one inner step at learned rates, with second derivatives.",
        algorithm="meta-sgd",
        clip_norm=10.0,
        reached=Reached(1, (0.235, 0.23, 0.25)),
    ),
    "spiral": _plane(
        "Spirals, two classes, 5 shots",
        "Classification: five points of each arm of a turned spiral tell the rest. Fits within seconds.",
        tasks=Spiral(),
        shots=5,
        reached=Reached(5, (0.00253, 0.00333, 0.00703), Classification.name),
    ),
    "spiral-tight": _plane(
        "Spirals, 1.75 turns, 10 shots",
        "Classification: wound tighter, with ten points of each arm.",
        tasks=Spiral(turns=Uniform(low=1.75, high=1.75)),
        shots=10,
        inner_lr=0.05,
        meta_lr=0.002,
        meta_iterations=5000,
        reached=Reached(5, (0.00607, 0.00707, 0.0206), Classification.name),
    ),
    "ridge-spiral": _plane(
        "Ridge head, spirals, 5 shots",
        "Classification without a gradient step: the last layer is solved for, on features trained for it.",
        tasks=Spiral(),
        shots=5,
        algorithm="ridge-head",
        inner_steps=1,
        clip_norm=10.0,
        reached=Reached(1, (0.00118, 0.00102, 0.00202), Classification.name),
    ),
    "circles": _plane(
        "Circles, two classes, 5 shots",
        "Classification: five points inside a circle and five outside tell where it is.",
        tasks=Circles(),
        shots=5,
        reached=Reached(5, (0.08, 0.0814, 0.0831), Classification.name),
    ),
    "navigation": _control(
        "Navigation, 20 rollouts",
        "Control: three steps of policy gradient, and the way to a goal that only the reward tells of is known.",
        tasks=Navigation(),
        reached=Reached(3, (5.85, 5.45, 6.03), Control.name),
    ),
    "navigation-1-step": _control(
        "Navigation, a single step",
        "Control as in the MAML paper: one step of policy gradient on twenty rollouts.",
        tasks=Navigation(),
        inner_lr=0.2,
        inner_steps=1,
        meta_iterations=200,
        reached=Reached(1, (12.6, 12.7, 13.9), Control.name),
    ),
    "steering": _control(
        "Turned controls, 20 rollouts",
        "Control: the goal is known, but left may be up; three steps of policy gradient find out.",
        tasks=Steering(),
        meta_iterations=150,
        reached=Reached(3, (6.93, 8.15, 6.62), Control.name),
    ),
    "glyphs": _images(
        "Written characters, 5 classes, 1 shot",
        "Few-shot images: after one image of each of five characters that it has never seen, which is which?",
        reached=Reached(5, (0.0721, 0.0803, 0.0758), Classification.name),
    ),
    "joint-10-shot": _paper(
        10,
        "Joint pretraining",
        "The baseline without meta-learning: one network for all tasks at once.",
        algorithm="joint",
        reached=Reached(1, (2.35, 2.38, 2.29)),
    ),
}


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset = {name!r} is not known: it must be one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def config_for_table(family: TableFamily) -> RunConfig:
    """Hyperparameters to begin with for the tasks of a table: what suits so many tasks of so many rows.

    Support and query get as many rows as nine tenths of the tasks have, at most 5 and 10.

    Raises:
        ConfigError: the table is not at hand, or has too few tasks.
    """
    rows = family.rows
    counts = rows.count[torch.cat(list(rows.sets.values()))].double()
    most = max(2, int(counts.quantile(0.1))) if len(counts) else 2
    shots = min(5, most // 2)
    config = RunConfig(
        model=MLP(hidden_sizes=(40, 40)),
        tasks=family,
        shots=shots,
        query_shots=min(10, most - shots),
        inner_lr=0.02,
        inner_steps=5,
        meta_lr=0.003,
        meta_batch_size=16,
        meta_iterations=5000,
        clip_norm=1.0,
        schedule="cosine",
    )
    family.check(config.shots + config.query_shots)
    return config


def config_for_images(table: Table) -> RunConfig:
    """Hyperparameters to begin with for a table of images: one shot, as many ways as all three sets have classes for.

    As many images of a class take part as leave each set that many classes, at most twenty.

    Raises:
        ConfigError: there are too few classes.
    """
    family = OwnImages(table=keep(table).id, images_per_class=2, classes=2)
    family.check(2)
    ways = min(5, family.ways(2))
    each = next(
        count for count in range(min(20, max(family.images.counts.tolist())), 1, -1) if family.ways(count) >= ways
    )
    family = OwnImages(table=table.id, images_per_class=each, classes=ways)
    config = RunConfig(**_IMAGES | {"tasks": family, "query_shots": min(5, each - 1), "meta_iterations": 1000})
    family.check(config.shots + config.query_shots)
    return config
