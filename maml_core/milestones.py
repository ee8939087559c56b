"""Which meta-iterations of a run get a metric row or a checkpoint, and how many tasks judge the latter."""

import math
from typing import NamedTuple

FULL_DETAIL = 500
"""So many first iterations get a metric row each; the rest of a run shares as many as `MORE_ROWS` rows."""
MORE_ROWS = 1500

SNAPSHOTS, FEW_SNAPSHOTS = 100, 20
"""A run keeps at most this many checkpoints of its history; the few where tasks are costly."""

FEW_HELD_OUT = 40
"""Costly tasks that judge a snapshot: with more, a short run would spend most of its time on being judged."""


class MetricRow(NamedTuple):
    """Means over the meta-iterations since the previous row, up to and with `iteration` (counted from one)."""

    iteration: int
    pre_loss: float
    post_loss: float
    gradient_norm: float


def ends_row(iteration: int, meta_iterations: int) -> bool:
    """Whether a metric row ends at this iteration (counted from one): every one at first, then evenly spaced."""
    if iteration <= FULL_DETAIL or iteration == meta_iterations:
        return True
    return (iteration - FULL_DETAIL) % row_spacing(meta_iterations) == 0


def row_spacing(meta_iterations: int) -> int:
    """Meta-iterations that share a metric row after the first `FULL_DETAIL`."""
    return max(1, math.ceil((meta_iterations - FULL_DETAIL) / MORE_ROWS))


def snapshot_iterations(meta_iterations: int, *, is_costly: bool = False) -> list[int]:
    """Iterations whose checkpoint is kept: 0, the last, and some between, dense at the start.

    At most `SNAPSHOTS` in all, or `FEW_SNAPSHOTS` where tasks are costly.

    Half are spaced evenly in the logarithm, so that the first steps can be looked at one by one, and half evenly,
    so that the end of a long run can be too.
    """
    half = (FEW_SNAPSHOTS if is_costly else SNAPSHOTS) // 2 - 1
    spaced = {round(meta_iterations ** (k / half)) for k in range(half + 1)}
    even = {round(meta_iterations * k / half) for k in range(1, half + 1)}
    return sorted({0} | spaced | even)


def held_out_count(meta_iterations: int, *, is_costly: bool = False) -> int:
    """How many tasks judge a run's snapshots: a longer run can afford a finer judge."""
    if is_costly:
        return FEW_HELD_OUT
    return min(400, max(100, meta_iterations // 100))
