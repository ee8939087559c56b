"""What is meta-learned as one flat vector, which is what an engine updates and a checkpoint holds."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maml_core.learning.inner_loop import Algorithm, Parameters, Theta


class Flat:
    """Tensors of known names and shapes as one flat vector of length P, and back."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """The tensors, in the order of the vector."""
        self._shapes = {name: torch.Size(shape) for name, shape in shapes.items()}
        self._sizes = [prod(shape) for shape in self._shapes.values()]

    @property
    def size(self) -> int:
        """P: how many numbers there are."""
        return sum(self._sizes)

    def file_shapes(self) -> dict[str, torch.Size]:
        """The tensors of a weights file, by name, with their shapes: in the order of the flat vector."""
        return dict(self._shapes)

    def to_file(self, flat: Tensor) -> Parameters:
        """`flat` `[P]` as the tensors of a weights file."""
        pieces = zip(flat.split(self._sizes, dim=-1), self._shapes.items(), strict=True)
        return {name: piece.reshape(flat.shape[:-1] + shape) for piece, (name, shape) in pieces}

    def from_file(self, tensors: Parameters) -> Tensor:
        """The inverse of `to_file`, for tensors of the right names and shapes: `[P]`."""
        return torch.cat([tensors[name].reshape(-1) for name in self._shapes])


class Sizes(NamedTuple):
    """How large what a run learns is."""

    parameters: int = 0  # numbers of the network
    beside: int = 0  # numbers that the algorithm learns beside them
    transforms: int = 0  # multiplications of an inner step beside its gradient


class Layout(Flat):
    """Where each learned number lies in one flat vector: the parameters, then what is learned beside."""

    def __init__(self, model: nn.Module, algorithm: Algorithm) -> None:
        """Read the names and shapes of the model's parameters. No value is kept, so a model without any will do."""
        self.shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self.extra_shapes = algorithm.extra_shapes(self.shapes)
        self._algorithm = algorithm
        self.parameter_count = sum(shape.numel() for shape in self.shapes.values())
        super().__init__(self.shapes | self.extra_shapes)

    @property
    def sizes(self) -> Sizes:
        """How large it is."""
        return Sizes(self.parameter_count, self.size - self.parameter_count, self._algorithm.transforms(self.shapes))

    def start(self, model: nn.Module) -> Tensor:
        """The vector `[P]` before training: the model's own values, and what the algorithm begins with beside them."""
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        return self.flatten(Theta(parameters, self._algorithm.extras(parameters)))

    def unflatten(self, flat: Tensor) -> Theta:
        """Views of `flat` `[..., P]`, by name, each `[..., *shape]`."""
        named = self.to_file(flat)
        return Theta({name: named[name] for name in self.shapes}, {name: named[name] for name in self.extra_shapes})

    def flatten(self, theta: Theta) -> Tensor:
        """The inverse of `unflatten` for tensors without leading dimensions: `[P]`."""
        return self.from_file(theta.parameters | theta.extras)
