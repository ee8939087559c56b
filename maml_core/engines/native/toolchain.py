"""From C++ to code that can be called: the compiler, its flags, and what was compiled before.

Compiled code will be run, so the folder it is kept in is the user's own and closed to everyone else; a file is named by
a hash of source, flags, compiler and processor, and appears whole or not at all.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import weakref
from pathlib import Path

import torch

from maml_core.engines.native.program import Program
from maml_core.errors import EngineError

MAX_FILES = 64
MAX_BYTES = 64 * 2**20

LASTING_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-exceptions",
    "-fno-rtti",
    "-w",
]
"""What every compiler is told, whatever it compiles for."""

_SLEEF = {64: ("f16", "d8"), 32: ("f8", "d4"), 16: ("f4", "d2")}
"""What Sleef calls its functions, by bytes in a vector, for float and double."""


class Build:
    """A compilation that is under way, or has been done before."""

    def __init__(self, program: Program) -> None:
        """Look for the code in the cache, or else start the compiler.

        Raises:
            EngineError: there is no compiler, or nowhere to put what it makes.
        """
        self._path = cache_folder() / f"{_name(program)}.so"
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._discard: weakref.finalize[..., Build] | None = None
        if is_private(self._path.parent) and self._path.is_file():
            return
        self._start(program)

    def is_done(self) -> bool:
        """Whether `load` would not have to wait."""
        return self._process is None or self._process.poll() is not None

    def load(self) -> ctypes.CDLL:
        """The code, ready to call; waits for the compiler where need be.

        Raises:
            EngineError: the compiler failed, or what it made cannot be loaded.
        """
        try:
            if self._process is not None:
                self._finish(self._process)
            with contextlib.suppress(OSError):
                os.utime(self._path)  # recently used: pruned last
            return ctypes.CDLL(str(self._path))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)  # damaged, or of another machine: the next time it is made anew
            raise EngineError(f"The native loop cannot be loaded ({error}).") from None
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End the compiler and delete what it has begun; a build that is merely forgotten does the same."""
        if self._discard is not None:
            self._discard()
        self._process = self._folder = self._discard = None

    def _start(self, program: Program) -> None:
        compiler = find_compiler()
        if compiler is None and os.environ.get("CXX"):
            raise EngineError(
                f"The native loop needs a C++ compiler, and CXX = {os.environ['CXX']!r} is not a program here: unset "
                "it, or let it name one; or install g++ or clang++."
            )
        if compiler is None:
            raise EngineError("The native loop needs a C++ compiler, and none was found: install g++ or clang++.")
        try:
            folder = self._path.parent
            with contextlib.suppress(OSError):  # no home, or one that cannot be written: made without being kept
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # A folder that others can write to is not trusted: what is made then is used once and thrown away.
            is_kept = is_private(folder) and os.access(folder, os.W_OK)
            self._folder = tempfile.TemporaryDirectory(dir=folder if is_kept else None, prefix="making-")
            self._discard = weakref.finalize(self, self._folder.cleanup)
            source = Path(self._folder.name) / "loop.cpp"
            source.write_text(program.source, encoding="utf-8")
            self._errors = Path(self._folder.name) / "errors.txt"
            with self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    [
                        *compiler,
                        *flags(program),
                        str(source),
                        "-o",
                        str(source.with_suffix(".so")),
                        *_libraries(program),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    env=os.environ | {"TMPDIR": self._folder.name, "LC_ALL": "C"},
                )
            self._discard.detach()
            self._discard = weakref.finalize(self, _end, self._process, self._folder)
        except OSError as error:
            self.cancel()
            raise EngineError(
                f"The native loop cannot be made ({error.strerror or error}: {error.filename or compiler[0]}); name a "
                "folder that can be written in MAML_CACHE."
            ) from None

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        assert self._folder is not None
        if process.wait() != 0:
            lines = self._errors.read_text(errors="replace").splitlines() or [f"exit status {process.returncode}"]
            said = next((line for line in lines if "error" in line.lower()), lines[-1])
            raise EngineError(f"The C++ compiler failed on the native loop ({said.strip()[:200]}).")
        made = Path(self._folder.name) / "loop.so"
        if made.parent.parent == self._path.parent:
            made.replace(self._path)
            prune(self._path.parent, "*.so", MAX_FILES, MAX_BYTES)
        else:
            self._path = made


