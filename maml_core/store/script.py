"""A standalone Python script that adapts exported weights to new data, with nothing but torch and safetensors."""

import inspect
from collections.abc import Iterable
from typing import Any

from torch import nn

from maml_core.config import RunConfig
from maml_core.errors import ConfigError
from maml_core.learning import point_text
from maml_core.learning.algorithms import FirstOrderBilevelMAML
from maml_core.learning.images import ImageFamily
from maml_core.learning.inner_loop import Theta, head_name
from maml_core.learning.plane import PlaneFamily
from maml_core.learning.problems import Classification
from maml_core.learning.ridge_head import LEAST_PENALTY
from maml_core.learning.table import find
from maml_core.learning.table_tasks import TableFamily


def no_script(config: RunConfig) -> str | None:
    """Why there is no script for a run, in a sentence; None where there is one."""
    if config.uses_own_model:
        return (
            f"model.kind = {config.model.kind!r} cannot go into a script: export the weights as .safetensors and load "
            "them into your class."
        )
    reason = None
    if not config.tasks.problem.predicts:
        reason = "its model acts, and a script predicts"
    elif isinstance(config.tasks, ImageFamily):
        reason = "it would have to draw the images"
    return reason and (
        f"tasks.family = {config.tasks.family!r} cannot go into a script: {reason}; export the weights as .safetensors "
        "or .zip."
    )


def adapt_script(config: RunConfig) -> str:
    """The script for the model and the inner loop of `config`.

    Raises:
        ConfigError: the model is a class of the user's own, whose source may need more than one file.
    """
    refusal = no_script(config)
    if refusal:
        raise ConfigError(refusal)
    model = config.structure()
    adapted = _adapted(config, model)
    usage, reading = _POINT_USAGE, _POINT_READING
    if isinstance(config.tasks, TableFamily):
        usage, reading = _TABLE_USAGE, _TABLE_READING
    elif isinstance(config.tasks, PlaneFamily):
        usage, reading = _CLASS_USAGE, _CLASS_READING
    template = _TEMPLATE.replace("@READING@", reading)
    is_closed = config.method.solves
    template = template.replace("@ADAPT@", _RIDGE_HEAD.strip() if is_closed else _GRADIENT_STEPS.strip())
    template = template.replace("@USAGE@", usage)
    script = template.format(
        inputs=_one_line(getattr(config.tasks, "inputs", ())),
        outputs=_one_line(getattr(config.tasks, "outputs", ())),
        classes="".join(f"\n\n{source}" for source in _sources(model)),
        model=_code(model),
        inner_lr=config.inner_lr,
        inner_steps=config.inner_steps,
        adapted=adapted,
        pull=FirstOrderBilevelMAML.PULL if config.algorithm == FirstOrderBilevelMAML.name else 0.0,
        head=head_name(adapted),
        least=LEAST_PENALTY,
        shots=config.shots,
        ways=config.tasks.output_size,
        loss="cross_entropy" if isinstance(config.tasks.problem, Classification) else "mse_loss",
        loss_name=config.tasks.problem.loss_name,
    )
    return script.replace("@READER@", _reader())


def _reader() -> str:
    """The functions that read numbers, as they are."""
    functions = (point_text.read_numbers, point_text._marks, point_text._cells, point_text._number)
    return "\n\n".join(inspect.getsource(function) for function in functions)


def table_encoding(family: TableFamily) -> dict[str, Any]:
    """What another program needs to turn rows into the model's numbers and back: columns, categories, standardization.

    Raises:
        ConfigError: the table is not at hand.
    """
    table, scaling = find(family.table), family.rows.scaling
    known = {column.name: column for column in table.columns}
    inputs = []
    for i, name in enumerate(family.inputs):
        place, equals, word = name.rpartition("=")
        is_indicator = name not in known and bool(equals)
        column = known[place if is_indicator else name]
        values = sorted({str(label) for label in table.labels(place)} - {""}) if is_indicator else None
        inputs.append(
            {
                "column": column.name,
                "date_format": column.written or None,
                "equals": word if is_indicator else None,
                "values": values,
                "mean": float(scaling.x_mean[i]),
                "std": float(scaling.x_std[i]),
            }
        )
    outputs = [
        {"column": name, "mean": float(scaling.y_mean[i]), "std": float(scaling.y_std[i])}
        for i, name in enumerate(family.outputs)
    ]
    return {"table": table.name, "task": family.task, "inputs": inputs, "outputs": outputs}


def _one_line(names: Iterable[str]) -> str:
    """Column names inside the script's docstring: nothing in them ends it."""
    return ", ".join(repr(name) for name in names).replace("\\", "/").replace('"', "'")[:300]


def _adapted(config: RunConfig, model: nn.Module) -> list[str]:
    """Names of the parameters that adapt."""
    return list(config.method.begin(Theta(dict(model.named_parameters()), {})).parameters)


def _is_ours(module: nn.Module) -> bool:
    return not type(module).__module__.startswith("torch.")


