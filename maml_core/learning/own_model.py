"""A user's own nn.Module: where it is imported from, how it is made, and what is asked of it before it is trained."""

import contextlib
import copy
import hashlib
import importlib
import inspect
import io
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from maml_core.errors import ConfigError, brief
from maml_core.fields import explained, parse, parse_variant
from maml_core.learning.inner_loop import is_in
from maml_core.learning.models import MODELS, ModelSpec
from maml_core.learning.recurrent import by_cells


class OwnModel(ModelSpec):
    """A user's own nn.Module, named by where it is imported from: `package.module:Class`.

    Its `forward` takes x `[..., points, features]` to predictions `[..., points, outputs]`. Importing it runs its code,
    so only the command line, inside `own_models`, loads it; elsewhere the run can be listed and its metrics read.
    """

    title: ClassVar[str] = "Your own module"
    needs_values: ClassVar[bool] = True

    kind: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        json_schema_extra={"rule": "where the class is imported from, such as my_models:Wide"},
    )
    arguments: dict[str, Any] = Field(
        {}, description="Keyword arguments of the class.", json_schema_extra={"rule": "an object of named arguments"}
    )
    adapts: tuple[str, ...] = Field(
        (),
        description="Names of the layers or parameters that adapt with anil or ridge-head, if not the layer declared "
        "last.",
        json_schema_extra={"rule": "a list of names of layers or parameters"},
    )

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
            made = type(found).__name__
            remedy = "; leave torch.compile away: the lab's engines compile" if made == "OptimizedModule" else ""
            raise ConfigError(
                f"model.kind = {self.kind!r} is not allowed: it must be a subclass of torch.nn.Module{remedy}."
            )
        return found

    def source_hash(self) -> str | None:
        """The SHA-256 of the class's source, where it has one."""
        try:
            return hashlib.sha256(inspect.getsource(self.load()).encode()).hexdigest()
        except (OSError, TypeError):  # typed at a prompt
            return None

    def file_text(self) -> str:
        """The text of the file that the class stands in, for whoever is handed what it has learned; empty without."""
        try:
            return inspect.getsource(inspect.getmodule(self.load()) or self.load())
        except (OSError, TypeError):
            return ""

    def layers(self, input_size: int, output_size: int) -> nn.Module:
        """An instance of the class, decided by torch's seed alone, whatever generator its own code draws from.

        Raises:
            ConfigError: as `load`, or it cannot be made, or holds what cannot be meta-trained and kept.
        """
        found = self.load()
        with _seeded(torch.initial_seed()):
            try:
                module = found(**self.arguments)
                if _is_lazy(module):
                    with torch.no_grad():
                        module(torch.linspace(-1, 1, 2 * input_size).reshape(2, input_size))
            except Exception as error:
                raise ConfigError(f"{self.kind} cannot be made with model.arguments ({brief(error)}).") from None
        by_cells(module)
        self._check_parts(module)
        return module

    def _check_parts(self, module: nn.Module) -> None:
        for name, part in module.named_modules():
            if _is_compiled(part):
                raise ConfigError(
                    f"{self.kind} uses torch.compile ({name or 'the module itself'}), which cannot be differentiated "
                    "task by task: leave it away; the lab's own engines compile the whole loop."
                )
        parameters = dict(module.named_parameters())
        if not parameters:
            raise ConfigError(f"{self.kind} has no parameters to train: give it at least one nn.Parameter.")
        for place in self.adapts:
            if not any(is_in(name, place) for name in parameters):
                raise ConfigError(
                    f"model.adapts names {place!r}, which is no layer or parameter of {self.kind}: it has "
                    f"{', '.join(parameters)}."
                )
        for name, parameter in parameters.items():
            if parameter.dtype != torch.float32 or not parameter.requires_grad:
                trouble = "frozen" if not parameter.requires_grad else f"of {parameter.dtype}"
                raise ConfigError(
                    f"{self.kind} has a parameter {name} that is {trouble}: parameters must be float32 and trainable; "
                    "register what is not to be trained as a buffer."
                )

    def try_on(self, module: nn.Module, x: Tensor, output_size: int) -> None:
        """Apply an instance to points `[points, features]` as its tasks have them.

        Raises:
            ConfigError: it cannot be applied, or what it gives is of another shape, not finite, or not a function.
        """
        module = copy.deepcopy(module)  # what its calls leave behind is not the run's
        try:
            with torch.no_grad():
                first, second = (_with_seed(0, lambda: module(x)) for _ in range(2))
                other = _with_seed(1, lambda: module(x))
        except Exception as error:
            raise ConfigError(
                f"{self.kind} cannot be applied to x of shape {_shape(x)}, from {float(x.min()):.3g} to "
                f"{float(x.max()):.3g} as the tasks have it ({brief(error)})."
            ) from None
        wanted = len(x), output_size
        if _shape(first) != wanted:
            raise ConfigError(f"{self.kind} takes x of shape {_shape(x)} to {_shape(first)}: it must be {wanted}.")
        finite = torch.isfinite(first).all(1)
        if not finite.all():
            raise ConfigError(
                f"{self.kind} gives {float(first[~finite].flatten()[0])} at x = {x[~finite][0].tolist()}: what it "
                "predicts must be finite wherever the tasks draw x; change tasks.x, or the module."
            )
        if not torch.equal(first, second):
            raise ConfigError(
                f"{self.kind} gives other values for the same x the second time: it keeps something from one call to "
                "the next (a hidden state, spectral norm, a counter); make forward a function of x and the parameters."
            )
        if not torch.equal(first, other):
            raise ConfigError(
                f"{self.kind} gives other values for the same x with another seed: it must not draw random numbers as "
                "it runs, or no run could be repeated; call eval() on what does, such as dropout."
            )

    def check_seeded(self, module: nn.Module, again: nn.Module) -> None:
        """Compare two instances made from the same seed.

        Raises:
            ConfigError: they differ.
        """
        pairs = zip(_values(module).items(), _values(again).values(), strict=False)
        for name, one, other in ((name, one, other) for (name, one), other in pairs):
            if one.shape != other.shape or not torch.equal(one.nan_to_num(), other.nan_to_num()):
                raise ConfigError(
                    f"{self.kind} is made with another {name} each time, though torch, numpy and random have the same "
                    "seed: draw it from one of those three, or no run could be repeated."
                )

    def check_head(self, module: nn.Module, x: Tensor, head: str, algorithm: str) -> None:
        """See that the layer that an algorithm takes for the last, `head`, is the one that the predictions come from.

        Raises:
            ConfigError: it is another one, or none.
        """
        last = _feeds_output(module, x)
        if last == head:
            return
        found = "no layer of its own" if last is None else f"{last or 'the module itself'}"
        taken = f"model.adapts names {head}" if self.adapts else f"{self.kind} declares {head or 'its parameters'} last"
        remedy = f'set model.adapts = ["{last}"]' if last else "name the part that adapts in model.adapts (for anil)"
        raise ConfigError(
            f"algorithm = {algorithm!r} adapts the last layer: {taken}, but its predictions come from {found}; "
            f"{remedy}, or choose an algorithm that adapts every parameter."
        )


