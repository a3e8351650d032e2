"""Prompts of OpenAI's clients as hot words: a decoder for each prompt."""

import asyncio
import dataclasses
import functools
import re

from decoding.search.beam import CheckedEngine
from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.recognition.decode_settings import make_engine, spell, spell_hot_words
from ds2_jax.recognition.recogniser import Recogniser

WEIGHT = 3.0  # natural log, added for each occurrence
MOST = 200  # words of a prompt
KEPT = 4  # decoders
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


class HotWords:
    """Decoders with hot words, of which the latest few are kept."""

    def __init__(self, recogniser: Recogniser):
        self._recogniser = recogniser
        self._engine = functools.lru_cache(KEPT)(self._make)

    async def engine(self, prompt: str) -> CheckedEngine | None:
        """Return a decoder for which the words of a prompt are more probable; None if the usual one is to be used.

        That is the case without words that the network can spell, and for greedy decoding, which knows no hot words.
        """
        if self._recogniser.engine.name == "greedy":
            return None
        words = find_words(prompt, self._recogniser.meta)
        return await asyncio.to_thread(self._engine, frozenset(words)) if words else None

    def _make(self, words: frozenset[str]) -> CheckedEngine:
        settings = spell_hot_words(self._recogniser.settings, self._recogniser.meta)
        weights = dict.fromkeys(sorted(words), WEIGHT) | settings.hot_word_weights()
        text = ",".join(f"{word}:{weight}" for word, weight in weights.items())
        return make_engine(dataclasses.replace(settings, hot_words=text), self._recogniser.meta)


def find_words(prompt: str, meta: ModelMeta) -> list[str]:
    """Return the distinct words of a prompt that a network can spell, the first ones of many, as it spells them."""
    symbols = set(meta.vocabulary.symbols)
    words = dict.fromkeys(spell(word, meta) for word in WORD.findall(prompt))
    return [word for word in words if word and set(word) <= symbols][:MOST]
