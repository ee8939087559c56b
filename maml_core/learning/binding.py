"""A model with parameters of one's own in place of its own, whatever it shares inside."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def call(model: nn.Module, parameters: Mapping[str, Tensor], x: Tensor) -> Any:
    """What `model` makes of x `[points, features]` with `parameters`, by the names of `named_parameters`.

    torch's `functional_call` leaves tensors behind in a model that has one module under two names (each name is set
    and given back, the second time to what the first had set). So each place is set once here: a module that stands
    twice is one place, and modules that share a parameter each get it.
    """
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    places: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        for key, parameter in module._parameters.items():
            name = name_of.get(id(parameter), "")
            if name in parameters:
                places[f"{prefix}.{key}" if prefix else key] = parameters[name]
    return functional_call(model, places, (x,), tie_weights=False)
