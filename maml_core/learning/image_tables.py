"""Tables of images: the name of each one's class beside its pixels; and one that is always at hand."""

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from maml_core.errors import ConfigError
from maml_core.learning.table import EXAMPLES, IMAGE_SIDE, INVERTED, Column, ColumnKind, Table

CLASS, IMAGE = "class", "image"
"""The two columns."""

MOST_IMAGES, MOST_CLASSES = 50_000, 5_000
"""What a table of images may hold."""

SIGNS, DRAWINGS, STROKES = 40, 20, 4
"""Of the example: its classes, the images of each, and the strokes of a sign."""


def table_of_images(name: str, classes: Sequence[str], images: np.ndarray, *, inverted: bool = False) -> Table:
    """A table of `images` `[rows, IMAGE_SIDE, IMAGE_SIDE]`, uint8, and the name of each one's class.

    `inverted` says that they were dark on bright: new images of the kind are turned around, too.
    """
    cells = pd.Series([image.tobytes() for image in images], dtype=object)
    columns = [Column(CLASS, ColumnKind.CATEGORY), Column(IMAGE, ColumnKind.IMAGE, INVERTED if inverted else "")]
    return Table(name, columns, pd.DataFrame({CLASS: pd.Categorical(list(classes)), IMAGE: cells}))


def check_images(table: Table) -> None:
    """Find out whether a table is one of images, as a file that was made up may not be.

    Raises:
        ConfigError: it is not, or holds too many, or an image of two classes.
    """
    kinds = {column.name: column.kind for column in table.columns}
    if kinds != {CLASS: ColumnKind.CATEGORY, IMAGE: ColumnKind.IMAGE}:
        raise ConfigError(f"tasks.table: {table.name} is none of images: add a folder of them on the Data page.")
    labels = table.labels(CLASS)
    if not 0 < table.rows <= MOST_IMAGES or len(set(labels)) > MOST_CLASSES:
        raise ConfigError(
            f"tasks.table: {table.name} has {table.rows:,} images in {len(set(labels)):,} classes: 1 to "
            f"{MOST_IMAGES:,} in at most {MOST_CLASSES:,} are allowed."
        )
    pairs = set(zip(table.frame[IMAGE].tolist(), labels.tolist(), strict=True))
    if "" in labels or len(pairs) > len({image for image, _ in pairs}):
        raise ConfigError(f"tasks.table: {table.name} has an image of no class, or of two; add its file anew.")


def shades_of(image: Image.Image) -> np.ndarray:
    """An image as a table keeps it, `[IMAGE_SIDE, IMAGE_SIDE]`, uint8, but that 255 is bright.

    Gray, on white where it is transparent, and made square: what is missing has the shade of the edge.
    """
    if image.mode[0] in "IF":  # more than 8 bits, of which it is not said how many count
        shades = np.nan_to_num(np.asarray(image, dtype=np.float64))
        image = Image.fromarray((shades * (255 / most_of(float(shades.max())))).clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _squared(image.convert("L"))


def _squared(gray: Image.Image) -> np.ndarray:
    side = max(gray.size)
    ratio = IMAGE_SIDE / side
    small = gray.resize([max(1, round(length * ratio)) for length in gray.size], Image.Resampling.BOX)
    edge = _edge_of(np.asarray(small))
    square = Image.new("L", (IMAGE_SIDE, IMAGE_SIDE), round(float(edge.mean())))
    square.paste(small, ((IMAGE_SIDE - small.width) // 2, (IMAGE_SIDE - small.height) // 2))
    return np.asarray(square)


def most_of(highest: float) -> float:
    """The end of the scale that shades reach up to `highest` on: of fractions, of 8, 12 or 16 bits, or their own."""
    return next((top for top in (1.0, 255.0, 4095.0, 65535.0) if highest <= top), highest)


def is_bright(images: np.ndarray) -> bool:
    """Whether the ground of images `[n, side, side]` is bright: a table then keeps their negatives."""
    return float(_edge_of(images).mean()) > 127.5


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
    return table_of_images("Example: signs", names, np.concatenate(images), inverted=True)


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
