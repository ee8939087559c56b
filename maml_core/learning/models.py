"""The networks, as plain nn.Modules, and the specifications that build them.

A model is one class: its fields are its hyperparameters, its `layers` the network. The form and the command
line follow from the fields.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from maml_core.fields import Integer, Real, Spec


class Sin(nn.Module):
    """The sine as an activation (SIREN, arXiv:2006.09661, without its special initialization)."""

    def forward(self, x: Tensor) -> Tensor:
        """sin(x), elementwise."""
        return torch.sin(x)


class FourierFeatures(nn.Module):
    """x, and sin and cos of `count` evenly spaced frequencies of it (arXiv:2006.10739, with fixed frequencies)."""

    def __init__(self, count: int, spacing: float) -> None:
        """Frequencies are `spacing` times 1 to `count`."""
        super().__init__()
        self.count = count
        self.spacing = spacing

    def forward(self, x: Tensor) -> Tensor:
        """`[..., points, 1]` to `[..., points, 1 + 2 count]`."""
        angles = x * (self.spacing * torch.arange(1, self.count + 1, dtype=x.dtype, device=x.device))
        return torch.cat([x, torch.sin(angles), torch.cos(angles)], dim=-1)

    def extra_repr(self) -> str:
        """What it was made from."""
        return f"{self.count}, {self.spacing}"


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "sine": Sin}
"""Nonlinearities by the name a configuration gives them."""


class ModelSpec(Spec):
    """What a model is, before it is built. Subclasses add hyperparameters and `layers`."""

    title: ClassVar[str]
    order: ClassVar[int] = 0
    """Where it stands in a list."""
    needs_values: ClassVar[bool] = False
    """Whether it can only be made for real, not on the meta device."""
    is_policy: ClassVar[bool] = False
    """Whether its outputs are means and spreads of actions, which no other problem asks for."""

    kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Register a finished model under the name it declares."""
        if isinstance(name := cls.model_fields["kind"].default, str):
            MODELS[name] = cls

    def hidden_numbers(self, input_size: int) -> int:
        """How many numbers a point leaves in the hidden layers."""
        return 0

    def multiplications(self, parameters: int, input_size: int) -> int:
        """How many a point takes, of a network with so many parameters: each is used once."""
        return parameters

    def check_loadable(self) -> None:
        """Raise ConfigError where this process may not load it; of the lab's own, every one may."""

    def load(self) -> Any:
        """What must have happened before it is made: nothing, of the lab's own."""

    def layers(self, input_size: int, output_size: int) -> nn.Module:
        """The network, freshly initialized from torch's global generator."""
        raise NotImplementedError


MODELS: dict[str, type[ModelSpec]] = {}
"""Every model by its name; a subclass of `ModelSpec` registers itself."""


class Linear(ModelSpec):
    """y = w x + b."""

    title: ClassVar[str] = "Linear model"

    kind: Literal["linear"] = "linear"

    def layers(self, input_size: int, output_size: int) -> nn.Module:
        """One linear layer."""
        return nn.Sequential(nn.Linear(input_size, output_size))


HiddenSizes = tuple[Annotated[Integer, Field(ge=1, le=65536)], ...]
Activation = Literal["relu", "tanh", "silu", "sine"]


def _hidden_sizes(*default: int) -> Any:
    return Field(
        default,
        min_length=1,
        max_length=16,
        description="Widths of the hidden layers, in order.",
        json_schema_extra={"rule": "a list of 1 to 16 whole numbers, each from 1 to 65,536"},
    )


def _activation(default: Activation) -> Any:
    return Field(default, description="Nonlinearity after each hidden layer.")


class MLP(ModelSpec):
    """A multilayer perceptron."""

    title: ClassVar[str] = "Multilayer perceptron"

    kind: Literal["mlp"] = "mlp"
    hidden_sizes: HiddenSizes = _hidden_sizes(64)
    activation: Activation = _activation("relu")

    def hidden_numbers(self, input_size: int) -> int:
        """The widths of the hidden layers."""
        return sum(self.hidden_sizes)

    def layers(self, input_size: int, output_size: int) -> nn.Module:
        """Linear layers with the activation between them."""
        modules: list[nn.Module] = []
        for width in self.hidden_sizes:
            modules += [nn.Linear(input_size, width), ACTIVATIONS[self.activation]()]
            input_size = width
        return nn.Sequential(*modules, nn.Linear(input_size, output_size))


class GaussianPolicy(nn.Module):
    """A network for the mean of an action, and a standard deviation that is a parameter, the same for all inputs."""

    def __init__(self, mean: nn.Module, actions: int) -> None:
        """`mean` gives `actions` numbers."""
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(actions))
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        """`[points, inputs]` to `[points, 2 actions]`: the means, then the logarithms of the standard deviations."""
        mean: Tensor = self.mean(x)
        return torch.cat([mean, self.log_std.expand_as(mean)], dim=-1)


class Policy(MLP):
    """A perceptron for the mean of an action, and a standard deviation beside it that depends on nothing."""

    title: ClassVar[str] = "Gaussian policy"
    is_policy: ClassVar[bool] = True

    kind: Literal["policy"] = "policy"  # type: ignore[assignment]
    hidden_sizes: HiddenSizes = _hidden_sizes(64, 64)
    activation: Activation = _activation("tanh")

    def layers(self, input_size: int, output_size: int) -> nn.Module:
        """The perceptron for half of the outputs, and a parameter for each of the others."""
        return GaussianPolicy(super().layers(input_size, output_size // 2), output_size // 2)


class FourierMLP(MLP):
    """A multilayer perceptron on Fourier features of its input."""

    title: ClassVar[str] = "Perceptron on Fourier features"

    kind: Literal["fourier-mlp"] = "fourier-mlp"  # type: ignore[assignment]
    features: Integer = Field(8, ge=1, le=256, description="How many frequencies the input is given in.")
    spacing: Real = Field(0.5, gt=0, le=100, description="The lowest frequency, and the distance between frequencies.")

    def layers(self, input_size: int, output_size: int) -> nn.Module:
        """The features, then the layers of the perceptron."""
        body = super().layers(input_size * (1 + 2 * self.features), output_size)
        return nn.Sequential(FourierFeatures(self.features, self.spacing), *body.children())


def build_model(spec: ModelSpec, seed: int, input_size: int = 1, output_size: int = 1) -> nn.Module:
    """Build the network that `spec` describes; the same seed gives the same initialization on every device.

    Initialization is drawn on the CPU and leaves torch's global generator as it was.
    """
    with torch.random.fork_rng(devices=[]):
        spec.load()  # importing a user's file may draw or seed, and happens only once: so before the seed is set
        torch.manual_seed(seed)
        return spec.layers(input_size, output_size)


def build_structure(spec: ModelSpec, seed: int, input_size: int = 1, output_size: int = 1) -> nn.Module:
    """The network without values, on torch's meta device; a user's own class as `build_model` gives it.

    What a user's class does as it is made may need real tensors, so that one is made for real.
    """
    if spec.needs_values:
        return build_model(spec, seed, input_size, output_size)
    with torch.device("meta"):
        return spec.layers(input_size, output_size)
