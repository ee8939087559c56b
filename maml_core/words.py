"""Numbers as people write them, and what people write as text."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

_HIDDEN = dict.fromkeys((*range(32), *range(127, 160), *range(8234, 8239), *range(8294, 8298)), "�")
_KEPT = {ord(mark): mark for mark in "\n\t"}


def visible(text: str) -> str:
    """A text without what steers a terminal (control codes) or turns the order of its letters around."""
    return text.translate(_HIDDEN | _KEPT)


def one_line(text: str) -> str:
    """The same in one line: a name."""
    return " ".join(visible(text).split())


def printable(text: str) -> str:
    """A name from a file, with a blank for whatever is no letter, digit or mark."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def span(counts: Sequence[int]) -> str:
    """24 where all are the same, or 2 to 12."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def counted(count: int, what: str) -> str:
    """1 image, 5 images."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def counted_steps(count: int) -> str:
    """1 step, 5 steps."""
    return counted(count, "step")


def shortened(text: str, most: int) -> str:
    """A text in at most so many characters, without its middle: both ends tell names apart."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[len(text) - (most - most // 2 - 1) :]}"


def loss(value: float | None) -> str:
    """A loss in four digits, or a dash where there is none yet."""
    return "–" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def finite(values: Iterable[float]) -> list[float | None]:
    """Numbers for JSON, which has no NaN and no infinity: null stands for "diverged"."""
    return [value if math.isfinite(value) else None for value in values]


def said(value: Any) -> str:
    """A setting's value, short."""
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
