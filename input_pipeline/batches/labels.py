"""Transcripts as symbol indices, the labels of CTC."""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from input_pipeline.manifest import Manifest
from input_pipeline.text import TextRules, UnknownCharacters, Vocabulary

ROWS_AT_ONCE = 8192  # transcripts processed as int64 at a time


@dataclass(frozen=True)
class Labels:
    """Symbol indices of all transcripts, concatenated: two arrays for any number of transcripts."""

    symbols: np.ndarray  # [sum of lengths], the smallest unsigned type for the vocabulary, or int32
    offsets: np.ndarray  # [N + 1] int64

    def __getitem__(self, row: int) -> np.ndarray:
        return self.symbols[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Number of symbols of each transcript, [N] int64."""
        return np.diff(self.offsets)

    def needed_frames(self) -> np.ndarray:
        """Return the frames that CTC needs, one per symbol and one between equal neighbours: [N] int64."""
        needed = self.lengths
        for first in range(0, len(needed), ROWS_AT_ONCE):  # in parts, because int64 copies of all symbols are large
            offsets = self.offsets[first : first + ROWS_AT_ONCE + 1]
            symbols = self.symbols[offsets[0] : offsets[-1]]
            offsets = offsets - offsets[0]
            equal = np.zeros(len(symbols) + 1, np.int64)
            equal[1:-1] = symbols[1:] == symbols[:-1]
            equal[offsets[(offsets > 0) & (offsets < len(symbols))]] = 0  # between transcripts
            totals = np.append(0, np.cumsum(equal[:-1]))
            needed[first : first + ROWS_AT_ONCE] += totals[offsets[1:]] - totals[offsets[:-1]]
        return needed

    def select(self, rows: np.ndarray) -> "Labels":
        """Return the transcripts of these rows [n], in this order."""
        parts = [self[row] for row in rows.tolist()]
        offsets = np.append(0, np.cumsum(self.lengths[rows]))
        return Labels(np.concatenate([self.symbols[:0], *parts]), offsets)


def encode_transcripts(manifest: Manifest, vocabulary: Vocabulary, rules: TextRules) -> tuple[Labels, dict[int, str]]:
    """Encode normalised transcripts; return the labels and {row: problem}.

    Transcripts that are empty or have unknown characters get no symbols and a problem.
    """
    dtype = np.min_scalar_type(vocabulary.size)
    symbols, offsets, problems = bytearray(), np.zeros(len(manifest) + 1, np.int64), {}
    for row, text in enumerate(tqdm(manifest.text, desc="encode transcripts", delay=2.0, leave=False)):
        try:
            encoded = vocabulary.encode(rules.normalise(text))
            symbols += encoded.astype(dtype).tobytes()
            if not len(encoded):
                problems[row] = "the text is empty"
        except UnknownCharacters as error:
            problems[row] = str(error)
        offsets[row + 1] = len(symbols)
    return Labels(np.frombuffer(symbols, dtype), offsets // dtype.itemsize), problems
