"""A model with parameters of one's own in place of its own, whatever it shares inside."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.func import functional_call

Found = TypeVar("Found")


def call(model: nn.Module, parameters: Mapping[str, Tensor], x: Tensor) -> Any:
    """What `model` makes of x `[points, features]` with `parameters`, by the names of `named_parameters`."""
    return bound(model, parameters, lambda predict: predict(x))


def bound(model: nn.Module, parameters: Mapping[str, Tensor], use: Callable[[nn.Module], Found]) -> Found:
    """What `use` makes of `model` with `parameters`: bound once, however often it is called there.

    torch's `functional_call` leaves tensors behind in a model that has one module under two names (each name is set
    and given back, the second time to what the first had set). So each place is set once here: a module that stands
    twice is one place, and modules that share a parameter each get it.
    """
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    places: dict[str, Tensor] = {}
    for prefix, module in model.named_modules(prefix="model"):
        for key, parameter in module._parameters.items():
            name = name_of.get(id(parameter), "")
            if name in parameters:
                places[f"{prefix}.{key}"] = parameters[name]
    found: Found = functional_call(_Around(model), places, (use,), tie_weights=False)
    return found


class _Around(nn.Module):
    """What `functional_call` calls in the model's place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, use: Callable[[nn.Module], Found]) -> Found:
        return use(self.model)
