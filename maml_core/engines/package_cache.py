"""Compiled loops on disk: private to the user, bounded in size, safe to delete at any time.

A package is native code that will be run, so the folder is the user's own and closed to everyone else.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from maml_core.engines.native.toolchain import cache_folder, is_private, prune

MAX_PACKAGES = 64
MAX_BYTES = 256 * 2**20


class PackageCache:
    """Packages by name. Several processes may use one folder: files appear whole or not at all."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use `folder`, else where all compiled code is kept."""
        self.folder = folder or cache_folder()

    def has(self, name: str) -> bool:
        """Whether there is a package of that name."""
        return is_private(self.folder) and self._path(name).is_file()

    def load(self, name: str) -> Callable[..., Any] | None:
        """The package of that name, ready to call; None if there is none, or none that loads."""
        if not self.has(name):
            return None
        path = self._path(name)
        try:
            loop = torch._inductor.aoti_load_package(str(path))
            os.utime(path)  # recently used: pruned last
        except Exception:  # damaged or of another build: as good as none
            path.unlink(missing_ok=True)
            return None
        return loop

    def add(self, name: str, program: torch.export.ExportedProgram) -> Callable[..., Any]:
        """Compile `program`, keep it under that name, and return it ready to call."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        place = self.folder if is_private(self.folder) else None  # a folder that others can write to is not trusted
        with tempfile.TemporaryDirectory(dir=place, prefix="making-") as making:
            made = torch._inductor.aoti_compile_and_package(program, package_path=str(Path(making) / "loop.pt2"))
            if place is None:
                return torch._inductor.aoti_load_package(made)
            os.replace(made, self._path(name))
        self._prune()
        return torch._inductor.aoti_load_package(str(self._path(name)))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.pt2"

    def _prune(self) -> None:
        prune(self.folder, "*.pt2", MAX_PACKAGES, MAX_BYTES)
