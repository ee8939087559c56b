"""What is meta-learned as one flat vector, which is what an engine updates and a checkpoint holds."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from maml_core.learning.algorithms import Algorithm, Parameters, Theta

_RATE = "inner_lr:"
"""What a file writes before a parameter's name for the factor of inner_lr that was learned for it."""


class Layout:
    """Where each learned number lies in one flat vector of length P: the parameters, then their rates if any."""

    def __init__(self, model: nn.Module, algorithm: Algorithm) -> None:
        """Read the names and shapes of the model's parameters. No value is kept, so a model without any will do."""
        self.shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self.learns_rates = algorithm.learns_rates
        sizes = [shape.numel() for shape in self.shapes.values()]
        self.parameter_count = sum(sizes)
        self._sizes = sizes * 2 if self.learns_rates else sizes

    @property
    def size(self) -> int:
        """P: how many numbers are learned."""
        return sum(self._sizes)

    def start(self, model: nn.Module) -> Tensor:
        """The vector `[P]` before training: the model's own values, and rates whose factors are one."""
        flat = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
        return torch.cat([flat, torch.ones_like(flat)]) if self.learns_rates else flat

    def unflatten(self, flat: Tensor) -> Theta:
        """Views of `flat` `[..., P]`, by name, each `[..., *shape]`."""
        leading = flat.shape[:-1]
        shapes = [*self.shapes.items()] * (2 if self.learns_rates else 1)
        pieces = zip(flat.split(self._sizes, dim=-1), shapes, strict=True)
        named = [(name, piece.reshape(leading + shape)) for piece, (name, shape) in pieces]
        return Theta(dict(named[: len(self.shapes)]), dict(named[len(self.shapes) :]))

    def flatten(self, theta: Theta) -> Tensor:
        """The inverse of `unflatten` for tensors without leading dimensions: `[P]`."""
        values = [theta.parameters[name] for name in self.shapes]
        if self.learns_rates:
            values += [theta.rates[name] for name in self.shapes]
        return torch.cat([value.reshape(-1) for value in values])

    def file_shapes(self) -> dict[str, torch.Size]:
        """The tensors of a weights file, by name, with their shapes."""
        return {name: shape for name, shape, _ in self._file_entries()}

    def to_file(self, flat: Tensor) -> Parameters:
        """`flat` `[P]` as the tensors of a weights file."""
        theta = self.unflatten(flat)
        return {
            name: (theta.rates if is_rate else theta.parameters)[name.removeprefix(_RATE) if is_rate else name]
            for name, _, is_rate in self._file_entries()
        }

    def from_file(self, tensors: Parameters) -> Tensor:
        """The inverse of `to_file`, for tensors of the right names and shapes: `[P]`."""
        return torch.cat([tensors[name].reshape(-1) for name in self.file_shapes()])

    def _file_entries(self) -> Iterator[tuple[str, torch.Size, bool]]:
        for name, shape in self.shapes.items():
            yield name, shape, False
        for name, shape in self.shapes.items() if self.learns_rates else ():
            yield _RATE + name, shape, True
