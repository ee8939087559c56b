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
from maml_core.engines.native.toolchain import _libraries, find_compiler, flags
from maml_core.engines.native.writer import Writer

Function = Callable[..., Tensor]
HEADERS = Path(program.__file__).parent


class Compiled:
    """Each function of `cases` on its inputs, in native code."""

    def __init__(
        self, cases: Sequence[tuple[Function, Sequence[Tensor]]], extra: Sequence[str] = (), compiler: str | None = None
    ) -> None:
        dtype = cases[0][1][0].dtype
        sources, self.shapes, maths = [], [], False
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
            sources.append(f"{signature} {{\n{chr(10).join(write.prologue)}\n{body}\n}}")
            write.prologue = []
            self.shapes.append(value.shape)
            maths = maths or write.uses_maths
        kind = "float" if dtype == torch.float32 else "double"
        headers = [(HEADERS / name).read_text() for name in ("kernels.h", *(["maths.h"] if maths else []))]
        source = "\n".join([f"typedef {kind} T;", *headers, *write.statics, *sources])
        self._heap, self._shared = write.heap_size, write.shared_size
        folder = tempfile.TemporaryDirectory()
        path = Path(folder.name) / "cases.cpp"
        path.write_text(source)
        made = Program(source, 1, 0, 0, maths)
        command = [*([compiler] if compiler else find_compiler() or []), *flags(made), "-O1", *extra, str(path), "-o"]
        command += [str(path.with_suffix(".so")), *_libraries(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:3000] + source[-3000:]
        self._library = ctypes.CDLL(str(path.with_suffix(".so")))
        folder.cleanup()
        self._cases = cases

    def run(self, number: int) -> Tensor:
        """What native code gives for that case."""
        inputs = self._cases[number][1]
        out = inputs[0].new_full(self.shapes[number], 777.0)
        heap, shared = inputs[0].new_empty(self._heap + 1), inputs[0].new_empty(self._shared + 1)
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (*inputs, out, heap, shared)]
        getattr(self._library, f"f{number}")(*pointers)
        return out

    def expected(self, number: int) -> Tensor:
        """What torch gives."""
        function, inputs = self._cases[number]
        return function(*inputs)
