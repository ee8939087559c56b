"""Recurrent layers and cells in plain operations: torch's own kernels have no rule for `vmap`, or change in place."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


def by_cells(model: nn.Module) -> None:
    """Have every nn.RNN, nn.GRU, nn.LSTM, and their cells, be plain operations: same parameters, same values."""
    for module in model.modules():
        known = _BY_CELLS.get(type(module))
        if known is not None and not getattr(module, "proj_size", 0):
            module.__class__ = known  # the instance stays, with its parameters, hooks and mode


class _ByCells(nn.RNNBase):
    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """As torch's: `[time, features]`, `[time, batch, features]` or batch first; returns outputs and last states."""
        is_batched = input.dim() == 3
        x = input if is_batched else input.unsqueeze(1)
        if is_batched and self.batch_first:
            x = x.transpose(0, 1)
        given = None if hx is None else hx if isinstance(hx, tuple) else (hx,)
        if given is not None and not is_batched:
            given = tuple(state.unsqueeze(1) for state in given)
        ways = 2 if self.bidirectional else 1
        ends: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for way in range(ways):
                place = layer * ways + way
                weights = [getattr(self, name) for name in self._names(layer, way)]
                begin = tuple(s[place] for s in given) if given is not None else self._zeros(x, weights)
                output, end = self._along(x.flip(0) if way else x, begin, weights)
                outputs.append(output.flip(0) if way else output)
                ends.append(end)
            x = torch.cat(outputs, dim=-1)
            if self.dropout and self.training and layer < self.num_layers - 1:
                x = nn.functional.dropout(x, self.dropout)
        states = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
        if not is_batched:
            x, states = x.squeeze(1), tuple(state.squeeze(1) for state in states)
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, states if self.mode == "LSTM" else states[0]

    def _names(self, layer: int, way: int) -> list[str]:
        ending = f"_l{layer}{'_reverse' if way else ''}"
        names = [f"{part}{ending}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        return names if self.bias else names[:2]

    def _zeros(self, x: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
        zeros = x.new_zeros(x.shape[1], self.hidden_size)
        return (zeros, zeros) if self.mode == "LSTM" else (zeros,)

    def _along(self, x: Tensor, state: tuple[Tensor, ...], weights: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        outputs = []
        for at in x:
            state = _next(self.mode, at, state, weights)
            outputs.append(state[0])
        return torch.stack(outputs), state


class _Cell(nn.RNNCellBase):
    _MODE: str

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """As torch's: `[features]` or `[batch, features]`; returns the next state."""
        zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
        state = hx if isinstance(hx, tuple) else (zeros, zeros) if hx is None else (hx,)
        mode = getattr(self, "nonlinearity", "") and f"RNN_{self.nonlinearity}".upper()
        weights = [self.weight_ih, self.weight_hh, *([self.bias_ih, self.bias_hh] if self.bias else [])]
        after = _next(mode or self._MODE, input, state, weights)
        return after if self._MODE == "LSTM" else after[0]


def _next(mode: str, x: Tensor, state: tuple[Tensor, ...], weights: list[Tensor]) -> tuple[Tensor, ...]:
    """The state after one more input, by the equations in the documentation of nn.RNNCell, GRUCell and LSTMCell."""
    of_input, of_state = (weights[k::2] for k in (0, 1))  # a weight each, and a bias or none
    given, kept = linear(x, *of_input), linear(state[0], *of_state)
    if mode == "LSTM":
        i, f, g, o = (given + kept).chunk(4, dim=-1)
        carried = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * carried.tanh(), carried
    if mode == "GRU":
        (r, z, n), (hr, hz, hn) = given.chunk(3, dim=-1), kept.chunk(3, dim=-1)
        update = (z + hz).sigmoid()
        return ((1 - update) * (n + (r + hr).sigmoid() * hn).tanh() + update * state[0],)
    return (torch.relu(given + kept) if mode == "RNN_RELU" else torch.tanh(given + kept),)


class _RNN(_ByCells, nn.RNN): ...  # type: ignore[misc]  # overloads of the same


class _GRU(_ByCells, nn.GRU): ...  # type: ignore[misc]  # overloads of the same


class _LSTM(_ByCells, nn.LSTM): ...  # type: ignore[misc]  # overloads of the same


class _RNNCell(_Cell, nn.RNNCell):
    _MODE = "RNN_TANH"


class _GRUCell(_Cell, nn.GRUCell):
    _MODE = "GRU"


class _LSTMCell(_Cell, nn.LSTMCell):
    _MODE = "LSTM"


_BY_CELLS: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: _RNN,
    nn.GRU: _GRU,
    nn.LSTM: _LSTM,
    nn.RNNCell: _RNNCell,
    nn.GRUCell: _GRUCell,
    nn.LSTMCell: _LSTMCell,
}
