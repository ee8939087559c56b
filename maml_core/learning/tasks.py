"""Task families: distributions over tasks, drawn in batches, and the stream of them that a run is trained on.

There are two kinds. A `GeneratedFamily` draws its tasks from ranges; a `TableFamily` is given: a table of a user's own,
where each task is some of the rows.
"""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from maml_core.fields import Real, Spec, parse_variant
from maml_core.learning.problems import Problem, Regression


class Uniform(Spec):
    """A parameter drawn uniformly from [low, high]; written `[low, high]` in JSON.

    >>> Uniform(low=0.1, high=5.0).span
    (0.1, 5.0)
    """

    rule: ClassVar[str] = "[low, high], two finite numbers with low <= high"
    parts: ClassVar[dict[str, str]] = {"low": "from", "high": "to"}
    """What an input calls its two numbers."""

    low: Real = Field(ge=-1e6, le=1e6)
    high: Real = Field(ge=-1e6, le=1e6)

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, data: Any) -> Any:
        if isinstance(data, list | tuple):
            if len(data) != 2:
                raise ValueError(f"must be {cls.rule}.")
            return {"low": data[0], "high": data[1]}
        return data

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low <= high must hold, but got (low={self.low:g}, high={self.high:g}).")
        return self

    @model_serializer(mode="wrap")
    def _as_pair(self, handler: SerializerFunctionWrapHandler) -> list[float]:
        return [self.low, self.high]

    def quantile(self, u: Tensor) -> Tensor:
        """Map uniform numbers in [0, 1) to draws of this parameter, any shape."""
        return self.low + (self.high - self.low) * u

    def limits(self, low: float, high: float) -> tuple[float, float, float]:
        """The ends and the step of a slider for a range whose default is this one and which now is [low, high].

        As much again on either side, but nothing negative where the default is not.
        """
        width = (self.high - self.low) or max(abs(self.high), 1.0)
        step = 10.0 ** math.floor(math.log10(width / 20))
        least = min(self.low - width, low) if self.low < 0 else min(0.0, low)
        most = max(self.high + width, high)
        return math.floor(least / step) * step, math.ceil(most / step) * step, step

    @property
    def span(self) -> tuple[float, float]:
        """The interval that a slider should offer."""
        return self.low, self.high


class Normal(Spec):
    """A parameter drawn from a normal distribution; written `{"mean": m, "std": s}` in JSON.

    >>> Normal(mean=0.0, std=1.0).span
    (-3.0, 3.0)
    """

    rule: ClassVar[str] = "an object with a finite mean and a std of at least 0"
    parts: ClassVar[dict[str, str]] = {"mean": "mean", "std": "std"}

    mean: Real = Field(ge=-1e6, le=1e6)
    std: Real = Field(ge=0, le=1e6)

    def quantile(self, u: Tensor) -> Tensor:
        """Map uniform numbers in [0, 1) to draws of this parameter, any shape.

        Inverse transform sampling: one uniform per draw, so a stream's layout never depends on how many
        draws are asked for at once, as `torch.randn` does. The end points are pulled in by half a float32 step.
        """
        standard: Tensor = torch.special.ndtri(u.clamp(2.0**-25, 1 - 2.0**-24))
        return self.mean + self.std * standard

    @property
    def span(self) -> tuple[float, float]:
        """Plus and minus three standard deviations: the interval that a slider should offer."""
        return self.mean - 3 * self.std, self.mean + 3 * self.std


