"""A table of a user's own: typed columns under a name, known by a hash of what is in it.

Tables are values. Whoever holds one with the right hash has the right one, so a run names its table by hash, and
`find` may ask anyone for it: a store that is open, or what was made in this process.
"""

import functools
import hashlib
import io
import re
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from maml_core.errors import ConfigError

MOST_BYTES = 64 * 2**20
MOST_ROWS = 1_000_000
MOST_COLUMNS = 500
MOST_INPUTS = 100
MOST_OUTPUTS = 20
NAME_LENGTH = 80
MOST_VALUES = 50
"""What a table may hold; the last is how many different words an input column may have, each a number of its own."""

IMAGE_SIDE = 32
"""Pixels on each side of an image, whatever it was."""

INVERTED = "inverted"

_EPOCH = pd.Timestamp("1970-01-01")


class ColumnKind(StrEnum):
    """What the cells of a column are."""

    NUMBER = "number"
    DATE = "date"  # kept as days since 1970
    CATEGORY = "category"  # words
    IMAGE = "image"  # bytes, `IMAGE_SIDE` rows of as many, from the top: 0 is paper, 255 is ink


class Column(NamedTuple):
    """A column's name, and what its cells are."""

    name: str
    kind: ColumnKind
    written: str = ""  # how dates were, as strptime knows it; of images `INVERTED`, where their ground was bright


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length.

    >>> table = Table("plants", [Column("plant", ColumnKind.CATEGORY), Column("height", ColumnKind.NUMBER)],
    ...               pd.DataFrame({"plant": pd.Categorical(["a", "a", "b"]), "height": [1.0, 2.0, 3.0]}))
    >>> table.rows, table.id[:8]
    (3, '14e6485d')
    """

    name: str
    columns: list[Column]
    frame: pd.DataFrame  # numbers and dates float64 with NaN where missing, words a Categorical

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.frame)

    @functools.cached_property
    def id(self) -> str:
        """SHA-256 of names, kinds and cells: the same in any order of columns, and however the file was written."""
        digest = hashlib.sha256()
        for column in sorted(self.columns):
            series = self.frame[column.name]
            digest.update(f"{len(column.name.encode())}:{column.name}:{column.kind}:{len(series)}:".encode())
            if column.kind == ColumnKind.CATEGORY:
                words, order = np.unique(series.cat.categories.to_numpy(dtype=str), return_inverse=True)
                for word in words.tolist():
                    digest.update(f"{len(word.encode())}:{word}".encode())
                codes = series.cat.codes.to_numpy()
                places = np.where(codes < 0, -1, order[codes] if len(order) else -1)
                digest.update(places.astype("<i4").tobytes())
            elif column.kind == ColumnKind.IMAGE:
                digest.update(column.written.encode() + self.images(column.name).tobytes())
            else:
                values = series.to_numpy(dtype="<f8") + 0.0  # no negative zero
                digest.update(np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes())
        return digest.hexdigest()

    @property
    def is_of_images(self) -> bool:
        """Whether it is one of images and their classes."""
        return holds_images(self.columns)

    def images(self, name: str) -> np.ndarray:
        """A column of images, `[rows, IMAGE_SIDE, IMAGE_SIDE]`, uint8.

        Raises:
            ConfigError: a cell holds none, as only a file that was made up can have it.
        """
        cells = self.frame[name].tolist()
        if not all(isinstance(cell, bytes) and len(cell) == IMAGE_SIDE**2 for cell in cells):
            raise ConfigError(f"{self.name}: {name!r} does not hold images in every row; add its file anew.")
        return np.frombuffer(bytearray().join(cells), dtype=np.uint8).reshape(-1, IMAGE_SIDE, IMAGE_SIDE)

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        images = sum(column.kind == ColumnKind.IMAGE for column in self.columns)
        return int(self.frame.memory_usage().sum()) + self.rows * images * IMAGE_SIDE**2

    def column(self, name: str) -> Column:
        """The column of that name.

        Raises:
            ConfigError: there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise ConfigError(f"{name!r} is not a column of the table {self.name}: it has {_listed(self.columns)}.")

    def values(self, name: str) -> np.ndarray:
        """A column as numbers `[rows]`, NaN where missing; `name=value` is 1 where that column has that value, else 0.

        Raises:
            ConfigError: there is no such column, or it holds words.
        """
        names = [column.name for column in self.columns]
        place, equals, word = name.rpartition("=")
        if name not in names and equals and place in names:
            series = self.frame[place]
            same = self.labels(place) == word
            if not same.any():
                raise ConfigError(f"{name!r} is not allowed: no row of {self.name} has {place} = {word!r}.")
            return np.where(series.isna(), np.nan, same.astype(np.float64))
        column = self.column(name)
        if column.kind == ColumnKind.IMAGE:
            raise ConfigError(f"{name!r} holds images: it must be a column of numbers.")
        if column.kind == ColumnKind.CATEGORY:
            raise ConfigError(f"{name!r} holds words, such as {self._word(name)!r}: it must be a column of numbers.")
        return self.frame[name].to_numpy(dtype=np.float64)

    def expanded(self, names: Iterable[str]) -> tuple[str, ...]:
        """The same inputs with each column of words replaced by an indicator `name=value` for each of its values.

        Raises:
            ConfigError: a column has too many different words.
        """
        found: list[str] = []
        for name in names:
            kinds = {column.name: column.kind for column in self.columns}
            if kinds.get(name) != ColumnKind.CATEGORY:
                found.append(name)
                continue
            words = sorted(self.frame[name].cat.categories)
            if len(words) > MOST_VALUES:
                raise ConfigError(
                    f"inputs: {name!r} holds {len(words):,} different words, such as {words[0]!r}: at most "
                    f"{MOST_VALUES} can be inputs; leave it out, or correct the cells that should be numbers."
                )
            found += [f"{name}={word}" for word in words]
        return tuple(found)

    def labels(self, name: str) -> np.ndarray:
        """A column as people write its values, `[rows]`; empty where missing."""
        column = self.column(name)
        if column.kind == ColumnKind.IMAGE:
            raise ConfigError(f"{name!r} holds images: it must be a column of words, numbers or dates.")
        series = self.frame[name]
        if column.kind == ColumnKind.CATEGORY:
            return series.astype(object).where(series.notna(), "").to_numpy(dtype=object)
        numbers = series.to_numpy(dtype=np.float64)
        found, places = np.unique(numbers, return_inverse=True)
        if column.kind == ColumnKind.DATE:
            words = ["" if np.isnan(day) else (_EPOCH + pd.Timedelta(days=day)).isoformat() for day in found]
            words = [word.removesuffix("T00:00:00") for word in words]
        else:
            words = ["" if np.isnan(value) else number_label(value) for value in found]
        return np.array(words, dtype=object)[places]

    def _word(self, name: str) -> str:
        return str(next(iter(self.frame[name].cat.categories), ""))

    def to_parquet(self) -> bytes:
        """Its rows as Parquet."""
        arrays = {}
        for column in self.columns:
            series = self.frame[column.name]
            is_words = column.kind == ColumnKind.CATEGORY
            arrays[column.name] = pa.array(series.astype(object) if is_words else series, from_pandas=True)
            if is_words:
                arrays[column.name] = arrays[column.name].cast(pa.string()).dictionary_encode()
        file = io.BytesIO()
        pq.write_table(pa.table(arrays), file, compression="zstd")
        return file.getvalue()

    @classmethod
    def from_parquet(cls, name: str, columns: list[Column], data: bytes) -> "Table":
        """What `to_parquet` wrote."""
        read = pq.read_table(io.BytesIO(data), use_threads=False).to_pandas()
        for column in columns:
            if column.kind == ColumnKind.CATEGORY:
                read[column.name] = pd.Categorical(read[column.name])
        return cls(name, columns, read)


