"""A run as one file: out of one store and into another.

The file is a zip with fixed names, each entry plain JSON or safetensors:

    run.json               configuration, name, notes, tags, iteration, and the SHA-256 of every other entry
    metrics.json           the metric rows, column by column
    weights.safetensors    what was learned, by name; all that another program needs
    state.safetensors      what else a resume needs: Adam's moments, unfinished metric rows, what is averaged
    history.safetensors    what was learned at earlier iterations, for looking back
    adapt.py               a standalone script that adapts the weights to new data; never read on import
    table.json             of a run on a table, where its rows go along: name and columns
    rows.parquet           and the rows

An imported file is hostile until proven otherwise. Nothing in it is executed or used as a path; every size is checked
before anything is read, and every tensor's name, shape, dtype and finiteness against the configuration.
"""

import base64
import contextlib
import hashlib
import io
import json
import math
import time
import zipfile
import zlib
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from maml_core.config import MOST_ITERATIONS, RunConfig
from maml_core.engines import TrainingState
from maml_core.errors import CheckpointError, ConfigError, ImportRefusedError, StoreError
from maml_core.fields import Integer, Real, Spec, parse
from maml_core.learning.layout import Layout
from maml_core.learning.table import Column, ColumnKind, Table, find
from maml_core.learning.table_files import check_parquet
from maml_core.learning.table_tasks import TableFamily
from maml_core.milestones import SNAPSHOTS, MetricRow, row_spacing
from maml_core.store.base import Saved, Snapshot, Vitals
from maml_core.store.checkpoint import Checkpoint, check_tensor, dump_checkpoint, load_checkpoint, state_names
from maml_core.store.run import NAME_LENGTH, NOTES_LENGTH, TAGS_LENGTH, Run
from maml_core.store.script import adapt_script, table_encoding
from maml_core.store.store import ImportedRun, Store

SIZE_LIMIT = 64 * 2**20
"""Bytes that a file may have, packed or unpacked."""

_ENTRIES = ("run.json", "metrics.json", "weights.safetensors", "state.safetensors", "history.safetensors", "adapt.py")
_HASHED = _ENTRIES[1:5]
_TABLE_ENTRIES = ("table.json", "rows.parquet")
_JSON_LIMITS = {"run.json": 2**18, "metrics.json": 2**20, "table.json": 2**18}
_HEADER_ROOM = 2**16  # of a safetensors file, for names and shapes
_MAX_ROWS = 4000
_DIRECTORY_LIMIT = 4096  # bytes; ours has 400
_KINDS = ("finished", "diverged", "stopped")


class _Entry(Spec):
    iteration: Integer = Field(ge=0, le=MOST_ITERATIONS)
    held_out: Real | None = None


class _Manifest(Spec):
    """`run.json`."""

    format: Literal["maml-lab-run"] = "maml-lab-run"
    version: Literal[1] = 1
    config: dict[str, Any]
    name: str = Field(
        min_length=1, max_length=NAME_LENGTH, json_schema_extra={"rule": f"text of 1 to {NAME_LENGTH} characters"}
    )
    preset: str | None = Field(None, max_length=40, json_schema_extra={"rule": "text of at most 40 characters"})
    notes: str = Field(
        "", max_length=NOTES_LENGTH, json_schema_extra={"rule": f"text of at most {NOTES_LENGTH:,} characters"}
    )
    tags: str = Field(
        "", max_length=TAGS_LENGTH, json_schema_extra={"rule": f"text of at most {TAGS_LENGTH} characters"}
    )
    status: Literal["finished", "diverged", "stopped"]
    message: str = Field("", max_length=1000, json_schema_extra={"rule": "text of at most 1,000 characters"})
    iteration: Integer = Field(ge=0, le=MOST_ITERATIONS)
    seconds: Real = Field(0.0, ge=0, le=1e9)
    created: Real = Field(ge=0, le=1e12)
    engine: str | None = Field(None, max_length=40, json_schema_extra={"rule": "text of at most 40 characters"})
    swapped_at: Integer | None = Field(None, ge=0, le=MOST_ITERATIONS)  # of earlier versions
    history: tuple[_Entry, ...] = Field(
        (), max_length=SNAPSHOTS, json_schema_extra={"rule": f"at most {SNAPSHOTS} entries"}
    )
    sha256: dict[str, str]


# Out -----------------------------------------------------------------------------------------------------------


