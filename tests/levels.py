"""How often the cases of a test run that has too many for each time."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest


def levels(
    cases: Iterable[Any], each_time: Collection[Any] | Callable[[Any], bool], slow: Collection[Any] = ()
) -> list[Any]:
    """Cases for `parametrize`: some run each time, some with the slow tests, all others nightly.

    >>> [len(case.marks) for case in levels([("a", 1), ("b", 2)], [("a", 1)])]
    [0, 1]
    """
    cases = list(cases)
    unknown = [] if callable(each_time) else [case for case in each_time if case not in cases]
    assert not unknown + [case for case in slow if case not in cases], "a case that there is not"
    found = []
    for case in cases:
        is_each_time = each_time(case) if callable(each_time) else case in each_time
        marks = [] if is_each_time else [pytest.mark.slow if case in slow else pytest.mark.nightly]
        found.append(pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks))
    return found