def holds_images(columns: Iterable[Column]) -> bool:
    """Whether these are the columns of a table of images."""
    return any(column.kind == ColumnKind.IMAGE for column in columns)


def number_label(value: float) -> str:
    """A number as a task's name: 3 and not 3.0."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def unit_of(column: str) -> str:
    """The unit that a column's name ends in, in brackets: g of weight (g)."""
    found = re.search(r"[(\[]([^()\[\]]{1,12})[)\]]\s*$", column)
    return found[1].strip() if found else ""


_LOCK = threading.Lock()  # the sessions of a server share what follows
_FOUND: dict[str, Table] = {}
_KEPT_BYTES = 256 * 2**20
Source = Callable[[str], Table | None]
"""Gives the table with a hash, or None."""

_SOURCES: list[weakref.WeakMethod[Source]] = []


def offer(source: Source) -> None:
    """Have `find` ask this method, too, as long as its object lives."""
    with _LOCK:
        _SOURCES.append(weakref.WeakMethod(source))


def withdraw(source: Source) -> None:
    """Have `find` ask this method no longer."""
    with _LOCK:
        _SOURCES[:] = [each for each in _SOURCES if each() not in (None, source)]


def keep(table: Table) -> Table:
    """Have `find` know a table for a while, without a store; the least recently used ones are forgotten."""
    name = table.id
    with _LOCK:
        _FOUND.pop(name, None)
        _FOUND[name] = table
        while len(_FOUND) > 1 and sum(each.size for each in _FOUND.values()) > _KEPT_BYTES:
            del _FOUND[next(iter(_FOUND))]
    return table


