"""Transcripts as symbol indices: what CTC learns from."""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from input_pipeline.manifest import Manifest
from input_pipeline.text import UnknownCharacters, Vocabulary, normalise

ROWS_AT_ONCE = 8192  # transcripts that are worked on as int64


@dataclass(frozen=True)
class Labels:
    """Symbol indices of all transcripts, end to end: a million transcripts are two arrays."""

    symbols: np.ndarray  # [sum of lengths], the smallest unsigned type that holds the vocabulary, or int32
    offsets: np.ndarray  # [N + 1] int64

    def __getitem__(self, row: int) -> np.ndarray:
        return self.symbols[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """[N] int64."""
        return np.diff(self.offsets)

    def needed_frames(self) -> np.ndarray:
        """Frames that CTC needs: one a symbol and one between equal neighbours. [N] int64."""
        needed = self.lengths
        for first in range(0, len(needed), ROWS_AT_ONCE):  # in parts: a hundred million symbols are large as int64
            offsets = self.offsets[first : first + ROWS_AT_ONCE + 1]
            symbols = self.symbols[offsets[0] : offsets[-1]]
            offsets = offsets - offsets[0]
            equal = np.zeros(len(symbols) + 1, np.int64)
            equal[1:-1] = symbols[1:] == symbols[:-1]
            equal[offsets[(offsets > 0) & (offsets < len(symbols))]] = 0  # not across transcripts
            totals = np.append(0, np.cumsum(equal[:-1]))
            needed[first : first + ROWS_AT_ONCE] += totals[offsets[1:]] - totals[offsets[:-1]]
        return needed

    def select(self, rows: np.ndarray) -> "Labels":
        """Keep the transcripts of these rows [n], in this order."""
        parts = [self[row] for row in rows.tolist()]
        offsets = np.append(0, np.cumsum(self.lengths[rows]))
        return Labels(np.concatenate([self.symbols[:0], *parts]), offsets)


def encode_transcripts(manifest: Manifest, vocabulary: Vocabulary, language: str) -> tuple[Labels, dict[int, str]]:
    """Turn normalised transcripts into symbols; those with unknown characters become empty and are named.

    Returns the labels and {row: problem}.
    """
    kind = np.min_scalar_type(vocabulary.size)
    symbols, offsets, problems = bytearray(), np.zeros(len(manifest) + 1, np.int64), {}
    for row, text in enumerate(tqdm(manifest.text, desc="encode transcripts", delay=2.0, leave=False)):
        try:
            encoded = vocabulary.encode(normalise(text, language))
            symbols += encoded.astype(kind).tobytes()
            if not len(encoded):
                problems[row] = "the text is empty"
        except UnknownCharacters as error:
            problems[row] = str(error)
        offsets[row + 1] = len(symbols)
    return Labels(np.frombuffer(symbols, kind), offsets // kind.itemsize), problems
