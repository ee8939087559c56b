"""What is meta-learned as one flat vector, which is what an engine updates and a checkpoint holds."""

import torch
from torch import Tensor, nn

from maml_core.learning.inner_loop import Algorithm, Parameters, Theta


class Layout:
    """Where each learned number lies in one flat vector of length P: the parameters, then what is learned beside."""

    def __init__(self, model: nn.Module, algorithm: Algorithm) -> None:
        """Read the names and shapes of the model's parameters. No value is kept, so a model without any will do."""
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self.shapes = {name: parameter.shape for name, parameter in parameters.items()}
        self.extra_shapes = {name: value.shape for name, value in algorithm.extras(parameters).items()}
        self._algorithm = algorithm
        self._sizes = [shape.numel() for shape in self.file_shapes().values()]
        self.parameter_count = sum(shape.numel() for shape in self.shapes.values())

    @property
    def size(self) -> int:
        """P: how many numbers are learned."""
        return sum(self._sizes)

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

    def file_shapes(self) -> dict[str, torch.Size]:
        """The tensors of a weights file, by name, with their shapes: in the order of the flat vector."""
        return self.shapes | self.extra_shapes

    def to_file(self, flat: Tensor) -> Parameters:
        """`flat` `[P]` as the tensors of a weights file."""
        pieces = zip(flat.split(self._sizes, dim=-1), self.file_shapes().items(), strict=True)
        return {name: piece.reshape(flat.shape[:-1] + shape) for piece, (name, shape) in pieces}

    def from_file(self, tensors: Parameters) -> Tensor:
        """The inverse of `to_file`, for tensors of the right names and shapes: `[P]`."""
        return torch.cat([tensors[name].reshape(-1) for name in self.file_shapes()])
