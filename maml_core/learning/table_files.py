"""Reading a file that people have as a table: CSV and its dialects, gzip, Parquet; and what its columns look like.

A file is hostile until proven otherwise: it is read as text or Parquet and nothing else, up to fixed sizes, and what is
wrong with it is said in one sentence that names the place.
"""

import csv
import io
import itertools
import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from maml_core.errors import ConfigError
from maml_core.learning.table import (
    MOST_BYTES,
    MOST_COLUMNS,
    MOST_ROWS,
    NAME_LENGTH,
    Column,
    ColumnKind,
    Table,
)
from maml_core.words import printable

_MISSING = {"", "na", "n/a", "nan", "null", "none", "-", ".", "?", "#n/a"}
_SEPARATORS = (",", ";", "\t", "|")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_DATES = (
    (re.compile(r"\d{4}-\d{2}-\d{2}"), "%Y-%m-%d"),
    (re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}"), "%Y-%m-%d %H:%M"),
    (re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}"), "%Y-%m-%d %H:%M:%S"),
    (re.compile(r"\d{4}/\d{2}/\d{2}"), "%Y/%m/%d"),
    (re.compile(r"\d{1,2}\.\d{1,2}\.\d{4}"), "%d.%m.%Y"),
)
_SLASHES = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})")
_EPOCH = np.datetime64("1970-01-01")
CELL_LENGTH = 1000
"""Most characters of a cell: as categories, cells are held as wide as the widest."""


def read_table(data: bytes, file_name: str) -> Table:
    """The table in a file; its name is the file's without ending.

    Raises:
        ConfigError: the file is no table, or too large; in one sentence, with the line where there is one.
    """
    name, cells = read_cells(data, file_name)
    columns: list[Column] = []
    frame: dict[str, Any] = {}
    for column_name in cells:
        column, values = _typed(str(column_name), cells[column_name], name)
        columns.append(column)
        frame[column.name] = values
    if not any(column.kind == ColumnKind.NUMBER for column in columns):
        raise ConfigError(
            f"{name}: no column holds numbers only ({', '.join(c.name[:30] for c in columns[:6])}): there is nothing "
            "to predict; correct the cells that are not numbers."
        )
    return Table(name, columns, pd.DataFrame(frame))


def read_cells(data: bytes, file_name: str) -> tuple[str, pd.DataFrame]:
    """The name of the table in a file, and its cells by column, as they are written.

    Raises:
        ConfigError: as `read_table`.
    """
    name = re.sub(r"(\.(csv|tsv|txt|tab|parquet|pq|gz))+$", "", re.split(r"[/\\]", file_name)[-1], flags=re.IGNORECASE)
    name = printable(name).strip()[:NAME_LENGTH] or "table"
    if not data:
        raise ConfigError(f"{name}: the file is empty; choose a file with a header and rows.")
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{name}: {_too_large(len(data))}")
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(data, name)
    cells = _parquet(data, name) if data[:4] == b"PAR1" else _text(data, name)
    if not len(cells):
        raise ConfigError(f"{name}: there is a header and no row below it; add rows.")
    return name, cells


def _too_large(size: int) -> str:
    return f"it has {size / 2**20:,.0f} MiB, at most {MOST_BYTES // 2**20} are allowed; keep fewer rows or columns."


def _unpacked(data: bytes, name: str) -> bytes:
    """What a gzip file holds, read no further than a table may be large."""
    found, rest, is_whole = b"", data, True
    try:
        while rest and len(found) <= MOST_BYTES:  # a gzip file may have several parts
            unpacker = zlib.decompressobj(wbits=31)
            found += unpacker.decompress(rest, MOST_BYTES + 1 - len(found))
            rest, is_whole = unpacker.unused_data, unpacker.eof
    except zlib.error:
        is_whole = False
    if not is_whole and len(found) <= MOST_BYTES:
        raise ConfigError(f"{name}: it is damaged (not a whole gzip file); pack it anew.")
    if len(found) > MOST_BYTES:
        raise ConfigError(
            f"{name}: unpacked it has more than {MOST_BYTES // 2**20} MiB, which is the most allowed; keep fewer rows."
        )
    if not found:
        raise ConfigError(f"{name}: the packed file is empty; choose a file with a header and rows.")
    return found


# Text -----------------------------------------------------------------------------------------------------------


