"""A grid of runs: every combination of some settings, as ordinary runs with one tag."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from maml_core.config import RunConfig, settings_text
from maml_core.errors import ConfigError, RunBusyError
from maml_core.store.run import RESUMABLE, Run
from maml_core.store.store import Store
from maml_core.training.trainer import check_startable

ASK_FROM = 200
"""So many runs are started only by someone who has said that they mean it."""
MOST = 10_000
NAME_MOST = 40


@dataclass(frozen=True)
class Sweep:
    """The runs of a grid, in its order."""

    name: str
    run_ids: tuple[str, ...]
    made: int  # how many of them are new

    def runs(self, store: Store) -> list[Run]:
        """The runs as they are now; those that were deleted meanwhile are left out."""
        found = {run.id: run for run in store.all_runs()}
        return [found[run_id] for run_id in self.run_ids if run_id in found]


def parse_grid(pairs: Iterable[str], *, flag: str = "") -> dict[str, list[Any]]:
    """`["inner_lr=0.003,0.01", "seed=0,1,2"]` as values by field; a value is JSON, or else a bare word.

    `flag` is what stands before a pair where it is typed, as messages quote it.

    Raises:
        ConfigError: a pair has no field or no values, a field stands twice, or a value does.
    """
    grid: dict[str, list[Any]] = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name or not text:
            raise ConfigError(f"{flag}{pair} is not allowed: it must be FIELD=VALUE,VALUE,..., such as seed=0,1,2.")
        if name in grid:
            raise ConfigError(f"{flag}{name} stands twice: give all of its values at once, with commas between them.")
        values = values_of(text)
        if len({json.dumps(value) for value in values}) < len(values):
            raise ConfigError(f"{flag}{pair} is not allowed: a value stands twice; each gives runs of its own.")
        grid[name] = values
    if not grid:
        raise ConfigError(f"A sweep needs at least one {flag}FIELD=VALUE,VALUE,..., such as seed=0,1,2.")
    return grid


def values_of(text: str) -> list[Any]:
    """Values with commas between them; those inside of brackets belong to a value."""
    try:
        found: list[Any] = json.loads(f"[{text}]")
    except ValueError:
        found = []
        for word in text.split(","):
            try:
                found.append(json.loads(word))
            except ValueError:
                found.append(word.strip())
    return found


def grid_configs(base: RunConfig, grid: Mapping[str, Sequence[Any]]) -> dict[str, RunConfig]:
    """Every combination, by what tells it from the others; the last field of the grid varies fastest.

    Raises:
        ConfigError: there are too many, or one of them breaks a rule.
    """
    count = 1
    for values in grid.values():
        count *= len(values)
    if count > MOST:
        raise ConfigError(f"The grid has {count:,} runs: at most {MOST:,} are allowed; give fewer values.")
    configs = {}
    for combination in itertools.product(*grid.values()):
        settings = dict(zip(grid, combination, strict=True))
        config = base.with_settings(settings)
        if config.uses_own_model:
            raise ConfigError(
                f"model.kind = {config.model.kind!r} is a class of your own, which the workers of a sweep do not load: "
                "train its runs one by one with train."
            )
        configs[" ".join(f"{name}={text}" for name, text in settings_text(settings).items())] = config
    return configs


def open_sweep(
    store: Store, base: RunConfig, grid: Mapping[str, Sequence[Any]], *, name: str | None = None, preset: str | None
) -> Sweep:
    """Queue the runs of a grid that the store does not have yet, and those that were interrupted.

    A sweep is known by its name, which follows from what is swept unless one is given: the same one opened again, after
    its end or a crash, doubles nothing, and one with further seeds adds just those. On a shared lab, others' runs count
    while they train and once they are at their end; what somebody else has stopped is not this person's to resume.

    Raises:
        ConfigError: a combination breaks a rule, or this machine cannot do it.
        DeviceError: the device is not on this machine.
        EngineError: the engine cannot take the model.
    """
    configs = grid_configs(base, grid)
    for config in configs.values():
        check_startable(config)
    name = name or name_for(base, {field: list(values) for field, values in grid.items()})
    if "," in name or len(name) > NAME_MOST:
        rule = f"it must have no comma, and {NAME_MOST} characters at most"
        raise ConfigError(f"name = {name[:60]!r} is not allowed: {rule}.")
    found = store.create_missing(configs, tag=name, preset=preset)
    for run in found:
        if run.status in RESUMABLE:
            with suppress(RunBusyError):  # another process was quicker, which is as good
                store.resume(run.id)
    return Sweep(name, tuple(run.id for run in found), sum(run.is_new for run in found))


def name_for(base: RunConfig, swept: Mapping[str, Any], kind: str = "sweep") -> str:
    """The same for the same base and fields, whatever the seeds."""
    fields = {field: value for field, value in swept.items() if field != "seed"}
    plain = base.with_settings({"seed": 0}).to_json()
    return f"{kind}-" + hashlib.sha256((plain + json.dumps(fields, sort_keys=True)).encode()).hexdigest()[:6]
