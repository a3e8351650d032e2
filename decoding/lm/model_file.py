"""The words of a KenLM model, read from its binary or ARPA file, and whether they fit a network's vocabulary."""

import contextlib
import functools
import gzip
import itertools
import logging
import mmap
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from input_pipeline.text import Vocabulary

logger = logging.getLogger("decoding")

BINARY = b"mmap lm http://kheafield.com/code"
HEADER = struct.Struct(
    "<Q B3x f i ? 3x I Q"
)  # at byte 80: a one, order, multiplier, kind, has words, version, unigrams
HEADER_AT = 80
SPECIAL = frozenset(("<unk>", "<UNK>", "<s>", "</s>", "<S>", "</S>"))
SHOWN = 5
MAKE = "make one: python -m decoding.lm train --help"
LETTERS = 100  # words of one character above which they are no alphabet that is spelled
MOST_ORDER = 6  # of a model, that all engines are built for
LONGEST_WORD = 256  # bytes a word, on average, within which the words of a binary are looked for
# What KenLM and the libraries write before it: where in its source it gave up, and the file.
THROWN = re.compile(
    r".*threw [\w:]+(?: because `.*?')?\.\s*|^Cannot read model '.*?' \(|^could not load language model .*?: ",
    re.DOTALL,
)
MOSTLY = 0.5  # share of words of several characters above which a model is no model of characters


class LanguageModelError(ValueError):
    """A language model that cannot be used; the message names file and mend."""


