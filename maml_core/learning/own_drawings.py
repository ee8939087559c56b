"""A reader's own drawings: read from a link, and made into a task of one image of each class, and one to be named."""

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maml_core.errors import ConfigError
from maml_core.learning.fresh_tasks import Tasks
from maml_core.learning.generated import GeneratedFamily
from maml_core.learning.glyphs import Glyphs
from maml_core.learning.initialization import Initialization
from maml_core.learning.strokes import centered, distances, images_of
from maml_core.learning.tasks import TaskBatch

PLACES = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
"""A coordinate is one of these: the first is left, or above. A link keeps them as they are."""

MOST_CORNERS = 500
"""Of all strokes of a drawing."""

Stroke = Sequence[tuple[int, int]]
"""Corners, across and down, each from 0 to 63."""

Drawing = Sequence[Stroke]


@dataclass(frozen=True)
class Drawings:
    """One of each class, in turn, and then the one to be named; any may be empty."""

    classes: list[Drawing]
    asked: Drawing

    @property
    def missing(self) -> str | None:
        """What is still to be drawn, as a sentence."""
        empty = [str(number) for number, drawing in enumerate(self.classes, start=1) if not drawing]
        if empty:
            return f"Draw {'class' if len(empty) == 1 else 'classes'} {', '.join(empty)}: anything, once."
        return None if self.asked else "Now draw one of them again, on the right: which is it?"


def read_drawings(text: str, classes: int) -> Drawings:
    """The drawings of a link: `~` between them, `.` between strokes, and two of `PLACES` for each corner.

    Raises:
        ConfigError: one sentence for what is wrong.
    """
    if not text:
        return Drawings([()] * classes, ())
    found = text.split("~")
    if len(found) != classes + 1:
        raise ConfigError(
            f"drawn = {len(found)} drawings is not allowed: it must be one of each class and one to be named, "
            f"{classes + 1} in all; clear them and draw again."
        )
    *each, asked = (_drawing(part, number) for number, part in enumerate(found, start=1))
    return Drawings(each, asked)


def _drawing(text: str, number: int) -> Drawing:
    strokes = [part for part in text.split(".") if part]
    if not all(len(stroke) % 2 == 0 and set(stroke) <= set(PLACES) for stroke in strokes):
        raise ConfigError(f"drawn, drawing {number} is not one that was made here: clear it and draw it again.")
    if sum(map(len, strokes)) > 2 * MOST_CORNERS:
        raise ConfigError(
            f"drawn, drawing {number} has {sum(map(len, strokes)) // 2:,} corners: at most {MOST_CORNERS} are allowed; "
            "clear it and draw it in fewer strokes."
        )
    numbers = [[PLACES.index(place) for place in stroke] for stroke in strokes]
    return [list(zip(stroke[::2], stroke[1::2], strict=True)) for stroke in numbers]


def classes_to_draw(family: GeneratedFamily) -> int:
    """How many classes there are to draw; 0 where tasks are none of drawings."""
    return family.classes if isinstance(family, Glyphs) else 0


def drawings_task(family: GeneratedFamily, drawings: Drawings) -> Tasks:
    """A task of one support image of each class, and one query image whose class is not known.

    Raises:
        ConfigError: a drawing is missing.
    """
    assert isinstance(family, Glyphs)
    if drawings.missing:
        raise ConfigError(drawings.missing)
    images = image_of(family, [*drawings.classes, drawings.asked])[None]
    y = torch.eye(family.classes)[None]
    batch = TaskBatch(images[:, :-1], y, images[:, -1:], torch.zeros(1, 1, family.classes))
    return Tasks(family, batch, ["drawings of your own"], [None], is_known=False)


def named(start: Initialization, family: GeneratedFamily, text: str, steps: int) -> list[float] | None:
    """The probability of each class for the drawing to be named; None as long as there is something to be drawn."""
    assert isinstance(family, Glyphs)
    try:
        task = drawings_task(family, read_drawings(text, family.classes))
    except ConfigError:
        return None
    shares: list[float] = start.adapt(task.batch, steps).predictions[-1, 0, 0].softmax(-1).tolist()
    return shares if all(map(math.isfinite, shares)) else None


def image_of(family: Glyphs, drawings: Sequence[Drawing]) -> torch.Tensor:
    """Each drawing as the family would show it, straight and in the middle: `[drawings, size * size]`."""
    upright = [[np.array(stroke) * (1, -1) for stroke in drawing] for drawing in drawings]  # links count downward
    kept = [distances(centered(strokes)) for strokes in upright]
    places = torch.stack(family.pixels(), dim=-1).expand(len(kept), -1, -1)
    pen = torch.full((len(kept),), sum(family.width.span) / 2)
    return images_of(torch.stack(kept), places, pen, family.pixel)
