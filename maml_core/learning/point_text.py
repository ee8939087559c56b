"""Reading numbers that people write: points pasted, typed, or in a file, with any separator and decimal mark.

The exported script holds this module's source, so it uses the standard library alone.
"""

import math
import re


def read_numbers(text: str, names: tuple[str, ...]) -> list[tuple[float, ...]]:
    """One tuple for each line of `text`, with a number for each of `names`.

    A line's numbers stand apart by tabs, semicolons, commas or spaces; decimals are written with a point or a comma. A
    first line of words is a header, by which columns are found.

    Raises:
        ValueError: a sentence that names the line and the reason; what can be read in two ways is not guessed.
    """
    parts = [part.split() for part in text.replace(",", " ").replace(";", "\n").splitlines() if part.strip()]
    has_decimal_commas = bool(re.search(r"\d,\d", text)) and "." not in text
    if ";" in text and not has_decimal_commas and all(len(part) == len(names) > 1 for part in parts):
        text = text.replace(";", "\n")  # points in one line
    lines = [(number, line.strip()) for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise ValueError("there are no numbers")
    separator, comma = _marks([line for _, line in lines], len(names))
    rows = [(number, line, _cells(line, separator)) for number, line in lines]
    places = list(range(len(names)))
    header = [cell.strip("\"'").casefold() for cell in rows[0][2]]
    if not any(_number(cell, comma) is not None for cell in rows[0][2]):
        rows = rows[1:]
        missing = [name for name in names if name.casefold() not in header]
        if not missing:
            places = [header.index(name.casefold()) for name in names]
        elif len(header) != len(names):
            raise ValueError(f"the header, {', '.join(header)[:60]}, has no column {missing[0]}")
        if not rows:
            raise ValueError("there are no numbers below the header")
    else:
        header = []
    found = []
    for number, line, cells in rows:
        where = f"line {number} = {line[:40]!r}"
        if len(cells) != (len(header) or len(names)):
            wanted = len(header) or len(names)
            raise ValueError(f"{where} has {len(cells)} number{'s' * (len(cells) != 1)}, where {wanted} must be")
        values = []
        for place in places:
            value = _number(cells[place], comma)
            if value is None:
                raise ValueError(f"{where}: {cells[place][:20]!r} is not a number")
            if not math.isfinite(value):
                raise ValueError(f"{where}: {cells[place][:20]!r} is not finite")
            values.append(value)
        found.append(tuple(values))
    return found


def _marks(lines: list[str], count: int) -> tuple[str, bool]:
    """What separates numbers, and whether decimals are written with a comma."""
    numbers = [line for line in lines if not re.search(r"[a-df-zA-DF-Z_]", line)] or lines
    whole = "\n".join(numbers)
    comma = bool(re.search(r"\d,\d", whole)) and "." not in whole
    if "\t" in whole:
        return "\t", comma
    if ";" in whole:
        if comma and count > 1 and len(numbers) == 1:
            raise ValueError(
                f"{numbers[0][:40]!r} can be read in two ways, with decimal commas or as several points; write a point "
                "a line, such as 0.5 1.2"
            )
        return ";", comma
    if "," not in whole:
        return " ", False
    if count == 1:
        return ("," if re.search(r",.*,", whole) or "." in whole else "\n"), comma
    if comma and all(len(line.split()) == count and not re.search(r",(\s|$)", line) for line in numbers):
        return " ", True
    return ",", False


def _cells(line: str, separator: str) -> list[str]:
    return line.split() if separator == " " else [cell.strip() for cell in line.split(separator)]


def _number(cell: str, comma: bool) -> float | None:
    try:
        return float(cell.strip("\"'").replace(",", ".") if comma else cell.strip("\"'"))
    except ValueError:
        return None
