"""A run as one file: out of one store and into another.

The file is a zip with fixed names, each entry plain JSON or safetensors:

    run.json               configuration, name, notes, tags, iteration, and the SHA-256 of every other entry
    metrics.json           the metric rows, column by column
    weights.safetensors    what was learned, by name; all that another program needs
    state.safetensors      what else a resume needs: Adam's moments, unfinished metric rows, what is averaged
    history.safetensors    what was learned at earlier iterations, for looking back
    adapt.py               a standalone script that adapts the weights to new data; never read on import
    model.py               of a class of the user's own: the file it stands in, for its readers; never read on import
    buffers.safetensors    and the buffers of its instance
    table.json             of a run on a table, where its rows go along: name and columns
    rows.parquet           and the rows

`imports` takes such a file in.
"""

import base64
import contextlib
import hashlib
import io
import json
import zipfile
from typing import Annotated, Any, Literal

from pydantic import Field
from safetensors.torch import save
from torch import Tensor

from maml_core.config import MOST_ITERATIONS, RunConfig
from maml_core.errors import ConfigError, StoreError
from maml_core.fields import Integer, Real, Spec
from maml_core.learning.layout import Layout
from maml_core.learning.own_model import OwnModel
from maml_core.learning.table import find
from maml_core.learning.table_tasks import TableFamily
from maml_core.milestones import SNAPSHOTS
from maml_core.store.checkpoint import Checkpoint, load_checkpoint, state_names
from maml_core.store.run import NAME_LENGTH, NOTES_LENGTH, TAGS_LENGTH, Run
from maml_core.store.script import adapt_script, no_script, table_encoding
from maml_core.store.store import Store

SIZE_LIMIT = 64 * 2**20
"""Bytes that a file may have, packed or unpacked."""

HASHED = ("metrics.json", "weights.safetensors", "state.safetensors", "history.safetensors")
TABLE_ENTRIES = ("table.json", "rows.parquet")
BUFFERS, SOURCE = "buffers.safetensors", "model.py"
ENTRIES = ("run.json", *HASHED, *TABLE_ENTRIES, BUFFERS, "adapt.py", SOURCE)
JSON_LIMITS = {"run.json": 2**18, "metrics.json": 2**20, "table.json": 2**18}
_SOURCE_LIMIT = 2**20  # characters
_KINDS = ("finished", "diverged", "stopped")


class HistoryEntry(Spec):
    """A state of the run's history."""

    iteration: Integer = Field(ge=0, le=MOST_ITERATIONS)
    held_out: Real | None = None


class Manifest(Spec):
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
    history: tuple[HistoryEntry, ...] = Field(
        (), max_length=SNAPSHOTS, json_schema_extra={"rule": f"at most {SNAPSHOTS} entries"}
    )
    shapes: dict[str, tuple[Annotated[Integer, Field(ge=0)], ...]] | None = Field(
        None, max_length=2000, json_schema_extra={"rule": "shapes of at most 2,000 tensors, by name"}
    )  # of what a class of the user's own has learned, in order: nobody who imports it can know
    source: str | None = Field(None, max_length=64, json_schema_extra={"rule": "a SHA-256"})  # of that class
    sha256: dict[str, str]


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
            {name: getattr(state, name) for name in rest_of(run.config)} | {"pending": checkpoint.pending.contiguous()}
        ),
        "history.safetensors": save(
            {
                f"{at}": load_checkpoint(data, run.config).state.learned
                for at, _, data in history
                if data and at <= state.iteration
            }
        ),
    }
    if run.config.uses_own_model and checkpoint.buffers:
        parts[BUFFERS] = save({name: value.contiguous() for name, value in checkpoint.buffers.items()})
    if run.config.tasks.table_id is not None and with_rows:
        table = find(run.config.tasks.table_id)
        parts["table.json"] = json.dumps(
            {"name": table.name, "columns": [list(each) for each in table.columns]}
        ).encode()
        parts["rows.parquet"] = table.to_parquet()
    manifest = Manifest(
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
        history=tuple(
            HistoryEntry(iteration=at, held_out=held_out) for at, held_out, _ in history if at <= state.iteration
        ),
        shapes=layout.file_shapes() if run.config.uses_own_model else None,
        source=run.config.source_hash(),
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
            "run.json": manifest.model_dump_json(indent=1, exclude_none=True).encode(),
            **parts,
            **_code(run.config),
        }.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # a fixed date: same run, same bytes
    return file.getvalue()


def _code(config: RunConfig) -> dict[str, bytes]:
    """A script that adapts the weights, or where they are a user's own class's, the file it stands in."""
    if isinstance(config.model, OwnModel):
        text = config.model.file_text()
        return {SOURCE: text.encode()} if text and len(text) <= _SOURCE_LIMIT else {}
    return {} if no_script(config) else {"adapt.py": adapt_script(config).encode()}


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


def rest_of(config: RunConfig) -> list[str]:
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
