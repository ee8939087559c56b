"""A function on tensors as a flat list of operations.

Torch's own way to one (`make_fx`) does much with each operation that nobody here asks for: symbolic shapes, empty
copies of what it gives. So the operations are only noted as they are done, below `vmap` and derivatives, which have
been taken apart by then (docs.pytorch.org, torch.utils._python_dispatch).
"""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten
Decompositions = Mapping[Any, Callable[..., Any]]


class Trace:
    """The operations of a function on inputs of certain shapes."""

    def __init__(self, graph: fx.Graph, constants: nn.Module, form: Any) -> None:
        """What `trace` found: from the tensors in the inputs to those in the outputs, which have this form."""
        self.graph = graph
        self.constants = constants
        self._form = form

    def __call__(self, *inputs: Any) -> Any:
        """What the function gives for other inputs of these shapes."""
        return tree_unflatten(self._run(*_tensors_in(inputs)), self._form)

    @functools.cached_property
    def _run(self) -> fx.GraphModule:
        """As Python code, whose making takes a third of the time of a trace; the native engine needs none."""
        return fx.GraphModule(self.constants, self.graph)


def trace(function: Callable[..., Any], *inputs: Any, decompositions: Decompositions | None = None) -> Trace:
    """The operations of `function` on inputs like these; what has a decomposition is taken apart.

    Inputs and outputs are tensors, or named tuples and dictionaries of them; what else is in the inputs is kept as it
    is. Each operation's node says the shape of what it gives.

    Raises:
        RuntimeError: the function asks for a number that depends on its inputs, which would stay what it is now.
    """
    recorder = _Recorder(decompositions or {})
    inputs = tree_map_only(Tensor, Tensor.detach, inputs)  # one that is given twice may be two the next time
    for number, tensor in enumerate(_tensors_in(inputs)):
        recorder.nodes[tensor] = recorder.graph.placeholder(f"given_{number}")
    with recorder:
        outputs = function(*inputs)
    leaves, form = tree_flatten(outputs)
    recorder.graph.output(recorder.as_nodes(leaves))
    recorder.graph.eliminate_dead_code()
    return Trace(recorder.graph, recorder.constants, form)


def _tensors_in(inputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]


class _Recorder(TorchDispatchMode):
    """Notes each operation that is done, as a node of a graph."""

    def __init__(self, decompositions: Decompositions) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self.nodes: Any = WeakTensorKeyDictionary()  # by tensor
        self.constants = nn.Module()
        self._decompositions = decompositions

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nobody compiles this, so that torch's compiler need not be told with each operation not to."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # what it is made of is noted in its place
            rule = self._decompositions.get(func)
            found = NotImplemented if rule is None else rule(*args, **kwargs)
            if found is NotImplemented:
                found = func.decompose(*args, **kwargs)
        if found is not NotImplemented:
            return found
        if func is aten.lift_fresh.default:  # a constant: what is done to it must not last until the next call
            func = aten.lift_fresh_copy.default
        if torch.Tag.data_dependent_output in func.tags and any(map(self._depends_on_inputs, _tensors_in(args))):
            raise RuntimeError("a number is made of a tensor that differs from call to call, as by item() or by if")
        node = self.graph.call_function(func, self.as_nodes(args), self.as_nodes(kwargs))
        found = func(*args, **kwargs)
        if isinstance(found, Tensor):
            self._note(found, node)
        elif isinstance(found, tuple | list):
            for number, each in enumerate(found):
                if isinstance(each, Tensor):
                    self._note(each, self.graph.call_function(operator.getitem, (node, number)))
        return found

    def as_nodes(self, values: Any) -> Any:
        """The same lists, tuples and dictionaries, with nodes for tensors."""
        if isinstance(values, Tensor):
            return self._node_of(values)
        if isinstance(values, list | tuple):
            return type(values)([self.as_nodes(value) for value in values])
        if isinstance(values, dict):
            return {name: self.as_nodes(value) for name, value in values.items()}
        return values

    def _depends_on_inputs(self, tensor: Tensor) -> bool:
        seen: set[fx.Node] = set()
        left = [self._node_of(tensor)]
        while left:
            node = left.pop()
            if node.op == "placeholder":
                return True
            if node not in seen:
                seen.add(node)
                left += node.all_input_nodes
        return False

    def _note(self, tensor: Tensor, node: fx.Node) -> None:
        self.nodes[tensor] = node
        node.meta["shape"] = tensor.shape

    def _node_of(self, tensor: Tensor) -> fx.Node:
        if tensor not in self.nodes:  # the function has it from elsewhere
            name = f"constant_{len(list(self.constants.buffers()))}"
            self.constants.register_buffer(name, tensor)
            self.nodes[tensor] = self.graph.get_attr(name)
        found: fx.Node = self.nodes[tensor]
        return found
