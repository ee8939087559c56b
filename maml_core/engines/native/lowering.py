"""From a function of one task to a graph, and from the graph to values."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.nn.attention import SDPBackend, sdpa_kernel

from maml_core.engines import tracing
from maml_core.engines.native.ir import UnsupportedError, Value
from maml_core.engines.native.operations import CONSTANT_FILLS, CONSTANT_TENSORS, OPERATIONS, PRODUCTS, VIEWS
from maml_core.engines.native.rewriting import without_shared_factors
from maml_core.engines.native.rules import RULES
from maml_core.engines.native.writer import Writer

aten = torch.ops.aten

_IGNORED = ("pin_memory", "memory_format", "dtype", "layout", "device")
"""Arguments that say where and how a tensor lies, which is decided here."""


def trace(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> tracing.Trace:
    """The operations of a function on tensors, flat: derivatives and what is not in the table are taken apart.

    Raises:
        UnsupportedError: an operation is left that cannot be lowered.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # attention as products: what else it may be has no rules
        found = tracing.trace(lambda *given: tuple(function(*given)), *inputs)
        _write_elsewhere(found.graph)
        asked = _unknown(found.graph)
        if asked or _writes(found.graph):
            table: dict[Any, Callable[..., Any]] = {
                target: rule for target, rule in torch._decomp.decomposition_table.items() if not _is_known(target)
            }
            table |= RULES
            pure = functionalize(lambda *given: tuple(function(*given)), remove="mutations")
            found = tracing.trace(pure, *inputs, decompositions=table)
    unknown = _unknown(found.graph)
    if unknown:  # named as the model's author knows it, not as what it was taken apart into
        apart = [one for one in asked if one not in map(str, RULES)]
        name = next((one for one in asked if one in unknown), (apart or unknown)[0])
        raise UnsupportedError(f"The operation {name} is not in the native engine's table.")
    without_shared_factors(found.graph)
    return found


def _is_known(target: Any) -> bool:
    return any(target in table for table in (OPERATIONS, CONSTANT_FILLS, CONSTANT_TENSORS, PRODUCTS))


def _unknown(graph: fx.Graph) -> list[str]:
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    return [str(node.target) for node in nodes if not _is_known(node.target)]


def _writes(graph: fx.Graph) -> bool:
    """Whether any operation changes a tensor in place."""
    return any(_is_mutable(node.target) for node in graph.nodes)


def _is_mutable(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


_ELSEWHERE = {
    aten.add_: aten.add,
    aten.sub_: aten.sub,
    aten.mul_: aten.mul,
    aten.div_: aten.div,
    aten.fill_: aten.fill,
}
"""What makes a new tensor of the same type instead; a comparison's would be a truth value."""


def _write_elsewhere(graph: fx.Graph) -> None:
    """Let operations that change a tensor nobody else sees, such as the eps of RMSNorm, make a new one instead."""
    for node in graph.nodes:
        if not _is_mutable(node.target) or not isinstance(node.args[0], fx.Node):
            continue
        changed, target = node.args[0], node.target
        is_own = isinstance(changed.target, torch._ops.OpOverload) and not any(
            result.alias_info for result in changed.target._schema.returns
        )
        elsewhere = _ELSEWHERE.get(target.overloadpacket)
        if is_own and len(changed.users) == 1 and elsewhere is not None:
            node.target = getattr(elsewhere, target._overloadname)


def lower(write: Writer, traced: tracing.Trace, inputs: Sequence[Value]) -> tuple[Value, ...]:
    """The values of a graph's outputs, for those of its inputs.

    Raises:
        UnsupportedError: a form of an operation cannot be lowered.
    """
    nodes = list(traced.graph.nodes)
    needed = _needed(nodes[-1])
    uses = _uses(nodes, needed)
    values: dict[fx.Node, Any] = {}
    feed = iter(inputs)
    for node in nodes:
        if node.op == "placeholder":
            values[node] = next(feed)
        elif node not in needed:
            continue
        elif node.op == "get_attr":
            values[node] = write.constants(getattr(traced.constants, str(node.target)))
        elif node.op == "call_function":
            value = _apply(write, node, values, uses[node])
            if isinstance(value, Value) and _is_worth_storing(node, value, uses[node]):
                value = write.store(value)
            values[node] = value
    outputs: Any = nodes[-1].args[0]
    return tuple(values[node] for node in outputs)


def _apply(write: Writer, node: fx.Node, values: dict[fx.Node, Any], uses: int) -> Any:
    """What one operation gives."""
    given: Any = node.args
    if node.target in CONSTANT_FILLS:
        fill = CONSTANT_FILLS[node.target]
        return write.constant(tuple(node.meta["shape"]), given[1] if fill is None else fill)
    if node.target in CONSTANT_TENSORS:
        return write.constants(CONSTANT_TENSORS[node.target](*given))
    arguments: Any = fx.node.map_arg(given, values.__getitem__)
    named: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
    named = {key: value for key, value in named.items() if key not in _IGNORED}
    if node.target is aten.mm.default:
        return write.matmul(*arguments, used_once=uses == 1)
    if node.target is aten.addmm.default:
        if named:
            raise UnsupportedError("The native engine cannot lower a product with factors.")
        bias, left, right = arguments
        return OPERATIONS[aten.add.Tensor](write, write.matmul(left, right, used_once=True), bias)
    return OPERATIONS[node.target](write, *arguments, **named)


def _is_worth_storing(node: fx.Node, value: Value, uses: int) -> bool:
    """Whether a value is better computed now than wherever it is used."""
    is_lazy = value.constant is None and value.buffer is None and value.product is None and not value.is_cheap
    return is_lazy and node.target not in VIEWS and (uses > 1 or not value.shape)


def _needed(output: fx.Node) -> set[fx.Node]:
    """The nodes that the output depends on."""
    found: set[fx.Node] = set()
    left = [output]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += [] if node.target in CONSTANT_FILLS else node.all_input_nodes
    return found


def _uses(nodes: Sequence[fx.Node], needed: set[fx.Node]) -> dict[fx.Node, int]:
    """How often each value is read, through views."""
    uses: dict[fx.Node, int] = {}
    for node in reversed(nodes):
        count = 0
        for user in node.users:
            if user in needed and user.target not in CONSTANT_FILLS:
                count += uses[user] if user.target in VIEWS else list(user.all_input_nodes).count(node) or 1
        uses[node] = count
    return uses
