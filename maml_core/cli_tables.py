"""The command line's half for tables: adding and listing them, training on one, saying what a run on one is worth."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from maml_core.config import RunConfig
from maml_core.errors import ConfigError, StoreError
from maml_core.evaluation.curves import pretraining
from maml_core.evaluation.of_runs import measure_table_run, pretrained_run
from maml_core.evaluation.worth import Interval, Worth
from maml_core.learning.image_files import is_of_images, read_folder, read_images
from maml_core.learning.table import MOST_BYTES, Table, find
from maml_core.learning.table_files import read_table
from maml_core.learning.table_roles import Roles, guess_roles, parse_names
from maml_core.presets import config_for_images, config_for_table, get_preset
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.store.tables import TableRow

_ID = re.compile("[0-9a-f]{4,64}")


def add_roles(command: argparse.ArgumentParser) -> None:
    """Options for what the columns of a table are for; what is not said is guessed."""
    command.add_argument("--task", metavar="COLUMN", help="the column that says which task a row belongs to")
    command.add_argument("--inputs", metavar="A,B", help="columns to predict from")
    command.add_argument("--output", metavar="C", help="the column to predict, or several: C,D")


def refuse_roles(options: argparse.Namespace) -> None:
    """Without a table there are no columns to give roles to.

    Raises:
        ConfigError: one was given.
    """
    for name in ("task", "inputs", "output"):
        value = getattr(options, name)
        if value is not None:
            raise ConfigError(f"--{name} {value} is not allowed without --table: name the table too, a file or its id.")


def add_tables_options(command: argparse.ArgumentParser) -> None:
    """The options of `tables`."""
    command.add_argument("do", nargs="?", choices=("list", "add", "remove"), default="list", metavar="ACTION")
    command.add_argument(
        "table",
        nargs="?",
        metavar="FILE_OR_ID",
        help="the file to add, or a folder with a folder of images for each class; or the id to remove",
    )
    add_roles(command)
    command.add_argument("--with-runs", action="store_true", help="with remove: delete the runs that need it, too")


def tables(options: argparse.Namespace) -> dict[str, Any]:
    """The command `tables`: list (the default), add FILE or remove ID.

    Raises:
        MamlError: in one sentence, why not.
    """
    store = Store(options.store)
    if options.do != "list" and not options.table:
        raise StoreError(f"tables {options.do} needs a FILE or an ID; see `python -m maml_core tables --help`.")
    if options.do == "add":
        row = known_table(store, options)
        if not options.json:
            columns = f", {', '.join(column.name for column in row.columns)}" if not row.is_of_images else ""
            print(f"{row.id[:12]}  {row.name}: {row.extent}{columns}")
            print(_said(row))
        return _as_json(row)
    if options.do == "remove":
        row = store.table_row(options.table)
        store.remove_table(row.id, with_runs=options.with_runs)
        if not options.json:
            print(f"{row.id[:12]}  {row.name} is removed.")
        return {"table": row.id, "removed": True}
    rows = store.all_tables()
    if not options.json:
        for row in rows:
            print(f"{row.id[:12]}  {row.extent:>14}  {row.name}")
    return {"tables": [_as_json(row) for row in rows]}


def table_config(store: Store, options: argparse.Namespace) -> RunConfig:
    """What to train with on the table that is named: hyperparameters that suit it, or those of a preset.

    Raises:
        MamlError: in one sentence, why not.
    """
    row = known_table(store, options)
    table = find(row.id)
    if row.is_of_images:
        config = config_for_images(table)
    else:
        config = config_for_table((row.roles or guess_roles(table)).family(table))
    if options.preset is None:
        return config
    return RunConfig.from_dict(get_preset(options.preset).config.model_dump(mode="json") | {"tasks": config.tasks})


def known_table(store: Store, options: argparse.Namespace) -> TableRow:
    """The table in that file, which is then kept, or of that id; with what its columns are for.

    Raises:
        MamlError: in one sentence, why not.
    """
    name = options.table
    path = Path(name)
    if path.is_dir() or (path.is_file() and is_of_images(name)):
        _refuse_roles_of_images(options)
        table, said = read_folder(path) if path.is_dir() else read_images(_bytes_of(path), path.name)
        if said:
            print(said, file=sys.stderr)
        config_for_images(table)
        return store.table_row(store.add_table(table))
    if not path.is_file():
        if not _ID.fullmatch(name):
            raise StoreError(f"FILE_OR_ID = {name!r} is neither a file nor a table; see `python -m maml_core tables`.")
        row = store.table_row(name)
        if row.is_of_images:
            _refuse_roles_of_images(options)
        if options.task or options.inputs or options.output:
            row = row._replace(roles=_roles(find(row.id), options))
        return row
    table = read_table(_bytes_of(path), path.name)
    return store.table_row(store.add_table(table, _roles(table, options)))


def _refuse_roles_of_images(options: argparse.Namespace) -> None:
    if options.task or options.inputs or options.output:
        raise ConfigError(
            f"--task, --inputs and --output are not allowed with images: {options.table} has no such columns."
        )


def _bytes_of(path: Path) -> bytes:
    """A file, no further than a table may be large."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise StoreError(f"FILE = {str(path)!r} cannot be read ({error.strerror}).") from None


