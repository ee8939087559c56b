"""Answers found in the background: the newest at hand, one search a second, errors as sentences."""

import gc
import threading
import weakref
from collections.abc import Callable
from functools import partial

import pytest

from maml_core.errors import MamlError, StoreError
from maml_core.training import background
from maml_core.training.background import Background
from tests.conftest import wait_for


def test_the_last_answer_stands_until_the_next_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "EVERY", 0.0)
    answers, held = Background(), threading.Event()
    held.set()

    def make(before: int | None) -> int:
        assert held.wait(60)
        return (before or 0) + 1

    assert answers.latest("count", 1, make) == (None, False)
    wait_for(lambda: answers.latest("count", 1, make) == (1, True))
    held.clear()
    assert answers.latest("count", 2, make) == (1, False)
    held.set()
    wait_for(lambda: answers.latest("count", 2, make) == (2, True))


def test_an_answer_is_not_looked_for_again_too_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "EVERY", 1e9)
    answers = Background()
    wait_for(lambda: answers.latest("a", 1, lambda before: "old").is_newest)
    for _ in range(3):
        assert answers.latest("a", 2, lambda before: "new") == ("old", False)


def test_a_refusal_is_raised_for_its_version_and_a_bug_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "EVERY", 0.0)
    answers = Background()

    def refuse(before: object) -> object:
        raise StoreError("no such thing")

    def raised(version: int) -> str:
        try:
            answers.latest("a", version, refuse if version == 1 else lambda before: 1 / 0)
        except MamlError as error:
            return str(error)
        return ""

    wait_for(lambda: raised(1) == "no such thing")
    wait_for(lambda: "ZeroDivisionError" in raised(2))


def test_a_refusal_keeps_nothing_of_the_pages_that_it_is_told_to() -> None:
    """The same exception raised again and again would hold the frames, and with them all that a page had, for good."""
    answers = Background()

    class Held:
        pass

    def page() -> weakref.ref[Held]:
        held = Held()
        with pytest.raises(MamlError, match="no map"):
            answers.latest("map", 1, refuse)
        return weakref.ref(held)

    def refuse(_before: object) -> None:
        raise MamlError("no map")

    wait_for(lambda: _is_refused(answers, refuse))
    told = [page() for _ in range(5)]
    gc.collect()
    assert [ref() for ref in told] == [None] * 5


def _is_refused(answers: Background, make: Callable[[object], None]) -> bool:
    try:
        return answers.latest("map", 1, make).is_newest
    except MamlError:
        return True


def test_old_questions_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "KEPT", 2)
    answers = Background()
    names = iter("abc")
    for _ in range(3):
        name = next(names)
        wait_for(partial(lambda name: answers.latest(name, 1, lambda before: "found").is_newest, name))
    assert answers.latest("a", 1, lambda before: "found") == (None, False)
