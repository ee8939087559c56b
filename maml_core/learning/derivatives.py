"""The derivatives of `torch.func`, without torch's compiler, which they do not need.

At its first derivative torch imports its compiler (`torch._dynamo`, several hundred modules), only to have it stand
back meanwhile: a third of the time from a command to its first iteration. As long as nothing else has imported it,
there is nothing that could stand back, so a stand-in answers; whoever asks for more of it gets the real one, as an
optimizer of `torch.optim` and so the engine `higher` does.
"""

import contextlib
import importlib
import sys
from types import ModuleType
from typing import Any

import torch
from torch.func import grad, grad_and_value

__all__ = ["grad", "grad_and_value"]


class _NotLoaded(ModuleType):
    """A module that is imported when something of it is asked for that does not stand here."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


if "torch._dynamo" not in sys.modules:  # whose import would put the real one in this one's place
    torch._dynamo = _NotLoaded("torch._dynamo")
    vars(torch._dynamo)["compiled_autograd"] = compiled = _NotLoaded("torch._dynamo.compiled_autograd")
    vars(compiled)["_disable"] = contextlib.nullcontext
