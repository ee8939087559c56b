"""Folders, zips and arrays of images that want to do harm, or are merely wrong: a sentence, in little memory."""

import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maml_core.errors import ConfigError
from maml_core.learning import image_files
from maml_core.learning.image_files import MOST_FILE_BYTES, read_folder, read_images, read_named
from maml_core.learning.image_tables import MOST_CLASSES, MOST_IMAGES, signs, table_of_images
from maml_core.learning.own_images import OwnImages
from maml_core.learning.table import MOST_BYTES, keep
from maml_core.learning.tasks import parse_family
from tests.core.test_own_images import folder_of, npz_of, zip_of

MIB = 2**20


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that says it is so large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", data or zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def dot(value: int) -> bytes:
    """A tiny image."""
    file = io.BytesIO()
    Image.fromarray(np.full((2, 2), value % 256, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def zip_with(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(6):
            for i in range(2):
                archive.writestr(f"kind {number}/{i}.png", dot(20 * number + i))
        for name, data in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return file.getvalue()


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as error:
        read()
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


FILES = {
    "text": (b"hello", "is no image that can be read"),
    "nothing": (b"", "is no image that can be read"),
    "cut off": (dot(3)[:45], "is no image that can be read"),
    "a bomb of pixels": (png_of(60_000, 60_000), "has more than 50,000,000 pixels"),
    "a smaller bomb": (png_of(9000, 9000), "has more than 50,000,000 pixels"),
    "a bomb of bytes": (b"\0" * (MOST_FILE_BYTES + 1), "has 32 MiB, at most 32 are allowed"),
    "vectors": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is no image that can be read"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image that can be read"),
    "a program": (pickle.dumps(os.getcwd), "is no image that can be read"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_image_is_named(name: str, tmp_path: Path) -> None:
    data, said = FILES[name]
    packed = refused(lambda: read_images(zip_with(**{"kind 0__bad_dot_png": data}), "things.zip"))
    assert said in packed
    assert packed.startswith("things: 'kind 0/bad.png'")
    folder = folder_of(tmp_path / "things")
    (folder / "kind 0" / "bad.png").write_bytes(data)
    assert said in refused(lambda: read_folder(folder))


def test_a_file_that_is_more_than_it_says_is_refused() -> None:
    data = bytearray(zip_with(**{"kind 0__bad_dot_png": b"\0" * (40 * MIB)}))
    size = struct.pack("<I", 40 * MIB)
    assert data.count(size) == 2  # in the file's own head, and in the list
    changed = bytes(data).replace(size, struct.pack("<I", 1000))
    assert "kind 0/bad.png" in refused(lambda: read_images(changed, "things.zip"))


def test_zips_that_are_none_are_refused() -> None:
    whole = zip_with()
    assert "is not a whole zip file" in refused(lambda: read_images(b"", "a.zip"))
    assert "is not a whole zip file" in refused(lambda: read_images(whole[:-30], "a.zip"))
    assert "is damaged" in refused(lambda: read_images(whole[:300] + b"\xff" * 40 + whole[340:], "a.zip"))
    assert "64 are allowed" in refused(lambda: read_images(b"\0" * (MOST_BYTES + 1), "a.zip"))
    locked = bytearray(whole)
    for place in range(len(locked) - 4):
        if locked[place : place + 4] == b"PK\x03\x04":
            locked[place + 6] |= 1
        if locked[place : place + 4] == b"PK\x01\x02":
            locked[place + 8] |= 1
    assert "is encrypted; pack it without a password" in refused(lambda: read_images(bytes(locked), "a.zip"))


def test_a_list_of_a_million_files_is_not_read() -> None:
    whole = zip_with()
    end = whole.rfind(b"PK\x05\x06")
    long = whole[: end + 12] + struct.pack("<I", 100 * MIB) + whole[end + 16 :]
    assert "lists too many files" in refused(lambda: read_images(long, "a.zip"))
    larger = whole[:end] + b"PK\x06\x07" + b"\0" * 16 + whole[end:]
    assert "lists too many files" in refused(lambda: read_images(larger, "a.zip"))


@pytest.mark.nightly
def test_ten_thousand_classes_are_refused() -> None:
    files = [(f"things/{number}/{i}.png", png_of_number(number, i)) for number in range(10_000) for i in range(2)]
    assert f"more than {MOST_CLASSES:,} classes" in refused(lambda: read_named(files))


def png_of_number(number: int, i: int) -> bytes:
    """An image of four shades that no other pair of numbers has."""
    digits = [number % 100, number // 100, i]
    image = Image.new("L", (32, 32))
    image.putdata([2 * digits[min(place // 400, 2)] for place in range(1024)])
    file = io.BytesIO()
    image.save(file, "BMP")
    return file.getvalue()


def test_more_images_than_are_allowed_are_refused_as_they_are_counted() -> None:
    array = np.zeros((MOST_IMAGES + 1, 2, 2), dtype=np.uint8)
    data = npz_of(images=array, labels=np.zeros(MOST_IMAGES + 1))
    assert f"at most {MOST_IMAGES:,} are allowed" in refused(lambda: read_images(data, "a.npz"))
    half = {f"x_{i}": array[: MOST_IMAGES // 2 + 1] for i in range(2)} | {f"y_{i}": np.zeros(25_001) for i in range(2)}
    assert f"more than {MOST_IMAGES:,} images" in refused(lambda: read_images(npz_of(**half), "a.npz"))


@pytest.mark.parametrize(
    ("classes", "images", "said"),
    [(1, 1, "0 of 1 class have two"), (5, 4, "5 of 5 classes have two"), (9, 1, "0 of 9 classes have two")],
)
def test_too_little_is_said(classes: int, images: int, said: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "things", classes=classes, images=images)
    text = refused(lambda: read_folder(folder))
    assert said in text
    assert "at least 6 are needed" in text
    assert text == refused(lambda: read_images(zip_of(folder), "things.zip"))


def test_an_empty_folder_and_one_without_classes_are_said(tmp_path: Path) -> None:
    assert "holds no image in the folder of a class" in refused(lambda: read_folder(tmp_path))
    (tmp_path / "a.png").write_bytes(dot(1))
    (tmp_path / "notes.md").write_text("x")
    text = refused(lambda: read_folder(tmp_path))
    assert "left out: files that are no images (1), images in no folder of a class (1)" in text


def test_links_in_circles_and_pipes_are_not_followed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "things")
    os.mkfifo(folder / "kind 0" / "pipe.png")
    (folder / "kind 0" / "gone.png").symlink_to(folder / "nowhere.png")
    assert read_folder(folder).table.rows == 18
    (folder / "kind 0" / "again").symlink_to(folder)
    assert "again is a link to a folder, which is not followed" in refused(lambda: read_folder(folder))


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "things")
    real = os.scandir

    def scan(path: str) -> object:
        if str(path).endswith("kind 3"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert "kind 3 cannot be read (Permission denied)" in refused(lambda: read_folder(folder))


def test_names_that_become_the_same_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "things")
    (folder / "kind 0").rename(folder / "kind\x015")
    assert "two classes are both called 'kind 5' in print" in refused(lambda: read_folder(folder))


@pytest.mark.parametrize("shape", [(10**15, 0), (100_000_000, 0), (20_000_000,)])
def test_an_array_of_nothing_is_not_counted_through(shape: tuple[int, ...]) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    assert "at most 50,000 are allowed" in refused(lambda: read_images(archive_of(head.getvalue()), "a.npz"))


def test_pixels_are_counted_over_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "things")
    monkeypatch.setattr(image_files, "MOST_PIXELS_IN_ALL", 18 * 40 * 40)
    assert read_folder(folder).table.rows == 18
    monkeypatch.setattr(image_files, "MOST_PIXELS_IN_ALL", 18 * 40 * 40 - 1)
    assert "pixels together" in refused(lambda: read_folder(folder))


def test_a_folder_that_comes_file_by_file_is_measured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MOST_BYTES_IN_ALL", 10)
    assert "at the command line" in refused(lambda: read_named([("a/b.png", b"0123456789a")]))


MADE_UP = {
    "empty": ([], []),
    "too many": (["a"] * (MOST_IMAGES + 1), [0] * (MOST_IMAGES + 1)),
    "of two classes": (["a", "b", "a"], [1, 1, 2]),
    "of none": (["a", None, "b"], [1, 2, 3]),
}


@pytest.mark.parametrize("name", MADE_UP)
def test_a_made_up_table_is_refused_wherever_it_comes_in(name: str) -> None:
    labels, values = MADE_UP[name]
    images = np.zeros((len(values), 32, 32), dtype=np.uint8) + np.array(values, dtype=np.uint8).reshape(-1, 1, 1)
    table = keep(table_of_images("made up", labels, images))  # type: ignore[arg-type]
    assert "made up has" in refused(lambda: OwnImages(table=table.id).check(2))


def test_a_table_of_images_is_no_table_of_rows() -> None:
    for roles in (
        {"task": "image", "inputs": ["class=sign 01"], "outputs": ["class=sign 02"]},
        {"task": "class", "inputs": ["image"], "outputs": ["class=sign 01"]},
        {"task": "class", "inputs": ["image=x"], "outputs": ["class=sign 01"]},
    ):
        family = parse_family({"family": "table", "table": signs().id, **roles})
        assert "holds images" in refused(lambda family=family: family.check(2))  # type: ignore[misc]


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "things")
    file = folder / "kind 0" / "0.png"
    file.unlink()
    file.symlink_to("/proc/self/mem")  # which is there, and cannot be read
    assert "'kind 0/0.png' cannot be read" in refused(lambda: read_folder(folder))


IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
LABELS = np.arange(12) // 2
ARRAYS = {
    "objects": ({"images": IMAGES, "labels": np.array([{}] * 12, dtype=object)}, "holds Python objects"),
    "too few labels": ({"images": IMAGES, "labels": LABELS[:-1]}, "12 images, and 'labels' 11 labels"),
    "fractions": ({"images": IMAGES, "labels": LABELS + 0.5}, "labels must be whole numbers or words"),
    "labels in a square": ({"images": IMAGES, "labels": np.zeros((12, 2))}, "one label for each image"),
    "no images": ({"labels": LABELS}, "name the arrays images and labels"),
    "words": ({"images": np.array(["a"] * 12), "labels": LABELS}, "images must be numbers"),
    "not finite": ({"images": np.full((12, 4, 4), np.inf), "labels": LABELS}, "are not finite"),
    "far too bright": ({"images": IMAGES * 1e6, "labels": LABELS}, "scale it to 0 to 1, or to 0 to 255"),
    "five dimensions": ({"images": IMAGES[None, None], "labels": LABELS[:1]}, "has the shape (1, 1, 12, 4, 4)"),
    "no square": ({"images": IMAGES.reshape(12, 16)[:, :15], "labels": LABELS}, "has the shape (12, 15)"),
    "one value": ({"images": np.float64(3), "labels": LABELS}, "is a single value"),
    "empty": ({"images": IMAGES[:, :0], "labels": LABELS}, "has the shape (12, 0, 4)"),
    "blank": ({"images": IMAGES[:0], "labels": LABELS[:0]}, "has the shape (0, 4, 4)"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_hold_no_images_get_a_sentence(name: str) -> None:
    arrays, said = ARRAYS[name]
    data = npz_of(**{key: np.asarray(array) for key, array in arrays.items()})  # type: ignore[attr-defined]
    assert said in refused(lambda: read_images(data, "a.npz"))


def test_an_array_that_unpacks_to_ten_gigabytes_is_not_unpacked() -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (10_000, 1000, 1000)})
    huge = archive_of(head.getvalue() + b"\0" * (4 * MIB))
    assert "would have 9,537 MiB" in refused(lambda: read_images(huge, "a.npz"))
    few = io.BytesIO()
    np.lib.format.write_array_header_1_0(few, {"descr": "|u1", "fortran_order": False, "shape": (12, 100, 100)})
    assert "is damaged" in refused(lambda: read_images(archive_of(few.getvalue() + b"\0" * 500), "a.npz"))
    assert "is damaged" in refused(lambda: read_images(archive_of(b"no array"), "a.npz"))


def archive_of(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", data)
        archive.writestr("labels.npy", data[:0])
    return file.getvalue()


@pytest.mark.slow
def test_nothing_hostile_takes_much_memory(tmp_path: Path) -> None:
    """Each is tried in a process that may not grow."""
    bombs = {
        "pixels.zip": zip_with(**{"kind 0__bad_dot_png": png_of(49_000, 49_000, zlib.compress(b"\0" * MIB))}),
        "bytes.zip": zip_with(**{"kind 0__bad_dot_png": b"\0" * (2000 * MIB // 10)}),
    }
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    code = (
        "import resource, sys\n"
        "from maml_core.errors import ConfigError\n"
        "from maml_core.learning.image_files import read_images\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        read_images(open(name, 'rb').read(), name)\n"
        "    except ConfigError as error:\n"
        "        print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    paths = [str(tmp_path / name) for name in bombs]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    *said, grown = done.stdout.splitlines()
    assert len(said) == 2
    assert int(grown) * (1 if sys.platform == "darwin" else 1024) < 150 * MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
