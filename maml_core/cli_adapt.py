"""The command line's `adapt`: a run's initialization on points, rows or images of one's own."""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import torch

from maml_core.errors import ConfigError
from maml_core.evaluation.of_runs import checkpoint_at
from maml_core.learning.adaptation import predict_rows
from maml_core.learning.fresh_rows import read_support_and_query
from maml_core.learning.images import ImageFamily
from maml_core.learning.initialization import Initialization
from maml_core.learning.new_images import read_images_task
from maml_core.learning.own_points import POINT_LIMIT, columns_of, points_task, read_points
from maml_core.learning.plane import PlaneFamily
from maml_core.learning.point_text import read_numbers
from maml_core.learning.scale import beyond_training
from maml_core.learning.table_tasks import TableFamily
from maml_core.learning.tasks import TaskBatch
from maml_core.store.checkpoint import load_initialization
from maml_core.store.run import Run
from maml_core.store.store import Store

MOST_IN_FILE = 10_000
"""Points of classes to adapt to."""


def add_adapt_options(command: argparse.ArgumentParser) -> None:
    """The run and the two files."""
    command.add_argument("run", metavar="RUN")
    command.add_argument(
        "support",
        metavar="SUPPORT",
        type=Path,
        help="what to learn from: lines x, y, or x, y, class; a table's rows; or a folder with a folder of images for "
        "each class",
    )
    command.add_argument(
        "query",
        metavar="QUERY",
        type=Path,
        help="what to predict: lines x, or x, y; rows without the output; or a folder of images",
    )


def adapt_run(store: Store, run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Adapt to the support, and print a line for each query.

    Raises:
        ConfigError: a file cannot be read, or adaptation diverges; in one sentence.
        StoreError: the run has no such checkpoint.
    """
    if not run.config.tasks.problem.predicts:
        raise ConfigError(
            f"run {run.id} cannot predict points: its tasks, {run.config.tasks.family}, ask for actions; measure it "
            f"with evaluate {run.id}, or watch it on the Adapt page."
        )
    _, saved = checkpoint_at(store, run, options.checkpoint)
    start = load_initialization(saved, run.config)
    steps = run.config.inner_steps if options.steps is None else options.steps
    if isinstance(run.config.tasks, TableFamily):
        return _rows(start, run.config.tasks, options, steps)
    if isinstance(run.config.tasks, ImageFamily):
        return _images(start, run.config.tasks, options, steps)
    if isinstance(run.config.tasks, PlaneFamily):
        return _classes(start, run.config.tasks, options, steps)
    points, asked = _numbers(options.support, ("x", "y")), _numbers(options.query, ("x",))
    if len({x for x, _ in points}) < 2:
        raise ConfigError(f"{options.support}: all points have x = {points[0][0]:g}: give at least two different x.")
    parts = ([(x,) for x, _ in points], [(y,) for _, y in points], asked, [(0.0,)] * len(asked))
    predicted = start.adapt(TaskBatch(*(torch.tensor([part]) for part in parts)), steps).predictions[-1, 0, :, 0]
    said = beyond_training(run.config.tasks, points)
    _check(predicted, steps, said)
    if said:
        print(said, file=sys.stderr)
    lines = [(x, value) for (x,), value in zip(asked, predicted.tolist(), strict=True)]
    if not options.json:
        for x, value in lines:
            print(f"{x!r},{value!r}")
    return {"run": run.id, "steps": steps, "x": [x for x, _ in lines], "predictions": [value for _, value in lines]}


def _classes(start: Initialization, family: PlaneFamily, options: argparse.Namespace, steps: int) -> dict[str, Any]:
    """Points of classes in the plane: the class of each query, and each class's share, the softmax of its scores."""
    names = columns_of(family.classes)
    _numbers(options.support, names)  # a sentence that names the file, where there are no such numbers
    try:
        points = read_points(_bytes(options.support)[0].decode("utf-8-sig"), family.classes, MOST_IN_FILE)
    except ConfigError as error:
        raise ConfigError(f"{options.support}: {error}") from None
    asked = _numbers(options.query, names[:2])
    known = points_task(family, points).batch
    x = torch.tensor([asked])
    found = start.adapt(TaskBatch(*known[:2], x, torch.zeros(1, len(asked), family.classes)), steps).predictions[-1, 0]
    said = beyond_training(family, points)
    _check(found, steps, said)
    if said:
        print(said, file=sys.stderr)
    classes = (found.argmax(-1) + 1).tolist()
    shares = found.double().softmax(-1).tolist()
    if not options.json:
        for (across, up), number, share in zip(asked, classes, shares, strict=True):
            print(f"{across!r},{up!r},{number}," + ",".join(f"{value:.6g}" for value in share))
    return {
        "run": options.run,
        "steps": steps,
        "x": [list(point) for point in asked],
        "classes": classes,
        "shares": shares,
    }


def _images(start: Initialization, family: ImageFamily, options: argparse.Namespace, steps: int) -> dict[str, Any]:
    """Images in folders: the class of each that is asked about, and its share among those of the support."""
    task = read_images_task(family, options.support, options.query)
    found = start.adapt(task.batch, steps).predictions[-1, 0, :, : len(task.classes)]
    _check(found, steps)
    names = [task.classes[number] for number in found.argmax(-1).tolist()]
    shares = found.double().softmax(-1)
    if not options.json:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("file", "class", "share"))
        for file, name, share in zip(task.files, names, shares.amax(-1).tolist(), strict=True):
            writer.writerow((file, name, f"{share:.4g}"))
    return {
        "run": options.run,
        "steps": steps,
        "files": task.files,
        "classes": names,
        "shares": [dict(zip(task.classes, row, strict=True)) for row in shares.tolist()],
    }


def _rows(start: Initialization, family: TableFamily, options: argparse.Namespace, steps: int) -> dict[str, Any]:
    found = read_support_and_query(family, _bytes(options.support), _bytes(options.query))
    frame = predict_rows(start, found, steps)[found.asked]
    names = [f"predicted {name}" for name in family.outputs]
    _check(torch.from_numpy(frame[names].to_numpy(dtype="float64", copy=True)), steps)
    shown = frame.drop(columns=[name for name in family.outputs if name in frame])
    if not options.json:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(shown.columns)
        writer.writerows(shown.itertuples(index=False, name=None))
    return {"run": options.run, "steps": steps, "predictions": {name: shown[name].tolist() for name in names}}


def _check(predicted: torch.Tensor, steps: int, said: str | None = None) -> None:
    if not torch.isfinite(predicted).all():
        text = f"Adaptation diverges within {steps} steps: give fewer by --steps, or other points."
        raise ConfigError(" ".join(filter(None, (text, said))))


def _bytes(path: Path) -> tuple[bytes, str]:
    try:
        return path.read_bytes(), path.name
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from None


def _numbers(path: Path, names: tuple[str, ...]) -> list[tuple[float, ...]]:
    try:
        found = read_numbers(_bytes(path)[0].decode("utf-8-sig"), names)
    except UnicodeDecodeError:
        raise ConfigError(f"{path} cannot be read: it is not text in UTF-8.") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}.") from None
    for row in found:
        if any(abs(value) > POINT_LIMIT for value in row):
            raise ConfigError(
                f"{path}: {', '.join(f'{value:g}' for value in row)} is not allowed: numbers must be at most "
                f"{POINT_LIMIT:,.0f} in size; scale them down."
            )
    return found
