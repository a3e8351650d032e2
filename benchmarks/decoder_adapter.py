"""Our engines for a decoder benchmark: `setup(meta, **options)`, then `decode(batch of [U, K] natural logs) -> [str]`.

    python bench.py run --data data/en.npz --module benchmarks.decoder_adapter --opt engine=native --opt beam=100 \\
        --opt lm=data/lm5.trie.bin --opt unigrams=data/unigrams.txt --opt alpha=0.8 --opt beta=2

The benchmark's blank and space may stand anywhere; ours is symbol 0, and columns are put in that order.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from decoding.search.beam import BeamSettings, make_engine
from input_pipeline.text import Vocabulary

_state: dict[str, Any] = {}


def setup(
    meta: dict,
    engine: str = "native",
    beam: int = 100,
    lm: str = "",
    unigrams: str = "",
    alpha: float = 0.5,
    beta: float = 1.0,
    threshold: float = 15.0,
    top_n: int = 40,
    char: int = 0,
    threads: int = 1,
    lexicon: str = "strict",
) -> None:
    """Build the engine for the symbols meta['labels'] with their blank at meta['blank']; values may be text."""
    labels, blank = list(meta["labels"]), int(meta["blank"])
    _state["order"] = [blank, *(i for i in range(len(labels)) if i != blank)]
    settings = BeamSettings(
        engine=engine,
        lm=lm,
        unigrams="" if int(char) else unigrams,
        alpha=float(alpha),
        beta=float(beta),
        beam_size=int(beam),
        cutoff_top_n=int(top_n),
        threshold=float(threshold),
        lexicon=lexicon,
        threads=int(threads),
    )
    vocabulary = Vocabulary(tuple(labels[i] for i in _state["order"][1:]))
    _state["engine"] = make_engine(vocabulary, settings, float(meta.get("frame_s", 0.03)))


def decode(batch: Sequence[np.ndarray]) -> list[str]:
    """Return the best text of each utterance."""
    order = _state["order"]
    arrays = [rows if order[0] == 0 else rows[:, order] for rows in batch]
    return [found[0].text for found in _state["engine"].decode_batch(arrays)]
