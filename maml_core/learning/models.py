"""The networks, as plain nn.Modules, and the specifications that build them.

A model is one class: its fields are its hyperparameters, its `layers` the network. The form and the command
line follow from the fields.
"""

import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from maml_core.errors import ConfigError
from maml_core.fields import Integer, Real, Spec, explained, parse, parse_variant


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

    kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Register a finished model under the name it declares."""
        if isinstance(name := cls.model_fields["kind"].default, str):
            MODELS[name] = cls

    @property
    def widths(self) -> tuple[int, ...]:
        """Sizes of the hidden layers."""
        return ()

    def layers(self, input_size: int, output_size: int) -> nn.Module:
        """The network, freshly initialized from torch's global generator."""
        raise NotImplementedError

    def parameter_count(self, input_size: int = 1, output_size: int = 1) -> int:
        """How many parameters the network has; counted without allocating them."""
        structure = build_structure(self, 0, input_size, output_size)
        return sum(parameter.numel() for parameter in structure.parameters())


MODELS: dict[str, type[ModelSpec]] = {}
"""Every model by its name; a subclass of `ModelSpec` registers itself."""


class Linear(ModelSpec):
    """y = w x + b."""

    title: ClassVar[str] = "Linear model"

    kind: Literal["linear"] = "linear"

    def layers(self, input_size: int, output_size: int) -> nn.Module:
        """One linear layer."""
        return nn.Sequential(nn.Linear(input_size, output_size))


class MLP(ModelSpec):
    """A multilayer perceptron."""

    title: ClassVar[str] = "Multilayer perceptron"

    kind: Literal["mlp"] = "mlp"
    hidden_sizes: tuple[Annotated[Integer, Field(ge=1, le=65536)], ...] = Field(
        (64,),
        min_length=1,
        max_length=16,
        description="Widths of the hidden layers, in order.",
        json_schema_extra={"rule": "a list of 1 to 16 whole numbers, each from 1 to 65,536"},
    )
    activation: Literal["relu", "tanh", "silu", "sine"] = Field(
        "relu", description="Nonlinearity after each hidden layer."
    )

    @property
    def widths(self) -> tuple[int, ...]:
        """Sizes of the hidden layers."""
        return self.hidden_sizes

    def layers(self, input_size: int, output_size: int) -> nn.Module:
        """Linear layers with the activation between them."""
        modules: list[nn.Module] = []
        for width in self.hidden_sizes:
            modules += [nn.Linear(input_size, width), ACTIVATIONS[self.activation]()]
            input_size = width
        return nn.Sequential(*modules, nn.Linear(input_size, output_size))


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


