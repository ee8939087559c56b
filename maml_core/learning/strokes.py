"""Drawings made of strokes, and the small gray images of them that networks learn from.

A drawing is kept as the distance of each place from its nearest stroke, so that it can be turned, bent and drawn with
a pen of any width at the cost of looking places up.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

Stroke = Sequence[Sequence[float]]
"""The corners (x, y) of one line of the pen, y upward; a single one is a dot."""

CELLS = 48
"""On each side of the square in which distances are kept."""

REACH = 1.5
"""Half the side of that square; the drawing itself reaches from -1 to 1."""


def centered(strokes: Sequence[Stroke | np.ndarray]) -> list[np.ndarray]:
    """The strokes, each `[corners, 2]`, moved and scaled so that the longer side of their box is [-1, 1]."""
    lines = [np.asarray(stroke, dtype=np.float64).reshape(-1, 2) for stroke in strokes]
    corners = np.concatenate(lines)
    low, high = corners.min(0), corners.max(0)
    half = float((high - low).max()) / 2 or 1.0
    return [(line - (low + high) / 2) / half for line in lines]


def distances(lines: Sequence[np.ndarray]) -> Tensor:
    """How far each place is from the nearest of the lines, each `[corners, 2]`: `[CELLS, CELLS]`, from the top down."""
    start = np.concatenate([line[:-1] if len(line) > 1 else line for line in lines]).astype(np.float32)
    end = np.concatenate([line[1:] if len(line) > 1 else line for line in lines]).astype(np.float32)
    axis = np.linspace(-REACH, REACH, CELLS, dtype=np.float32)
    places = np.stack(np.meshgrid(axis, -axis), axis=-1).reshape(-1, 2)
    along = end - start
    length = np.square(along).sum(-1)
    ahead = places @ along.T - (start * along).sum(-1)  # how far along each line the nearest place of it is
    share = np.clip(ahead / np.maximum(length, 1e-12), 0, 1)
    from_start = np.square(places).sum(-1, keepdims=True) - 2 * places @ start.T + np.square(start).sum(-1)
    squared = from_start + share * (share * length - 2 * ahead)
    return torch.from_numpy(np.sqrt(np.maximum(squared.min(-1), 0)).reshape(CELLS, CELLS))


def images_of(drawings: Tensor, places: Tensor, width: Tensor, pixel: float) -> Tensor:
    """How dark each of the `places` `[images, pixels, 2]` of `drawings` `[images, CELLS, CELLS]` is, from 0 to 1.

    `width` `[images]` is the pen's, `pixel` the side of a pixel, over which an edge is smoothed.
    """
    at = torch.stack([places[..., 0], -places[..., 1]], dim=-1) / REACH
    away = grid_sample(drawings[:, None], at[:, :, None], align_corners=True, padding_mode="border")[:, 0, :, 0]
    return ((width[:, None] / 2 - away) / pixel + 0.5).clamp(0, 1)
