"""The loops of a program in a process of its own: made by any compiler, for any processor that can be had here."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from maml_core.engines.native.program import Program
from maml_core.engines.native.toolchain import LASTING_FLAGS, flags
from tests.core.native_cases import ARM64, compile_to

_FOR_A_LIBRARY = {"-shared", "-fno-exceptions", "-fno-rtti"}

_MAIN = """
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
static void fill(void* to, size_t size) {{ if (std::fread(to, 1, size, stdin) != size) std::abort(); }}
static long number() {{ long long n; fill(&n, sizeof n); return n; }}
template <class E> static std::vector<E> array() {{  // of just its own size, so that a sanitizer sees what is beyond
  std::vector<E> a(number());
  fill(a.data(), a.size() * sizeof(E));
  return a;
}}
template <class E> static void give(const std::vector<E>& a) {{ std::fwrite(a.data(), sizeof(E), a.size(), stdout); }}
int main(int, char** names) {{
  std::vector<T> work({work}), own({own});
  std::vector<int> sync(32);
  {calls}
}}
"""


@dataclass(frozen=True)
class Machine:
    """A compiler with its options, and what runs what it makes."""

    compiler: tuple[str, ...]
    runner: tuple[str, ...] = ()
    is_this_processor: bool = True

    @property
    def missing(self) -> list[str]:
        """Programs that it wants and this machine lacks."""
        return [name for name in (self.compiler[0], *self.runner) if shutil.which(name) is None]


_WIDTHS = {"SSE2": "-mno-avx", "AVX2": "-mno-avx512f", "this processor": "-march=native"}
MACHINES = {
    **{
        f"{compiler}, {name}": Machine((compiler, "-O2", width, "-USLEEF"))
        for compiler in ("g++", "clang++")
        for name, width in _WIDTHS.items()
    },
    "arm64": Machine((ARM64[0], "-O2", "-static"), ARM64[1:], is_this_processor=False),
    "sanitizers": Machine(
        ("g++", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-mno-avx512f", "-USLEEF")
    ),
}
"""Where every program must do the same."""


class Elsewhere:
    """Takes the place of `Calls`, with one thread however many are asked for."""

    def __init__(self, program: Program, machine: Machine, folder: Path) -> None:
        self._made, self._machine = Path(tempfile.mkdtemp(dir=folder)) / "loops", machine
        given = flags(program) if machine.is_this_processor else LASTING_FLAGS
        rounding = [] if program.contracts else ["-ffp-contract=off"]
        options = [flag for flag in given if flag not in _FOR_A_LIBRARY]
        compiler, *others = machine.compiler
        found = re.findall(r'extern "C" void (\w+)\(([^)]*)\) \{', program.source)
        main = _MAIN.format(
            work=program.work,
            own=max(1, program.work_each),
            calls="\n  ".join(_call(name, arguments.split(",")) for name, arguments in found),
        )
        compile_to(self._made, [compiler], [*options, *others, *rounding], program.source + main, ["-lm"])

    def __call__(self, name: str, numbers: Sequence[int], tensors: Sequence[Tensor], threads: int = 1) -> None:
        data = b"".join(torch.tensor(number).numpy().tobytes() for number in numbers)
        for tensor in tensors:
            data += torch.tensor(tensor.numel()).numpy().tobytes() + tensor.numpy().tobytes()
        command = [*self._machine.runner, str(self._made), name]
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr[:2000]
        left = done.stdout
        for tensor in tensors:
            size = tensor.numel() * tensor.element_size()
            if size:
                tensor.copy_(torch.frombuffer(bytearray(left[:size]), dtype=tensor.dtype).view(tensor.shape))
            left = left[size:]
        assert not left

    def close(self) -> None:
        """There is nothing to end."""


def _call(name: str, arguments: Sequence[str]) -> str:
    """Read what a loop of that signature takes, run it, hand back its arrays; the last five arguments are the rest."""
    given = [argument.strip() for argument in arguments][:-5]
    reads, names, gives = [], [], []
    for place, argument in enumerate(given):
        names.append(f"a{place}.data()" if "*" in argument else f"a{place}")
        if "*" in argument:
            kind = argument.removeprefix("const ").split("*")[0]
            reads.append(f"auto a{place} = array<{kind}>();")
            gives.append(f"give(a{place});")
        else:
            reads.append(f"const long a{place} = number();")
    call = f"{name}({', '.join(names)}, work.data(), own.data(), 0, 1, sync.data());"
    return f'if (!std::strcmp(names[1], "{name}")) {{ {" ".join([*reads, call, *gives])} }}'
