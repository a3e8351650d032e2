"""Read the words of a KenLM model, binary or ARPA, and check that they fit a network's vocabulary."""

import contextlib
import functools
import gzip
import itertools
import logging
import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import TextIO

from decoding.lm.text_corpus import UNKNOWN
from input_pipeline.storage.file_kind import file_kind
from input_pipeline.text import Vocabulary
from input_pipeline.text.characters import describe_characters

logger = logging.getLogger("decoding")

MODELS = {("kenlm", ""): "binary", ("arpa", ""): "arpa", ("arpa", "gzip"): "gzip"}  # by form and compression
WORD_LISTS = ("text", "empty")
HEADER = struct.Struct("<Q B3x f i ? 3x I Q")  # 1, order, multiplier, kind, whether it has words, version, unigrams
HEADER_OFFSET = 80
SPECIAL = frozenset((UNKNOWN, "<unk>", "<UNK>", "<s>", "</s>", "<S>", "</S>"))
SHOWN = 5  # words listed in a message
MAX_QUOTED = 60  # characters of a line in a message
TRAIN = "train one: python -m decoding.lm train --help"
MAX_ALPHABET = 100  # words of a single character: more are not an alphabet
MAX_ORDER = 6  # that all engines are built for
MAX_WORD_BYTES = 256  # on average, within which the words of a binary are searched
# What KenLM and the libraries put before a message: the position in the source, and the file.
PREFIX = re.compile(
    r".*threw [\w:]+(?: because `.*?')?\.\s*|^Cannot read model '.*?' \(|^could not load language model .*?: ",
    re.DOTALL,
)
WORD_MODEL_SHARE = 0.5  # of words of several characters: with more, a model is not one of characters
MAX_FOREIGN, MANY_FOREIGN = 0.5, 0.05  # shares of words that cannot be written: refused, or a warning
PREPARE = "train one on text in the form of the transcripts: python -m decoding.lm train --vocabulary=vocabulary.txt"


class LanguageModelError(ValueError):
    """A language model that cannot be used; the message names the file and says what to do."""


def read_words(lm: str, unigrams: str = "") -> list[str]:
    """Return the words of a model without <unk>, <s> and </s>, from the file `unigrams` if it is given.

    Raises LanguageModelError.
    """
    try:
        size = os.stat(lm).st_size
    except OSError as error:
        raise LanguageModelError(f"config.decode.lm is {lm!r}: {error.strerror}; check the path, or {TRAIN}") from error
    if not os.path.isfile(lm) or not size:
        raise LanguageModelError(
            f"config.decode.lm is {lm!r}, which is not a file, or empty; name the model's file, or {TRAIN}"
        )
    kind = kind_of(lm)  # raises an error for other files, also if the words come from elsewhere
    order = _order_of(lm, kind)
    if order > MAX_ORDER:
        raise LanguageModelError(
            f"config.decode.lm={lm!r} is of order {order}, the decoders support models up to order {MAX_ORDER}: name another "
            "one, or train it again with a smaller --order, python -m decoding.lm train --help"
        )
    if unigrams:
        return [word for word in _read_unigrams(unigrams) if word not in SPECIAL]
    return list(_read_words(lm, kind, size, os.stat(lm).st_mtime_ns))


def _read_unigrams(path: str) -> list[str]:
    """Return the words of a file with one on each line. Raises LanguageModelError, also for files of another kind."""
    remedy = "check the path, or leave it empty to read the words from the model"
    try:
        kind = file_kind(path)
        if kind.form not in WORD_LISTS:
            raise LanguageModelError(f"config.decode.unigrams is {path!r}, {kind}, not a list of words; {remedy}")
        lines = kind.read_text(path).splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LanguageModelError(
            f"config.decode.unigrams is {path!r}, which cannot be read as UTF-8 ({error}); {remedy}"
        ) from error
    for number, line in enumerate(lines, start=1):
        if len(line.split()) > 1:
            raise LanguageModelError(
                f"config.decode.unigrams: {path}:{number} is {line[:MAX_QUOTED]!r}, but each line must be one word; {remedy}"
            )
    return [line.strip() for line in lines if line.strip()]


@functools.lru_cache(maxsize=4)
def _read_words(lm: str, kind: str, size: int, modified: int) -> tuple[str, ...]:
    """Read the words; size and time of modification are keys of the cache."""
    words = _words_of_binary(lm) if kind == "binary" else list(_words_of_arpa(lm, kind))
    return tuple(word for word in words if word not in SPECIAL)


def kind_of(lm: str | os.PathLike) -> str:
    """Return `binary`, `arpa` or `gzip` (compressed ARPA), judging by content. Raises LanguageModelError."""
    kind = file_kind(lm)
    name = MODELS.get((kind.form, kind.compression))
    if name is None:
        raise LanguageModelError(
            f"{lm} is not a KenLM model, neither binary nor ARPA, but {kind}; name another file, or {TRAIN}"
        )
    return name


