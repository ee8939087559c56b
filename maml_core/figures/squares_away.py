"""Tasks in the plane to take away: a page that plays anywhere, and a moving picture. No browser is needed."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maml_core.evaluation.side_by_side import NAMES
from maml_core.figures.arena import EVERY
from maml_core.figures.board import board_image
from maml_core.figures.plane import CLASS_COLORS, STRONGEST, sureness
from maml_core.figures.squares import MOST_FRAMES
from maml_core.figures.style import COLORS, filled, frames_of, rgb
from maml_core.learning.board_fits import BoardFit
from maml_core.learning.fits import SquareFit
from maml_core.learning.path_fits import PathFit
from maml_core.learning.plane_fits import PlaneFit

_PAGE = Path(__file__).with_name("squares_page.html")
SIZE = (800, 450)
SCALE = 2
SIDE = 360
"""Of a square in a moving picture, in pixels."""


def squares_page(fits: Mapping[str, SquareFit], title: str, caption: str) -> str:
    """The squares of a task's adaptation as one HTML page, which needs no network and no other file."""
    fit = fits["learned"]
    steps = frames_of(max(each.steps for each in fits.values()), MOST_FRAMES)
    at = {name: [min(step, each.steps) for step in steps] for name, each in fits.items()}
    data: dict[str, Any] = {
        "title": title,
        "caption": caption,
        "half": fit.half,
        "steps": steps,
        "score": fit.score_name,
        "points": _points(fit),
        "fits": [
            {
                "name": NAMES[name],
                "color": COLORS[name],
                "scores": [fits[name].problem.in_words(float(fits[name].query_loss[step])) for step in at[name]],
                **_moving(fits[name], at[name]),
            }
            for name in NAMES
            if name in fits
        ],
    }
    return filled(_PAGE, data)


def squares_picture(fit: SquareFit, title: str) -> bytes:
    """The square as the task is adapted to, beside what it was before, as an animated WebP that rests at its end."""
    pictures = [_picture(fit, title, step) for step in frames_of(fit.steps, MOST_FRAMES)]
    durations = [900, *[350] * max(0, len(pictures) - 2), 2500][: len(pictures)]
    file = io.BytesIO()
    pictures[0].save(
        file, "WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=85, method=2
    )
    return file.getvalue()


def field_image(fit: PlaneFit, step: int) -> Image.Image:
    """The decision field at a step, a pixel for each cell, transparent where no class is likelier than another."""
    colors = np.array([rgb(color) for color in CLASS_COLORS])
    field = fit.fields[step][::-1]  # pictures count their rows from the top
    alpha = (255 * STRONGEST * sureness(field))[..., None]
    return Image.fromarray(np.concatenate([colors[field.argmax(-1)], alpha], axis=-1).astype(np.uint8), "RGBA")


def _moving(fit: SquareFit, steps: list[int]) -> dict[str, Any]:
    """What moves: a field's pictures, or paths as lines through places."""
    if isinstance(fit, PlaneFit):
        return {"fields": [_as_url(field_image(fit, step)) for step in steps]}
    if isinstance(fit, BoardFit):
        return {"fields": [_as_url(board_image(fit, step, SIDE)) for step in steps]}
    assert isinstance(fit, PathFit)
    return {"paths": [fit.paths[step][:, ::EVERY].astype(np.float64).round(3).tolist() for step in steps]}


def _points(fit: SquareFit) -> list[tuple[float, float, str, float]]:
    """What stays: x, y, color, and radius as a share of half the square."""
    if isinstance(fit, PathFit):
        goal = float(fit.goal[0]), float(fit.goal[1])
        return [(0.0, 0.0, COLORS["truth"], 0.025), (*goal, COLORS["support"], 0.04)]
    if isinstance(fit, BoardFit):
        return []
    assert isinstance(fit, PlaneFit)
    found = []
    for places, labels, radius in ((fit.query_x, fit.query_class, 0.012), (fit.support_x, fit.support_class, 0.035)):
        for (x, y), label in zip(places.round(4).tolist(), labels, strict=True):
            found.append((x, y, CLASS_COLORS[label], radius))
    return found


def _as_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _picture(fit: SquareFit, title: str, step: int) -> Image.Image:
    width, height = (SCALE * side for side in SIZE)
    image = Image.new("RGB", (width, height), "#ffffff")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13 * SCALE)
    side, top = SIDE * SCALE, 56 * SCALE
    squares = ((28 * SCALE, 0, "before", "before"), (width - 28 * SCALE - side, step, f"step {step}", "after"))
    for left, at, name, meaning in squares:
        image.paste(_square(fit, at, side, COLORS[meaning]), (left, top))
        said = f"{name}: {fit.score_name} {fit.problem.in_words(float(fit.query_loss[at]))}"
        if fit.blew_up_at is not None and at == fit.steps and at:
            said = f"diverges at step {fit.blew_up_at}"
        draw.text((left + side / 2, top - 6 * SCALE), said, fill="#1c2430", font=font, anchor="md")
    draw.text((width / 2, 10 * SCALE), title, fill="#1c2430", font=font, anchor="ma")
    return image.resize(SIZE, Image.Resampling.LANCZOS)


def _square(fit: SquareFit, step: int, side: int, color: str) -> Image.Image:
    """One square at a step, `side` pixels high."""
    if isinstance(fit, BoardFit):
        return board_image(fit, step, side)
    half = fit.half
    image = Image.new("RGB", (side, side), "#ffffff")
    draw = ImageDraw.Draw(image)

    def placed(x: float, y: float) -> tuple[float, float]:
        return (x / half + 1) / 2 * side, (1 - y / half) / 2 * side

    if isinstance(fit, PlaneFit):
        field = field_image(fit, step).resize((side, side), Image.Resampling.NEAREST)
        image.paste(field, (0, 0), field)
    else:
        assert isinstance(fit, PathFit)
        for path in np.clip(fit.paths[step].astype(np.float64), -9 * half, 9 * half):
            draw.line([placed(x, y) for x, y in path.tolist()], fill=color, width=2 * SCALE, joint="curve")
    for x, y, fill, radius in _points(fit):
        (px, py), reach = placed(x, y), radius * side / 2
        draw.ellipse([px - reach, py - reach, px + reach, py + reach], fill=fill, outline="#ffffff", width=SCALE)
    draw.rectangle([0, 0, side - 1, side - 1], outline="#e4e7ec", width=SCALE)
    return image
