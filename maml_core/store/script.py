"""A standalone Python script that adapts exported weights to new data, with nothing but torch and safetensors."""

import inspect

from torch import nn

from maml_core.config import RunConfig
from maml_core.errors import ConfigError
from maml_core.learning.algorithms import ALGORITHMS, Theta


def adapt_script(config: RunConfig) -> str:
    """The script for the model and the inner loop of `config`.

    Raises:
        ConfigError: the model is a class of the user's own, whose source may need more than one file.
    """
    if config.uses_own_model:
        raise ConfigError(
            f"model.kind = {config.model.kind!r} cannot go into a script: export the weights as .safetensors and load "
            "them into your class."
        )
    model = config.structure()
    return _TEMPLATE.format(
        classes="".join(f"\n\n{source}" for source in _sources(model)),
        model=_code(model),
        inner_lr=config.inner_lr,
        inner_steps=config.inner_steps,
        adapted=_adapted(config, model),
        shots=config.shots,
    )


def _adapted(config: RunConfig, model: nn.Module) -> list[str]:
    """Names of the parameters that adapt."""
    return list(ALGORITHMS[config.algorithm].begin(Theta(dict(model.named_parameters()), {})).parameters)


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


_TEMPLATE = '''"""Adapt a meta-learned initialization to new data.

    python adapt.py weights.safetensors support.csv query.csv

support.csv has lines "x,y" (trained with {shots} of them), query.csv has lines "x". Prints "x,prediction" for each
query. Needs torch and safetensors only.
"""

import csv
import sys

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

INNER_LR = {inner_lr!r}
INNER_STEPS = {inner_steps!r}
ADAPTED = {adapted!r}  # names of the parameters that adapt
{classes}

def build_model():
    return {model}


def adapt(model, x, y, rates, inner_steps=INNER_STEPS):
    """Gradient descent on the mean squared error of all support points at once; x and y are [points, 1]."""
    adapted = {{name: value for name, value in model.named_parameters() if name in ADAPTED}}
    for _ in range(inner_steps):
        loss = nn.functional.mse_loss(model(x), y)
        gradients = torch.autograd.grad(loss, list(adapted.values()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(adapted.items(), gradients):
                parameter -= rates[name] * gradient
    return model


def read(path):
    with open(path, newline="") as file:
        return torch.tensor([[float(cell) for cell in row] for row in csv.reader(file) if row])


def main():
    weights, support, query = sys.argv[1:4]
    model = build_model()
    tensors = load_file(weights)
    rates = {{name: INNER_LR * tensors.pop("inner_lr:" + name, 1.0) for name in ADAPTED}}  # learned, or one for all
    model.load_state_dict(tensors)
    points, x = read(support), read(query)[:, :1]
    adapt(model, points[:, :1], points[:, 1:2], rates)
    with torch.no_grad():
        for given, predicted in zip(x[:, 0].tolist(), model(x)[:, 0].tolist()):
            print(f"{{given!r}},{{predicted!r}}")


if __name__ == "__main__":
    main()
'''
