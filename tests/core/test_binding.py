"""A model is used with other parameters and stays as it was, whatever it shares inside."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from maml_core.learning.binding import call


class Twice(nn.Module):
    """Layers by name and once more in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(1, 4), nn.Linear(4, 1)
        self.net = nn.Sequential(self.body, nn.Tanh(), self.head)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class Shared(nn.Module):
    """One activation with a parameter of its own, used twice."""

    def __init__(self) -> None:
        super().__init__()
        one = nn.PReLU()
        self.net = nn.Sequential(nn.Linear(1, 4), one, nn.Linear(4, 4), one, nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Two modules with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(1, 1), nn.Linear(1, 1)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.tanh(self.one(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [Twice, Shared, Tied])
def test_the_model_stays_as_it_was(make: Callable[[], nn.Module]) -> None:
    model = make()
    before = copy.deepcopy(model)
    mine = {name: [*module.parameters()] for name, module in model.named_modules(remove_duplicate=False)}
    values = {name: torch.randn(3, *value.shape) for name, value in model.named_parameters()}
    x = torch.randn(3, 5, 1)
    found = vmap(lambda parameters, x: call(model, parameters, x))(values, x)
    vmap(grad(lambda parameters, x: call(model, parameters, x).square().mean()))(values, x)
    for name, module in model.named_modules(remove_duplicate=False):
        assert all(one is other for one, other in zip(module.parameters(), mine[name], strict=True)), name
    torch.testing.assert_close(model.state_dict(), before.state_dict())
    for task in range(3):
        with torch.no_grad():
            for name, value in before.named_parameters():
                value.copy_(values[name][task])
        torch.testing.assert_close(found[task], before(x[task]))
