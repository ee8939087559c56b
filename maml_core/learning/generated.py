"""Generated task families: each task is drawn from ranges, and has as many points as are asked for.

The `Uniform` and `Normal` fields of a `GeneratedFamily` are the parameters that a task draws; the form, the command
line, the URL and the adaptation sliders all follow from those declarations. A `FunctionFamily` is of curves; families
of classes in the plane stand in `plane`, those of control in `control`.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from maml_core.errors import ConfigError
from maml_core.fields import Real
from maml_core.learning.tasks import Normal, TaskBatch, TaskFamily, TaskSet, TaskStream, Uniform

GRID_POINTS = 100
"""Inputs at which a curve's error is measured and the curve drawn, evenly spaced over the family's range of x."""


def uniform(shape: Sequence[int], numbers: tuple[int, int], generator: torch.Generator, *, alike: bool) -> Tensor:
    """Numbers in [0, 1) for tasks of `shape`, so many for each, `[..., points, numbers]`, float64.

    Where tasks are to be `alike`, there is one draw for all: the leading sizes are 1.
    """
    leading = [1] * len(shape) if alike else shape
    return torch.rand((*leading, *numbers), generator=generator, dtype=torch.float64)


class GeneratedFamily(TaskFamily):
    """A distribution over tasks that is written down: parameters with ranges, and how a task's points come of them."""

    rule: ClassVar[str] = "a task family with its ranges"
    latex: ClassVar[str]
    of_points: ClassVar[tuple[str, ...]] = ()
    """Ranges that each point is drawn from, and not each task."""
    angles: ClassVar[tuple[str, ...]] = ()
    """Parameters that come around: where their range is the whole circle, nothing lies outside of it."""
    lengths: ClassVar[tuple[str, ...]] = ()
    """Parameters that cannot be negative."""
    judging_shots: ClassVar[int]
    """Further points that adaptation is measured by, counted as shots; where a family judges by such."""

    def label(self, parameters: Mapping[str, float], named: Sequence[str]) -> str:
        """What to call the task of these parameters, of which those `named` tell it from others."""
        return ", ".join(f"{name} {parameters[name]:.2f}" for name in named)

    @property
    def distributions(self) -> dict[str, Uniform | Normal]:
        """Name and distribution of each parameter: the numbers that tell one task from another."""
        named = ((name, getattr(self, name)) for name in type(self).model_fields if name not in self.of_points)
        return {name: value for name, value in named if isinstance(value, Uniform | Normal)}

    @abstractmethod
    def sample_points(
        self,
        parameters: Mapping[str, Tensor],
        points: int,
        generator: torch.Generator,
        *,
        alike: bool = False,
        task_set: TaskSet = TaskSet.HELD_OUT,
    ) -> tuple[Tensor, Tensor]:
        """Draw `points` observations of each task: x and y `[..., points, features]`, on the CPU.

        How many numbers are drawn depends on `points` alone, never on the parameters, so that a parameter can be
        moved and nothing else moves. Where tasks are to be `alike`, all get the same numbers. In most families what
        tells the sets of tasks apart is the generator's seed, and `task_set` changes nothing; classes that are learned
        from are others than those that are held out.
        """

    def judged(
        self,
        parameters: Mapping[str, Tensor],
        x: Tensor,
        y: Tensor,
        generator: torch.Generator,
        *,
        alike: bool = False,
    ) -> TaskBatch:
        """Tasks `[tasks]` with the support points x, y, and the query points that adaptation is measured by.

        These are further ones, as many as `judging_shots`.
        """
        query = self.sample_points(parameters, self.points_of(self.judging_shots), generator, alike=alike)
        return TaskBatch(*(tensor.float() for tensor in (x, y, *query)))

    def ends_somewhere(self, name: str) -> bool:
        """Whether there is anything outside of a parameter's range: not of a whole circle, nor of one that is fixed."""
        low, high = self.distributions[name].span
        return high > low and not (name in self.angles and high - low >= 2 * math.pi - 1e-9)

    def around(self, name: str) -> tuple[float, float]:
        """From where to where a parameter is moved outside training: twice its range, or from zero to twice its value.

        A length stays at zero or above.
        """
        low, high = self.distributions[name].span
        room = (high - low) / 2 or abs(high) or 1.0
        return (max(0.0, low - room) if name in self.lengths else low - room), high + room

    def sample_parameters(self, shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the parameters of tasks: one tensor of `shape` per name (float64, on the CPU)."""
        names = self.distributions
        u = torch.rand(*shape, len(names), generator=generator, dtype=torch.float64)
        return {name: dist.quantile(u[..., i]) for i, (name, dist) in enumerate(names.items())}

    def task(self, **given: float) -> dict[str, Tensor]:
        """Parameters of one task from given values; those not named take the middle of their range.

        Raises:
            ConfigError: a name is no parameter of this family, or a value is not finite.
        """
        known = self.distributions
        for name, value in given.items():
            if name not in known:
                raise ConfigError(f"{name} is not a parameter of the {self.family} family: it has {', '.join(known)}.")
            if not math.isfinite(value):
                raise ConfigError(f"{name} = {value} is not allowed: a task's parameters must be finite numbers.")
        middle = {name: sum(dist.span) / 2 for name, dist in known.items()}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in (middle | given).items()}

    def sample_batch(
        self,
        shape: tuple[int, ...],
        shots: int,
        query_shots: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        task_set: TaskSet = TaskSet.TRAINING,
    ) -> TaskBatch:
        """As `TaskFamily.sample_batch`."""
        parameters = self.sample_parameters(shape, generator)
        points = self.points_of(shots + query_shots)
        x, y = self.sample_points(parameters, points, generator, task_set=task_set)
        x, y = x.to(dtype=dtype).to(device), y.to(dtype=dtype).to(device)
        return TaskBatch.split(x, y, self.points_of(shots))

    def held_out(self, *, tasks: int, shots: int, query_shots: int = 20, seed: int = 0) -> TaskBatch:
        """Tasks `[tasks, points, features]` that no run of this family is trained on."""
        return self._tasks_of(TaskSet.VALIDATION, tasks, shots, query_shots, seed)

    def _tasks_of(self, task_set: TaskSet, tasks: int, shots: int, query_shots: int, seed: int) -> TaskBatch:
        """The first tasks of a set's stream, `[tasks, points, features]`."""
        stream = TaskStream(
            self, meta_batch_size=tasks, shots=shots, query_shots=query_shots, seed=seed, task_set=task_set
        )
        return stream.take(0, 1).at(0)

    def validation(self, *, tasks: int, shots: int, query_shots: int) -> TaskBatch:
        """As `TaskFamily.validation`, by at least 20 query shots."""
        return self.held_out(tasks=tasks, shots=shots, query_shots=max(query_shots, 20))


class FunctionFamily(GeneratedFamily):
    """A distribution over functions of one variable. Subclasses add parameters and `function`.

    >>> from maml_core import RunConfig
    >>> sorted(RunConfig().tasks.distributions)
    ['amplitude', 'frequency', 'phase']
    """

    judged_by: ClassVar[str] = f"a noise-free grid of {GRID_POINTS} points"
    of_points: ClassVar[tuple[str, ...]] = ("x",)

    x: Uniform = Field(Uniform(low=-5.0, high=5.0), description="Inputs are drawn uniformly from this range.")
    noise: Real = Field(
        0.0, ge=0, le=1e3, description="Standard deviation of the noise added to support and query values."
    )

    @property
    def input_size(self) -> int:
        """One: x."""
        return 1

    @property
    def output_size(self) -> int:
        """One: y."""
        return 1

    @abstractmethod
    def function(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """The noise-free curve at `x` `[..., points, 1]`; parameters come as `[..., 1, 1]`."""

    def basis(self, x: Tensor) -> Tensor | None:
        """Functions whose combinations are the family's curves, at `x` `[..., points, 1]`; None where there are none.

        `[candidates, ..., points, functions]`: where a parameter is not linear, a candidate for each of its values.
        """
        return None

    def curve(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The noise-free values at `x` `[..., points, 1]` for parameters `[...]`; float64."""
        return self.function(x.double(), **{name: value[..., None, None] for name, value in parameters.items()})

    def sample_points(
        self,
        parameters: Mapping[str, Tensor],
        points: int,
        generator: torch.Generator,
        *,
        alike: bool = False,
        task_set: TaskSet = TaskSet.HELD_OUT,
    ) -> tuple[Tensor, Tensor]:
        """Draw `points` noisy observations of each task: x and y `[..., points, 1]`, float64, on the CPU."""
        shape = next(iter(parameters.values())).shape
        x = self.x.quantile(uniform(shape, (points, 1), generator, alike=alike)).expand(*shape, points, 1)
        y = self.curve(parameters, x)
        if self.noise:
            noise = Normal(mean=0.0, std=self.noise)
            y = y + noise.quantile(uniform(shape, (points, 1), generator, alike=alike))
        return x, y

    def judged(
        self,
        parameters: Mapping[str, Tensor],
        x: Tensor,
        y: Tensor,
        generator: torch.Generator,
        *,
        alike: bool = False,
    ) -> TaskBatch:
        """As `GeneratedFamily.judged`: by the noise-free curve on a grid."""
        grid = torch.linspace(*self.x.span, GRID_POINTS, dtype=torch.float64)[None, :, None].expand(x.shape[0], -1, -1)
        return TaskBatch(*(tensor.float() for tensor in (x, y, grid, self.curve(parameters, grid))))