class TaskBatch(NamedTuple):
    """Support and query points of many tasks; of one task they come from the same function.

    All four have shape `[..., tasks, points, features]`; a leading dimension may hold meta-iterations.

    >>> x, y = torch.zeros(3, 5, 1), torch.zeros(3, 5, 1)
    >>> TaskBatch(x, y, x, y).at(0).support_x.shape
    torch.Size([5, 1])
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor

    @classmethod
    def joined(cls, parts: Sequence["TaskBatch"], dimension: int = 0) -> "TaskBatch":
        """Several batches as one, side by side in that dimension."""
        return parts[0] if len(parts) == 1 else cls(*(torch.cat(same, dimension) for same in zip(*parts, strict=True)))

    @classmethod
    def split(cls, x: Tensor, y: Tensor, shots: int) -> "TaskBatch":
        """The first `shots` points of x and y `[..., points, features]` as support, all others as query."""
        support_x, support_y, query_x, query_y = (
            part.contiguous() for part in (x[..., :shots, :], y[..., :shots, :], x[..., shots:, :], y[..., shots:, :])
        )
        return cls(support_x, support_y, query_x, query_y)

    def at(self, index: Any) -> "TaskBatch":
        """Index the leading dimension of all four tensors at once."""
        return TaskBatch(*(tensor[index] for tensor in self))

    def to(self, *args: Any, **kwargs: Any) -> "TaskBatch":
        """`torch.Tensor.to` on all four tensors."""
        return TaskBatch(*(tensor.to(*args, **kwargs) for tensor in self))


class TaskSet(StrEnum):
    """What tasks are for. No task is in two of these sets; the values name the streams they are drawn from."""

    TRAINING = "training"
    VALIDATION = "held-out"
    """For judging checkpoints while a run trains; its stream has this name since the first version."""
    HELD_OUT = "evaluation"
    """For nothing but measuring what a run has learned."""


class TaskFamily(Spec):
    """A distribution over tasks: what the two kinds of family, generated and given, have in common.

    >>> from maml_core import RunConfig
    >>> family = RunConfig().tasks
    >>> family.title, family.input_size, family.output_size
    ('Sine waves', 1, 1)
    >>> family.held_out(tasks=2, shots=5, query_shots=7).query_y.shape
    torch.Size([2, 7, 1])
    """

    rule: ClassVar[str] = "a task family with its settings"
    title: ClassVar[str]
    order: ClassVar[int] = 0
    """Where it stands in a list: the user's own come last."""
    problem: ClassVar[Problem] = Regression()
    """What the outputs mean, and how predictions are judged."""
    judged_by: ClassVar[str]
    """The query points of an evaluation, in words."""
    is_costly: ClassVar[bool] = False
    """Whether a point takes so much more than one of a curve that whatever measures makes do with fewer tasks."""
    least_shots: ClassVar[int] = 1
    """Support and query points that a task must have at least, to have a gradient at all."""

    family: str

    @property
    def most_points(self) -> int | None:
        """The most support and query points, counted as shots, that a task has; None where any number can be drawn."""
        return None

    @property
    def table_id(self) -> str | None:
        """The table that the tasks are of, by the hash of its content; None where they are of none."""
        return None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Register a finished family under the name it declares."""
        name = cls.model_fields["family"].default
        if isinstance(name, str):
            FAMILIES[name] = cls

    @property
    @abstractmethod
    def input_size(self) -> int:
        """How many numbers the model is given for each point."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """How many numbers the model gives back for each point."""

    @property
    def numbers(self) -> int:
        """About how many random numbers a point takes: a stream draws its tasks in blocks of so many in all."""
        return self.problem.calls

    def points_of(self, shots: int) -> int:
        """How many points so many shots are: in classification, shots are counted per class."""
        return shots

    @abstractmethod
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
        """Draw tasks of `shape` with `points_of(shots)` support and `points_of(query_shots)` query points each.

        Numbers are drawn on the CPU, so that a seed means the same tasks on every device.
        """

    @abstractmethod
    def held_out(self, *, tasks: int, shots: int, query_shots: int = 20, seed: int = 0) -> TaskBatch:
        """Tasks `[tasks, points, features]` that no run of this family is trained on."""

    @abstractmethod
    def validation(self, *, tasks: int, shots: int, query_shots: int) -> TaskBatch:
        """Tasks `[tasks, points, features]` to judge checkpoints by: the same for every run of the family."""

    def check(self, points: int) -> None:
        """Find out whether tasks of so many points can be drawn.

        Raises:
            ConfigError: they cannot.
        """


FAMILIES: dict[str, type[TaskFamily]] = {}
"""Every task family by its name; a subclass of `TaskFamily` registers itself."""


def parse_family(data: Any) -> TaskFamily:
    """The family that `data` names in its `family` field, validated.

    Raises:
        PydanticCustomError: one sentence, for use inside a validator.
    """
    family: TaskFamily = parse_variant(data, FAMILIES, tag="family", place="tasks")
    return family


DrawBlock = Callable[[int], TaskBatch | None]
"""draw(seed) -> the block of tasks of a generator with that seed, as `TaskStream.sample` gives it, or None."""

MOST_AHEAD = 32
"""Blocks that are drawn before they are asked for: 64 MiB of float32 at most."""


class TaskStream:
    """The endless stream of meta-batches of one run, addressed by iteration.

    Tasks come in blocks, each drawn from a generator seeded by the run's seed and the block's number. So the
    tasks of an iteration depend on neither the chunks it is read in nor on what was read before: every engine
    sees the same stream, and a resumed run goes on in it at any iteration without a saved random-number state.
    """

    def __init__(
        self,
        family: TaskFamily,
        *,
        meta_batch_size: int,
        shots: int,
        query_shots: int,
        seed: int,
        task_set: TaskSet = TaskSet.TRAINING,
        shard: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`task_set` and `shard` keep streams of one seed apart: training tasks are never held-out tasks."""
        self.family = family
        self.meta_batch_size = meta_batch_size
        self.shots = shots
        self.query_shots = query_shots
        self.device = device
        self.dtype = dtype
        self.task_set = task_set
        self.sampler: DrawBlock | None = None
        self._seed = f"{task_set}:{seed}" if shard is None else f"{task_set}:{seed}:shard {shard}"
        points = meta_batch_size * family.points_of(shots + query_shots)
        self.block_size = max(1, min(256, 2**19 // (points * family.numbers)))  # at most 8 MiB of float64, of a curve
        self._cached: tuple[int, TaskBatch] | None = None
        self._drawer: ThreadPoolExecutor | None = None
        self._ahead: dict[int, Future[TaskBatch]] = {}  # by number of the block
        self._until = 0

    def draw_ahead(self, until: int) -> None:
        """From now on, have a thread draw as much again as was taken last, for iterations before `until`.

        The same tasks, sooner at hand; a trouble in drawing them is raised where they are taken.
        """
        self._drawer, self._until = self._drawer or ThreadPoolExecutor(1, "tasks"), until

    def close(self) -> None:
        """End the thread that draws ahead, if there is one; the stream can still be read."""
        if self._drawer:
            self._drawer.shutdown(cancel_futures=True)
        self._drawer = None
        self._ahead.clear()

    def take(self, start: int, count: int) -> TaskBatch:
        """The meta-batches of iterations `start` to `start + count`: `[count, tasks, points, features]`."""
        first, parts = start // self.block_size, []
        while count > 0:
            block, offset = divmod(start, self.block_size)
            length = min(count, self.block_size - offset)
            parts.append(self._block(block).at(slice(offset, offset + length)))
            start, count = start + length, count - length
        last = (start - 1) // self.block_size
        self._draw_on(last + 1, 1 + last - first)
        return TaskBatch.joined(parts)

    def _draw_on(self, block: int, count: int) -> None:
        for number in range(block, block + count):
            is_wanted = number * self.block_size < self._until and number not in self._ahead
            if self._drawer and is_wanted and len(self._ahead) < MOST_AHEAD:
                self._ahead[number] = self._drawer.submit(self._draw, number)

    def _block(self, number: int) -> TaskBatch:
        if self._cached is None or self._cached[0] != number:
            drawn = self._ahead.pop(number, None)
            if drawn is None:  # the reader has jumped; a family is never asked by two threads at once
                wait([future for future in self._ahead.values() if not future.cancel()])
                self._ahead.clear()
            self._cached = number, drawn.result() if drawn else self._draw(number)
        return self._cached[1]

    def _draw(self, number: int) -> TaskBatch:
        seed = seed_of(f"{self._seed}:{number}")
        found = self.sampler(seed) if self.sampler else None
        return found or self.sample(torch.Generator().manual_seed(seed))

    def sample(self, generator: torch.Generator, dtype: torch.dtype | None = None) -> TaskBatch:
        """A block of tasks as the family draws it, `[iterations, tasks, points, features]`."""
        return self.family.sample_batch(
            (self.block_size, self.meta_batch_size),
            self.shots,
            self.query_shots,
            generator,
            self.device,
            dtype or self.dtype,
            task_set=self.task_set,
        )


class ShardedStream:
    """Several streams side by side, each with its part of every meta-batch."""

    def __init__(self, streams: Sequence[TaskStream]) -> None:
        """Those of the shards that are wanted, in order."""
        self._streams = streams

    def close(self) -> None:
        """Close them all."""
        for stream in self._streams:
            stream.close()

    def take(self, start: int, count: int) -> TaskBatch:
        """As `TaskStream.take`, with the tasks of one shard after those of another."""
        parts = [stream.take(start, count) for stream in self._streams]
        return TaskBatch.joined(parts, 1)


def seeded(name: str) -> torch.Generator:
    """A CPU generator whose state is a hash of `name`, so that nearby seeds share nothing."""
    return torch.Generator().manual_seed(seed_of(name))


def seed_of(name: str) -> int:
    """The seed of `seeded`: 64 bits."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
