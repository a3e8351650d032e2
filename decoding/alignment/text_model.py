"""The language model of a text: an n-gram model that expects its words in their order, and allows others."""

import collections
import math
from collections.abc import Sequence
from pathlib import Path

ORDER = 4
FOLLOWS = 0.5  # probability that a text goes on as it is written; the rest is that of shorter contexts
SPECIAL = ("<unk>", "<s>", "</s>")
IMPOSSIBLE = -7.0  # log10 of their probability: the decoder needs none of them

Gram = tuple[str, ...]


def write(path: Path, words: Sequence[str]) -> None:
    """Write the model of a text, at least one word, as ARPA.

    P(w | h) = FOLLOWS * count(h w) / count(h) + (1 - FOLLOWS) * P(w | h without its first word): Jelinek and Mercer 1980,
    with one weight for all contexts.
    """
    if len(words) == 1:
        words = [*words, *words]  # KenLM reads no models of single words
    counts = [
        collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in range(1, ORDER + 1)
    ]
    counts = [grams for grams in counts if grams]
    # The last words of the text are no context: nothing follows them.
    contexts = [collections.Counter(gram[:-1] for gram in grams.elements()) for grams in counts]
    probabilities: list[dict[Gram, float]] = []
    for grams, context in zip(counts, contexts, strict=True):
        expected = {gram: count / context[gram[:-1]] for gram, count in grams.items()}
        if probabilities:
            shorter = probabilities[-1]
            expected = {gram: FOLLOWS * p + (1 - FOLLOWS) * shorter[gram[1:]] for gram, p in expected.items()}
        probabilities.append(expected)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        for n, grams in enumerate(counts, start=1):
            file.write(f"ngram {n}={len(grams) + (len(SPECIAL) if n == 1 else 0)}\n")
        for n, ps in enumerate(probabilities, start=1):
            file.write(f"\n\\{n}-grams:\n")
            if n == 1:
                file.write("".join(f"{IMPOSSIBLE}\t{word}\n" for word in SPECIAL))
            longer = contexts[n] if n < len(contexts) else {}
            for gram, p in ps.items():
                back_off = f"\t{math.log10(1 - FOLLOWS):.4f}" if gram in longer else ""
                file.write(f"{math.log10(p):.4f}\t{' '.join(gram)}{back_off}\n")
        file.write("\n\\end\\\n")
