"""A run that comes as a file: hostile until proven otherwise.

Nothing in it is executed or used as a path; every size is checked before anything is read, and every tensor's name,
shape, dtype and finiteness against the configuration. Of a run of a user's own class, which is never loaded here, the
shapes are those that the file states, and the class has its say when a command at the terminal loads it.
"""

import hashlib
import io
import json
import math
import sys
import time
import zipfile
import zlib
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from maml_core.config import RunConfig
from maml_core.engines import TrainingState
from maml_core.errors import CheckpointError, ConfigError, ImportRefusedError
from maml_core.fields import parse
from maml_core.learning.image_tables import MOST_IMAGES, check_images
from maml_core.learning.layout import Flat
from maml_core.learning.own_model import OwnModel
from maml_core.learning.table import MOST_ROWS, Column, ColumnKind, Table, holds_images
from maml_core.learning.table_files import check_parquet
from maml_core.milestones import MetricRow, row_spacing
from maml_core.store.base import Saved, Snapshot, Vitals
from maml_core.store.checkpoint import Checkpoint, check_tensor, dump_checkpoint, state_names
from maml_core.store.exchange import BUFFERS, ENTRIES, HASHED, JSON_LIMITS, SIZE_LIMIT, TABLE_ENTRIES, Manifest, rest_of
from maml_core.store.run import NAME_LENGTH
from maml_core.store.store import ImportedRun, Store

_HEADER_ROOM = 2**16  # of a safetensors file, for names and shapes
_MAX_ROWS = 4000
_DIRECTORY_LIMIT = 4096  # bytes; ours has 400


def import_run(store: Store, file: bytes) -> str:
    """Add the run that `export_run` wrote to a store, and return its new id.

    Raises:
        ImportRefusedError: the file is not such a run, or anything in it is not what the configuration asks for.
    """
    try:
        imported = _read(file)
        if imported.table is not None:
            store.add_table(imported.table)
        return store.add_run(imported)
    except (CheckpointError, ConfigError) as error:
        raise ImportRefusedError(f"The file cannot be imported. {error}") from None
    except _DAMAGE as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ImportRefusedError(f"The file cannot be imported: it is damaged ({reason}).") from None
    except (NotImplementedError, RuntimeError, OSError, OverflowError, MemoryError):
        raise ImportRefusedError("The file cannot be imported: it is not packed as this lab packs a run.") from None


_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    SafetensorError,
    ValueError,
    KeyError,
    TypeError,
    RecursionError,
    EOFError,
)


def _read(file: bytes) -> ImportedRun:
    archive = _open(file)
    raw = json.loads(_entry(archive, "run.json", JSON_LIMITS["run.json"]))
    manifest = parse(Manifest, raw, prefix="run.json ")
    config = RunConfig.from_dict(manifest.config)
    if manifest.iteration > config.meta_iterations:
        raise _refused(f"iteration = {manifest.iteration} is beyond meta_iterations = {config.meta_iterations}")
    layout = _layout(config, manifest)
    table = _table(archive, config, manifest)
    size = 4 * layout.size
    limits = {
        "metrics.json": JSON_LIMITS["metrics.json"],
        "weights.safetensors": size + _HEADER_ROOM,
        "state.safetensors": len(rest_of(config)) * size + 24 * row_spacing(config.meta_iterations) + _HEADER_ROOM,
        "history.safetensors": size * len(manifest.history) + _HEADER_ROOM,
    }
    parts = {name: _entry(archive, name, min(limit, SIZE_LIMIT)) for name, limit in limits.items()}
    for name in HASHED:
        if hashlib.sha256(parts[name]).hexdigest() != manifest.sha256.get(name):
            raise _refused(f"{name} does not match its SHA-256")
    state, pending = _state(config, layout, parts, manifest.iteration)
    buffers = _buffers(archive, config, manifest)
    latest = Checkpoint(state, pending, manifest.engine, layout.file_shapes(), buffers, manifest.source)
    return ImportedRun(
        config=config,
        status="finished"
        if manifest.iteration == config.meta_iterations
        else "diverged"
        if manifest.status == "diverged"
        else "stopped",
        name=manifest.name,
        preset=manifest.preset,
        notes=manifest.notes,
        tags=manifest.tags,
        created=min(manifest.created, time.time()),
        vitals=Vitals(
            message=manifest.message if manifest.status == "diverged" else "",
            seconds=manifest.seconds,
        ),
        swapped_at=manifest.swapped_at,
        rows=_rows(json.loads(parts["metrics.json"]), manifest.iteration),
        latest=Saved(manifest.iteration, dump_checkpoint(latest)),
        snapshots=_snapshots(config, layout, manifest, parts["history.safetensors"]),
        table=table,
    )


