"""The words of the lab, explained by the fields, algorithms, families and networks themselves."""

import inspect
import re
from functools import cache

from maml_core.config import RunConfig
from maml_core.fields import label
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.models import MODELS
from maml_core.learning.tasks import FAMILIES

ANCHOR = "#term-"
"""How a link to a term begins; the rest is what `find_term` takes."""

_NOUNS = {
    "Adaptation": "A few steps of gradient descent on a task's support points, from the initialization.",
    "Held-out tasks": "Tasks that training never draws: what the lab reports errors on.",
    "Initialization": "The weights that every task starts from; they are what meta-training learns.",
    "Meta-gradient": "The direction in which the initialization moves, so that adaptation from it ends better.",
    "Meta-iteration": "One update of the initialization, by the meta-gradient of one meta-batch of tasks.",
    "Meta-loss": "The loss on query points after adaptation, as a mean over the tasks of a meta-batch.",
    "Policy gradient": "A step that makes actions likelier after which more reward came than after others (REINFORCE).",
    "Query points": "A task's points that judge the adapted model. Adaptation never sees them.",
    "Rollout": "One try at a task of control, step by step; its return is the sum of its rewards.",
    "Support points": "A task's few points that adaptation sees.",
}
"""What no field, algorithm, family or network is called by."""


@cache
def glossary() -> dict[str, str]:
    """What each term means, in alphabetical order."""
    terms = _NOUNS | {label(name): field.description or "" for name, field in RunConfig.model_fields.items()}
    terms |= {
        algorithm.title: f"{_first_sentence(algorithm)} Source: {algorithm.source}."
        for algorithm in ALGORITHMS.values()
    }
    terms |= {kind.title: _first_sentence(kind) for registry in (FAMILIES, MODELS) for kind in registry.values()}
    return dict(sorted(terms.items(), key=lambda pair: pair[0].casefold()))


def find_term(asked: str) -> str | None:
    """The term that is meant by a field's name or by the term itself, whatever its case."""
    return slugs().get(_slug(asked))


@cache
def slugs() -> dict[str, str]:
    """The term that the end of a link means: the term itself, or the name of its field, in small letters."""
    return {_slug(name): label(name) for name in RunConfig.model_fields} | {_slug(term): term for term in glossary()}


def linked(text: str) -> str:
    """A Markdown text in which the first mention of each term is a link to it; code and links stay as they are."""
    known, pattern = _mentions()
    seen: set[str] = set()

    def link(found: re.Match[str]) -> str:
        words = found["term"]
        term = known.get(words.casefold()) if words else None
        if term is None or term in seen:
            return found[0]
        seen.add(term)
        return f"[{words}]({ANCHOR}{_slug(term)})"

    return pattern.sub(link, text)


@cache
def _mentions() -> tuple[dict[str, str], re.Pattern[str]]:
    """How a text may mention each term, and what finds such a mention; code and links are found first, to be left."""
    known = {term.casefold(): term for term in glossary() if term not in _PLAIN_WORDS}
    known |= {name: label(name) for name in RunConfig.model_fields if "_" in name}
    known |= {f"{mention}s": term for mention, term in known.items() if not mention.endswith("s")}
    known |= {"fomaml": "First-order MAML", "support": "Support points", "query": "Query points"}
    words = "|".join(re.escape(mention) for mention in sorted(known, key=len, reverse=True))
    return known, re.compile(rf"`[^`]*`|!?\[[^\]]*\]\([^)]*\)|(?<![\w-])(?P<term>{words})(?![\w-])", re.IGNORECASE)


_PLAIN_WORDS = {"Tasks", "Model", "Device", "Seed", "Lines", "Linear model", "Absolute values"}
"""Terms that a text mostly uses as the everyday words that they are."""


def _slug(term: str) -> str:
    return re.sub(r"\W+", "_", term.casefold()).strip("_")


def _first_sentence(thing: object) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
