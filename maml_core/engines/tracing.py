"""A function on tensors as a flat list of operations."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx
from torch.fx.experimental import proxy_tensor

_ONE_AT_A_TIME = threading.Lock()


def trace(
    function: Callable[..., Any], *inputs: Any, decompositions: Mapping[Any, Callable[..., Any]] | None = None
) -> fx.GraphModule:
    """The operations of `function` on inputs like these; what has a decomposition is taken apart.

    With each of them torch notes an empty copy of what it gives, in a mode made anew each time. That takes most of the
    time, and nobody asks for it: what is noted beside it, as `tensor_meta`, says as much.
    """
    mine, note = threading.get_ident(), proxy_tensor.extract_val

    def note_if_others_want_it(value: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(value, Tensor) and threading.get_ident() == mine:
            return None
        return note(value, *arguments, **options)

    with _ONE_AT_A_TIME:
        proxy_tensor.extract_val = note_if_others_want_it  # type: ignore[assignment]
        try:
            table = dict(decompositions or {})
            # Not the function itself: of a bound method, self would count as an input.
            return proxy_tensor.make_fx(lambda *given: function(*given), decomposition_table=table)(*inputs)
        finally:
            proxy_tensor.extract_val = note
