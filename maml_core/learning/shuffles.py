"""Different rows of a task, or images of a class, in random order: for many tasks at once, of any length."""

import torch
from torch import Tensor


def draw_rows(counts: Tensor, points: int, generator: torch.Generator) -> Tensor:
    """`points` different numbers below each of `counts` `[...]`, in random order: `[..., points]`."""
    flat = counts.reshape(-1)
    u = torch.rand(points, len(flat), generator=generator, dtype=torch.float64)
    return shuffled(flat, u).T.reshape(*counts.shape, points)


def shuffled(counts: Tensor, u: Tensor) -> Tensor:
    """Different numbers below each of `counts` `[n]`, as `u` `[points, n]` in [0, 1) has them shuffled: of u's shape.

    The first steps of a Fisher-Yates shuffle, for all tasks at once. Of a long list, only what was swapped is kept. The
    first numbers do not depend on how many follow.
    """
    points = len(u)
    steps = torch.arange(points)[:, None]
    targets = (steps + (u * (counts - steps)).long()).minimum(counts - 1)
    shuffle = _shuffle_whole if int(counts.max()) <= 40 * points else _shuffle_swaps  # measured: where they break even
    return shuffle(targets, int(counts.max()))


def _shuffle_whole(targets: Tensor, length: int) -> Tensor:
    """Swap place k with `targets[k]` in a list of `length`, for each k of `[k, n]`; what then stands first."""
    places = torch.arange(length, dtype=torch.int32)[:, None].repeat(1, targets.shape[1])
    for step in range(len(targets)):
        target = targets[step : step + 1]
        found = places.gather(0, target)
        places.scatter_(0, target, places[step : step + 1].clone())
        places[step : step + 1] = found
    return places[: len(targets)].long()


def _shuffle_swaps(targets: Tensor, length: int) -> Tensor:
    """As `_shuffle_whole`, in memory and time that do not grow with `length`."""
    moved, chosen = torch.empty_like(targets), torch.empty_like(targets)
    for step in range(len(targets)):
        here = torch.full_like(targets[step], step)
        chosen[step] = _after_swaps(targets[:step], moved, targets[step])
        moved[step] = _after_swaps(targets[:step], moved, here)
    return chosen


def _after_swaps(targets: Tensor, moved: Tensor, place: Tensor) -> Tensor:
    """What stands at `place` `[n]` after step k has put `moved[k]` at `targets[k]`, for every k of `[k, n]`."""
    if not len(targets):
        return place
    order = torch.arange(1, len(targets) + 1)[:, None]
    last = ((targets == place) * order).amax(dim=0)
    found = moved[: len(targets)].gather(0, (last - 1).clamp(min=0)[None])[0]
    return torch.where(last > 0, found, place)
