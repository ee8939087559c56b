"""The command line. The configuration is the interface, so flags are few."""

import argparse
import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

import torch

from maml_core.bench import CASES, EVALUATED, EVALUATED_STEPS, compare, evaluation, scaling, takes_native
from maml_core.cli_adapt import adapt_run, add_adapt_options
from maml_core.cli_compare import add_compare_options, compare_runs
from maml_core.cli_evaluate import baselines, evaluate_run
from maml_core.cli_sweep import add_sweep_options, sweep
from maml_core.cli_tables import add_roles, add_tables_options, evaluate_table_run, tables
from maml_core.cli_train import resume, train, train_to_end
from maml_core.cli_work import add_work_options, work
from maml_core.config import MOST_ITERATIONS, RunConfig
from maml_core.errors import ConfigError, MamlError, StoreError, brief
from maml_core.evaluation.of_runs import At, checkpoint_at
from maml_core.evaluation.rivals import RIVAL_NAMES
from maml_core.learning.own_model import own_models
from maml_core.learning.table_tasks import TableFamily
from maml_core.logs import LOG, log_to
from maml_core.peers import has_jax
from maml_core.presets import DEFAULT, PRESETS, REPORT_TASKS, get_preset
from maml_core.processes import this_process
from maml_core.store.database import log_path, store_url
from maml_core.store.exchange import SIZE_LIMIT, export_run, export_weights
from maml_core.store.imports import import_run
from maml_core.store.script import adapt_script
from maml_core.store.store import Store
from maml_core.training.trainer import Trainer, check_startable
from maml_core.words import loss, visible


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message}; see `python -m maml_core --help`.\n")


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = _Parser(prog="python -m maml_core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, action: Callable[[argparse.Namespace], dict[str, Any]], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(action=action)
        command.add_argument("--json", action="store_true", help="print one JSON object as the last line")
        return command

    def add_store(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--store", metavar="URL", help="database of runs (default: $MAML_STORE, else runs/maml.db)"
        )

    def add_checkpoint(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--checkpoint",
            type=_checkpoint,
            default="best",
            metavar="AT",
            help="best by held-out loss (the default), latest, or an iteration of the run's history",
        )

    def add_settings(command: argparse.ArgumentParser, text: str) -> None:
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help=text)

    command = add("train", train, "train a run from a preset, here and now; the lab shows it live")
    command.add_argument(
        "--preset", metavar="NAME", help=f"configuration to start from ({DEFAULT}, or what suits a table)"
    )
    add_settings(command, "change a value, such as inner_lr=0.1")
    command.add_argument(
        "--table", metavar="FILE_OR_ID", help="train on the tasks of a table: a file that is then kept, or a table's id"
    )
    add_roles(command)
    add_store(command)
    command = add("resume", resume, "go on with a paused, stopped, interrupted or failed run")
    command.add_argument("run", metavar="RUN")
    add_settings(command, "change how it is computed: engine or device, and nothing else")
    command.add_argument(
        "--iterations", type=_whole(1, MOST_ITERATIONS), metavar="N", help="go on to this many, beyond the planned end"
    )
    add_store(command)
    command = add("evaluate", _evaluate, "measure a run's error on held-out tasks against adaptation steps")
    command.add_argument("run", metavar="RUN")
    command.add_argument("--tasks", type=_whole(1, 100_000), default=REPORT_TASKS, help="held-out tasks (600)")
    command.add_argument("--steps", type=_whole(0, 1000), default=10, help="adaptation steps (10)")
    command.add_argument("--seed", type=_whole(0, 2**32 - 1), default=0, help="which held-out tasks (0)")
    command.add_argument(
        "--baselines",
        type=baselines,
        default=tuple(RIVAL_NAMES),
        metavar="NAMES",
        help=f"of {','.join(RIVAL_NAMES)}: which to hold it against, with commas between, or none (all)",
    )
    add_checkpoint(command)
    add_store(command)
    command = add("sweep", sweep, "train every combination of some settings, and compare them")
    command.add_argument("--preset", metavar="NAME", help=f"configuration to start from ({DEFAULT})")
    add_settings(command, "change a value for all runs, such as inner_steps=3")
    add_sweep_options(command)
    add_store(command)

    command = add("work", work, "train what is queued in a store, beside a lab, a sweep or other machines")
    add_work_options(command)
    add_store(command)

    command = add("compare", compare_runs, "compare runs: mean and spread over seeds, and the settings that differ")
    add_compare_options(command)
    add_store(command)

    command = add("adapt", _adapt, "adapt a run to points, rows of its table or images, and predict others")
    add_adapt_options(command)
    command.add_argument("--steps", type=_whole(0, 1000), help="adaptation steps (those that it was trained for)")
    add_checkpoint(command)
    add_store(command)
    add_store(add("runs", _runs, "list the runs of a store"))
    command = add("tables", tables, "list the tables of a store, add one, or remove one")
    add_tables_options(command)
    add_store(command)
    command = add("export", _export, "write a run to a file: .zip all of it, .safetensors its weights, .py a script")
    command.add_argument("run", metavar="RUN")
    command.add_argument("file", metavar="FILE", type=Path)
    command.add_argument("--rows", action="store_true", help="of a run on a table: with the table's rows in run.zip")
    add_store(command)
    command = add("import", _import, "add an exported run to a store")
    command.add_argument("file", metavar="FILE", type=Path)
    add_store(command)
    add("presets", _presets, "list the presets")
    command = add("bench", _bench, "measure the engines side by side on this machine (minutes)")
    command.add_argument(
        "--scaling", action="store_true", help="also measure how cost grows with tasks, shots, steps, width"
    )
    command.add_argument("--peers", action="store_true", help="also measure the same loop in JAX (pip install jax)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 if training failed, 2 for a bad value or store, 130 for Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):  # a terminal of another alphabet: what it lacks becomes a question mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    options = build_parser().parse_args(arguments)
    torch.set_num_threads(1)
    try:
        with own_models(), contextlib.redirect_stdout(_Visible(sys.stdout) if sys.stdout.isatty() else sys.stdout):
            result = options.action(options)
        if options.json:
            print(json.dumps(result))
        sys.stdout.flush()
    except MamlError as error:
        print(visible(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `runs | head -1`: whoever read the output has seen enough
        _discard_output()
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _discard_output()
            print("The output cannot be written: no space is left on its device.", file=sys.stderr)
            return 1
        url = store_url(getattr(options, "store", None))
        log_to(log_path(url), "terminal")
        LOG.exception("`%s` failed because of a bug", options.command)
        print(
            f"The command failed because of a bug in the lab ({brief(error)}); see the log {log_path(url)}.",
            file=sys.stderr,
        )
        return 1
    return 1 if result.get("status") in ("diverged", "failed", "interrupted") else 0


class _Visible(io.TextIOBase):
    """What a terminal is shown, without the control codes that a table's cell may hold; a file gets what there is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(visible(text))

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()


def _discard_output() -> None:
    """Send what is still to be printed nowhere, or Python would complain of it once more as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    store = Store(options.store)
    run = store.run(options.run)
    iteration, _ = checkpoint_at(store, run, options.checkpoint)
    if isinstance(run.config.tasks, TableFamily):

        def train(config: RunConfig, name: str) -> None:
            trainer = Trainer(config)
            check_startable(config, trainer)
            made = store.create_run(config, name=name, owner=this_process())
            train_to_end(store, made, argparse.Namespace(json=True), trainer)

        return evaluate_table_run(store, run, iteration, options, train)
    return evaluate_run(store, run, iteration, options)


def _adapt(options: argparse.Namespace) -> dict[str, Any]:
    store = Store(options.store)
    return adapt_run(store, store.run(options.run), options)


def _runs(options: argparse.Namespace) -> dict[str, Any]:
    runs = Store(options.store).all_runs()
    rows: list[dict[str, Any]] = [
        {
            "run": run.id,
            "name": run.name,
            "status": run.status,
            "preset": run.preset,
            "iterations": run.iteration,
            "meta_iterations": run.meta_iterations,
            "query_loss": run.post_loss,
            "best_loss": run.best_loss,
        }
        for run in runs
    ]
    if not options.json:
        for row in rows:
            last = loss(row["query_loss"])
            print(f"{row['run']}  {row['status']:<11}  {row['iterations']:>10,}  {last:>9}  {row['name']}")
        if not rows:
            print("No runs yet: python -m maml_core train")
    return {"runs": rows}


def _export(options: argparse.Namespace) -> dict[str, Any]:
    store, file = Store(options.store), options.file
    makers: dict[str, Callable[[], bytes]] = {
        ".zip": lambda: export_run(store, options.run, with_rows=options.rows),
        ".safetensors": lambda: export_weights(store, options.run),
        ".py": lambda: adapt_script(store.run(options.run).config).encode(),
    }
    if file.suffix not in makers:
        raise StoreError(f"FILE = {str(file)!r} is not allowed: its name must end in {', '.join(makers)}.")
    data = makers[file.suffix]()
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:  # renamed when whole, so that a crash leaves the old file or the new one
        part.write_bytes(data)
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StoreError(f"FILE = {str(file)!r} cannot be written ({error.strerror}): choose another.") from None
    if not options.json:
        bare = file.suffix == ".zip" and store.run(options.run).config.is_on_table and not options.rows
        print(f"{file}: {len(data):,} bytes{', without the rows of its table (--rows adds them)' if bare else ''}")
    return {"run": options.run, "file": str(file), "bytes": len(data)}


def _import(options: argparse.Namespace) -> dict[str, Any]:
    try:
        with options.file.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise StoreError(f"FILE = {str(options.file)!r} cannot be read ({error.strerror}).") from None
    store = Store(options.store)
    run = store.run(import_run(store, data))
    if not options.json:
        print(f"{run.id}: {run.name}, {run.status} after {run.iteration:,} iterations")
        if run.config.uses_own_model:
            print(
                f"Its network is {run.config.model.kind}: commands that need it import that class from where you "
                "stand, and never the copy of it in the file (model.py), which is for reading."
            )
    return {"run": run.id, "name": run.name, "status": run.status, "iterations": run.iteration}


def _presets(options: argparse.Namespace) -> dict[str, Any]:
    if not options.json:
        for name, preset in PRESETS.items():
            reached = f" Reached {preset.reached}." if preset.reached else ""
            print(f"{name:<21}  {preset.description}{reached}")
    return {"presets": {name: preset.config.model_dump(mode="json") for name, preset in PRESETS.items()}}


def _bench(options: argparse.Namespace) -> dict[str, Any]:
    if options.peers and not has_jax():
        raise ConfigError("--peers is not allowed without JAX: install it with `pip install jax`.")
    results: dict[str, Any] = {}
    for case, (preset, settings) in CASES.items():
        rows = compare(get_preset(preset).config.with_settings(settings), peers=options.peers)
        results[case] = [asdict(row) for row in rows]
        if not options.json:
            print(f"{case}\n{'engine':<16} {'it/s':>9} {'ratio':>7} {'ready s':>8} {'warm s':>7} {'MiB':>6}")
            for row in rows:
                print(
                    f"{row.engine:<16} {_rate(row.iterations_per_second):>9} {row.ratio:>6.0f}x "
                    f"{row.ready_seconds:>8.1f} {row.warm_seconds:>7.1f} {row.peak_mib:>6.0f}"
                )
    answer: dict[str, Any] = {"engines": results, "evaluation": {}}
    for case, (preset, settings) in CASES.items():
        config = get_preset(preset).config.with_settings(settings)
        if takes_native(config):
            found = evaluation(config)
            answer["evaluation"][case] = asdict(found)
            if not options.json:
                print(
                    f"{EVALUATED} tasks, {EVALUATED_STEPS} steps, {case}: torch {found.torch_ms:.0f} ms, native "
                    f"{found.native_ms:.1f} ms, ready in {found.ready_seconds:.1f} s"
                )
    if options.scaling:
        answer["scaling"] = scaling()
        if not options.json:
            for quantity, points in answer["scaling"].items():
                for point in points:
                    cost = f"{point['ms_per_iteration']:>9.2f} ms {point['peak_mib']:>6.0f} MiB"
                    print(f"{quantity:<16} {point['value']!s:>10} {cost}")
    return answer


def _rate(value: float) -> str:
    """Iterations per second: whole, or where there are few with two digits."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not allowed: it must be a whole number from {low} to {high:,}"
            )
        return int(text)

    return parse


def _checkpoint(text: str) -> At:
    if text in ("best", "latest"):
        return cast(At, text)
    try:
        return _whole(0, MOST_ITERATIONS)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, best or latest") from None
