"""The way of an initialization through parameter space while it is trained, and from there to its tasks.

Three pictures come from it: the path on its two principal axes, with an arm from each end to the parameters of a dozen
adapted tasks; those arms on principal axes of their own, since they are short beside the path and lead elsewhere; and
how far each layer moves during adaptation (the question of arXiv:1909.09157, section 3).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch

from maml_core.errors import StoreError
from maml_core.evaluation.of_runs import learned_by, shown_steps
from maml_core.learning.initialization import Initialization
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.words import counted_steps

TASKS = 12
SAMPLE = 20_000
"""Parameters that a path is followed in, at most: of more, so many are drawn at random."""

READ_LIMIT = 2**27
"""Numbers read from checkpoints for one path: of large networks fewer checkpoints are looked at."""

ADAPT_LIMIT = 2**24
"""Numbers that tasks adapted at once may have."""


@dataclass(frozen=True)
class PathMap:
    """A training path on its two principal axes, and arms to where a dozen tasks adapt from its two ends.

    "before" and "after" are the ends of the path: before training, and where it has come.
    """

    iterations: list[int]  # of the checkpoints on the path
    path: np.ndarray  # [checkpoints, 2]
    arms: dict[str, np.ndarray]  # [tasks, 2] where adaptation ends, on the axes of the path
    star: dict[str, np.ndarray]  # [tasks, 2] how far and where to, on the principal axes of the arms themselves
    steps: int  # of adaptation
    explained: float  # share of the path's variance that its two axes show
    star_explained: float  # share of the arms' squared length that theirs show
    lengths: tuple[float, float]  # of the path from end to end, and of an arm after training, in all dimensions
    sampled: tuple[int, int] | None  # parameters looked at and there, where not all are
    layers: list[str]
    moved: dict[str, list[float]]  # by layer, the change's norm over the layer's own
    points: Mapping[int, np.ndarray] = field(default_factory=dict, repr=False)  # by iteration, to go on from

    def sentence(self) -> str:
        """What the map shows, and how much of the truth that is."""
        length, arm = self.lengths
        sampled = self.sampled and f" Seen in {self.sampled[0]:,} of {self.sampled[1]:,} parameters, drawn at random."
        return (
            f"{len(self.iterations)} checkpoints; their plane shows {self.explained:.0%} of the path's variance, that "
            f"of the arms {self.star_explained:.0%} of their squared length. The path is {length:.3g} long from end to "
            f"end, an arm {arm:.3g} on average, after {counted_steps(self.steps)} on each of {TASKS} held-out tasks."
            + (sampled or "")
        )


def path_map(
    store: Store,
    run: Run,
    *,
    known: PathMap | None = None,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> PathMap:
    """The map of a run as far as it has come; what was `known` of it before is not read again.

    Torch is used within `turn` only.

    Raises:
        StoreError: the run has fewer than two checkpoints.
        CheckpointError: a checkpoint cannot be used.
        ConfigError: the run's model cannot be made here.
    """
    size = run.config.layout().parameter_count
    chosen = torch.randperm(size, generator=torch.Generator().manual_seed(0))[:SAMPLE].sort().values
    kept = _spread([judged.iteration for judged in store.history(run.id)], max(2, READ_LIMIT // max(1, size)))
    if len(kept) < 2:
        raise StoreError("A map needs two checkpoints of a run, and this one has fewer: train it a little further.")
    points: dict[int, np.ndarray] = {}
    ends: dict[str, Initialization] = {}
    for iteration in kept:
        before = known.points.get(iteration) if known else None
        is_end = iteration in (kept[0], kept[-1])
        if before is None or is_end:
            with turn():
                start = learned_by(store, run, iteration)
                if start is None:  # its history is being thinned out or the run deleted
                    continue
                before = _flat(start.parameters)[chosen].numpy()
                if is_end:
                    ends["before" if iteration == kept[0] else "after"] = start
        points[iteration] = before
    if len(ends) < 2:
        raise StoreError("The run's checkpoints changed while its map was made: look again.")
    steps = shown_steps(run.config)
    vectors = np.stack([*points.values()]).astype(np.float64)
    center = vectors.mean(axis=0)
    axes, explained = _principal_axes(vectors - center)
    axes *= np.where((vectors[-1] - vectors[0]) @ axes < 0, -1.0, 1.0)  # toward the head: a map that does not turn over
    arms, moved, changes = {}, {}, {}
    for name, start in ends.items():
        phis, moved[name] = _adapted(run, start, chosen, steps, turn)
        arms[name] = (phis - center) @ axes
        changes[name] = phis - _flat(start.parameters)[chosen].numpy()
    star_axes, star_explained = _principal_axes(np.concatenate([*changes.values()]))
    scale = (size / len(chosen)) ** 0.5  # a random sample of the coordinates shortens every distance alike
    return PathMap(
        iterations=[*points],
        path=(vectors - center) @ axes,
        arms=arms,
        star={name: change @ star_axes for name, change in changes.items()},
        steps=steps,
        explained=explained,
        star_explained=star_explained,
        lengths=(scale * float(np.linalg.norm(vectors[-1] - vectors[0])), scale * _mean_length(changes["after"])),
        sampled=(len(chosen), size) if len(chosen) < size else None,
        layers=layer_names([*ends["after"].parameters]),
        moved=moved,
        points=points,
    )


def layer_names(parameters: Sequence[str]) -> list[str]:
    """What the layers of a network are called on screen, in order, from the names of its parameters."""
    prefixes = _layers(parameters)
    if len(prefixes) > 1 and all(prefix.isdigit() for prefix in prefixes):
        return [f"layer {k}" for k in range(1, len(prefixes))] + ["head"]
    bare = [name for name in parameters if "." not in name]  # parameters of the model itself
    return [prefix or (bare[0] if len(bare) == 1 else "network") for prefix in prefixes]


def _layers(parameters: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in parameters))


def _flat(parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.detach().reshape(-1) for value in parameters.values()])


def _spread(iterations: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly spaced in their order, always with the first and the last."""
    if len(iterations) <= most:
        return list(iterations)
    return [iterations[round(k)] for k in np.linspace(0, len(iterations) - 1, most)]


