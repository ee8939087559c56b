"""Answers that take longer to find than a page may wait: found in a thread, the newest at hand meanwhile."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

from maml_core.errors import MamlError, StoreAwayError
from maml_core.logs import LOG

EVERY = 1.0
"""Seconds that pass at least between two searches for the same answer, unless another pause is asked for."""

THREADS = "answer"
"""What the names of threads that look for answers begin with."""

KEPT = 64
"""Answers kept, those asked for last: a few for each run that somebody looks at."""


class Answer(NamedTuple):
    """What is known so far."""

    value: Any  # None until the first is found
    is_newest: bool  # whether it was made for the version that was asked for


@dataclass
class _Question:
    value: Any = None
    version: Hashable = None
    error: MamlError | None = None
    began: float = float("-inf")
    is_asked: bool = False


class Background:
    """Finds answers one at a time, and looks for each again after a pause at the earliest.

    >>> import time
    >>> background = Background()
    >>> while not (answer := background.latest("twice", 21, lambda before: 42)).is_newest:
    ...     time.sleep(0.01)
    >>> answer.value
    42
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._questions: OrderedDict[str, _Question] = OrderedDict()
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()

    def latest(self, name: str, version: Hashable, make: Callable[[Any], Any], *, every: float | None = None) -> Answer:
        """The newest answer to the question of that name; where it is not of this version, `make` finds another.

        At most one in `every` seconds is looked for, by default in `EVERY`. `make` is given the last answer, or None,
        and uses torch only within `computing`.

        Raises:
            MamlError: as `make` raised it for this version.
        """
        with self._lock:
            question = self._questions.setdefault(name, _Question())
            self._questions.move_to_end(name)
            while len(self._questions) > KEPT:
                self._questions.popitem(last=False)
            pause = EVERY if every is None else every
            is_newest = question.version == version and not question.is_asked
            if not is_newest and not question.is_asked and time.monotonic() - question.began >= pause:
                question.is_asked, question.began = True, time.monotonic()
                thread = threading.Thread(target=self._find, args=(question, version, make), daemon=True)
                thread.name = f"{THREADS}: {name}"
                thread.start()
            if is_newest and question.error:
                raise copy(question.error)  # itself it would collect the frames of every page that was refused
            return Answer(question.value, is_newest)

    def _find(self, question: _Question, version: Hashable, make: Callable[[Any], Any]) -> None:
        error = None
        value, found_for = question.value, version
        try:
            with self._one_at_a_time:
                value = make(value)
        except StoreAwayError:  # which the page says of itself, and which passes: it is looked for again
            found_for = None
        except MamlError as refused:
            error = refused.with_traceback(None)
        except Exception as bug:
            LOG.exception("an answer could not be found because of a bug")
            error = MamlError(
                f"This could not be computed because of a bug in the lab ({type(bug).__name__}); see its log."
            )
        with self._lock:
            question.value, question.version, question.error, question.is_asked = value, found_for, error, False
