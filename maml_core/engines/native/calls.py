"""How a program that has been compiled is called: by one thread, or by several that share its work."""

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from maml_core.engines.native.program import Program
from maml_core.engines.native.writer import padded


class Calls:
    """The loops of a program, by name; Python is free for other threads while one runs."""

    def __init__(self, program: Program, library: ctypes.CDLL) -> None:
        """The program, and what the compiler made of it."""
        self._program, self._library = program, library
        self._pool: ThreadPoolExecutor | None = None
        self._pool_size = 0
        self._memory: list[Tensor] = []  # that no loop is at work in: it may be large, and new memory is slow at first

    def __call__(self, name: str, numbers: Sequence[int], tensors: Sequence[Tensor], threads: int = 1) -> None:
        """Run a loop on numbers and contiguous tensors, which it reads or writes; the last is of the program's type.

        The bits do not depend on the threads.
        """
        threads = max(1, min(threads, self._program.groups))
        shared, each = padded(self._program.work), self._program.work_each
        memory = self._taken(shared + max(1, threads * each), tensors[-1])
        sync = torch.zeros(32, dtype=torch.int32)
        arrays = *tensors, memory, memory[shared:]
        given = [*map(ctypes.c_long, numbers), *(ctypes.c_void_p(array.data_ptr()) for array in arrays)]
        loop = getattr(self._library, name)
        loop.restype = None
        try:
            self._share(loop, given, threads, sync)
        finally:
            self._memory.append(memory)

    def _taken(self, size: int, like: Tensor) -> Tensor:
        """Memory for a loop alone, of so many numbers at least."""
        with contextlib.suppress(IndexError):  # another thread may have taken the last one
            kept = self._memory.pop()
            if len(kept) >= size:
                return kept
        return like.new_empty(size)

    def _share(self, loop: Callable[..., None], given: Sequence[object], threads: int, sync: Tensor) -> None:
        """Have so many threads run a loop together."""

        def share(thread: int) -> None:
            loop(*given, thread, threads, ctypes.c_void_p(sync.data_ptr()))

        if threads == 1:
            share(0)
            return
        if self._pool is None or self._pool_size < threads - 1:  # all of them meet inside: each needs a thread at once
            self.close()
            self._pool, self._pool_size = ThreadPoolExecutor(threads - 1), threads - 1
        others = [self._pool.submit(share, thread) for thread in range(1, threads)]
        share(0)
        for other in others:
            other.result()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None