def export_run(store: Store, run_id: str, *, with_rows: bool = False) -> bytes:
    """The run as the bytes of one file; of a run on a table, `with_rows` or without any of the user's data.

    Raises:
        RunNotFoundError: there is no such run.
        StoreError: it has no checkpoint yet, or is larger than an import would take.
        CheckpointError: its checkpoint is damaged.
    """
    run, checkpoint = _latest(store, run_id)
    layout = run.config.layout()
    history = [(at, held_out, store.checkpoint(run_id, "history", at)) for at, held_out in store.history(run_id)]
    state, frame = checkpoint.state, store.metrics(run_id)
    # A worker may commit between these reads, so what is newer than the checkpoint stays out.
    frame = frame[frame["iteration"] <= state.iteration]
    parts = {
        "metrics.json": json.dumps(frame.to_dict("list")).encode(),
        "weights.safetensors": _weights(run.config, layout, state.learned),
        "state.safetensors": save(
            {name: getattr(state, name) for name in _rest(run.config)} | {"pending": checkpoint.pending.contiguous()}
        ),
        "history.safetensors": save(
            {
                f"{at}": load_checkpoint(data, run.config).state.learned
                for at, _, data in history
                if data and at <= state.iteration
            }
        ),
    }
    if isinstance(run.config.tasks, TableFamily) and with_rows:
        table = find(run.config.tasks.table)
        parts["table.json"] = json.dumps(
            {"name": table.name, "columns": [list(each) for each in table.columns]}
        ).encode()
        parts["rows.parquet"] = table.to_parquet()
    manifest = _Manifest(
        config=json.loads(run.config.to_json()),
        name=run.name,
        preset=run.preset,
        notes=run.notes,
        tags=run.tags,
        status=run.status if run.status in _KINDS else "stopped",
        message=run.message if run.status == "diverged" else "",
        iteration=state.iteration,
        seconds=run.seconds,
        created=run.created,
        engine=checkpoint.engine,
        swapped_at=run.swapped_at,
        history=tuple(_Entry(iteration=at, held_out=held_out) for at, held_out, _ in history if at <= state.iteration),
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
    )
    if sum(map(len, parts.values())) > SIZE_LIMIT:
        raise StoreError(
            f"run = {run_id} ({run.name}) is larger than {SIZE_LIMIT // 2**20} MiB with its history: "
            "export its weights alone."
        )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {
            "run.json": manifest.model_dump_json(indent=1).encode(),
            **parts,
            "adapt.py": adapt_script(run.config).encode(),
        }.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # a fixed date: same run, same bytes
    return file.getvalue()


def export_weights(store: Store, run_id: str) -> bytes:
    """What the run has learned as a safetensors file that `load_state_dict(load_file(...))` takes as it is.

    So it holds every name of the network's state, those of one tensor under two names and buffers too. What an
    algorithm learns beside the parameters stands in the file's metadata, as `extras`.

    Raises:
        RunNotFoundError: there is no such run.
        StoreError: it has no checkpoint yet.
        CheckpointError: its checkpoint is damaged.
    """
    run, checkpoint = _latest(store, run_id)
    start = run.config.initialization(checkpoint.state.learned, checkpoint.buffers)
    name_of = {id(parameter): name for name, parameter in start.model.named_parameters()}
    state = {
        name: (start.parameters[name_of[id(value)]] if id(value) in name_of else value).detach().clone().contiguous()
        for name, value in start.model.state_dict(keep_vars=True).items()
    }
    about = _about_table(run.config)
    if start.extras:
        about["extras"] = json.dumps({name: _as_text(value) for name, value in start.extras.items()})
    return save(state, about or None)


def _as_text(value: Tensor) -> dict[str, Any]:
    data = value.detach().contiguous().numpy().astype("<f4").tobytes()
    return {"shape": list(value.shape), "data": base64.b64encode(data).decode()}


def _latest(store: Store, run_id: str) -> tuple[Run, Checkpoint]:
    run = store.run(run_id)
    data = store.checkpoint(run_id)
    if data is None:
        raise StoreError(f"run = {run.id} ({run.name}) has no checkpoint yet: train it first.")
    return run, load_checkpoint(data, run.config)


def _rest(config: RunConfig) -> list[str]:
    """The vectors of the training state that weights.safetensors does not hold."""
    learned = "parameters" if config.ema_decay is None else "average"
    return [name for name in state_names(config) if name != learned]


def _weights(config: RunConfig, layout: Layout, parameters: Tensor) -> bytes:
    about = _about_table(config)
    return save({name: value.contiguous() for name, value in layout.to_file(parameters).items()}, about or None)


