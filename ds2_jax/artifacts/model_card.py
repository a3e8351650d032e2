"""The model card of a bundle, README.md: generated sections among text written by hand.

A generated section stands between two comments, which are invisible in rendered Markdown:

    <!-- generated: network 3f1c9a0b77d2 -->
    ## Network
    ...
    <!-- end of network -->

The number is a digest of the section: a section that somebody has changed has another one, and counts as written by hand.
"""

import hashlib
import re
from collections.abc import Mapping

_SECTION = re.compile(r"<!-- generated: (\w+) (\w+) -->\n(.*?)<!-- end of \1 -->", re.DOTALL)


def make_card(title: str, sections: Mapping[str, str]) -> str:
    """Return a new card: a title and generated sections, Markdown by name."""
    return "\n".join([f"# {title}\n", *(f"{_mark(name, text)}\n" for name, text in sections.items())])


def update_card(card: str, sections: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return a card with its generated sections replaced, and the names of the sections that were written by hand.

    sections: Markdown by name, as for `make_card`. All other text stays, also sections changed by hand, and those without
    marks that begin like a generated one. Sections that the card lacks are added at its end.
    """
    marked = {name: (digest, text) for name, digest, text in _SECTION.findall(card)}
    by_hand = [name for name, (digest, text) in marked.items() if name in sections and digest != _digest(text)]
    unmarked = _SECTION.sub("", card)
    by_hand += [name for name, text in sections.items() if name not in marked and _opening(text) in unmarked]

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        return match[0] if name in by_hand or name not in sections else _mark(name, sections[name])

    added = [name for name in sections if name not in marked and name not in by_hand]
    card = _SECTION.sub(replace, card)
    return "\n".join([card, *(f"{_mark(name, sections[name])}\n" for name in added)]), by_hand


def _mark(name: str, text: str) -> str:
    return f"<!-- generated: {name} {_digest(text)} -->\n{text.strip()}\n<!-- end of {name} -->"


def _digest(text: str) -> str:
    return hashlib.sha256("".join(text.split()).encode()).hexdigest()[:12]  # editors and git change white space


def _opening(text: str) -> str:
    """Return the words by which a section without marks is recognised: its heading, or the start of its first line."""
    return re.split(r"[:\n]", text.strip())[0]