def set_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Give a module the buffers that it was trained with; one that it has no more is passed over."""
    for name, value in buffers.items():
        place, _, key = name.rpartition(".")
        owner = dict(module.named_modules()).get(place)
        if owner is not None and key in owner._buffers:
            before = owner._buffers[key]
            owner._buffers[key] = value if before is None else value.to(before.device)


def _is_lazy(module: nn.Module) -> bool:
    return any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in module.parameters())


def _values(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _feeds_output(module: nn.Module, x: Tensor) -> str | None:
    """The name of the module with parameters of its own whose output is that of the whole."""
    module = copy.deepcopy(module)
    given: list[tuple[str, Any]] = []
    for name, part in module.named_modules():
        if part._parameters and name:
            part.register_forward_hook(lambda _, __, output, name=name: given.append((name, output)))
    with torch.no_grad():
        result = module(x)

    def is_result(output: Any) -> bool:
        return (
            isinstance(output, Tensor)
            and output.data_ptr() == result.data_ptr()
            and output.numel() == len(result.reshape(-1))
        )

    return next((name for name, output in reversed(given) if is_result(output)), None)


def _is_compiled(module: nn.Module) -> bool:
    """By any of torch.compile's forms: around the module, its `compile()`, or around its forward."""
    forward = getattr(module, "forward", None)
    return (
        type(module).__name__ == "OptimizedModule"
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(forward, "_torchdynamo_orig_callable")
        or hasattr(getattr(forward, "__func__", None), "_torchdynamo_orig_callable")
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch, numpy and random from one seed; the last two are left as they were, and torch is the caller's."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _with_seed(seed: int, action: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]), _seeded(seed):
        torch.manual_seed(seed)
        return action()


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


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
