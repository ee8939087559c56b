"""Images as arrays: what an .npz of a data set holds, in the shapes and under the names that people give them."""

import math
import re
import zipfile
from collections.abc import Mapping

import numpy as np
from PIL import Image

from maml_core.errors import ConfigError
from maml_core.learning.image_tables import MOST_CLASSES, MOST_IMAGES, most_of, shades_of
from maml_core.learning.zip_files import Opened, short

MOST_ARRAY_BYTES = 512 * 2**20
"""Of all arrays together, unpacked."""

NEARLY = 1.1
"""What fractions may reach that were rounded, or sharpened."""

_IMAGES = re.compile(r"(?<![a-z])(images?|data|x)(?![a-z])", re.IGNORECASE)
_LABELS = re.compile(r"(?<![a-z])(labels?|targets?|classes|y)(?![a-z])", re.IGNORECASE)
"""What arrays are called that hold images, and their classes: x_train and y_train, test_images and test_labels."""


def read_arrays(archive: zipfile.ZipFile, name: str) -> tuple[list[str], list[np.ndarray]]:
    """Each image's class, and its shades: of arrays of images beside arrays of labels, or of one array for each class.

    Raises:
        ConfigError: an array holds no images or labels, or there is too much.
    """
    infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if not info.is_dir()}
    if len(infos) > MOST_CLASSES:
        raise ConfigError(f"{name}: it has {len(infos):,} arrays, at most {MOST_CLASSES:,} are allowed; keep fewer.")
    left = MOST_ARRAY_BYTES
    labels = [key for key in infos if _LABELS.search(key) and not _IMAGES.search(key)]
    pairs: list[tuple[str, str | None]] = [
        (key, label) for label in labels for key in infos if key not in labels and _alike(key, label)
    ]
    if labels and not pairs:
        raise ConfigError(
            f"{name}: it has {_listed(list(infos))}: name the arrays images and labels, x and y, or x_train and "
            "y_train."
        )
    classes: list[str] = []
    arrays: dict[str, np.ndarray] = {}
    for key, label in pairs or [(each, None) for each in infos]:
        place = f"{name}: {short(key)}"
        array, left = _array(archive, infos[key], name, left)
        arrays[place] = _arranged(array, place)
        names = [key] * len(array)
        if label is not None:
            found, left = _array(archive, infos[label], name, left)
            names = _labels(found, f"{name}: {short(label)}")
        if len(names) != len(array):
            raise ConfigError(
                f"{place} holds {len(array):,} images, and {short(label or key)} {len(names):,} labels: there must be "
                "as many."
            )
        classes += names
        if len(classes) > MOST_IMAGES:
            raise ConfigError(f"{name}: it has more than {MOST_IMAGES:,} images, the most allowed; keep fewer.")
    return classes, _shades(arrays)


def _alike(key: str, label: str) -> bool:
    """Whether two arrays belong together: their names differ in nothing but what says images and labels."""
    return _IMAGES.sub("", key).lower() == _LABELS.sub("", label).lower() and bool(_IMAGES.search(key))


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, left: int) -> tuple[np.ndarray, int]:
    """An array of plain numbers or words, its size known before it is read; and how many bytes are left for others."""
    place = f"{name}: {short(info.filename)}"
    with Opened(archive, info, name) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if dtype.hasobject or dtype.kind not in "biufUS":
        raise ConfigError(f"{place} holds Python objects: save arrays of numbers, and labels of numbers or words.")
    if shape and shape[0] > MOST_IMAGES:
        raise ConfigError(f"{place} has {shape[0]:,} rows, at most {MOST_IMAGES:,} are allowed; keep fewer.")
    size = math.prod(shape) * max(1, dtype.itemsize)
    if size > left:
        raise ConfigError(
            f"{place} would have {size / 2**20:,.0f} MiB, and all arrays together at most {MOST_ARRAY_BYTES // 2**20}; "
            "keep fewer images, or make them smaller."
        )
    if not shape:
        raise ConfigError(f"{place} is a single value: save an array, with an image in each row.")
    with Opened(archive, info, name) as file:
        found: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return found, left - size


def _labels(array: np.ndarray, place: str) -> list[str]:
    """Labels as names of classes."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ConfigError(f"{place} has the shape {array.shape}: it must hold one label for each image.")
    if array.dtype.kind == "f" and not (array == np.round(array)).all():
        raise ConfigError(f"{place} holds fractions: labels must be whole numbers or words.")
    if array.dtype.kind == "f":
        array = array.astype(np.int64)
    if array.dtype.kind == "S":
        return [label.decode("utf-8", "replace") for label in array.tolist()]
    return [str(label) for label in array.tolist()]


def _arranged(array: np.ndarray, place: str) -> np.ndarray:
    """Images as `[images, rows, columns]` or `[images, rows, columns, colors]`, however they were arranged."""
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"{place} holds words: images must be numbers.")
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3, 4):
        array = array.transpose(0, 2, 3, 1)
    side = math.isqrt(array.shape[1]) if array.ndim == 2 else 0
    if array.ndim == 2 and side * side == array.shape[1]:
        array = array.reshape(len(array), side, side)
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3, 4)) or 0 in array.shape:
        raise ConfigError(
            f"{place} has the shape {array.shape}: images must be [images, rows, columns], with 1, 3 or 4 colors last, "
            "or [images, pixels] of squares."
        )
    return array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array


def _shades(arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The images of all arrays, whose numbers are on one scale, as a table keeps them."""
    ends = {place: (float(array.min()), float(array.max())) for place, array in arrays.items()}
    for place, (low, high) in ends.items():
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ConfigError(f"{place} holds numbers that are not finite: correct them.")
        if low < -NEARLY or (low < 0 and high > NEARLY) or high > 65535:
            raise ConfigError(f"{place} reaches from {low:g} to {high:g}: scale it to 0 to 1, or to 0 to 255.")
    lowest = -1.0 if min(low for low, _ in ends.values()) < 0 else 0.0
    highest = max(high for _, high in ends.values())
    is_fraction = all(array.dtype.kind == "f" for array in arrays.values()) and highest <= NEARLY
    top = 1.0 if is_fraction or lowest < 0 else most_of(highest)
    found = []
    for image in (image for array in arrays.values() for image in array):
        shades = ((image.astype(np.float64) - lowest) * (255 / (top - lowest))).round().clip(0, 255).astype(np.uint8)
        found.append(shades_of(Image.fromarray(shades)))
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(short(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