def _sources(model: nn.Module) -> list[str]:
    """Source of every class in the model that torch does not bring."""
    return [inspect.getsource(kind) for kind in dict.fromkeys(type(m) for m in model.modules() if _is_ours(m))]


def _code(module: nn.Module) -> str:
    """The expression that builds a module: containers from their children, the rest from their own description."""
    prefix = "" if _is_ours(module) else "nn."
    if isinstance(module, nn.Sequential):
        return f"nn.Sequential({', '.join(_code(child) for child in module)})"
    return f"{prefix}{type(module).__name__}({module.extra_repr()})"


_POINT_USAGE = """support.csv has a point x, y in each line (trained with {shots} of them), query.csv an x. Numbers
stand apart by commas, semicolons, tabs or spaces; decimals have a point or a comma; with a header, columns are found by
it. Prints "x,prediction" for each query. Needs torch and safetensors only."""

_FILE_READING = """
@READER@

def read(path, names):
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return read_numbers(file.read(), names)
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(path + " cannot be read (" + str(error) + ").")
    except ValueError as error:
        sys.exit(path + ": " + str(error) + ".")

"""

_POINT_READING = (
    _FILE_READING
    + """
def main():
    weights, support, query = arguments()
    model, extras = load(weights)
    points, asked = read(support, ("x", "y")), read(query, ("x",))
    adapt(model, torch.tensor([[x] for x, _ in points]), torch.tensor([[y] for _, y in points]), extras)
    with torch.no_grad():
        predicted = model(torch.tensor(asked))[:, 0]
    stop_if_diverged(predicted)
    for (given,), value in zip(asked, predicted.tolist()):
        print(f"{{given!r}},{{value!r}}")
"""
)

_CLASS_USAGE = """support.csv has a point x, y, class in each line (trained with {shots} of each class), query.csv
x, y; classes are numbers from 1 to {ways}. Numbers stand apart by commas, semicolons, tabs or spaces; decimals have a
point or a comma; with a header, columns are found by it. Prints "x,y,class" for each query, and each class's share: the
softmax of its scores. Needs torch and safetensors only."""

_CLASS_READING = (
    _FILE_READING
    + """
def main():
    weights, support, query = arguments()
    model, extras = load(weights)
    points, asked = read(support, ("x", "y", "class")), read(query, ("x", "y"))
    for x, y, number in points:
        if number not in range(1, {ways} + 1):
            sys.exit(support + ": class " + repr(number) + " must be a whole number from 1 to {ways}.")
    labels = torch.tensor([[float(k + 1 == number) for k in range({ways})] for _, _, number in points])
    adapt(model, torch.tensor([[x, y] for x, y, _ in points]), labels, extras)
    with torch.no_grad():
        predicted = model(torch.tensor(asked))
    stop_if_diverged(predicted)
    for given, scores in zip(asked, predicted.double()):
        shares = ",".join(f"{{share:.6g}}" for share in scores.softmax(-1).tolist())
        print(f"{{given[0]!r}},{{given[1]!r}},{{int(scores.argmax()) + 1}},{{shares}}")
"""
)

_TABLE_USAGE = """support.csv holds rows of one task with the columns {inputs} and {outputs} (trained with {shots}
rows), query.csv rows with the inputs alone. Columns are found by name, in any order; commas, semicolons or tabs between
them, decimal points or commas. Prints the rows of query.csv with a column "predicted ..." for each output. Columns,
categories and standardization are read from the weights file. Needs torch and safetensors only."""