def _order_of(lm: str, kind: str) -> int:
    """Return the order of a model, 0 if its header does not state it."""
    if kind == "binary":
        with open(lm, "rb") as file:
            head = file.read(HEADER_OFFSET + HEADER.size)
        return HEADER.unpack_from(head, HEADER_OFFSET)[1] if len(head) == HEADER_OFFSET + HEADER.size else 0
    order = 0
    with contextlib.suppress(OSError, EOFError, UnicodeDecodeError, zlib.error), _open_arpa(lm, kind) as lines:
        for line in itertools.takewhile(lambda line: not line.startswith("\\1-grams"), lines):
            order += line.startswith("ngram ")
    return order


def kenlm_message(output: object) -> str:
    """Return KenLM's last error message without the position in its source and the file."""
    return " ".join(PREFIX.sub("", str(output)).strip().rstrip(")").split())


def _words_of_binary(lm: str) -> list[str]:
    """Read the words at the end of a KenLM binary: <unk> first, each with a zero byte at its end."""
    with open(lm, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            one, _, _, _, has_words, _, count = HEADER.unpack_from(data, HEADER_OFFSET)
        except struct.error:
            one, has_words, count = 0, False, 0
        start = data.rfind(b"<unk>\0", max(0, len(data) - MAX_WORD_BYTES * (count + 1)))
        words = data[start:].split(b"\0")[:-1] if one == 1 and has_words and start >= 0 else []
    if len(words) != count or not words:
        raise LanguageModelError(
            f"{lm}: this KenLM binary is truncated, or built without its words; name a file with the words, one per line, "
            "--config.decode.unigrams=words.txt, or build it again from the ARPA file"
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
    except (OSError, EOFError, UnicodeDecodeError, IndexError, zlib.error) as error:
        raise LanguageModelError(
            f"{lm} cannot be read as ARPA ({error}); it may be truncated: make or copy it again"
        ) from error


def check_words(words: Sequence[str], vocabulary: Vocabulary, where: str) -> None:
    """Raise LanguageModelError if most of a model's words do not fit the network's vocabulary; log what looks wrong.

    where: the model's name in messages. What is wrong with a model is logged once.
    """
    if not words:
        raise LanguageModelError(f"{where} has no words; {TRAIN}")
    spaced = " " in vocabulary.symbols
    long = [word for word in words if len(word) > 1]
    if spaced and not long:
        if len(words) > MAX_ALPHABET:
            raise LanguageModelError(
                f"{where} is a character model ({_some(words)}), but this network outputs words with spaces between them: train a "
                "word model, python -m decoding.lm train --help"
            )
        _log(
            logging.WARNING,
            f"{where}: all its words are single characters ({_some(words)}). That is right for spelled letters with spaces "
            "between them; a character model does not fit this network, which outputs words",
        )
    if not spaced and len(long) > WORD_MODEL_SHARE * len(words):
        raise LanguageModelError(
            f"{where} is a word model ({_some(long)}), but the network's vocabulary has no space to separate words: train a "
            "character model, python -m decoding.lm train --help, or use a network whose vocabulary has a space"
        )
    symbols = set(vocabulary.symbols)
    foreign = [word for word in words if not symbols.issuperset(word)]
    missing = sorted(symbols.difference(" ", *words))
    # A character model may know many characters that a network does not: what counts is that it knows the network's.
    if len(foreign) > MAX_FOREIGN * len(words) if spaced else len(missing) > MAX_FOREIGN * len(symbols):
        raise LanguageModelError(
            f"{where}: {len(foreign)} of its {len(words)} words ({_some(foreign)}) cannot be written with this network's symbols "
            f"{''.join(vocabulary.symbols[:40])!r}: its language, case or numbers differ; {PREPARE}"
        )
    if foreign:
        level = logging.WARNING if spaced and len(foreign) > MANY_FOREIGN * len(words) else logging.INFO
        _log(
            level,
            f"{where}: {len(foreign)} of {len(words)} words cannot be written with this network's symbols and are never "
            f"recognised: {_some(foreign)}",
        )
    if missing:
        _log(
            logging.WARNING,
            f"{where}: {len(missing)} of the network's {len(symbols)} symbols occur in none of the model's words: "
            f"{describe_characters(missing)}. With config.decode.lexicon=strict they are never recognised; {PREPARE}",
        )


@functools.lru_cache(maxsize=64)
def _log(level: int, message: str) -> None:
    """Log a message once: an engine is made again for each list of hot words."""
    logger.log(level, message)


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:SHOWN]) + (", ..." if len(words) > SHOWN else "")