def _about_table(config: RunConfig) -> dict[str, str]:
    if isinstance(config.tasks, TableFamily):
        with contextlib.suppress(ConfigError):  # imported without its table: the weights are all the same
            return {"table": json.dumps(table_encoding(config.tasks))}
    return {}


# In ------------------------------------------------------------------------------------------------------------


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
    raw = json.loads(_entry(archive, "run.json", _JSON_LIMITS["run.json"]))
    manifest = parse(_Manifest, raw, prefix="run.json ")
    config = RunConfig.from_dict(manifest.config)
    if config.uses_own_model:
        raise _refused(f"model.kind = {config.model.kind!r} is a class, and no code is loaded on a file's word")
    if manifest.iteration > config.meta_iterations:
        raise _refused(f"iteration = {manifest.iteration} is beyond meta_iterations = {config.meta_iterations}")
    if 4 * config.parameter_count() > SIZE_LIMIT:
        raise _refused("its model is too large")
    table = _table(archive, config, manifest)
    size = 4 * config.layout().size
    limits = {
        "metrics.json": _JSON_LIMITS["metrics.json"],
        "weights.safetensors": size + _HEADER_ROOM,
        "state.safetensors": len(_rest(config)) * size + 24 * row_spacing(config.meta_iterations) + _HEADER_ROOM,
        "history.safetensors": size * len(manifest.history) + _HEADER_ROOM,
    }
    parts = {name: _entry(archive, name, min(limit, SIZE_LIMIT)) for name, limit in limits.items()}
    for name in _HASHED:
        if hashlib.sha256(parts[name]).hexdigest() != manifest.sha256.get(name):
            raise _refused(f"{name} does not match its SHA-256")
    layout = config.layout()
    state, pending = _state(config, layout, parts, manifest.iteration)
    latest = Checkpoint(state, pending, manifest.engine, layout.file_shapes())
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


def _table(archive: zipfile.ZipFile, config: RunConfig, manifest: _Manifest) -> Table | None:
    """The table that goes along, if one does: checked to be the one that the run names."""
    if not set(archive.namelist()) & set(_TABLE_ENTRIES):
        return None
    if not isinstance(config.tasks, TableFamily):
        raise _refused("it holds rows, and its run is not on a table")
    about, rows = (_entry(archive, name, _JSON_LIMITS.get(name, SIZE_LIMIT)) for name in _TABLE_ENTRIES)
    for name, data in zip(_TABLE_ENTRIES, (about, rows), strict=True):
        if hashlib.sha256(data).hexdigest() != manifest.sha256.get(name):
            raise _refused(f"{name} does not match its SHA-256")
    described = json.loads(about)
    columns = [Column(str(name), ColumnKind(kind), str(form)) for name, kind, form in described["columns"]]
    name = str(described["name"])[:NAME_LENGTH].strip() or "table"
    check_parquet(rows, name)
    table = Table.from_parquet(name, columns, rows)
    if table.id != config.tasks.table:
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
    if len(set(names)) < len(names) or not set(names) <= {*_ENTRIES, *_TABLE_ENTRIES}:
        strange = next((name for name in names if name not in (*_ENTRIES, *_TABLE_ENTRIES)), names[0])
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


def _state(config: RunConfig, layout: Layout, parts: dict[str, bytes], iteration: int) -> tuple[TrainingState, Tensor]:
    weights = _tensors(parts["weights.safetensors"], set(layout.file_shapes()), "weights.safetensors")
    for name, shape in layout.file_shapes().items():
        check_tensor(weights, name, tuple(shape), torch.float32)
    names = _rest(config)
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


def _snapshots(config: RunConfig, layout: Layout, manifest: _Manifest, data: bytes) -> list[Snapshot]:
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


def _rows(columns: Any, iteration: int) -> list[MetricRow]:
    if not isinstance(columns, dict) or set(columns) != set(MetricRow._fields):
        raise _refused(f"metrics.json must have the columns {', '.join(MetricRow._fields)}")
    values = [columns[name] for name in MetricRow._fields]
    if any(not isinstance(column, list) or len(column) > _MAX_ROWS for column in values):
        raise _refused(f"metrics.json must hold at most {_MAX_ROWS:,} rows")
    rows = [MetricRow(*row) for row in zip(*values, strict=True)]
    before = 0
    for row in rows:
        finite = all(type(value) in (int, float) and math.isfinite(value) for value in row)
        if not finite or type(row.iteration) is not int or not before < row.iteration <= iteration:
            raise _refused("metrics.json holds a row that is not of this run")
        before = row.iteration
    return rows


def _refused(reason: str) -> ImportRefusedError:
    return ImportRefusedError(f"The file cannot be imported: {reason}.")
