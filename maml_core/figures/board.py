"""Pictures of images that are classified: a board with what is learned from above, and what is asked about below.

Each class has columns of its own, headed by the images that it is learned from. An image that is asked about is tinted
in the color of the class that it is taken for, the stronger the surer, with a bar of all probabilities below it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from maml_core.figures.plane import CLASS_COLORS, LEVELS, class_colors, sureness
from maml_core.figures.squares import Squares
from maml_core.figures.style import Trace, rgb, rounded, trace_of
from maml_core.learning.board_fits import BoardFit

PAPER, INK = (250, 250, 248), (17, 24, 39)
"""Of the images, in either theme: they are like photographs."""

SHADES = 9
"""Of ink."""

PARTS = 10
"""Of a bar of probabilities."""

TINT, BAR_TINT = 0.55, 0.9
"""How much of a class's color there is in the tint of an image that is surely of it, and in its part of a bar."""

EDGE, BAR, BETWEEN = 0.05, 0.1, 0.25
"""Around an image, of the bar below it, and between the two halves of a board, in widths of a cell."""

COLUMNS = 6
"""Of few classes, each takes as many columns as fit into so many."""

MOST_SUPPORT_ROWS = 2
"""Rows with what is learned from; of more shots, the first."""


class Cell(NamedTuple):
    """One image of a board."""

    row: int
    column: int
    is_support: bool
    image: int  # its number among those of its kind


