"""One task's adaptation to take away: a page that plays anywhere, and a moving picture. No browser is needed."""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maml_core.evaluation.side_by_side import NAMES
from maml_core.figures.squares_away import squares_page, squares_picture
from maml_core.figures.style import COLORS, filled, frames_of, number, rounded
from maml_core.figures.tasks import value_range
from maml_core.learning.adaptation import CurveFit
from maml_core.learning.fits import SquareFit, TaskFit
from maml_core.words import counted_steps

_PAGE = Path(__file__).with_name("replay_page.html")

SIZE = (800, 450)
SCALE = 2
"""A moving picture is drawn so many times larger and then made smaller, which smooths its lines."""

BETWEEN = 5
"""Pictures from one step to the next."""

MOST_STEPS = 30
"""Steps in a moving picture; of more, so many are shown, evenly spaced."""


def replay_page(found: Mapping[str, TaskFit], title: str, caption: str = "") -> str:
    """A task's adaptation as one HTML page, which needs no network and no other file.

    `found` maps the names of initializations ("learned", and others to compare it with) to the fit from each.
    """
    caption = " ".join(part for part in (_ending(found["learned"]), caption) if part)
    squares = {name: fit for name, fit in found.items() if isinstance(fit, SquareFit)}
    if squares:
        return squares_page(squares, title, caption)
    fits = {name: fit for name, fit in found.items() if isinstance(fit, CurveFit)}
    fit = fits["learned"]
    is_alone = len(fits) == 1
    data: dict[str, Any] = {
        "title": title,
        "caption": caption,
        "x": rounded(fit.x),
        "truth": None if fit.truth is None else rounded(fit.truth),
        "rows": None if fit.rows is None or fit.is_cloud else [rounded(part) for part in fit.rows],
        "support": [rounded(fit.support_x), rounded(fit.support_y)],
        "fits": [
            {
                "name": "error" if is_alone else NAMES[name],
                "color": COLORS[name],
                "predictions": [rounded(step) for step in fits[name].predictions],
                "errors": [number(float(error)) for error in fits[name].query_loss],
            }
            for name in NAMES
            if name in fits
        ],
        "axes": list(fit.axes),
        "is_cloud": fit.is_cloud,
        "x_range": _x_range(fit),
        "y_range": value_range(fit),
        "colors": {name: COLORS[name] for name in ("truth", "support", "before")},
    }
    return filled(_PAGE, data)


def moving_picture(fit: TaskFit, title: str) -> bytes:
    """A task's adaptation as an animated WebP, from before to after, which then rests and begins again."""
    if isinstance(fit, SquareFit):
        return squares_picture(fit, title)
    assert isinstance(fit, CurveFit)
    last = len(fit.predictions) - 1
    shown = frames_of(last, MOST_STEPS)
    moments = [
        (1 - share) * a + share * b for a, b in pairwise(shown) for share in np.linspace(0, 1, BETWEEN, endpoint=False)
    ]
    pictures = [_picture(fit, title, at) for at in [*moments, float(last)]]
    durations = [400, *[60] * max(0, len(pictures) - 2), 2000][: len(pictures)]
    file = io.BytesIO()
    pictures[0].save(
        file, "WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=80, method=2
    )
    return file.getvalue()


def _picture(fit: CurveFit, title: str, at: float) -> Image.Image:
    """The task as it is at one moment: a step, or what lies between two."""
    width, height = (SCALE * side for side in SIZE)
    image = Image.new("RGB", (width, height), "#ffffff")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13 * SCALE)
    left, right, top, bottom = 56 * SCALE, width - 14 * SCALE, 40 * SCALE, height - 44 * SCALE
    (x0, x1), (y0, y1) = _x_range(fit), value_range(fit)

    def place(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
        high = np.clip(np.nan_to_num(y), y0 - (y1 - y0), y1 + (y1 - y0))
        across = left + (x - x0) / (x1 - x0) * (right - left)
        up = bottom - (high - y0) / (y1 - y0) * (bottom - top)
        return [*zip(across.tolist(), up.tolist(), strict=True)]

    for x in _ticks(x0, x1):
        ((across, _),) = place(np.array([x]), np.array([y0]))
        draw.line([(across, top), (across, bottom)], fill="#e4e7ec", width=SCALE)
        draw.text((across, bottom + 5 * SCALE), f"{x:g}", fill="#1c2430", font=font, anchor="ma")
    for y in _ticks(y0, y1):
        ((_, up),) = place(np.array([x0]), np.array([y]))
        draw.line([(left, up), (right, up)], fill="#e4e7ec", width=SCALE)
        draw.text((left - 6 * SCALE, up), f"{y:g}", fill="#1c2430", font=font, anchor="rm")

    def curve(y: np.ndarray, color: str, thick: float) -> None:
        points = place(fit.x, y)
        if fit.is_cloud:
            dots(points, color, 4)
        else:
            draw.line(points, fill=color, width=round(thick * SCALE), joint="curve")

    def dots(points: Sequence[tuple[float, float]], color: str, size: float) -> None:
        for across, up in points:
            reach = size * SCALE
            draw.ellipse([across - reach, up - reach, across + reach, up + reach], fill=color)

    step = math.floor(at + 1e-9)
    share = at - step
    following = min(step + 1, len(fit.predictions) - 1)
    if fit.truth is not None:
        curve(fit.truth, COLORS["truth"], 2)
    elif fit.rows is not None:
        dots(place(*fit.rows), COLORS["truth"], 4)
    curve(fit.predictions[0], COLORS["before"], 1.8)
    for earlier in range(1, step):
        curve(fit.predictions[earlier], "#cfe0f8", 1.2)
    curve(fit.predictions[step] + share * (fit.predictions[following] - fit.predictions[step]), COLORS["after"], 3.2)
    dots(place(fit.support_x, fit.support_y), COLORS["support"], 5.5)
    draw.rectangle([0, 0, width, top - 1], fill="#ffffff")  # what left the frame
    draw.rectangle([0, bottom + 28 * SCALE, width, height], fill="#ffffff")
    said = f"step {step}: error {number(float(fit.query_loss[step]))}"
    if fit.blew_up_at is not None and step == len(fit.predictions) - 1:
        said = _ending(fit)
    draw.text((left, 12 * SCALE), title, fill="#1c2430", font=font)
    draw.text((right, 12 * SCALE), said, fill="#1c2430", font=font, anchor="ra")
    draw.text(((left + right) / 2, height - 6 * SCALE), fit.axes[0], fill="#1c2430", font=font, anchor="md")
    return image.resize(SIZE, Image.Resampling.LANCZOS)


def _ending(fit: TaskFit) -> str:
    """What adaptation came to, in words."""
    if fit.blew_up_at is not None:
        return f"Adaptation diverges at step {fit.blew_up_at}."
    steps = counted_steps(len(fit.query_loss) - 1)
    if not isinstance(fit, CurveFit):
        return f"{fit.problem.score_name.capitalize()} {fit.problem.in_words(float(fit.query_loss[-1]))} after {steps}."
    return f"{fit.error_name.capitalize()} {number(float(fit.query_loss[-1]))} after {steps}."


def _x_range(fit: CurveFit) -> list[float]:
    low, high = float(min(fit.x.min(), fit.support_x.min())), float(max(fit.x.max(), fit.support_x.max()))
    room = 0.03 * (high - low) if fit.rows is not None else 0.0
    return [low - room, high + room] if high > low else [low - 1, high + 1]


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 6
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(size * unit for size in (1, 2, 5, 10) if size * unit >= raw)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
