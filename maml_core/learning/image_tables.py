"""Tables of images: the name of each one's class beside its pixels; and one that is always at hand."""

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from maml_core.learning.table import EXAMPLES, IMAGE_SIDE, Column, ColumnKind, Table

CLASS, IMAGE = "class", "image"
"""The two columns."""

COLUMNS = [Column(CLASS, ColumnKind.CATEGORY), Column(IMAGE, ColumnKind.IMAGE)]

MOST_IMAGES, MOST_CLASSES = 50_000, 5_000
"""What a table of images may hold."""

SIGNS, DRAWINGS, STROKES = 40, 20, 4
"""Of the example: its classes, the images of each, and the strokes of a sign."""


def table_of_images(name: str, classes: Sequence[str], images: np.ndarray) -> Table:
    """A table of `images` `[rows, IMAGE_SIDE, IMAGE_SIDE]`, uint8, and the name of each one's class."""
    cells = pd.Series([image.tobytes() for image in images], dtype=object)
    return Table(name, list(COLUMNS), pd.DataFrame({CLASS: pd.Categorical(list(classes)), IMAGE: cells}))


def shades_of(image: Image.Image) -> np.ndarray:
    """An image as a table keeps it, `[IMAGE_SIDE, IMAGE_SIDE]`, uint8, but that 255 is bright.

    Gray, on white where it is transparent, and made square: what is missing has the shade of the edge.
    """
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode.startswith("I"):  # 16 bits, of which the upper ones count
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8))
    return _squared(image.convert("L"))


def _squared(gray: Image.Image) -> np.ndarray:
    side = max(gray.size)
    ratio = IMAGE_SIDE / side
    small = gray.resize([max(1, round(length * ratio)) for length in gray.size], Image.Resampling.BOX)
    edge = _edge_of(np.asarray(small))
    square = Image.new("L", (IMAGE_SIDE, IMAGE_SIDE), round(float(edge.mean())))
    square.paste(small, ((IMAGE_SIDE - small.width) // 2, (IMAGE_SIDE - small.height) // 2))
    return np.asarray(square)


def in_ink(images: np.ndarray) -> np.ndarray:
    """Images `[n, side, side]` as a table keeps them: their ground, bright as a rule, is 0."""
    return 255 - images if float(_edge_of(images).mean()) > 127.5 else images


def _edge_of(pixels: np.ndarray) -> np.ndarray:
    """The outermost pixels of images `[..., rows, columns]`, `[..., pixels]`."""
    return np.concatenate([pixels[..., 0, :], pixels[..., -1, :], pixels[..., :, 0], pixels[..., :, -1]], axis=-1)


@functools.cache
def signs() -> Table:
    """Made-up signs: each of four straight strokes, drawn twenty times with a shaky hand and another pen."""
    random = np.random.Generator(np.random.PCG64(2025))
    names, images = [], []
    for number in range(1, SIGNS + 1):
        ends = random.uniform(-0.75, 0.75, (STROKES, 2, 2))  # of each stroke both ends, x and y
        joined = random.uniform(size=STROKES) < 0.6
        ends[1:, 0] = np.where(joined[1:, None], ends[:-1, 1], ends[1:, 0])
        shaken = ends + random.uniform(-0.12, 0.12, (DRAWINGS, STROKES, 2, 2))
        shaken += random.uniform(-0.1, 0.1, (DRAWINGS, 1, 1, 2))
        images.append(_drawn(shaken, random.uniform(0.06, 0.14, (DRAWINGS, 1, 1))))
        names += [f"sign {number:02d}"] * DRAWINGS
    return table_of_images("Example: signs", names, np.concatenate(images))


def _drawn(ends: np.ndarray, pen: np.ndarray) -> np.ndarray:
    """Images `[n, side, side]` of strokes with these ends `[n, strokes, 2, 2]`, by pens of half that width `[n, 1, 1]`.

    Sums, products, quotients and square roots alone, so that every machine makes the same bytes of them.
    """
    middles = (np.arange(IMAGE_SIDE) + 0.5) * (2 / IMAGE_SIDE) - 1
    (start_x, start_y), (end_x, end_y) = (np.moveaxis(ends[:, :, i, :, None, None], 2, 0) for i in (0, 1))
    way_x, way_y = end_x - start_x, end_y - start_y
    x, y = middles[None, :] - start_x, -middles[:, None] - start_y
    along = ((x * way_x + y * way_y) / (way_x * way_x + way_y * way_y)).clip(0, 1)
    off_x, off_y = x - along * way_x, y - along * way_y
    away = np.sqrt((off_x * off_x + off_y * off_y).min(1))
    ink = ((pen - away) * (IMAGE_SIDE / 2) + 0.5).clip(0, 1)
    images: np.ndarray = np.floor(255 * ink + 0.5).astype(np.uint8)
    return images


EXAMPLES.append(signs)