def _end(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    """Kill a compiler that still works, and delete its folder."""
    if process.poll() is None:
        process.kill()
        process.wait()
    folder.cleanup()


def cache_folder() -> Path:
    """Where compiled code is kept: `$MAML_CACHE`, else a folder of the user's cache."""
    if os.environ.get("MAML_CACHE"):
        return Path(os.environ["MAML_CACHE"])
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home at all
        home = Path(tempfile.gettempdir())
    return home / "maml-lab"


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's own, and nobody else can write to it."""
    try:
        info = folder.stat()
    except OSError:
        return False
    mine = not hasattr(os, "getuid") or info.st_uid == os.getuid()
    return stat.S_ISDIR(info.st_mode) and mine and not stat.S_IMODE(info.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)


def find_compiler() -> list[str] | None:
    """The command of a C++ compiler: `$CXX`, else the first of the usual ones; None if there is none."""
    chosen = os.environ.get("CXX")
    if chosen:
        parts = [chosen]
        if not shutil.which(chosen):
            with contextlib.suppress(ValueError):  # quotes that do not match
                parts = shlex.split(chosen)
        return parts if parts and shutil.which(parts[0]) else None
    found = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    return [found] if found else None


def flags(program: Program) -> list[str]:
    """What the compiler is told."""
    width = vector_bytes()
    tuned = ["-march=native"] if platform.machine() in ("x86_64", "AMD64") else ["-mcpu=native"]
    tuned += ["-mprefer-vector-width=512"] if width == 64 else []
    sleef = _sleef_suffix(width, is_double="typedef double T;" in program.source) if program.uses_maths else None
    tuned += [] if program.contracts else ["-ffp-contract=off"]
    return [*LASTING_FLAGS, *tuned, *([f"-DSLEEF={sleef}"] if sleef else [])]


def vector_bytes() -> int:
    """Bytes in this processor's widest vector."""
    capability = torch.backends.cpu.get_cpu_capability()
    return 64 if "AVX512" in capability else 32 if "AVX2" in capability else 16


def _sleef_suffix(width: int, *, is_double: bool) -> str | None:
    """What Sleef, inside torch's own library, calls functions of this width; None where it has none."""
    suffix = _SLEEF[width][is_double]
    return suffix if _has_symbol(f"Sleef_exp{suffix}_u10") else None


@functools.cache
def _has_symbol(name: str) -> bool:
    library = _torch_library()
    try:
        return library is not None and hasattr(ctypes.CDLL(str(library)), name)
    except OSError:
        return False


def _torch_library() -> Path | None:
    folder = Path(torch.__file__).parent / "lib"
    return next((path for path in (folder / "libtorch_cpu.so", folder / "libtorch_cpu.dylib") if path.is_file()), None)


def _libraries(program: Program) -> list[str]:
    library = _torch_library()
    if any(flag.startswith("-DSLEEF") for flag in flags(program)) and library is not None:
        return [f"-L{library.parent}", "-ltorch_cpu"]
    return ["-lm"] if program.uses_maths else []


def _name(program: Program) -> str:
    """A hash of everything that shapes the code."""
    parts = (program.source, *flags(program), *(find_compiler() or []), _processor(), torch.__version__)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@functools.cache
def _processor() -> str:
    """What this processor can do: code made for one is not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def prune(folder: Path, pattern: str, most_files: int, most_bytes: int) -> None:
    """Keep the most recently used of what was compiled: so many files, and so many bytes in all."""
    files = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    kept = 0
    for number, path in enumerate(files):
        kept += path.stat().st_size
        if number >= most_files or kept > most_bytes:
            with contextlib.suppress(OSError):
                path.unlink()