def _layout(config: RunConfig, manifest: Manifest) -> Flat:
    """The shapes that were learned: as the configuration has them, or of a class of the user's own, as stated."""
    layout: Flat
    if not isinstance(config.model, OwnModel):
        layout = config.layout()
    elif config.model.kind.partition(":")[0].partition(".")[0] in sys.stdlib_module_names:
        raise _refused(f"model.kind = {config.model.kind!r} is no class of a user's own")
    else:
        layout = Flat(manifest.shapes or {})
        if not layout.size:
            raise _refused("it does not state the shapes of what its class has learned")
    if 4 * layout.size > SIZE_LIMIT:
        raise _refused("its model is too large")
    return layout


def _buffers(archive: zipfile.ZipFile, config: RunConfig, manifest: Manifest) -> dict[str, Tensor]:
    """The buffers of a class of the user's own."""
    if BUFFERS not in archive.namelist():
        return {}
    if not config.uses_own_model:
        raise _refused("it holds buffers, and its model has none")
    data = _entry(archive, BUFFERS, SIZE_LIMIT)
    if hashlib.sha256(data).hexdigest() != manifest.sha256.get(BUFFERS):
        raise _refused(f"{BUFFERS} does not match its SHA-256")
    return load(data)


def _table(archive: zipfile.ZipFile, config: RunConfig, manifest: Manifest) -> Table | None:
    """The table that goes along, if one does: checked to be the one that the run names."""
    if not set(archive.namelist()) & set(TABLE_ENTRIES):
        return None
    if config.tasks.table_id is None:
        raise _refused("it holds rows, and its run is not on a table")
    about, rows = (_entry(archive, name, JSON_LIMITS.get(name, SIZE_LIMIT)) for name in TABLE_ENTRIES)
    for name, data in zip(TABLE_ENTRIES, (about, rows), strict=True):
        if hashlib.sha256(data).hexdigest() != manifest.sha256.get(name):
            raise _refused(f"{name} does not match its SHA-256")
    described = json.loads(about)
    columns = [Column(str(name), ColumnKind(kind), str(form)) for name, kind, form in described["columns"]]
    name = str(described["name"])[:NAME_LENGTH].strip() or "table"
    check_parquet(rows, name, MOST_IMAGES if holds_images(columns) else MOST_ROWS)
    table = Table.from_parquet(name, columns, rows)
    if table.is_of_images:
        check_images(table)
    if table.id != config.tasks.table_id:
        raise _refused("rows.parquet does not hold the table that the run names")
    return table


def _open(file: bytes) -> zipfile.ZipFile:
    """The zip's directory, read only if it is as short as ours: a long one alone could fill the memory."""
    if len(file) > SIZE_LIMIT:
        raise _refused(f"it has {len(file) / 2**20:,.0f} MiB, at most {SIZE_LIMIT // 2**20} are allowed")
    end = file[-22:]
    if not file.startswith(b"PK\x03\x04") or end[:4] != b"PK\x05\x06" or file[-42:-38] == b"PK\x06\x07":
        raise _refused("it is not a zip file of an exported run")
    count, length = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if length > _DIRECTORY_LIMIT:
        raise _refused(f"it holds {count:,} entries, more than an exported run does")
    archive = zipfile.ZipFile(io.BytesIO(file))
    names = archive.namelist()
    if len(set(names)) < len(names) or not set(names) <= set(ENTRIES):
        strange = next((name for name in names if name not in ENTRIES), names[0])
        raise _refused(f"it holds {strange[:60]!r}, which an exported run does not")
    return archive


