"""The words of the lab, explained by the fields, algorithms, families and networks themselves."""

import inspect

from maml_core.config import RunConfig
from maml_core.fields import label
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.models import MODELS
from maml_core.learning.tasks import FAMILIES


def glossary() -> dict[str, str]:
    """What each term means, in alphabetical order."""
    terms = {label(name): field.description or "" for name, field in RunConfig.model_fields.items()}
    terms |= {
        algorithm.title: f"{_first_sentence(algorithm)} Source: {algorithm.source}."
        for algorithm in ALGORITHMS.values()
    }
    terms |= {kind.title: _first_sentence(kind) for registry in (FAMILIES, MODELS) for kind in registry.values()}
    return dict(sorted(terms.items(), key=lambda pair: pair[0].casefold()))


def find_term(asked: str) -> str | None:
    """The term that is meant by a field's name or by the term itself, whatever its case."""
    wanted = {asked.casefold(), label(asked).casefold()}
    return next((term for term in glossary() if term.casefold() in wanted), None)


def _first_sentence(thing: object) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
