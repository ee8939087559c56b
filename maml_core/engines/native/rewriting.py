"""Sums over a task's points, without the factor that all its points share.

A network with one output passes its gradient back to the units before by that output's weights: g[p] w[i] at point p
and unit i, or zero where the unit was not active. Of this only sums over points are wanted, which are w[i] times those
of g[p]: a product less for each point and unit. They differ from torch's by rounding; and from w[i] that is infinite,
which no loss survives, comes NaN where torch may give a zero.
"""

import math
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def without_shared_factors(graph: fx.Graph) -> None:
    """Take weights out of the sums over points in a graph, in place; what it computes says its shape."""
    for node in list(graph.nodes):
        if node.target is aten.threshold_backward.default:
            _rewrite(graph, node)
    graph.eliminate_dead_code()


def _rewrite(graph: fx.Graph, passed: fx.Node) -> None:
    """Of a gradient [points, units] that is passed back through a ReLU."""
    if passed.kwargs or len(passed.args) != 3:
        return
    outer, activity, threshold = passed.args
    if not isinstance(outer, fx.Node) or outer.target is not aten.mm.default or len(outer.users) > 1:
        return
    gradient, weight = outer.args  # [points, 1] and [1, units]
    if gradient.meta.get("shape", ())[1:] != (1,) or not all(map(_is_sum, passed.users)):  # type: ignore[union-attr]
        return
    points, units = passed.meta["shape"]

    def add(target: Any, *args: Any, shape: tuple[int, ...]) -> fx.Node:
        made = graph.call_function(target, args)
        made.meta["shape"] = torch.Size(shape)
        return made

    def active(numbers: Any) -> fx.Node:
        """One number for each point, at its active units."""
        wide = add(aten.expand.default, numbers, [points, units], shape=(points, units))
        return add(aten.threshold_backward.default, wide, activity, threshold, shape=(points, units))

    def summed(numbers: Any) -> fx.Node:
        total = add(aten.sum.dim_IntList, active(numbers), [0], True, shape=(1, units))
        return add(aten.mul.Tensor, total, weight, shape=(1, units))

    for user in list(passed.users):
        if user.target is aten.sum.dim_IntList:
            with graph.inserting_before(user):
                found = summed(gradient)
                user.replace_all_uses_with(add(aten.view.default, found, _shape(user), shape=_shape(user)))
            continue
        for product in list(user.users):
            other: Any = product.args[1]
            with graph.inserting_before(product):
                if _shape(product)[1] == 1:
                    scaled = add(aten.mul.Tensor, gradient, other, shape=(points, 1))
                    found = add(aten.t.default, summed(scaled), shape=(units, 1))
                else:
                    turned = add(aten.t.default, active(gradient), shape=(units, points))
                    total = add(aten.mm.default, turned, other, shape=_shape(product))
                    column = add(aten.t.default, weight, shape=(units, 1))
                    found = add(aten.mul.Tensor, total, column, shape=_shape(product))
                product.replace_all_uses_with(found)


def _is_sum(user: fx.Node) -> bool:
    """Whether a user of [points, units] sums over the points, as for a bias, or as for the weights of its inputs."""
    if user.target is aten.sum.dim_IntList:
        return user.args[1] == [0] and not user.kwargs
    return user.target is aten.t.default and all(
        other.target is aten.mm.default and other.args[0] is user and other.args[1] is not user for other in user.users
    )


def _shape(node: fx.Node) -> tuple[int, ...]:
    shape = tuple(node.meta["shape"])
    assert math.prod(shape) > 0
    return shape