def read_words(lm: str, unigrams: str = "") -> list[str]:
    """Return the words of a model without <unk>, <s> and </s>: those of the file `unigrams` where it is named.

    Raises LanguageModelError.
    """
    try:
        size = os.stat(lm).st_size
    except OSError as error:
        raise LanguageModelError(f"config.decode.lm is {lm!r}: {error.strerror}; check the path, or {MAKE}") from error
    if not os.path.isfile(lm) or not size:
        raise LanguageModelError(f"config.decode.lm is {lm!r}, no file with content; name the model's file, or {MAKE}")
    kind = kind_of(lm)  # also where the words are read elsewhere: a foreign file is refused here
    order = _order_of(lm, kind)
    if order > MOST_ORDER:
        raise LanguageModelError(
            f"config.decode.lm={lm!r} is of order {order}, the decoders take models up to order {MOST_ORDER}: name another "
            f"one, or train it again with a smaller --order, python -m decoding.lm train --help"
        )
    if unigrams:
        try:
            words = Path(unigrams).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise LanguageModelError(
                f"config.decode.unigrams is {unigrams!r}, which cannot be read as UTF-8 ({error}); check the path, or leave "
                "it empty: the words are read from the model"
            ) from error
        return [word for word in words if word not in SPECIAL]
    return list(_read_words(lm, kind, size, os.stat(lm).st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _read_words(lm: str, kind: str, size: int, modified: int) -> tuple[str, ...]:
    """Read the words; size and time of change are there for the cache."""
    words = _words_of_binary(lm) if kind == "binary" else list(_words_of_arpa(lm, kind))
    return tuple(word for word in words if word not in SPECIAL)


def kind_of(lm: str | os.PathLike) -> str:
    """Tell `binary`, `arpa` or `gzip` (of ARPA) by content. Raises LanguageModelError for anything else."""
    with open(lm, "rb") as file:
        start = file.read(4096)
    if start.startswith(BINARY):
        return "binary"
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    if start.lstrip().startswith(b"\\data\\"):
        return "arpa"
    raise LanguageModelError(
        f"{lm} is no KenLM model, neither binary nor ARPA: it starts with {start[:20]!r}; name another file, or {MAKE}"
    )


def _order_of(lm: str, kind: str) -> int:
    """Return the order of a model, 0 where its head does not tell."""
    if kind == "binary":
        with open(lm, "rb") as file:
            head = file.read(HEADER_AT + HEADER.size)
        return HEADER.unpack_from(head, HEADER_AT)[1] if len(head) == HEADER_AT + HEADER.size else 0
    order = 0
    with contextlib.suppress(OSError, EOFError, UnicodeDecodeError), _open_arpa(lm, kind) as lines:
        for line in itertools.takewhile(lambda line: not line.startswith("\\1-grams"), lines):
            order += line.startswith("ngram ")
    return order


def kenlm_words(said: object) -> str:
    """Return what KenLM says last of what it cannot do, without the place in its source and the file."""
    return " ".join(THROWN.sub("", str(said)).strip().rstrip(")").split())


def _words_of_binary(lm: str) -> list[str]:
    """Read the words that KenLM keeps at the end of its binary files, each ended by a zero byte, <unk> first."""
    with open(lm, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            one, _, _, _, has_words, _, count = HEADER.unpack_from(data, HEADER_AT)
        except struct.error:
            one, has_words, count = 0, False, 0
        start = data.rfind(b"<unk>\0", max(0, len(data) - LONGEST_WORD * (count + 1)))
        words = data[start:].split(b"\0")[:-1] if one == 1 and has_words and start >= 0 else []
    if len(words) != count or not words:
        raise LanguageModelError(
            f"{lm}: the words of this KenLM binary cannot be read from it (cut off, or built without them); name them with "
            "--config.decode.unigrams=words.txt, one a line, or build it again from the ARPA file"
        )
    return [word.decode("utf-8", "replace") for word in words]


def _open_arpa(lm: str, kind: str) -> TextIO:
    return gzip.open(lm, "rt", encoding="utf-8") if kind == "gzip" else open(lm, encoding="utf-8")


def _words_of_arpa(lm: str, kind: str) -> Iterator[str]:
    try:
        with _open_arpa(lm, kind) as lines:
            inside = False
            for line in lines:
                if line.startswith("\\"):
                    if inside:
                        return
                    inside = line.strip() == "\\1-grams:"
                elif inside and line.strip():
                    yield (line.rstrip("\n").split("\t") if "\t" in line else line.split())[1]
    except (OSError, EOFError, UnicodeDecodeError, IndexError) as error:
        raise LanguageModelError(
            f"{lm} cannot be read as ARPA ({error}); it may be cut off: make or copy it again"
        ) from error


def check_words(words: Sequence[str], vocabulary: Vocabulary, where: str) -> None:
    """Raise LanguageModelError where a model's words and the network's vocabulary cannot belong together."""
    if not words:
        raise LanguageModelError(f"{where} knows no word; {MAKE}")
    spaced = " " in vocabulary.symbols
    long = [word for word in words if len(word) > 1]
    if spaced and not long:
        if len(words) > LETTERS:
            raise LanguageModelError(
                f"{where} is a model of characters ({_some(words)}), but this network writes words, with spaces between them: "
                "train one on words, python -m decoding.lm train --help"
            )
        logger.warning(
            "%s: all its words are single characters (%s). That is right for spelled letters with spaces between them; a "
            "model of characters does not go with this network, which writes words",
            where,
            _some(words),
        )
    if not spaced and len(long) > MOSTLY * len(words):
        raise LanguageModelError(
            f"{where} is a model of words ({_some(long)}), but the network's vocabulary has no space to part words: train "
            "one on characters, python -m decoding.lm train --help, or use a network whose vocabulary has a space"
        )
    symbols = set(vocabulary.symbols)
    foreign = [word for word in words if not symbols.issuperset(word)]
    if len(foreign) == len(words):
        raise LanguageModelError(
            f"{where}: none of its {len(words)} words ({_some(words)}) can be written with this network's symbols "
            f"{''.join(vocabulary.symbols[:40])!r}: it is of another language or case; make one from text that is normalised "
            "as the transcripts are, python -m decoding.lm train --help"
        )
    if foreign:
        logger.info(
            "%s: %d of %d words cannot be written by this network and are never recognised: %s",
            where,
            len(foreign),
            len(words),
            _some(foreign),
        )


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:SHOWN]) + (", ..." if len(words) > SHOWN else "")
