"""Reading what people have as images: a folder with a folder for each class, a zip of one, or arrays in a .npz.

Files are hostile until proven otherwise: they are read as images of a few formats and as plain arrays and nothing else,
up to fixed sizes that are known before anything is unpacked, and what is wrong is said in one sentence that names the
file.
"""

import io
import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

import numpy as np
from PIL import Image, ImageOps

from maml_core.errors import ConfigError
from maml_core.learning.image_arrays import read_arrays
from maml_core.learning.image_tables import MOST_CLASSES, MOST_IMAGES, is_bright, shades_of, table_of_images
from maml_core.learning.table import IMAGE_SIDE, MOST_BYTES, NAME_LENGTH, Table
from maml_core.learning.table_files import CELL_LENGTH
from maml_core.learning.zip_files import Opened, open_zip, reason, short
from maml_core.words import printable

LEAST_CLASSES = 6
"""With two images or more: two classes in each of the three sets."""

MOST_FILE_BYTES = 32 * 2**20
MOST_PIXELS, MOST_PIXELS_IN_ALL = 50_000_000, 5_000_000_000
"""Unpacked, of one image and of all: of many large ones, reading would take hours."""

MOST_BYTES_IN_ALL = 512 * 2**20
"""Of a folder whose files come one by one."""

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_OF_SYSTEMS = ("._", ".DS_Store", "__MACOSX", "Thumbs.db")
"""How the names of files and folders begin that no person made."""

ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm")

_SETS = {"train", "training", "val", "valid", "validation", "test", "testing", "eval", "evaluation"}
"""Folders of whole data sets, in each of which the same classes stand: the lab sets classes apart itself."""


class ReadImages(NamedTuple):
    """A table of images, and a sentence on what was left out, or an empty one."""

    table: Table
    said: str


class NewImage(NamedTuple):
    """An image by itself, bright where it was."""

    path: str  # below the folder
    folder: str  # that it lies in, or ""
    shades: np.ndarray  # [IMAGE_SIDE, IMAGE_SIDE] uint8


class _File(NamedTuple):
    """One file of a folder or a zip."""

    path: PurePosixPath  # below the folder
    size: int
    read: Callable[[], bytes]

    @property
    def folder(self) -> str:
        """The folder that it lies in, or ""."""
        return "/".join(part for part in self.path.parts[:-1] if part not in ("/", ".."))


def is_of_images(file_name: str) -> bool:
    """Whether a file is read as images, by the ending of its name."""
    return Path(file_name).suffix.lower() in (".zip", ".npz")


def read_images(data: bytes, file_name: str) -> ReadImages:
    """The table of images in a zip, or in an .npz of arrays; its name is the file's without ending.

    Raises:
        ConfigError: the file holds no classes of images, or too much; in one sentence, with the file where there is
            one.
    """
    name = _name_of(file_name)
    if len(data) > MOST_BYTES:
        raise ConfigError(
            f"{name}: it has {len(data) / 2**20:,.0f} MiB, at most {MOST_BYTES // 2**20} are allowed; make the "
            f"images smaller ({IMAGE_SIDE} x {IMAGE_SIDE} pixels of each are used), or add the unpacked folder at the "
            "command line: python -m maml_core tables add FOLDER."
        )
    archive = open_zip(data, name)
    with archive:
        if file_name.lower().endswith(".npz"):
            return _table(name, *read_arrays(archive, name), left_out={})
        members = [_member(archive, info, name) for info in archive.infolist() if not info.is_dir()]
        return _from_files(name, members)


def read_folder(folder: Path) -> ReadImages:
    """The table of images below a folder that has a folder for each class.

    Raises:
        ConfigError: as `read_images`.
    """
    return _from_files(_name_of(folder.resolve().name), _walked(folder))


def read_new_images(place: Path) -> list[NewImage]:
    """The images below a folder, or the one in a file, each by itself.

    Raises:
        ConfigError: there is none, or one cannot be read.
    """
    name = _name_of(place.resolve().name)
    alone = [_File(PurePosixPath(place.name), place.stat().st_size, place.read_bytes)] if place.is_file() else None
    found, _ = _image_files(alone or _walked(place))
    if not found:
        raise ConfigError(f"{place} holds no image: name a folder of images.")
    _refuse_too_many(name, len(found), 0)
    classes = _without_common([file.folder for file in found])
    shades = _read(found, name)
    return [NewImage(str(found[i].path), classes[i], shades[i]) for i in range(len(found))]


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> _File:
    """A file of a zip."""

    def read() -> bytes:
        with Opened(archive, info, name) as file:
            return file.read(MOST_FILE_BYTES + 1)

    return _File(PurePosixPath(info.filename.replace("\\", "/")), info.file_size, read)


