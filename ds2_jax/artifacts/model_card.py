"""The model card of a bundle, README.md: generated sections among text written by hand.

A generated section stands between two comments, which are invisible in rendered Markdown:

    <!-- generated: network 3f1c9a0b77d2 -->
    ## Network
    ...
    <!-- end of network -->

The number is a digest of the section: a section that somebody has changed has another one, and counts as written by hand. The
front matter, between lines of three hyphens at the top, has its digest in a comment of YAML.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

FRONT_MATTER = "front matter"  # among the names of what was written by hand
_SECTION = re.compile(r"<!-- generated: (\w+) (\w+) -->\n(.*?)<!-- end of \1 -->", re.DOTALL)
_FRONT = re.compile(r"\A---\n(?:# generated: (\w+)\n)?(.*?)^---\n", re.DOTALL | re.MULTILINE)


def make_card(title: str, sections: Mapping[str, str], front: Mapping[str, Any]) -> str:
    """Return a new card: front matter, a title, and generated sections, Markdown by name."""
    return _front(front) + "\n".join([f"# {title}\n", *(f"{_mark(name, text)}\n" for name, text in sections.items())])


def update_card(card: str, sections: Mapping[str, str], front: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return a card with its generated sections replaced, and the names of the sections that were written by hand.

    sections, front: as for `make_card`. All other text stays, also sections changed by hand, and those without marks that
    begin like a generated one. Sections that the card lacks are added at its end; front matter, if the card has any other
    generated part.
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
    present = _FRONT.match(card)
    if present and present[1] != _digest(present[2]):
        by_hand.append(FRONT_MATTER)
    elif present or marked:
        card = _front(front) + card[present.end() if present else 0 :]
    return "\n".join([card, *(f"{_mark(name, sections[name])}\n" for name in added)]), by_hand


def _front(values: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return f"---\n# generated: {_digest(text)}\n{text}---\n"


def _mark(name: str, text: str) -> str:
    return f"<!-- generated: {name} {_digest(text)} -->\n{text.strip()}\n<!-- end of {name} -->"


def _digest(text: str) -> str:
    return hashlib.sha256("".join(text.split()).encode()).hexdigest()[:12]  # editors and git change white space


def _opening(text: str) -> str:
    """Return the words by which a section without marks is recognised: its heading, or the start of its first line."""
    return re.split(r"[:\n]", text.strip())[0]
