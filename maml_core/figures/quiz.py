"""A task of images as questions to the reader, who names each before seeing what the network took it for."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from maml_core.figures.board import INK, PAPER
from maml_core.learning.board_fits import BoardFit, nearest_means
from maml_core.learning.fits import TaskFit
from maml_core.learning.images import ImageFamily
from maml_core.learning.tasks import TaskFamily, seeded
from maml_core.words import counted_steps

QUESTIONS = 6
"""In a quiz; or as many as there are images."""

SIDE = 112
"""Of a picture, in pixels."""


@dataclass(frozen=True)
class Question:
    """One image, and what it is taken for; classes are counted from 0."""

    picture: bytes  # PNG
    right: int
    network: int
    by_pixels: int  # the nearest class mean


@dataclass(frozen=True)
class Quiz:
    """What each class looks like, and the questions."""

    classes: list[bytes]  # PNG
    questions: list[Question]
    steps: int  # of adaptation, that the network took

    def verdict(self, answers: Sequence[int]) -> str:
        """How the reader and the others did in the questions that are answered."""
        asked = self.questions[: len(answers)]
        own = sum(answer == question.right for answer, question in zip(answers, asked, strict=True))
        network = sum(question.network == question.right for question in asked)
        pixels = sum(question.by_pixels == question.right for question in asked)
        return (
            f"Of {len(asked)}: you {own}, the network after {counted_steps(self.steps)} {network}, the nearest class "
            f"mean of pixels {pixels}."
        )


def can_quiz(family: TaskFamily) -> bool:
    """Whether tasks are of images, which a reader can name."""
    return isinstance(family, ImageFamily)


def quiz_of(fit: TaskFit) -> Quiz | None:
    """Questions on one task, in an order that its seed decides; None where tasks are not of images."""
    if not isinstance(fit, BoardFit) or (fit.query_class < 0).any():
        return None
    order = torch.randperm(len(fit.query), generator=seeded(f"quiz:{fit.seed}"))[:QUESTIONS].tolist()
    support, query = (torch.from_numpy(each).flatten(1)[None] for each in (fit.support, fit.query))
    y = torch.nn.functional.one_hot(torch.from_numpy(fit.support_class), fit.classes).float()[None]
    by_pixels = nearest_means(support, y, query)[0].argmax(-1)
    first = [int(np.flatnonzero(fit.support_class == label)[0]) for label in range(fit.classes)]
    questions = [
        Question(
            _png(fit.query[index]),
            int(fit.query_class[index]),
            int(fit.shares[-1, index].argmax()),
            int(by_pixels[index]),
        )
        for index in order
    ]
    return Quiz([_png(fit.support[index]) for index in first], questions, fit.steps)


def _png(pixels: np.ndarray) -> bytes:
    """An image in ink on paper."""
    ink, paper = np.array(INK), np.array(PAPER)
    colors = paper + pixels[..., None] * (ink - paper)
    file = io.BytesIO()
    Image.fromarray(colors.astype(np.uint8), "RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()
