"""What a run is: one frozen model, with bounds and help on its fields, and JSON both ways."""

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, SerializeAsAny, field_validator, model_validator
from torch import Tensor, nn

import maml_core.learning.convolution  # noqa: F401  (it registers its model)
from maml_core.errors import ConfigError
from maml_core.fields import Integer, Real, Spec, explained, parse, shown
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.families import Sine
from maml_core.learning.initialization import Initialization
from maml_core.learning.inner_loop import Algorithm
from maml_core.learning.layout import Layout, Sizes
from maml_core.learning.models import MLP, ModelSpec, build_model, build_structure
from maml_core.learning.own_model import OwnModel, parse_model, set_buffers
from maml_core.learning.tasks import TaskFamily, parse_family

GIB = 2**30
MEMORY_LIMIT = 2 * GIB
"""Bytes that a run may be estimated to need; more is refused before it starts."""

SECONDS_LIMIT = 5.0
"""Seconds that one meta-iteration may be estimated to take: Stop waits for its end."""


MOST_ITERATIONS = 10_000_000


@functools.lru_cache(maxsize=1024)  # a list of two thousand runs asks it of each of them
def _sizes(spec: ModelSpec, input_size: int, output_size: int, algorithm: str) -> Sizes:
    return Layout(build_structure(spec, 0, input_size, output_size), ALGORITHMS[algorithm]).sizes


