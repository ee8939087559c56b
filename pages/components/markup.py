"""What people have written, shown on a page that reads Markdown."""

import re

_ADDRESS = re.compile(r"https?:/(?=/)|www(?=\.)|@", re.IGNORECASE)
_JOINER = "\u2060"
"""A character that is not seen and lets no line break: after it nothing is taken for the rest of an address."""


def as_text(text: str) -> str:
    """Text from a user, kept from being read as markup on screen; what looks like an address is made no link of."""
    text = _ADDRESS.sub(lambda part: part[0] + _JOINER, text)
    for mark in "\\`*_[]#$~<>:":
        text = text.replace(mark, "\\" + mark)
    return text
