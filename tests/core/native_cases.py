"""Functions of tensors through the native engine's lowering and a C++ compiler, many in one compilation."""

import ctypes
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from maml_core.engines.native import program
from maml_core.engines.native.ir import Buffer
from maml_core.engines.native.lowering import lower, trace
from maml_core.engines.native.program import Program
from maml_core.engines.native.toolchain import LASTING_FLAGS, _libraries, find_compiler, flags
from maml_core.engines.native.writer import Writer

Function = Callable[..., Tensor]
HEADERS = Path(program.__file__).parent


Cases = Sequence[tuple[Function, Sequence[Tensor]]]


class Lowered:
    """Each function of `cases` on its inputs, as C++."""

    def __init__(self, cases: Cases) -> None:
        dtype = cases[0][1][0].dtype
        sources, self.shapes = [], []
        write = Writer()
        for number, (function, inputs) in enumerate(cases):
            write.begin()
            given = [write.of(Buffer(f"in{i}", tuple(t.shape), t.stride())) for i, t in enumerate(inputs)]
            (value,) = lower(write, trace(lambda *x, f=function: (f(*x),), [t.clone() for t in inputs]), given)
            if value.is_boolean:
                raise AssertionError("a case must give numbers")
            write.store_into(value, Buffer.at("out", value.shape))
            names = ", ".join(f"const T* __restrict in{i}" for i in range(len(inputs)))
            body = write.body()
            signature = f'extern "C" void f{number}({names}, T* __restrict out, T* __restrict heap, T* shared)'
            sources.append(f"{signature} {{\n{write.shared_body()}\n{body}\n}}")
            write.prologue = []
            self.shapes.append(value.shape)
        kind = "float" if dtype == torch.float32 else "double"
        headers = [(HEADERS / name).read_text() for name in ("kernels.h", *write.headers)]
        source = "\n".join([f"typedef {kind} T;", *headers, *write.statics, *sources])
        self.heap, self.shared = write.heap_size + 1, write.shared_size + 1
        self.program = Program(source, 1, 0, 0, write.uses_maths)
        self.cases = cases

    def expected(self, number: int) -> Tensor:
        """What torch gives."""
        function, inputs = self.cases[number]
        return function(*inputs)


class Compiled(Lowered):
    """The same, compiled for this machine."""

    def __init__(self, cases: Cases, extra: Sequence[str] = (), compiler: str | None = None) -> None:
        super().__init__(cases)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "cases.so"
            options = [*flags(self.program), "-O1", *extra]
            compile_to(
                made,
                [compiler] if compiler else find_compiler() or [],
                options,
                self.program.source,
                _libraries(self.program),
            )
            self._library = ctypes.CDLL(str(made))

    def run(self, number: int) -> Tensor:
        """What native code gives for that case."""
        inputs = self.cases[number][1]
        out = inputs[0].new_full(self.shapes[number], 777.0)
        heap, shared = inputs[0].new_empty(self.heap), inputs[0].new_empty(self.shared)
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (*inputs, out, heap, shared)]
        getattr(self._library, f"f{number}")(*pointers)
        return out


ARM64 = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
"""A compiler for arm64, and what runs its code on another processor."""


def run_on_arm64(lowered: Lowered, compiler: str, emulator: str) -> list[Tensor]:
    """What each case gives on such a processor."""
    flat = [[tensor.contiguous().flatten() for tensor in inputs] for _, inputs in lowered.cases]
    sizes = [[tensor.numel() for tensor in inputs] for inputs in flat]
    outs = [int(torch.Size(shape).numel()) for shape in lowered.shapes]
    calls = []
    for number, inputs in enumerate(sizes):
        reads = [f"static T x{number}_{i}[{max(n, 1)}]; read(x{number}_{i}, {n});" for i, n in enumerate(inputs)]
        names = "".join(f"x{number}_{i}, " for i in range(len(inputs)))
        calls.append(
            f"{' '.join(reads)} static T y{number}[{max(outs[number], 1)}]; f{number}({names}y{number}, heap, shared); "
            f"std::fwrite(y{number}, sizeof(T), {outs[number]}, stdout);"
        )
    main = f"""
#include <cstdio>
#include <cstdlib>
static T heap[{lowered.heap}], shared[{lowered.shared}];
static void read(T* to, size_t n) {{ if (std::fread(to, sizeof(T), n, stdin) != n) std::abort(); }}
int main() {{ {chr(10).join(calls)} }}
"""
    given = b"".join(tensor.numpy().tobytes() for inputs in flat for tensor in inputs)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "cases"
        options = [flag for flag in LASTING_FLAGS if flag != "-shared"]
        compile_to(made, [compiler], [*options, "-O2", "-static"], lowered.program.source + main, ["-lm"])
        done = subprocess.run([emulator, str(made)], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    found = torch.frombuffer(bytearray(done.stdout), dtype=flat[0][0].dtype).split(outs)
    return [part.view(shape) for part, shape in zip(found, lowered.shapes, strict=True)]


def compile_to(made: Path, compiler: Sequence[str], options: Sequence[str], source: str, libraries: list[str]) -> None:
    """Have a compiler make a file of a source."""
    path = made.with_suffix(".cpp")
    path.write_text(source)
    command = [*compiler, *options, str(path), "-o", str(made), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000] + source[-3000:]
