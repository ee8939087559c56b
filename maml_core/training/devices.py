"""Which device a run computes on."""

import torch

from maml_core.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA if present, else MPS, else the CPU.

    Raises:
        DeviceError: the named device is not on this machine.
    """
    present = available_devices()
    if name == "auto":
        return torch.device(present[0])
    if name not in present:
        raise DeviceError(
            f"device = {name!r} is not on this machine: it has {', '.join(present)}; choose device = 'auto'."
        )
    return torch.device(name)


def available_devices() -> list[str]:
    """Names of the devices on this machine, the preferred one first."""
    present = []
    if torch.cuda.is_available():
        present.append("cuda")
    if torch.backends.mps.is_available():
        present.append("mps")
    return [*present, "cpu"]
