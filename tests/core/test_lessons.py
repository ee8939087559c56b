"""Lessons and glossary: every lesson can be trained, every term has an explanation."""

import re

import pytest

from maml_core.config import RunConfig
from maml_core.errors import ConfigError
from maml_core.glossary import find_term, glossary, linked
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.lessons import LESSONS, get_lesson
from maml_core.training.trainer import check_startable


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_can_be_trained_and_asks_before_it_tells(name: str) -> None:
    lesson = get_lesson(name)
    check_startable(lesson.config)
    assert 0 <= lesson.right < len(lesson.answers)
    assert len(set(lesson.answers)) == len(lesson.answers)
    assert lesson.answers[lesson.right] not in lesson.text + lesson.question
    assert "not measured" not in lesson.explanation + lesson.question


def test_an_unknown_lesson_gets_a_sentence() -> None:
    with pytest.raises(ConfigError, match="must be one of initialization, one-step, first-order"):
        get_lesson("nope")


def test_every_field_and_algorithm_is_explained() -> None:
    terms = glossary()
    for name, field in RunConfig.model_fields.items():
        assert terms[find_term(name) or ""] == field.description
    assert all(algorithm.title in terms for algorithm in ALGORITHMS.values())
    assert all(text.strip() for text in terms.values())
    assert find_term("Inner learning rate") == find_term("inner_lr")
    assert find_term("<script>") is None


def test_the_first_mention_of_a_term_becomes_a_link_to_it() -> None:
    text = linked("FOMAML adapts on support points, at `inner_lr`, inner_lr or [shots](x); support points, done.")
    assert text == (
        "[FOMAML](#term-first_order_maml) adapts on [support points](#term-support_points), at `inner_lr`, "
        "[inner_lr](#term-inner_learning_rate) or [shots](x); support points, done."
    )
    assert linked("Nothing here.") == "Nothing here."


def test_every_link_leads_to_its_term() -> None:
    for term, text in glossary().items():
        for found in re.findall(r"\(#term-(\w+)\)", linked(f"{term} {text}")):
            assert find_term(found) in glossary()