def _text(data: bytes, name: str) -> pd.DataFrame:
    """The cells of a text file, as text, by column."""
    text = _decoded(data, name)
    separator = _separator(text)
    head = next(_records(text, separator), None)
    if head is None:
        raise ConfigError(f"{name}: the file is empty; choose a file with a header and rows.")
    names = _header(head, name)
    try:
        cells = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            header=None,
            names=names,
            index_col=False,
            skiprows=0,
            dtype="string[pyarrow]",
            keep_default_na=False,
            na_filter=False,
            skip_blank_lines=True,
            nrows=MOST_ROWS + 2,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise ConfigError(f"{name}: {_place(error, len(names))}") from None
    cells = cells.iloc[1:]  # the header
    if len(cells) > MOST_ROWS:
        raise ConfigError(f"{name}: it has more than {MOST_ROWS:,} rows, which is the most allowed; keep fewer.")
    return cells.reset_index(drop=True)


def _decoded(data: bytes, name: str) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise ConfigError(f"{name}: it is not text; save it as CSV in UTF-8.") from None
    control = sum(byte < 9 or 13 < byte < 32 for byte in data[:4096])
    if control:
        raise ConfigError(f"{name}: it is not a table of text (it holds binary data); save it as CSV or Parquet.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _records(text: str, separator: str) -> Any:
    """The records that are not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error:
            continue
        if any(cell.strip() for cell in record):
            yield record


def _separator(text: str) -> str:
    """What cells are separated by: what splits the first records into the most columns, all alike."""
    best, most = ",", 0.0
    for separator in _SEPARATORS:
        records = list(itertools.islice(_records(text[:100_000], separator), 50))
        if len(records) > 1 and len(text) > 100_000:
            records.pop()  # cut off
        if not records:
            continue
        columns = len(records[0])
        alike = sum(len(record) == columns for record in records) / len(records)
        if columns > 1 and columns * alike**4 > most:
            best, most = separator, columns * alike**4
    return best


def _header(head: Sequence[str], name: str) -> list[str]:
    names = [cell.strip().strip("\ufeff") for cell in head]
    if len(names) > MOST_COLUMNS:
        raise ConfigError(f"{name}: it has {len(names):,} columns, at most {MOST_COLUMNS} are allowed; keep fewer.")
    if len(names) > 1 and all(_is_number(cell) for cell in names):
        raise ConfigError(
            f"{name}: the first line holds numbers ({', '.join(names[:3])}) and no column names; add a header line."
        )
    names = [cell if cell else f"column {i + 1}" for i, cell in enumerate(names)]
    for i, cell in enumerate(names):
        if cell in names[:i]:
            raise ConfigError(f"{name}: two columns are called {cell[:40]!r}; give each a name of its own.")
        if len(cell) > 200:
            raise ConfigError(f"{name}: the column name {cell[:30]!r}… is longer than 200 characters; shorten it.")
    return names


def _place(error: Exception, columns: int) -> str:
    said = re.search(r"Expected \d+ fields in line (\d+), saw (\d+)", str(error))
    if said:
        return f"line {said[1]} has {said[2]} cells, where the header has {columns}; correct that line."
    return "its lines cannot be told apart (a quotation mark is not closed?); correct it or save it anew."


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


# Parquet --------------------------------------------------------------------------------------------------------


def check_parquet(data: bytes, name: str, most_rows: int = MOST_ROWS) -> None:
    """Find out, before anything is unpacked, whether Parquet bytes are whole and no larger than a table may be.

    Raises:
        ConfigError: they are not.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        shape = file.metadata
        unpacked = sum(shape.row_group(i).total_byte_size for i in range(shape.num_row_groups))
        if shape.num_columns > MOST_COLUMNS:
            raise ConfigError(
                f"{name}: it has {shape.num_columns:,} columns, at most {MOST_COLUMNS} are allowed; keep fewer."
            )
        if shape.num_rows > most_rows or unpacked > 8 * MOST_BYTES:
            raise ConfigError(f"{name}: it has {shape.num_rows:,} rows, at most {most_rows:,} are allowed; keep fewer.")
        _header(file.schema_arrow.names, name)
        for field in file.schema_arrow:
            if pa.types.is_nested(field.type):
                raise ConfigError(f"{name}: the column {field.name[:40]!r} holds lists; keep one value in a cell.")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(error, name) from None


def _parquet(data: bytes, name: str) -> pd.DataFrame:
    check_parquet(data, name)
    try:
        read = pq.read_table(io.BytesIO(data), use_threads=False)
        found: pd.DataFrame = read.to_pandas()
        return found
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(error, name) from None


def _damaged(error: Exception, name: str) -> ConfigError:
    reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
    return ConfigError(f"{name}: the Parquet file is damaged ({reason}); write it anew.")


# Columns --------------------------------------------------------------------------------------------------------


def _typed(column: str, cells: pd.Series, name: str) -> tuple[Column, Any]:
    """What a column holds, and its values as a table keeps them."""
    if pd.api.types.is_datetime64_any_dtype(cells):
        days = (cells.dt.tz_localize(None) if cells.dt.tz else cells).to_numpy("datetime64[ns]")
        values = np.where(np.isnat(days), np.nan, (days - _EPOCH) / np.timedelta64(1, "D"))
        return Column(column, ColumnKind.DATE, "%Y-%m-%d"), values
    if pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_bool_dtype(cells):
        values = cells.to_numpy(dtype=np.float64, na_value=np.nan)
        _refuse_infinite(values, column, name)
        return Column(column, ColumnKind.NUMBER), values
    words = pd.Categorical(cells.astype("string").str.strip())  # each different cell is looked at once
    found = [str(word) for word in words.categories]
    codes = words.codes
    for place, word in enumerate(found):
        if len(word) > CELL_LENGTH:
            raise ConfigError(
                f"{name}: line {int(np.argmax(codes == place)) + 2} has {len(word):,} characters in {column[:40]!r}: "
                f"at most {CELL_LENGTH:,} are allowed in a cell; shorten it, or leave the column out."
            )
    missing = np.array([word.lower() in _MISSING for word in found], dtype=bool)
    present = [word for word, is_missing in zip(found, missing, strict=True) if not is_missing]
    comma = bool(present) and any(_DECIMAL_COMMA.fullmatch(word) for word in present)
    numbers = np.array([np.nan if out else _number(w, comma) for w, out in zip(found, missing, strict=True)] + [np.nan])
    if present and not np.isnan(numbers[:-1][~missing]).any():
        values = numbers[codes]
        _refuse_infinite(values, column, name)
        return Column(column, ColumnKind.NUMBER), values
    written = _date_format(present)
    if written:
        days = np.array(
            [np.nan if out else _days(w, written) for w, out in zip(found, missing, strict=True)] + [np.nan]
        )
        if not np.isnan(days[:-1][~missing]).any():
            return Column(column, ColumnKind.DATE, written), days[codes]
    kept = np.cumsum(~missing) - 1
    places = np.append(np.where(missing, -1, kept), -1)[codes]
    return Column(column, ColumnKind.CATEGORY), pd.Categorical.from_codes(
        places, categories=pd.Index(present, dtype=object)
    )


def _number(word: str, comma: bool) -> float:
    """A cell as a number, NaN if it is none; 1_000 and other things that only Python takes are none."""
    text = word.replace(",", ".") if comma and "." not in word else word
    if "_" in text or text.lower().lstrip("+-") in ("nan", "infinity"):
        return np.nan
    try:
        return float(text)
    except ValueError:
        return np.nan


def _refuse_infinite(values: np.ndarray, column: str, name: str) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        row = int(infinite.argmax()) + 2
        raise ConfigError(
            f"{name}: {column[:40]!r} is infinite in line {row}: numbers must be finite; correct the cell or leave it "
            "empty."
        )


def _date_format(words: Sequence[str]) -> str:
    """How all these cells are written as dates, or "" if they are none."""
    if not words:
        return ""
    for pattern, written in _DATES:
        if all(pattern.fullmatch(word) for word in words):
            return written
    parts = [_SLASHES.fullmatch(word) for word in words]
    if all(parts):
        if any(int(part[1]) > 12 for part in parts if part):
            return "%d/%m/%Y"
        if any(int(part[2]) > 12 for part in parts if part):
            return "%m/%d/%Y"
    return ""


def _days(word: str, written: str) -> float:
    """A date as days since 1970, NaN if it is none."""
    day = pd.to_datetime(word.replace("T", " "), format=written, errors="coerce")
    return float("nan") if pd.isna(day) else (day - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)