def _principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Two principal axes `[P, 2]` of `[count, P]` about zero, and the share of their squares that the two show.

    By the Gram matrix, which is small however many parameters there are.
    """
    total = float(np.square(vectors).sum())
    if not total:
        return np.zeros((vectors.shape[1], 2)), 1.0
    values, sides = np.linalg.eigh(vectors @ vectors.T)
    values, sides = values[::-1][:2], sides[:, ::-1][:, :2]
    flat = values <= 1e-12 * values[0]  # two checkpoints lie on a line
    axes = np.where(flat, 0.0, vectors.T @ sides / np.sqrt(np.where(flat, 1.0, values)))
    return axes, float(values.clip(min=0).sum()) / total


def _mean_length(changes: np.ndarray) -> float:
    return float(np.linalg.norm(changes, axis=1).mean()) if len(changes) else float("nan")


def _adapted(
    run: Run,
    start: Initialization,
    chosen: torch.Tensor,
    steps: int,
    turn: Callable[[], AbstractContextManager[None]],
) -> tuple[np.ndarray, list[float]]:
    """Where a dozen held-out tasks adapt to, `[tasks, chosen]`, and how far each layer moves, against its size."""
    with turn():
        batch = run.config.tasks.held_out(tasks=TASKS, shots=run.config.shots, query_shots=1)
    size = sum(value.numel() for value in start.parameters.values())
    at_once = max(1, min(TASKS, ADAPT_LIMIT // size))
    ends, squares = [], []
    layers = _layers([*start.parameters])
    for first in range(0, TASKS, at_once):
        with turn():
            phi = start.adapted(batch.at(slice(first, first + at_once)), steps)
            ends.append(torch.cat([value.flatten(1) for value in phi.values()], dim=1)[:, chosen])
            of_layers = torch.zeros(len(ends[-1]), len(layers), dtype=torch.float64)
            for name, value in phi.items():
                change = (value - start.parameters[name]).double().flatten(1)
                of_layers[:, layers.index(name.rpartition(".")[0])] += change.square().sum(1)
            squares.append(of_layers)
    sizes = [0.0] * len(layers)
    for name, value in start.parameters.items():
        sizes[layers.index(name.rpartition(".")[0])] += float(value.double().square().sum())
    moved = torch.cat(squares).sqrt()
    moved = moved[torch.isfinite(moved).all(1)]
    size_of = torch.tensor(sizes, dtype=torch.float64).sqrt()
    size_of[size_of == 0] = torch.nan  # of what is all zeros, a change has no share
    ratio = moved.mean(0) / size_of if len(moved) else torch.zeros(len(layers))
    found = torch.cat(ends).numpy().astype(np.float64)
    return found[np.isfinite(found).all(axis=1)], ratio.tolist()