def read_named(files: Sequence[tuple[str, bytes]]) -> ReadImages:
    """The table of images of a folder whose files come one by one, each with its path from the folder on.

    Raises:
        ConfigError: as `read_images`.
    """
    size = sum(len(data) for _, data in files)
    if size > MOST_BYTES_IN_ALL:
        raise ConfigError(
            f"The folder has {size / 2**20:,.0f} MiB, at most {MOST_BYTES_IN_ALL // 2**20} are allowed; make its "
            "images smaller, or add it at the command line: python -m maml_core tables add FOLDER."
        )
    paths = [PurePosixPath(path.replace("\\", "/")) for path, _ in files]
    whole = {path.parts[0] for path in paths if len(path.parts) > 2}
    name = whole.pop() if len(whole) == 1 else "images"
    found = [_File(path, len(data), partial(bytes, data)) for path, (_, data) in zip(paths, files, strict=True)]
    return _from_files(_name_of(name), found)


def _walked(folder: Path) -> Iterator[_File]:
    """The files below a folder; no link to a folder is followed.

    Raises:
        ConfigError: a folder cannot be read, or is a link to another.
    """

    def refuse(error: OSError) -> NoReturn:
        raise ConfigError(f"{error.filename or folder} cannot be read ({error.strerror}).") from None

    for place, folders, files in os.walk(folder, onerror=refuse):
        for each in folders:
            if Path(place, each).is_symlink():
                raise ConfigError(
                    f"{Path(place, each)} is a link to a folder, which is not followed: copy it, or remove it."
                )
        for file in files:
            path = Path(place, file)
            try:
                if path.is_file():  # and no pipe, which would never end
                    size = path.stat().st_size
                    yield _File(PurePosixPath(path.relative_to(folder).as_posix()), size, path.read_bytes)
            except OSError as error:
                refuse(error)


# Image files ----------------------------------------------------------------------------------------------------


def _from_files(name: str, files: Iterable[_File]) -> ReadImages:
    """A table of the images among these files; the folder that one lies in is its class."""
    found, left_out = _image_files(files)
    chosen = [file for file in found if file.folder]
    _refuse_too_many(name, len(chosen), 0)
    left_out |= {"images in no folder of a class": len(found) - len(chosen)}
    folders = _without_common([file.folder for file in chosen])
    if folders and all("/" in folder and folder.split("/")[0].lower() in _SETS for folder in folders):
        folders = [folder.partition("/")[2] for folder in folders]
    return _table(name, folders, _read(chosen, name), left_out=left_out)


def _read(files: Sequence[_File], name: str) -> list[np.ndarray]:
    """The shades of all, as long as they are not too many pixels together."""
    found, pixels = [], 0
    for file in files:
        image, count = _image(file, name)
        pixels += count
        if pixels > MOST_PIXELS_IN_ALL:
            raise ConfigError(
                f"{name}: its images have more than {MOST_PIXELS_IN_ALL:,} pixels together; make them smaller: "
                f"{IMAGE_SIDE} x {IMAGE_SIDE} of each are used."
            )
        found.append(image)
    return found


def _image_files(files: Iterable[_File]) -> tuple[list[_File], dict[str, int]]:
    """Those that are images by their names, in an order that is the same however they came; and what is left out."""
    mine = [file for file in files if not any(part.startswith(_OF_SYSTEMS) for part in file.path.parts)]
    seen = [file for file in mine if not any(part.startswith(".") for part in file.path.parts)]
    found = [file for file in seen if file.path.suffix.lower() in ENDINGS]
    hidden = sum(file.path.suffix.lower() in ENDINGS for file in mine) - len(found)
    left_out = {"files that are no images": len(seen) - len(found), "images that are hidden": hidden}
    return sorted(found, key=lambda file: file.path.parts), left_out


def _without_common(classes: list[str]) -> list[str]:
    """Folders below the last one that all have in common."""
    folders = [name.split("/") for name in classes]
    least = min((len(each) for each in folders), default=0)
    shared = 0
    while shared < least - 1 and len({each[shared] for each in folders}) == 1:
        shared += 1
    return ["/".join(each[shared:]) for each in folders]