def _roles(table: Table, options: argparse.Namespace) -> Roles:
    """What the options say of a table's columns, and a guess of the rest; such tasks can be drawn."""
    said = Roles(options.task or "", parse_names(options.inputs or ""), parse_names(options.output or ""))
    if said.task and said.inputs and said.outputs:
        roles = said
    else:
        guess = guess_roles(table, task=said.task or None)
        outputs = said.outputs or guess.outputs
        inputs = said.inputs or tuple(name for name in (*guess.inputs, *guess.outputs) if name not in outputs)
        is_guess = not (said.task or said.inputs or said.outputs)
        roles = Roles(guess.task, inputs, outputs, guess.why if is_guess else "")
    config_for_table(roles.family(table))
    return roles


def _said(row: TableRow) -> str:
    """What a table's columns are for, and how to train on it."""
    roles = row.roles
    if row.is_of_images:
        return _how_to_train(row)
    if roles is None:
        return ""
    text = roles.why or f"{roles.task} says the task; {', '.join(roles.outputs)} from {', '.join(roles.inputs)}."
    return f"{text}\n{_how_to_train(row)}"


def _how_to_train(row: TableRow) -> str:
    return f"Train on it: python -m maml_core train --table {row.id[:12]}"


def _as_json(row: TableRow) -> dict[str, Any]:
    return {
        "table": row.id,
        "name": row.name,
        "rows": row.row_count,
        "columns": {column.name: column.kind for column in row.columns},
        "roles": row.roles and asdict(row.roles),
    }


def evaluate_table_run(
    store: Store, run: Run, iteration: int, options: argparse.Namespace, train: Callable[[RunConfig, str], object]
) -> dict[str, Any]:
    """Whether a run on a table is worth it; where there is no pooled baseline, it is trained first.

    Raises:
        MamlError: in one sentence, why not.
    """
    if run.config.algorithm != "joint" and pretrained_run(store, run) is None:
        print("First the pooled baseline: the same tasks, network and number of iterations.", file=sys.stderr)
        train(pretraining(run.config), f"pooled, for {run.name}")
    asked = {"tasks": options.tasks, "steps": options.steps, "seed": options.seed}
    found = measure_table_run(store, run, **asked, at=options.checkpoint)
    if not options.json:
        print(f"{run.id} ({run.name}) after {iteration:,} iterations: root mean squared error of")
        print(
            f"{', '.join(found.outputs)} on {len(found.tasks)} held-out tasks, {found.supports} random supports each,"
        )
        print("all other rows as query; 95 % intervals by bootstrap over tasks")
        print(found.table().to_string(float_format="{:.4g}".format, na_rep=""))
        by_rows = found.rows_table().filter(regex=".*(?<! from)(?<! to)$")
        print(f"\nagainst the number of support rows\n{by_rows.to_string(float_format='{:.4g}'.format)}")
        print(f"\n{found.sentence()}")
    return {"run": run.id, "iteration": iteration, **_worth_json(found)}


def _worth_json(found: Worth) -> dict[str, Any]:
    return {
        "sentence": found.sentence(),
        "tasks": found.tasks,
        "shots": found.shots,
        "supports": found.supports,
        "unit": found.unit,
        "errors": {name: _interval(found.error(name)) for name in found.squares},
        "r2": {name: _finite(found.r2(name)) for name in found.squares},
        "gains": {name: _interval(found.gain(name)) for name in found.squares if name != "learned"},
        "steps": {name: [_root(each) for each in curve] for name, curve in found.curves.items()},
        "support_rows": {name: _by_rows(points) for name, points in found.by_rows.items()},
    }


def _interval(interval: Interval) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in interval._asdict().items()}


def _by_rows(points: Mapping[int, list[float]]) -> dict[str, float | None]:
    return {str(count): _root(squares) for count, squares in points.items()}


def _root(squares: list[float]) -> float | None:
    return _finite(float(np.sqrt(np.mean(squares)))) if squares else None


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity: null stands for "diverged"."""
    return value if np.isfinite(value) else None
