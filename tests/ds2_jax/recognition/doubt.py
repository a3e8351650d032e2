"""Output of a network that is in doubt between two words."""

import numpy as np

from input_pipeline.text import Vocabulary


def six_or_sax(vocabulary: Vocabulary) -> np.ndarray:
    """Return natural-log probabilities [6, K] f32 of `six`, or of `sax`, which is a little less probable."""
    probabilities = np.full((6, vocabulary.size), 1e-6)
    for frame, symbols in enumerate([{"s": 1.0}, {"i": 0.6, "a": 0.4}, {"x": 1.0}, {" ": 1.0}]):
        for symbol, probability in symbols.items():
            probabilities[frame, vocabulary.encode(symbol)[0]] = probability
    probabilities[4:, 0] = 1.0
    return np.log(probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)
