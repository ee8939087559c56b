"""Classes in the plane to take away: a page that plays anywhere, and a moving picture. No browser is needed."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maml_core.evaluation.side_by_side import NAMES
from maml_core.figures.plane import CLASS_COLORS, FIELDS, STRONGEST, half_side, sureness
from maml_core.figures.style import filled, frames_of, rgb
from maml_core.learning.plane_fits import PlaneFit

_PAGE = Path(__file__).with_name("plane_page.html")
SIZE = (800, 450)
SCALE = 2
SIDE = 360
"""Of a field in a moving picture, in pixels."""


def plane_page(fits: Mapping[str, PlaneFit], title: str, caption: str) -> str:
    """The decision fields of a task's adaptation as one HTML page, which needs no network and no other file."""
    fit = fits["learned"]
    steps = frames_of(max(each.steps for each in fits.values()), FIELDS)
    data: dict[str, Any] = {
        "title": title,
        "caption": caption,
        "half": half_side(fit),
        "steps": steps,
        "colors": CLASS_COLORS[: fit.classes],
        "support": [fit.support_x.round(4).tolist(), fit.support_class.tolist()],
        "query": [fit.query_x.round(4).tolist(), fit.query_class.tolist()],
        "fits": [
            {
                "name": NAMES[name],
                "fields": [_as_url(field_image(fits[name], min(step, fits[name].steps))) for step in steps],
                "scores": [
                    fits[name].problem.in_words(float(fits[name].query_loss[min(step, fits[name].steps)]))
                    for step in steps
                ],
            }
            for name in NAMES
            if name in fits
        ],
    }
    return filled(_PAGE, data)


def plane_picture(fit: PlaneFit, title: str) -> bytes:
    """The decision field as it adapts, beside what it was before, as an animated WebP that rests at its end."""
    pictures = [_picture(fit, title, step) for step in frames_of(fit.steps, FIELDS)]
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


def _as_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _picture(fit: PlaneFit, title: str, step: int) -> Image.Image:
    width, height = (SCALE * side for side in SIZE)
    image = Image.new("RGB", (width, height), "#ffffff")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13 * SCALE)
    side, top, half = SIDE * SCALE, 56 * SCALE, half_side(fit)
    for left, at, name in ((28 * SCALE, 0, "before"), (width - 28 * SCALE - side, step, f"step {step}")):
        field = field_image(fit, at).resize((side, side), Image.Resampling.NEAREST)
        image.paste(field, (left, top), field)
        for x, labels, reach in ((fit.query_x, fit.query_class, 2), (fit.support_x, fit.support_class, 6)):
            for (across, up), label in zip(x, labels, strict=True):
                px, py = left + (across / half + 1) / 2 * side, top + (1 - (up / half + 1) / 2) * side
                box = [px - reach * SCALE, py - reach * SCALE, px + reach * SCALE, py + reach * SCALE]
                draw.ellipse(box, fill=CLASS_COLORS[label], outline="#ffffff", width=SCALE)
        said = f"{name}: {fit.problem.score_name} {fit.problem.in_words(float(fit.query_loss[at]))}"
        if fit.blew_up_at is not None and at == fit.steps and at:
            said = f"diverges at step {fit.blew_up_at}"
        draw.text((left + side / 2, top - 6 * SCALE), said, fill="#1c2430", font=font, anchor="md")
    draw.text((width / 2, 10 * SCALE), title, fill="#1c2430", font=font, anchor="ma")
    return image.resize(SIZE, Image.Resampling.LANCZOS)
