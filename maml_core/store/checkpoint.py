"""Training state to bytes and back: safetensors under a hash; nothing that could run code on loading.

    magic (8 bytes) | SHA-256 of the rest (32 bytes) | safetensors: tensors, and a JSON header of plain values

safetensors checks only its own structure, so a flipped bit in a weight would load in silence: hence the hash.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from maml_core.config import RunConfig
from maml_core.engines import TrainingState
from maml_core.errors import CheckpointError
from maml_core.learning.initialization import Initialization
from maml_core.logs import LOG

MAGIC = b"MAMLCKP1"
VERSION = "1"
_HASH_BYTES = 32
_BUFFER = "buffer:"
_VECTORS = ("parameters", "exp_avg", "exp_avg_sq", "average")  # the last where the run keeps one


def state_names(config: RunConfig) -> tuple[str, ...]:
    """The vectors of a run's training state, in the meta-optimizer's order."""
    return _VECTORS if config.ema_decay is not None else _VECTORS[:3]


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped.

    There is no random-number state to keep: a run's tasks are a function of its seed and the iteration.
    """

    state: TrainingState
    pending: Tensor  # [rows, 3] float64: metrics that await the end of their row
    engine: str | None = None  # what computed it; earlier versions did not say
    shapes: Mapping[str, tuple[int, ...]] | None = None  # of what the vectors hold, in order; earlier ones did not say
    buffers: Mapping[str, Tensor] = field(default_factory=dict)  # of a user's own module
    source: str | None = None  # the SHA-256 of its class's source


def dump_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The checkpoint as bytes."""
    state = checkpoint.state
    tensors = {name: vector.detach().cpu().contiguous() for name, vector in zip(_VECTORS, state.vectors, strict=False)}
    tensors |= {_BUFFER + name: value.detach().cpu().contiguous() for name, value in checkpoint.buffers.items()}
    header = {"version": VERSION, "iteration": state.iteration, "engine": checkpoint.engine}
    if checkpoint.shapes is not None:
        header["shapes"] = {name: list(shape) for name, shape in checkpoint.shapes.items()}
    if checkpoint.source is not None:
        header["source"] = checkpoint.source
    payload = save({**tensors, "pending": checkpoint.pending.contiguous()}, {"checkpoint": json.dumps(header)})
    return MAGIC + hashlib.sha256(payload).digest() + payload


def load_checkpoint(data: bytes, config: RunConfig) -> Checkpoint:
    """The checkpoint that `dump_checkpoint` wrote for a run with this configuration.

    Raises:
        CheckpointError: the bytes are damaged, foreign, of another version, or of another model.
    """
    start = len(MAGIC) + _HASH_BYTES
    if len(data) < start or data[: len(MAGIC)] != MAGIC:
        raise CheckpointError("This is not a checkpoint of this version of the lab.")
    payload = data[start:]
    if hashlib.sha256(payload).digest() != data[len(MAGIC) : start]:
        raise CheckpointError("The checkpoint is damaged: its contents do not match its SHA-256; use an older one.")
    try:
        tensors = load(payload)
        length = int.from_bytes(payload[:8], "little")
        header = json.loads(json.loads(payload[8 : 8 + length])["__metadata__"]["checkpoint"])
        version, iteration, engine = header["version"], header["iteration"], header.get("engine")
        kept = header.get("shapes") and {name: tuple(shape) for name, shape in header["shapes"].items()}
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"The checkpoint cannot be read: {error}.") from None
    if version != VERSION:
        raise CheckpointError(f"The checkpoint has version {version}; this lab reads version {VERSION}.")
    layout = config.layout()
    now = {name: tuple(shape) for name, shape in layout.file_shapes().items()}
    if kept is not None:
        _check_same_network(kept, now)
    size = layout.size
    names = state_names(config)
    for name in names:
        check_tensor(tensors, name, (size,), torch.float32)
    check_tensor(tensors, "pending", (None, 3), torch.float64)
    vectors = [tensors[name] for name in names]
    if kept is not None and list(kept) != list(now):  # declared in another order than when it was trained
        vectors = [_reordered(vector, kept, now) for vector in vectors]
    if config.source_hash() != header.get("source", config.source_hash()):
        LOG.warning(
            "%s has been edited since the run was trained: its parameters have the same names and shapes, and what it "
            "does with them may have changed.",
            config.model.kind,
        )
    buffers = {name.removeprefix(_BUFFER): value for name, value in tensors.items() if name.startswith(_BUFFER)}
    return Checkpoint(TrainingState.of(vectors, iteration), tensors["pending"], engine, kept, buffers)


def load_initialization(data: bytes, config: RunConfig) -> Initialization:
    """What a checkpoint's run has learned.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    checkpoint = load_checkpoint(data, config)
    return config.initialization(checkpoint.state.learned, checkpoint.buffers)


def _check_same_network(kept: Mapping[str, tuple[int, ...]], now: Mapping[str, tuple[int, ...]]) -> None:
    """See that a network has the parameters that it was trained with, in whatever order.

    Raises:
        CheckpointError: it has others.
    """
    for name in (*kept, *now):
        before, after = (f"of shape {list(shapes[name])}" if name in shapes else "not there" for shapes in (kept, now))
        if before != after:
            raise CheckpointError(
                f"The checkpoint belongs to another network: when it was trained, {name} was {before}, and now it is "
                f"{after}; put the class back as it was, or train a new run."
            )


def _reordered(vector: Tensor, kept: Mapping[str, tuple[int, ...]], now: Mapping[str, tuple[int, ...]]) -> Tensor:
    """A flat vector `[P]` of the parameters `kept`, in the order of `now`."""
    sizes = [math.prod(shape) for shape in kept.values()]
    pieces = dict(zip(kept, vector.split(sizes), strict=True))
    return torch.cat([pieces[name] for name in now])


def check_tensor(
    tensors: dict[str, Tensor], name: str, shape: tuple[int | None, ...], dtype: torch.dtype, *, finite: bool = True
) -> None:
    """Check that `tensors[name]` is there with this shape (None: any size) and dtype, and finite.

    Raises:
        CheckpointError: it is not.
    """
    if name not in tensors:
        raise CheckpointError(f"The checkpoint has no tensor {name}.")
    tensor = tensors[name]
    fits = len(shape) == tensor.ndim and all(
        want in (None, have) for want, have in zip(shape, tensor.shape, strict=False)
    )
    if not fits or tensor.dtype != dtype:
        wanted = "x".join("any" if size is None else str(size) for size in shape)
        raise CheckpointError(
            f"The checkpoint belongs to another model: {name} is {list(tensor.shape)} {tensor.dtype}, "
            f"but this run needs {wanted} {dtype}."
        )
    if finite and not torch.isfinite(tensor).all():
        raise CheckpointError(f"The checkpoint's {name} holds values that are not finite.")