_TABLE_READING = '''
def number(text, where):
    try:
        value = float(text if "." in text else text.replace(",", "."))
    except ValueError:
        sys.exit(where + " = " + repr(text) + " is not a number: correct it.")
    if value - value != 0:
        sys.exit(where + " = " + repr(text) + " is not finite: correct it.")
    return value


def value_of(text, column, where):
    """The model's number for a cell."""
    if column.get("equals") is not None:
        if text not in column["values"]:
            sys.exit(where + " = " + repr(text) + " must be one of " + ", ".join(column["values"]) + ".")
        value = float(text == column["equals"])
    elif column.get("date_format"):
        try:
            day = datetime.strptime(text.replace("T", " "), column["date_format"])
        except ValueError:
            sys.exit(where + " = " + repr(text) + " is not a date like " + column["date_format"] + ".")
        value = (day - datetime(1970, 1, 1)).total_seconds() / 86400
    else:
        value = number(text, where)
    return (value - column["mean"]) / column["std"]


def read(path, columns):
    """The rows of a CSV file as texts, and the model's numbers for some columns: [rows, columns]."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(path + " cannot be read (" + str(error) + ").")
    separator = max(";\\t,", key=text.partition("\\n")[0].count)
    rows = [row for row in csv.DictReader(text.splitlines(), delimiter=separator) if any(row.values())]
    if not rows:
        sys.exit(path + " has no rows below its header.")
    for column in columns:
        if column["column"] not in rows[0]:
            has = ", ".join(map(str, rows[0]))
            sys.exit(path + " has no column " + repr(column["column"]) + "; it has " + has + ".")

    def cell(row, i, column):
        where = path + ", row " + str(i) + ", " + column["column"]
        return value_of((row[column["column"]] or "").strip(), column, where)

    return rows, torch.tensor([[cell(row, i, column) for column in columns] for i, row in enumerate(rows, 1)])


def main():
    weights, support, query = arguments()
    model, extras = load(weights)
    with safe_open(weights, "pt") as file:
        about = file.metadata() or {{}}
    if "table" not in about:
        sys.exit(weights + " does not say what its columns are: export it where the table is.")
    table = json.loads(about["table"])
    count, outputs = len(table["inputs"]), table["outputs"]
    _, known = read(support, table["inputs"] + outputs)
    rows, x = read(query, table["inputs"])
    adapt(model, known[:, :count], known[:, count:], extras)
    with torch.no_grad():
        predicted = model(x)
    stop_if_diverged(predicted)
    names = [name for name in rows[0] if name is not None]
    out = csv.writer(sys.stdout, lineterminator="\\n")
    out.writerow(names + ["predicted " + output["column"] for output in outputs])
    for row, values in zip(rows, predicted.tolist()):
        out.writerow([row[name] for name in names] + [v * o["std"] + o["mean"] for v, o in zip(values, outputs)])
'''

_GRADIENT_STEPS = '''INNER_LR = {inner_lr!r}
INNER_STEPS = {inner_steps!r}
PULL = {pull!r}  # which part of the way back to its start a step goes
ADAPTED = {adapted!r}  # names of the parameters that adapt


def adapt(model, x, y, extras, inner_steps=INNER_STEPS):
    """Gradient descent on the {loss_name} of all support points at once; x is [points, inputs], y [points, outputs]."""
    adapted = {{name: value for name, value in model.named_parameters() if name in ADAPTED}}
    start = {{name: value.detach().clone() for name, value in adapted.items()}}
    for _ in range(inner_steps):
        loss = nn.functional.{loss}(model(x), y)
        gradients = torch.autograd.grad(loss, list(adapted.values()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(adapted.items(), gradients):
                for dim in range(gradient.dim()):
                    if f"curvature:{{dim}}:{{name}}" in extras:
                        product = torch.tensordot(extras[f"curvature:{{dim}}:{{name}}"], gradient, ([1], [dim]))
                        gradient = product.movedim(0, dim)
                back = PULL * (parameter - start[name])
                parameter -= INNER_LR * extras.get("inner_lr:" + name, 1.0) * gradient + back
    return model
'''

_RIDGE_HEAD = '''
HEAD = {head!r}  # the layer that is solved for


def adapt(model, x, y, extras):
    """Ridge regression for the last layer, around its learned start; x is [points, inputs], y [points, outputs]."""
    layer, seen = model.get_submodule(HEAD), []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        left = (y - model(x)).double()
        handle.remove()
        features = seen[0].double()
        kernel = features @ features.T + (layer.bias is not None)
        penalty = extras["log_penalty"].exp() + {least!r} * kernel.diagonal().mean()
        weights = torch.linalg.solve(kernel + penalty * torch.eye(len(x), dtype=torch.double), left)
        layer.weight += (weights.T @ features).float()
        if layer.bias is not None:
            layer.bias += weights.sum(0).float()
    return model
'''

_TEMPLATE = '''"""Adapt a meta-learned initialization to new data.

    python adapt.py weights.safetensors support.csv query.csv

@USAGE@
"""

import base64
import csv
import json
import math
import re
import sys
from datetime import datetime

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

{classes}

def build_model():
    return {model}


@ADAPT@

def load(path):
    """The model with its learned parameters, and what was learned beside them, by name."""
    try:
        model, tensors = build_model(), load_file(path)
        with safe_open(path, "pt") as file:
            beside = json.loads((file.metadata() or {{}}).get("extras", "{{}}"))
    except Exception as error:
        sys.exit(path + " cannot be read (" + str(error).splitlines()[0] + ").")
    extras = {{name: tensors.pop(name) for name in set(tensors) - set(model.state_dict())}}
    for name, value in beside.items():
        numbers = torch.frombuffer(bytearray(base64.b64decode(value["data"])), dtype=torch.float32)
        extras[name] = numbers.reshape(value["shape"])
    model.load_state_dict(tensors)
    return model, extras


def arguments():
    """The three files of the command line."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__.strip())
        sys.exit()
    if len(sys.argv) != 4:
        sys.exit("usage: python adapt.py weights.safetensors support.csv query.csv")
    return sys.argv[1:]


def stop_if_diverged(predicted):
    if not torch.isfinite(predicted).all():
        sys.exit("Adaptation diverged: give other points, or a smaller INNER_LR in this script.")

@READING@

if __name__ == "__main__":
    main()
'''