@dataclass(frozen=True)
class Board:
    """Where each image is: in the square of the picture, whose half side is 1."""

    cells: list[Cell]
    columns: int
    rows: int
    above: int  # rows of what is learned from

    @classmethod
    def of(cls, fit: BoardFit) -> "Board":
        """Each class in its columns, and as many images that are asked about as make the board a square."""
        wide = max(1, COLUMNS // fit.classes)
        columns = wide * fit.classes
        shots = max(1, int(np.bincount(fit.support_class).max()))
        above = min(MOST_SUPPORT_ROWS, -(-shots // wide))
        cells = _placed(fit.support_class, wide, columns, range(above), is_support=True)
        cells += _placed(fit.query_class, wide, columns, range(above, max(above + 1, columns)), is_support=False)
        return cls(cells, columns, 1 + max(cell.row for cell in cells), above)

    @property
    def unit(self) -> float:
        """Width of a cell."""
        return 2 / max(self.columns, self.rows * (1 + BAR) + BETWEEN)

    def corner(self, cell: Cell) -> tuple[float, float]:
        """The upper left corner of a cell."""
        return self.left + cell.column * self.unit, self.top - self._down(cell.row) * self.unit

    @property
    def left(self) -> float:
        """The left end of the board."""
        return -self.columns * self.unit / 2

    @property
    def top(self) -> float:
        """The upper end of the board."""
        return self._down(self.rows) * self.unit / 2

    def _down(self, row: int) -> float:
        return row * (1 + BAR) + (BETWEEN if row >= self.above else 0)

    def across(self, parts: int) -> np.ndarray:
        """Ends of the strips that the columns are cut into: an edge, parts of the image, an edge."""
        widths = [EDGE, *[(1 - 2 * EDGE) / parts] * parts, EDGE] * self.columns
        return self.left + self.unit * np.cumsum([0, *widths])

    def up(self, parts: int) -> np.ndarray:
        """Ends of the strips that the rows are cut into, from below: an edge, the bar, parts of the image, an edge."""
        heights = []
        for row in reversed(range(self.rows)):
            heights += [EDGE, BAR, *[(1 - 2 * EDGE) / parts] * parts, EDGE]
            heights += [BETWEEN] if row == self.above else []
        return self.top - self.unit * (sum(heights) - np.cumsum([0, *heights]))

    def strip(self, row: int, parts: int) -> int:
        """The number of the lowest strip of a row."""
        return (self.rows - 1 - row) * (parts + 3) + (1 if row < self.above < self.rows else 0)


class Boards(Squares[BoardFit]):
    """Episodes: which class the model takes each image for."""

    def axes(self, fit: BoardFit) -> tuple[dict[str, Any], dict[str, Any]]:
        """Without lines: the images are enough."""
        across, up = super().axes(fit)
        return across | {"showline": False}, up | {"showline": False}

    def caption(self, fit: BoardFit) -> str:
        """Which task it is, and how many of the images that are judged there is room for."""
        shown, judged = sum(not cell.is_support for cell in Board.of(fit).cells), len(fit.query)
        return super().caption(fit) + (f" · {shown} of {judged} images that are judged" if shown < judged else "")

    def at(self, fit: BoardFit, step: int, meaning: str) -> Trace:
        """Tints and bars, whose colors are those of the classes."""
        board, stops = Board.of(fit), []
        for number in range(fit.classes):
            ends = number / fit.classes, (number + 1) / fit.classes - (1e-6 if number + 1 < fit.classes else 0)
            stops += [[ends[0], css(PAPER)], [ends[1], css(_tinted(number, BAR_TINT))]]
        return {
            "type": "heatmap",
            "x": rounded(board.across(PARTS)),
            "y": rounded(board.up(1)),
            "z": _tints(fit, board, step),
            "zmin": 0,
            "zmax": LEVELS * fit.classes,
            "colorscale": stops,
            "showscale": False,
            "hoverinfo": "skip",
            "name": "classes",
        }

    def moved(self, fit: BoardFit, steps: Sequence[int]) -> dict[str, Any]:
        """The tints and bars."""
        board = Board.of(fit)
        return {"z": [_tints(fit, board, step) for step in steps]}

    def still(self, fit: BoardFit, **place: Any) -> list[Trace]:
        """The images, and the classes in the legend."""
        classes = range(fit.classes) if fit.classes <= len(CLASS_COLORS) else ()
        return [_ink(fit, 1) | place, *(_in_legend(number) | place for number in classes)]

    def small(self, fit: BoardFit, axis: str) -> list[Trace]:
        """The board after adaptation, its images in few pixels."""
        place: dict[str, Any] = {"xaxis": "x" + axis, "yaxis": "y" + axis} if axis else {}
        look = {"hoverinfo": "none"}  # a click on it opens its task
        return [self.at(fit, fit.steps, "after") | place | look, _ink(fit, 2) | place | look]


def board_image(fit: BoardFit, step: int, side: int) -> Image.Image:
    """The board at a step, `side` pixels wide and high."""
    board = Board.of(fit)
    image = Image.new("RGB", (side, side), css(PAPER))
    draw = ImageDraw.Draw(image)
    unit = board.unit * side / 2
    for cell, (label, sure), bar in zip(board.cells, *_faces(fit, board, step), strict=True):
        x, y = board.corner(cell)
        left, top = (1 + x) * side / 2 + EDGE * unit, (1 - y) * side / 2 + EDGE * unit
        wide = (1 - 2 * EDGE) * unit
        draw.rectangle([left, top, left + wide, top + wide], fill=_tinted(label, TINT * sure))
        pixels = (fit.support if cell.is_support else fit.query)[cell.image]
        mask = Image.fromarray((255 * pixels).astype(np.uint8)).resize((round(wide), round(wide)))
        image.paste(INK, (round(left), round(top)), mask)
        for part, number in enumerate(bar):
            ends = left + part * wide / PARTS, left + (part + 1) * wide / PARTS
            draw.rectangle([ends[0], top + wide, ends[1], top + wide + BAR * unit], fill=_tinted(number, BAR_TINT))
    return image


def _placed(labels: np.ndarray, wide: int, columns: int, rows: range, *, is_support: bool) -> list[Cell]:
    """Images in the columns of their class, row by row; those of no known class one after the other."""
    seen: dict[int, int] = {}
    cells = []
    for index, label in enumerate(labels.tolist()):
        left, width = (wide * label, wide) if label >= 0 else (0, columns)
        row, column = divmod(seen.get(label, 0), width)
        seen[label] = seen.get(label, 0) + 1
        if row < len(rows):
            cells.append(Cell(rows[row], left + column, is_support, index))
    return cells


def _faces(fit: BoardFit, board: Board, step: int) -> tuple[list[tuple[int, float]], list[list[int]]]:
    """Of each cell the class that it is tinted for and how surely, and the classes of the parts of its bar."""
    faces, bars = [], []
    for cell in board.cells:
        if cell.is_support:
            label = int(fit.support_class[cell.image])
            faces.append((label, 1.0))
            bars.append([label] * PARTS)
            continue
        shares = fit.shares[step, cell.image]
        faces.append((int(shares.argmax()), float(sureness(shares))))
        ends = np.round(PARTS * shares.cumsum()).astype(int)
        bars.append(np.searchsorted(ends, np.arange(PARTS), side="right").clip(max=fit.classes - 1).tolist())
    return faces, bars


def _tints(fit: BoardFit, board: Board, step: int) -> list[list[int]]:
    """Tints and bars as whole numbers, from below: `LEVELS` for each class, and how strong it is within."""
    found = np.zeros((len(board.up(1)) - 1, len(board.across(PARTS)) - 1), dtype=int)
    for cell, (label, sure), bar in zip(board.cells, *_faces(fit, board, step), strict=True):
        low, left = board.strip(cell.row, 1), 1 + cell.column * (PARTS + 2)
        found[low + 2, left : left + PARTS] = LEVELS * label + round(sure * TINT / BAR_TINT * (LEVELS - 1))
        found[low + 1, left : left + PARTS] = [LEVELS * number + LEVELS - 1 for number in bar]
    cells: list[list[int]] = found.tolist()
    return cells


def _ink(fit: BoardFit, every: int) -> Trace:
    """The images' ink, in shades; of `every` so many pixels one."""
    board, size = Board.of(fit), fit.support.shape[-1] // every
    found = np.zeros((len(board.up(size)) - 1, len(board.across(size)) - 1), dtype=int)
    for cell in board.cells:
        pixels = (fit.support if cell.is_support else fit.query)[cell.image][: size * every, : size * every]
        few = pixels.reshape(size, every, size, every).mean((1, 3))[::-1]  # strips count from below
        low, left = board.strip(cell.row, size) + 2, 1 + cell.column * (size + 2)
        found[low : low + size, left : left + size] = np.round(SHADES * few)
    red, green, blue = INK
    return {
        "type": "heatmap",
        "x": rounded(board.across(size)),
        "y": rounded(board.up(size)),
        "z": found.tolist(),
        "zmin": 0,
        "zmax": SHADES,
        "colorscale": [[0, f"rgba({red},{green},{blue},0)"], [1, f"rgba({red},{green},{blue},1)"]],
        "showscale": False,
        "showlegend": False,
        "hoverinfo": "skip",
        "name": "images",
    }


def _in_legend(number: int) -> Trace:
    """A class's color, with nothing in the picture itself."""
    trace = trace_of(np.full(1, np.nan), np.full(1, np.nan), "support", f"class {number + 1}", mode="markers")
    trace["marker"] = {"color": CLASS_COLORS[number], "size": 12}
    return trace | {"x": [None], "y": [None], "showlegend": True, "hoverinfo": "skip"}


def _tinted(number: int, share: float) -> tuple[int, int, int]:
    """Paper with so much of a class's color."""
    color = rgb(class_colors(number + 1)[number])
    red, green, blue = (round(paper + share * (ink - paper)) for paper, ink in zip(PAPER, color, strict=True))
    return red, green, blue


def css(color: tuple[int, int, int]) -> str:
    """A color as browsers write it."""
    return "#{:02x}{:02x}{:02x}".format(*color)
