"""Recurrent layers in plain operations: the values are torch's own, and tasks can be vectorized over."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from maml_core.learning.recurrent import by_cells


def parts(result: tuple[Tensor, Any]) -> list[Tensor]:
    output, state = result
    return [output, *(state if isinstance(state, tuple) else [state])]


@pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(
    "settings", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}], ids=str
)
def test_layers_give_what_torch_gives(layer: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    theirs = getattr(nn, layer)(3, 5, **settings)
    ours = copy.deepcopy(theirs)
    by_cells(ours)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for x in (torch.randn(7, 3), torch.randn(7, 2, 3)):
        expected = parts(theirs(x))
        torch.testing.assert_close(parts(ours(x)), expected)
        states = expected[1:]
        given = tuple(states) if len(states) > 1 else states[0]
        torch.testing.assert_close(parts(ours(x, given)), parts(theirs(x, given)))
    tasks = torch.randn(4, 7, 3)

    def size(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        found: Tensor = functional_call(ours, parameters, (x,))[0].square().sum()
        return found

    parameters = {name: value.detach() for name, value in ours.named_parameters()}
    each = vmap(grad(size), (None, 0))(parameters, tasks)
    torch.testing.assert_close(each["weight_hh_l0"][1], grad(size)(parameters, tasks[1])["weight_hh_l0"])


def test_a_rectified_layer_and_cells_give_what_torch_gives() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3)
    for theirs in (nn.RNNCell(3, 5), nn.RNNCell(3, 5, nonlinearity="relu"), nn.GRUCell(3, 5), nn.LSTMCell(3, 5)):
        ours = copy.deepcopy(theirs)
        by_cells(ours)
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected)
        torch.testing.assert_close(ours(x, expected), theirs(x, expected))
    rectified = nn.RNN(3, 5, nonlinearity="relu")
    again = copy.deepcopy(rectified)
    by_cells(again)
    torch.testing.assert_close(again(x), rectified(x))