class OwnModel(ModelSpec):
    """A user's own nn.Module, named by where it is imported from: `package.module:Class`.

    Its `forward` takes x `[..., points, 1]` to predictions of the same shape. Importing it runs its code, so only
    the command line, inside `own_models`, loads it; elsewhere the run can be listed and its metrics read.
    """

    title: ClassVar[str] = "Your own module"

    kind: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        json_schema_extra={"rule": "where the class is imported from, such as my_models:Wide"},
    )
    arguments: dict[str, Any] = Field(
        {}, description="Keyword arguments of the class.", json_schema_extra={"rule": "an object of named arguments"}
    )

    def parameter_count(self, input_size: int = 1, output_size: int = 1) -> int:
        """0: unknown before it is loaded, which reading a configuration must not do."""
        return 0

    def check_loadable(self) -> None:
        """Raise ConfigError where this process may not load classes."""
        if not own_models_allowed():
            raise ConfigError(
                f"model.kind = {self.kind!r} is a class of your own, which only the command line loads: "
                "use `python -m maml_core` to train, resume, evaluate or export this run."
            )

    def load(self) -> type[nn.Module]:
        """The class itself.

        Raises:
            ConfigError: it may not be loaded here, cannot be imported, or is no module.
        """
        self.check_loadable()
        place, _, name = self.kind.partition(":")
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                found = getattr(importlib.import_module(place), name)
        except SystemExit:  # it reads the command line, or is a script: its usage text is not ours to print
            raise ConfigError(
                f"model.kind = {self.kind!r} cannot be imported: {place} ends the program as it is read (sys.exit, or "
                'argparse); put that under `if __name__ == "__main__":`.'
            ) from None
        except Exception as error:  # whatever the user's own code raises
            raise ConfigError(f"model.kind = {self.kind!r} cannot be imported ({brief(error)}).") from None
        sys.stderr.write(said.getvalue())
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise ConfigError(f"model.kind = {self.kind!r} is not allowed: it must be a subclass of torch.nn.Module.")
        return found

    def layers(self, input_size: int, output_size: int) -> nn.Module:
        """An instance of the class, tried on two points.

        Raises:
            ConfigError: as `load`, or it cannot be made, or is nothing that can be meta-trained and kept.
        """
        found = self.load()
        try:
            module = found(**self.arguments)
        except Exception as error:
            raise ConfigError(f"{self.kind} cannot be made with model.arguments ({brief(error)}).") from None
        x = torch.linspace(-1, 1, 2 * input_size).reshape(2, input_size)
        try:
            with torch.no_grad():
                first, second = module(x), module(x)
        except Exception as error:
            raise ConfigError(f"{self.kind} cannot be applied to x of shape {_shape(x)} ({brief(error)}).") from None
        if _shape(first) != (2, output_size):
            raise ConfigError(
                f"{self.kind} takes x of shape {_shape(x)} to {_shape(first)}: it must be (2, {output_size})."
            )
        if not torch.equal(first, second):
            raise ConfigError(
                f"{self.kind} gives other values for the same x the second time: it must not draw random numbers as it "
                "runs, or no run could be repeated."
            )
        parameters = dict(module.named_parameters())
        if not parameters:
            raise ConfigError(f"{self.kind} has no parameters to train: give it at least one nn.Parameter.")
        for name, parameter in parameters.items():
            if parameter.dtype != torch.float32 or not parameter.requires_grad:
                trouble = "frozen" if not parameter.requires_grad else f"of {parameter.dtype}"
                raise ConfigError(
                    f"{self.kind} has a parameter {name} that is {trouble}: parameters must be float32 and trainable; "
                    "register what is not to be trained as a buffer."
                )
        return module


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def brief(error: Exception) -> str:
    """What went wrong in code that is not ours, in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


_own_models_allowed = False


@contextmanager
def own_models() -> Iterator[None]:
    """Let this process load classes that a configuration names; never entered by a server."""
    global _own_models_allowed
    before, _own_models_allowed = _own_models_allowed, True
    try:
        yield
    finally:
        _own_models_allowed = before


def own_models_allowed() -> bool:
    """Whether this process is inside `own_models`."""
    return _own_models_allowed


def build_model(spec: ModelSpec, seed: int, input_size: int = 1, output_size: int = 1) -> nn.Module:
    """Build the network that `spec` describes; the same seed gives the same initialization on every device.

    Initialization is drawn on the CPU and leaves torch's global generator as it was.
    """
    with torch.random.fork_rng(devices=[]):
        if isinstance(spec, OwnModel):
            spec.load()  # importing may draw or seed, and happens only once: so before the seed is set
        torch.manual_seed(seed)
        return spec.layers(input_size, output_size)


def build_structure(spec: ModelSpec, seed: int, input_size: int = 1, output_size: int = 1) -> nn.Module:
    """The network without values, on torch's meta device; a user's own class as `build_model` gives it.

    What a user's class does as it is made may need real tensors, so that one is made for real.
    """
    if isinstance(spec, OwnModel):
        return build_model(spec, seed, input_size, output_size)
    with torch.device("meta"):
        return spec.layers(input_size, output_size)


def parse_model(data: Any) -> ModelSpec:
    """The model that `data` names in its `kind` field, validated.

    Raises:
        PydanticCustomError: one sentence, for use inside a validator.
    """
    if isinstance(data, OwnModel):
        return data
    if isinstance(data, Mapping) and isinstance(data.get("kind"), str) and ":" in data["kind"]:
        try:
            return parse(OwnModel, dict(data), prefix="model.")
        except ConfigError as error:
            raise explained(str(error)) from None
    spec: ModelSpec = parse_variant(data, MODELS, tag="kind", place="model")
    return spec
