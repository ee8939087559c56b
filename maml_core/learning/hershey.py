"""The characters that `glyphs` are drawn from, in three sets of which no character looks like one of another.

They are A. V. Hershey's (National Bureau of Standards, 1967; in the public domain), as lines of a pen, from the package
Hershey-Fonts.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from maml_core.learning.strokes import centered, distances
from maml_core.learning.tasks import TaskSet

FONTS = {
    TaskSet.HELD_OUT: ("japanese",),
    TaskSet.VALIDATION: ("music", "astrology", "markers", "meteorology", "symbolic"),
}
"""Of the sets that no run learns from: it learns from all others, Latin, Greek, Cyrillic and mathematical ones."""

SMALLEST = 8
"""Size of a character in Hershey's units, where a capital is 21 high: scaled to one size, smaller ones are all dots."""

ALIKE = 0.9
"""The cosine between two characters' pictures from which on they are taken for the same, whatever they are called."""

_PEN = 0.25
_ORDER = (TaskSet.TRAINING, TaskSet.VALIDATION, TaskSet.HELD_OUT)  # a set takes none that looks like one before it


@functools.cache
def drawings(task_set: TaskSet) -> Tensor:
    """The characters of a set, as distances from their strokes (`strokes.distances`): `[characters, CELLS, CELLS]`."""
    found = torch.stack([distances(centered(strokes)) for strokes in _characters()[task_set]])
    for other in _ORDER[: _ORDER.index(task_set)]:
        found = found[likeness(found, drawings(other)) < ALIKE]
    return found


def likeness(some: Tensor, others: Tensor) -> Tensor:
    """How alike each of some drawings is to the one of the others that is most so, turned and mirrored: `[some]`."""
    mine, theirs = (torch.nn.functional.normalize((_PEN - each).clamp(min=0).flatten(1)) for each in (some, others))
    square = theirs.reshape(others.shape)
    views = [each.rot90(quarters, (1, 2)) for each in (square, square.flip(2)) for quarters in range(4)]
    found: Tensor = torch.stack([(mine @ each.flatten(1).T).amax(1) for each in views]).amax(0)
    return found


@functools.cache
def _characters() -> dict[TaskSet, list[list[np.ndarray]]]:
    """The strokes of every character, once: of those that several fonts share, those that are learned from keep it."""
    from HersheyFonts import HersheyFonts  # it unpacks its fonts as it is imported

    package = HersheyFonts()
    set_of = {font: task_set for task_set, fonts in FONTS.items() for font in fonts}
    found: dict[TaskSet, list[list[np.ndarray]]] = {task_set: [] for task_set in TaskSet}
    seen = set()
    for font in sorted(package.default_font_names, key=lambda font: (font in set_of, font)):
        package.load_default_font(font)
        for glyph in package.all_glyphs.values():
            strokes = [np.array(stroke) * (1, -1) for stroke in glyph.strokes if len(stroke)]
            if not strokes:
                continue
            corners = np.concatenate(strokes)
            content = str([(stroke - corners.min(0)).tolist() for stroke in strokes])
            if np.ptp(corners, axis=0).max() >= SMALLEST and content not in seen:
                seen.add(content)
                found[set_of.get(font, TaskSet.TRAINING)].append(strokes)
    return found