def _entry(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if name not in archive.namelist():
        raise _refused(f"{name} is missing")
    with archive.open(name) as entry:
        data = entry.read(limit + 1)  # the size that the directory states may be a lie
    if len(data) > limit:
        raise _refused(f"{name} is larger than this run's configuration allows")
    return data


def _tensors(data: bytes, names: set[str], where: str) -> dict[str, Tensor]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_HEADER_ROOM, len(data) - 8):
        raise _refused(f"the header of {where} is too long")
    header = json.loads(data[8 : 8 + length])
    if set(header) - {"__metadata__"} != names:
        raise _refused(f"{where} does not hold just the tensors that the configuration asks for")
    return load(data)


def _state(config: RunConfig, layout: Flat, parts: dict[str, bytes], iteration: int) -> tuple[TrainingState, Tensor]:
    weights = _tensors(parts["weights.safetensors"], set(layout.file_shapes()), "weights.safetensors")
    for name, shape in layout.file_shapes().items():
        check_tensor(weights, name, tuple(shape), torch.float32)
    names = rest_of(config)
    rest = _tensors(parts["state.safetensors"], {*names, "pending"}, "state.safetensors")
    for name in names:
        check_tensor(rest, name, (layout.size,), torch.float32)
    check_tensor(rest, "pending", (None, 3), torch.float64)
    if rest["exp_avg_sq"].min() < 0:
        raise _refused("exp_avg_sq holds values below zero")
    if rest["pending"].shape[0] > iteration:
        raise _refused("pending holds more rows than there were iterations")
    learned = layout.from_file(weights)
    vectors = [rest[name] if name in names else learned for name in state_names(config)]
    return TrainingState.of(vectors, iteration), rest["pending"]


def _snapshots(config: RunConfig, layout: Flat, manifest: Manifest, data: bytes) -> list[Snapshot]:
    tensors = _tensors(data, {str(entry.iteration) for entry in manifest.history}, "history.safetensors")
    kept = []
    for entry in manifest.history:
        check_tensor(tensors, str(entry.iteration), (layout.size,), torch.float32)
        if entry.iteration > manifest.iteration:
            raise _refused(f"history reaches iteration {entry.iteration}, beyond the run's own")
        learned, zeros = tensors[str(entry.iteration)], torch.zeros(layout.size)
        vectors = {"parameters": learned, "exp_avg": zeros, "exp_avg_sq": zeros, "average": learned}
        state = TrainingState.of((vectors[name].clone() for name in state_names(config)), entry.iteration)
        held_out = math.inf if entry.held_out is None else entry.held_out
        data_of = dump_checkpoint(Checkpoint(state, torch.zeros(0, 3).double(), shapes=layout.file_shapes()))
        kept.append(Snapshot(entry.iteration, held_out, data_of))
    return kept


LARGEST = 3.5e38
"""What training computes is of 32 bits."""


def _rows(columns: Any, iteration: int) -> list[MetricRow]:
    if not isinstance(columns, dict) or set(columns) != set(MetricRow._fields):
        raise _refused(f"metrics.json must have the columns {', '.join(MetricRow._fields)}")
    values = [columns[name] for name in MetricRow._fields]
    if any(not isinstance(column, list) or len(column) > _MAX_ROWS for column in values):
        raise _refused(f"metrics.json must hold at most {_MAX_ROWS:,} rows")
    rows = [MetricRow(*row) for row in zip(*values, strict=True)]
    before = 0
    for row in rows:
        finite = all(type(value) in (int, float) and abs(value) <= LARGEST for value in row)
        if not finite or type(row.iteration) is not int or not before < row.iteration <= iteration:
            raise _refused("metrics.json holds a row that is not of this run")
        before = row.iteration
    return rows


def _refused(reason: str) -> ImportRefusedError:
    return ImportRefusedError(f"The file cannot be imported: {reason}.")