def _image(file: _File, name: str) -> tuple[np.ndarray, int]:
    """One image's shades, `[IMAGE_SIDE, IMAGE_SIDE]`, and how many pixels were unpacked for them."""
    place = f"{name}: {short(str(file.path))}"
    if file.size > MOST_FILE_BYTES:
        raise ConfigError(
            f"{place} has {file.size / 2**20:,.0f} MiB, at most {MOST_FILE_BYTES // 2**20} are allowed; shrink it."
        )
    try:
        data = file.read()
    except OSError as error:
        raise ConfigError(f"{place} cannot be read ({error.strerror}).") from None
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:  # of which the library only warns
                raise Image.DecompressionBombError
            image.draft("L", (2 * IMAGE_SIDE, 2 * IMAGE_SIDE))
            pixels = image.width * image.height
            return shades_of(ImageOps.exif_transpose(image)), pixels
    except Image.DecompressionBombError:  # raised for far more by the library itself
        raise ConfigError(f"{place} has more than {MOST_PIXELS:,} pixels, the most allowed; make it smaller.") from None
    except Exception as error:  # whatever a damaged file makes a decoder raise
        raise ConfigError(
            f"{place} is no image that can be read ({reason(error)}); save it anew, or remove it."
        ) from None


# Tables ---------------------------------------------------------------------------------------------------------


def _table(name: str, classes: list[str], images: list[np.ndarray], *, left_out: dict[str, int]) -> ReadImages:
    """A table of these images, each once; what stands in two classes stands in none.

    With how much was left out before, by what it is.
    """
    labels = {raw: _label(raw) for raw in dict.fromkeys(classes)}
    twins = [label for label, count in Counter(labels.values()).items() if count > 1]
    if twins:
        raise ConfigError(
            f"{name}: two classes are both called {short(twins[0])} in print; give each a name of its own."
        )
    classes = [labels[raw] for raw in classes]
    if not images:
        also = f" ({_said(left_out)})" if any(left_out.values()) else ""
        raise ConfigError(
            f"{name}: it holds no image in the folder of a class{also}: put those of each class into one."
        )
    owner: dict[bytes, str] = {}
    between: set[bytes] = set()
    for label, image in zip(classes, images, strict=True):
        if owner.setdefault(image.tobytes(), label) != label:
            between.add(image.tobytes())
    kept: dict[bytes, int] = {}
    for number, image in enumerate(images):
        if image.tobytes() not in between:
            kept.setdefault(image.tobytes(), number)
    shared = sum(image.tobytes() in between for image in images)
    twice = len(images) - shared - len(kept)
    left_out = left_out | {"images that stand in two classes": shared, "images that stand twice in a class": twice}
    order = sorted(kept.values(), key=lambda number: classes[number])  # stable: within a class as they came
    counts = Counter(classes[number] for number in order)
    several = sum(count > 1 for count in counts.values())
    said = f"{_said(left_out).capitalize()}." if any(left_out.values()) else ""
    _refuse_too_many(name, len(order), len(counts))
    if several < LEAST_CLASSES:
        raise ConfigError(
            f"{name}: {several} of {len(counts)} class{'es' if len(counts) != 1 else ''} have two images or more: at "
            f"least {LEAST_CLASSES} are needed, to train on and to hold out; add classes. {said}".rstrip()
        )
    pixels = np.stack([images[number] for number in order])
    inverted = is_bright(pixels)
    pixels = 255 - pixels if inverted else pixels
    return ReadImages(table_of_images(name, [classes[number] for number in order], pixels, inverted=inverted), said)


def _said(left_out: Mapping[str, int]) -> str:
    return "left out: " + ", ".join(f"{what} ({count:,})" for what, count in left_out.items() if count)


def _refuse_too_many(name: str, images: int, classes: int) -> None:
    for count, most, what in ((images, MOST_IMAGES, "images"), (classes, MOST_CLASSES, "classes")):
        if count > most:
            raise ConfigError(f"{name}: it has more than {most:,} {what}, which is the most allowed; keep fewer.")


def _label(text: str) -> str:
    return printable(text)[-CELL_LENGTH:].strip() or "unnamed"


def _name_of(file_name: str) -> str:
    name = re.sub(r"\.(zip|npz)$", "", re.split(r"[/\\]", file_name)[-1], flags=re.IGNORECASE)
    return printable(name).strip()[:NAME_LENGTH] or "images"
