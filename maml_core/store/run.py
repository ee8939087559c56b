"""One run as the store knows it."""

import functools
from dataclasses import fields
from typing import Any, Literal

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from maml_core.config import RunConfig
from maml_core.errors import ConfigError, StoreError
from maml_core.words import one_line

Status = Literal["queued", "running", "paused", "stopped", "interrupted", "finished", "diverged", "failed"]

ACTIVE = ("queued", "running")
RESUMABLE = ("paused", "stopped", "interrupted", "failed")
"""A run that failed may go on from its last checkpoint, once what made it fail is mended."""

NAME_LENGTH = 80
NOTES_LENGTH = 5000
TAGS_LENGTH = 200
"""Characters that a run's name, notes and tags may have."""


@dataclass(frozen=True)
class Run:
    """One row of the runs table, with its configuration parsed. Times are seconds since the epoch."""

    id: str
    name: str
    preset: str | None
    config: RunConfig
    status: Status
    message: str
    meta_iterations: int
    iteration: int
    pre_loss: float | None
    post_loss: float | None
    best_loss: float | None
    best_iteration: int | None
    rate: float | None
    engine: str | None
    swapped_at: int | None
    device: str | None
    owner: str | None
    lease: float  # until when it is its owner's unless renewed, by the database's clock
    lost: int  # how often its process has been lost since somebody asked for it
    processor: str | None  # what its last commit was computed by: another kind rounds differently
    command: str
    until: int | None
    pace: float | None
    queued: float | None
    created: float
    started: float | None
    seconds: float
    notes: str
    pinned: bool
    tags: str  # words with commas between them
    discarded: float | None  # when it was deleted, while that can still be undone
    started_by: str  # who, on a lab that people log in to; empty elsewhere

    @property
    def is_active(self) -> bool:
        """Whether the run is training or waiting to."""
        return self.status in ACTIVE

    @property
    def is_resumable(self) -> bool:
        """Whether the run can go on."""
        return self.status in RESUMABLE


@functools.lru_cache(maxsize=4096)  # a list of runs is read again and again, and a configuration never changes
def _config(text: str) -> RunConfig:
    return RunConfig.from_json(text)


def as_run(row: Any) -> Run:
    """A row of the runs table as a `Run`.

    Raises:
        StoreError: what the row holds is no run; bytes on a disk can change.
    """
    values = {field.name: row[field.name] for field in fields(Run)}
    if isinstance(values["name"], str):
        values["name"] = one_line(values["name"]) or "unnamed"
    try:
        return Run(**values | {"config": _config(row["config"])})
    except (ConfigError, ValidationError, TypeError) as error:
        reason = str(error) if isinstance(error, ConfigError) else "a value is not of its kind"
        raise StoreError(
            f"run = {str(row['id'])[:40]!r} is damaged in the store and cannot be read: {reason}"
        ) from None
