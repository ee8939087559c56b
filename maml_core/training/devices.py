"""Which device a run computes on."""

import functools
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from maml_core.errors import DeviceError

WORTH_GPU = 2_000_000
"""Multiplications in a kernel sequence from which a GPU pays: a sequence is one gradient, of one of the tensors.

Measured on an H100 with the captured graph, against the native loop on four of its machine's cores: a GPU takes 12 to
21 microseconds for each sequence however little there is to multiply. So with 25 tasks and 40-40 units the CPU is five
times as fast; with 400 tasks, or 128-128 units, the GPU is faster by a third or more, with 1024-1024 units 75 times.
"""


def resolve_device(name: str, work: float) -> torch.device:
    """The device of that name; `auto` is the GPU (CUDA, else MPS) where there is one and it pays, else the CPU.

    `work` is how many multiplications there are in each kernel sequence. A rule decides and no stopwatch, so that a
    run has the same bits on the same machine, also after it is resumed.

    Raises:
        DeviceError: the named device is not on this machine.
    """
    present = available_devices()
    if name == "auto":
        name = present[0] if work >= WORTH_GPU else "cpu"
    if name not in present:
        raise DeviceError(
            f"device = {name!r} is not on this machine: it has {', '.join(present)}; choose device = 'auto'."
        )
    if name == "cuda":
        _make_exact()
    return torch.device(name)


def available_devices() -> list[str]:
    """Names of the devices on this machine, the preferred one first."""
    present = []
    if torch.cuda.is_available():
        present.append("cuda")
    if torch.backends.mps.is_available():
        present.append("mps")
    return [*present, "cpu"]


def processor_of(device: torch.device) -> str:
    """What decides how numbers are rounded there: a run's bits are the same on processors of one kind alone."""
    kind = f"{platform.machine()} {_vendor()} {torch.backends.cpu.get_cpu_capability()}".replace("  ", " ")
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        kind = f"{platform.machine()} MPS"
    return f"{kind}, torch {torch.__version__.partition('+')[0]}"


def processors() -> list[str]:
    """Those of this machine."""
    return [processor_of(torch.device(name)) for name in available_devices()]


@functools.cache
def _vendor() -> str:
    """Who made the processor, by which MKL chooses its kernels; empty where nothing says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def _make_exact() -> None:
    """Have CUDA's libraries compute in full float32, and the same bits each time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


def software() -> str:
    """What decides a run's numbers besides the library's own code, and must be alike on machines that share it."""
    return f"Python {sys.version_info.major}.{sys.version_info.minor} and torch {version('torch')}"