class RunConfig(Spec):
    """Everything that decides a run's numbers. Same config, same engine: same run, bit for bit.

    >>> RunConfig(shots=5).with_settings({"inner_lr": 0.1, "tasks.family": "line"}).tasks.family
    'line'
    """

    model: SerializeAsAny[ModelSpec] = Field(MLP(), description="The network that is meta-trained.")
    tasks: SerializeAsAny[TaskFamily] = Field(Sine(), description="The distribution that tasks are drawn from.")
    shots: Integer = Field(
        10,
        ge=1,
        le=1000,
        description="Support points per task (K), used to adapt; with classes, so many of each class; of control, "
        "rollouts.",
        json_schema_extra={"tried": [1, 40]},
    )
    query_shots: Integer = Field(
        10,
        ge=1,
        le=1000,
        description="Query points per task, used to judge the adapted model; with classes, so many of each; of "
        "control, rollouts.",
    )
    algorithm: Literal[
        "fomaml",
        "maml",
        "fo-b-maml",
        "reptile",
        "fo-anil",
        "anil",
        "fo-meta-sgd",
        "meta-sgd",
        "fo-meta-curvature",
        "meta-curvature",
        "ridge-head",
        "fo-ridge-head",
        "joint",
    ] = Field(
        "fomaml",
        description="How the meta-gradient is formed. fomaml: first-order MAML. maml: with second derivatives. "
        "fo-b-maml: by a finite difference of the adapted weights. reptile: toward the adapted weights. anil: only the "
        "last layer adapts. meta-sgd: learns a rate for each parameter. meta-curvature: learns matrices that multiply "
        "each gradient. ridge-head: solves for the last layer. fo- "
        "marks a first-order variant. joint: pretraining on all tasks, the baseline.",
    )
    inner_lr: Real = Field(
        0.01,
        gt=0,
        le=1e38,
        description="Step size of adaptation (alpha): gradient descent on the support set.",
        json_schema_extra={"tried": [1e-4, 1.0]},
    )
    inner_steps: Integer = Field(
        1,
        ge=0,
        le=1000,
        description="Gradient steps of adaptation during training.",
        json_schema_extra={"tried": [0, 20]},
    )
    perturbation: Real = Field(
        0.01,
        gt=0,
        le=1,
        description="How much of the query loss fo-b-maml adds to the support loss, and takes from it, for its finite "
        "difference.",
    )
    meta_lr: Real = Field(0.001, gt=0, le=10, description="Adam's step size on the initialization (beta).")
    meta_batch_size: Integer = Field(25, ge=1, le=10_000, description="Tasks averaged in one meta-iteration.")
    shards: Integer = Field(
        1,
        ge=1,
        le=256,
        description="Parts of a meta-batch, each with tasks of its own, that processes started by torchrun share. It "
        "decides the run's numbers; how many processes there are does not.",
    )
    meta_iterations: Integer = Field(1000, ge=1, le=MOST_ITERATIONS, description="Updates of the initialization.")
    clip_norm: Real | None = Field(
        None, gt=0, le=1e6, description="Scale the meta-gradient down to this norm when it is longer."
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="How meta_lr changes over the run: not at all, or along a half cosine to zero."
    )
    ema_decay: Real | None = Field(
        None,
        gt=0,
        le=0.999999,
        description="Keep a moving average of the initialization with this decay per meta-iteration, and adapt from "
        "it; training itself goes on from the newest values.",
    )
    engine: Literal["auto", "higher", "vectorized", "native"] = Field(
        "auto",
        description="How the meta-gradient is computed. higher: task by task, the reference. vectorized: all tasks "
        "of a meta-batch at once. native: many meta-iterations as native code, made for the run in about a second. "
        "auto: native where that can be had, else vectorized.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto",
        description="Where to compute. auto: a GPU (CUDA, else MPS) where there is one and the run is large enough to "
        "gain from it, else the CPU, which is faster for small networks.",
    )
    seed: Integer = Field(0, ge=0, le=2**32 - 1, description="Decides the initialization and every task drawn.")

    @field_validator("model", mode="before")
    @classmethod
    def _model(cls, data: Any) -> Any:
        return parse_model(data)

    @field_validator("tasks", mode="before")
    @classmethod
    def _tasks(cls, data: Any) -> Any:
        return parse_family(data)

    @field_validator("engine", mode="before")
    @classmethod
    def _engine(cls, data: Any) -> Any:
        return "native" if data == "compiled" else data  # its name in earlier versions

    @model_validator(mode="after")
    def _has_the_steps_it_needs(self) -> Self:
        if self.method.needs_steps and not self.inner_steps:
            raise explained(
                f"inner_steps = 0 is not allowed with algorithm = {self.algorithm}: its meta-gradient would be zero; "
                "it must be at least 1."
            )
        return self

    @model_validator(mode="after")
    def _suits_the_problem(self) -> Self:
        problem, least = self.tasks.problem, self.tasks.least_shots
        for name in ("shots", "query_shots"):
            if getattr(self, name) < least:
                raise explained(
                    f"{name} = {getattr(self, name)} is not allowed with tasks.family = {self.tasks.family}: rollouts "
                    f"are judged by each other; it must be at least {least}."
                )
        most = self.tasks.most_points
        if most is not None and self.shots + self.query_shots > most:
            raise explained(
                f"shots + query_shots = {self.shots + self.query_shots} is not allowed with tasks.family = "
                f"{self.tasks.family}: a class has {most} images that take part (tasks.images_per_class), and none is "
                "asked about that was learned from; lower shots or query_shots, or raise that."
            )
        if self.model.is_policy and problem.predicts:
            raise explained(
                f"model.kind = {self.model.kind} is not allowed with tasks.family = {self.tasks.family}: it acts, and "
                "these tasks ask for predictions; choose mlp."
            )
        if self.method.solves and not problem.predicts:
            raise explained(
                f"algorithm = {self.algorithm} is not allowed with tasks.family = {self.tasks.family}: it solves for "
                "outputs that are known, and of an action none is; choose fomaml."
            )
        if self.engine == "native" and problem.calls > 1:
            raise explained(
                f"engine = native is not allowed with tasks.family = {self.tasks.family}: each of its "
                f"{problem.calls} steps would be code of its own; choose auto, which takes vectorized."
            )
        return self

    @model_validator(mode="after")
    def _can_be_shared_out(self) -> Self:
        if self.meta_batch_size % self.shards:
            raise explained(
                f"shards = {self.shards} is not allowed with meta_batch_size = {self.meta_batch_size}: each has as "
                "many tasks; choose a divisor of it."
            )
        if self.shards > 1 and self.engine == "native":
            raise explained(
                f"engine = native is not allowed with shards = {self.shards}: its loop does whole meta-iterations by "
                "itself; choose auto, which takes vectorized."
            )
        return self

    @model_validator(mode="after")
    def _fits_in_memory(self) -> Self:
        try:
            self.check_memory(self.sizes())
        except ConfigError as error:
            raise explained(str(error)) from None
        return self

    def check_memory(self, sizes: Sizes) -> None:
        """Raise ConfigError if a run that learns so much would need more than `MEMORY_LIMIT`."""
        needed = self.memory_estimate(sizes)
        if needed > MEMORY_LIMIT:
            by = f" and algorithm = {self.algorithm}" if sizes.beside > sizes.parameters else ""
            raise ConfigError(
                f"model = {shown(self.model)} would need about {needed / GIB:,.1f} GiB with "
                f"{self.meta_batch_size} tasks per meta-batch{by}: at most {MEMORY_LIMIT // GIB} GiB is allowed; "
                "make the hidden layers or the meta-batch smaller."
            )

    def memory_estimate(self, sizes: Sizes) -> int:
        """Bytes a run needs at its peak, within a factor of two: parameters, their copies, activations, tasks.

        Counted for the vectorized engine, which holds a copy of the parameters and their gradient per task;
        `higher` holds one task at a time, and shards come one after another.
        """
        in_flight = 1 if self.engine == "higher" else self.meta_batch_size // self.shards
        calls = self.tasks.problem.calls
        points = self.tasks.points_of(max(self.shots, self.query_shots)) * calls
        kept = 1 if self.method.is_first_order else self.inner_steps + 1
        features = self.tasks.input_size + self.tasks.output_size
        activations = 3 * kept * in_flight * points * (features + self.model.hidden_numbers(self.tasks.input_size))
        tasks = 2 * features * self.meta_batch_size * self.tasks.points_of(self.shots + self.query_shots) * calls
        beside = max(0, sizes.beside - sizes.parameters)  # as many as there are parameters were never counted
        numbers = sizes.parameters * (5 + 3 * kept * in_flight) + beside * (5 + 3 * in_flight)
        return 4 * (numbers + activations + tasks)

    def seconds_estimate(self, sizes: Sizes, tensors: int = 6) -> float:
        """Seconds of one meta-iteration on one CPU core, within a factor of three.

        Work at 40 GFLOP/s, the adapted parameters moved at 10 GB/s, and 0.1 ms for each of the network's `tensors` at
        each call of a gradient: once per inner step for all tasks together, or with `higher` for each task. In a
        rollout every step is such a call.
        """
        tasks = self.meta_batch_size
        work = 2 * self.multiplications(sizes)
        moved = 24 * tasks * (sizes.parameters * (self.inner_steps + 1) + sizes.beside)
        sequences = tasks if self.engine == "higher" else self.shards
        calls = (self.inner_steps + 1) * sequences * self.tasks.problem.calls
        return work / 40e9 + moved / 10e9 + 1e-4 * tensors * calls

    @property
    def method(self) -> Algorithm:
        """The algorithm, with the part of the model that it adapts where the user has named one."""
        adapts = self.model.adapts if isinstance(self.model, OwnModel) else ()
        return ALGORITHMS[self.algorithm].adapting(adapts)

    @property
    def uses_own_model(self) -> bool:
        """Whether the network is a class of the user's own, which only the command line loads."""
        return isinstance(self.model, OwnModel)

    @property
    def is_on_table(self) -> bool:
        """Whether the tasks are those of a table, of rows or of images."""
        return self.tasks.table_id is not None

    def check_shots(self, shots: int) -> None:
        """Find out whether what the run has learned can be shown tasks of so many shots.

        Raises:
            ConfigError: some tasks need more of them, some have no more.
        """
        query_shots = self.tasks.least_shots if self.tasks.most_points else self.query_shots
        self.with_settings({"shots": shots, "query_shots": query_shots})

    def sizes(self, model: nn.Module | None = None) -> Sizes:
        """How large what it learns is, without allocating it; of a user's own module that is not given, nothing."""
        if model is not None:
            return Layout(model, self.method).sizes
        if isinstance(self.model, OwnModel):
            return Sizes()
        return _sizes(self.model, self.tasks.input_size, self.tasks.output_size, self.algorithm)

    def network(self, seed: int | None = None) -> nn.Module:
        """The network, freshly initialized from the run's seed, or from another."""
        sizes = self.tasks.input_size, self.tasks.output_size
        return self._tried(build_model(self.model, self.seed if seed is None else seed, *sizes))

    def structure(self) -> nn.Module:
        """The network without values: names and shapes alone, on torch's meta device (a user's own as it is)."""
        return self._tried(build_structure(self.model, self.seed, self.tasks.input_size, self.tasks.output_size))

    def trial_points(self) -> Tensor:
        """What the model is asked about, `[points, features]`, as in the run's tasks; of a table that is not here, any.

        Of control these are places.
        """
        try:
            if self.tasks.problem.calls > 1:
                return torch.linspace(-1, 1, 20 * self.tasks.input_size).reshape(20, -1)
            return self.tasks.validation(tasks=1, shots=max(2, self.shots), query_shots=1).support_x[0]
        except ConfigError:
            return torch.linspace(-1, 1, 2 * self.tasks.input_size).reshape(2, -1)

    def _tried(self, module: nn.Module) -> nn.Module:
        """The network; a user's own is tried on points first, so that what it cannot do is said in one sentence."""
        if isinstance(self.model, OwnModel):
            self.model.try_on(module, self.trial_points(), self.tasks.output_size)
        return module

    def layout(self) -> Layout:
        """Where each number that a run learns lies in its flat vectors."""
        return Layout(self.structure(), self.method)

    def source_hash(self) -> str | None:
        """What tells whether a user's own class has been edited; None for a model of the lab's own."""
        return self.model.source_hash() if isinstance(self.model, OwnModel) else None

    def initialization(self, learned: Tensor, buffers: Mapping[str, Tensor] | None = None) -> Initialization:
        """The initialization that a run with this configuration has learned as the flat vector `learned` `[P]`.

        `buffers` are those that a user's own module was trained with.
        """
        model, algorithm = self.structure(), self.method
        set_buffers(model, buffers or {})
        theta = Layout(model, algorithm).unflatten(learned)
        return Initialization(model, theta.parameters, algorithm, self.inner_lr, theta.extras, self.tasks.problem)

    def untrained(self, seed: int | None = None) -> Initialization:
        """The initialization that training starts from, or that of another seed."""
        model = self.network(seed)
        return self.initialization(Layout(model, self.method).start(model))

    def multiplications(self, sizes: Sizes) -> float:
        """About how many one meta-iteration takes."""
        points = self.inner_steps * self.tasks.points_of(self.shots) + 4 / 3 * self.tasks.points_of(self.query_shots)
        each = self.model.multiplications(sizes.parameters, self.tasks.input_size)
        transforms = (self.inner_steps + 2) * sizes.transforms * self.meta_batch_size
        return 3 * each * self.meta_batch_size * points * self.tasks.problem.calls + transforms

    def to_json(self, indent: int | None = None) -> str:
        """The configuration as JSON text; `from_json` gives it back equal."""
        # Without what earlier versions do not know, so that names and keys made from the text stay what they were.
        return self.model_dump_json(indent=indent, exclude={"shards"} if self.shards == 1 else None)

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """The configuration that `to_json` wrote.

        Raises:
            ConfigError: the text is not JSON, or a value breaks a rule.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"The configuration is not JSON: {error}.") from None
        return parse(cls, data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RunConfig":
        """Validate plain data.

        Raises:
            ConfigError: one sentence for the first value that breaks a rule.
        """
        return parse(cls, dict(data))

    def with_settings(self, settings: Mapping[str, Any]) -> "RunConfig":
        """This configuration with dotted names set: `{"inner_lr": 0.1, "tasks.noise": 0.3}`.

        A change of `tasks.family` or `model.kind` starts from the defaults of the new family or model.

        Raises:
            ConfigError: a name is unknown or a value breaks a rule.
        """
        data = self.model_dump(mode="json")
        for place, tag in _VARIANTS.items():
            name = settings.get(f"{place}.{tag}", data[place][tag])
            if name != data[place][tag]:
                data[place] = {tag: name}
        for key, value in settings.items():
            *parents, last = key.split(".")
            node = data
            for parent in parents:
                node = node.setdefault(parent, {}) if isinstance(node, dict) else None
            if not isinstance(node, dict):
                raise ConfigError(f"{key} is not a field: a run has {', '.join(type(self).model_fields)}.")
            node[last] = value
        return self.from_dict(data)

    def settings_beyond(self, base: "RunConfig") -> dict[str, Any]:
        """The dotted names that `base.with_settings` needs to become this configuration: its inverse, and short."""
        mine, theirs = self.model_dump(mode="json"), base.model_dump(mode="json")
        settings: dict[str, Any] = {}
        for name, value in mine.items():
            tag = _VARIANTS.get(name)
            if tag is None:
                settings |= {name: value} if value != theirs[name] else {}
                continue
            before = theirs[name]
            if value[tag] != before[tag]:
                settings[f"{name}.{tag}"] = value[tag]
                spec = type(getattr(self, name))
                before = spec.model_validate({tag: value[tag]}).model_dump(mode="json")
            settings |= {f"{name}.{part}": v for part, v in value.items() if part != tag and v != before[part]}
        return settings


_VARIANTS = {"tasks": "family", "model": "kind"}
"""Fields that hold one of several kinds, and the name of the part that says which."""


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """`["inner_lr=0.1", "tasks.family=line"]` as a mapping; a value is JSON, or else a bare word.

    Raises:
        ConfigError: a pair has no `=`.
    """
    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair} is not allowed: it must be KEY=VALUE, such as inner_lr=0.01.")
        try:
            settings[key] = json.loads(text)
        except ValueError:
            settings[key] = text
    return settings


def settings_text(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as the texts that `parse_settings` reads back: words bare, everything else as JSON."""
    texts = {}
    for name, value in settings.items():
        text = json.dumps(value)
        if isinstance(value, str) and parse_settings([f"{name}={value}"])[name] == value:
            text = value
        texts[name] = text
    return texts