def forget(table_id: str) -> None:
    """Have `find` ask the sources again: a table was removed from a store."""
    with _LOCK:
        _FOUND.pop(table_id, None)


def find(table_id: str) -> Table:
    """The table with that hash.

    Raises:
        ConfigError: nobody at hand has it.
    """
    for made in EXAMPLES:
        if table_id == made().id:
            return made()
    with _LOCK:
        known, sources = _FOUND.get(table_id), [reference() for reference in _SOURCES]
    if known is not None:
        return keep(known)
    for source in sources:
        found = source(table_id) if source else None
        if found is not None:
            return keep(found)
    raise ConfigError(
        f"tasks.table = {table_id[:12]!r} is not in this store: add its file on the Data page, or with "
        "`python -m maml_core tables add FILE`."
    )


@functools.cache
def example() -> Table:
    """A table to try things on: 60 temperature sensors, each read at 24 temperatures in a bath whose heat is known.

    Made up, by this formula: a sensor reads gain * (t + bend * t^2 / 100) + offset, plus noise. Its true temperature is
    to be predicted from its reading.
    """
    random = np.random.Generator(np.random.PCG64(2024))
    sensors, readings = 60, 24
    gain, bend = random.normal(1.0, 0.08, (sensors, 1)), random.normal(0.12, 0.05, (sensors, 1))
    offset = random.normal(0.0, 4.0, (sensors, 1))
    true = np.round(random.uniform(0.0, 80.0, (sensors, readings)), 1)
    read = np.round(gain * (true + bend * true**2 / 100) + offset + random.normal(0, 0.25, true.shape), 2)
    names = np.repeat([f"S{number:02d}" for number in range(1, sensors + 1)], readings)
    frame = pd.DataFrame({"sensor": pd.Categorical(names), "reading": read.ravel(), "temperature (°C)": true.ravel()})
    kinds = (ColumnKind.CATEGORY, ColumnKind.NUMBER, ColumnKind.NUMBER)
    return Table("Example: sensors", [Column(*pair) for pair in zip(frame.columns, kinds, strict=True)], frame)


EXAMPLES: list[Callable[[], Table]] = [example]
"""Tables that are always at hand."""


def _listed(columns: list[Column]) -> str:
    names = ", ".join(column.name[:40] for column in columns[:12])
    return names + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")
