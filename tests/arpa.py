"""Write a small bigram model with Witten-Bell smoothing as an ARPA file, for tests of decoding."""

import collections
import math
from collections.abc import Iterable
from pathlib import Path


def write_arpa(path: Path, sentences: Iterable[str], *, characters: bool = False) -> Path:
    """Estimate a bigram model of the words (or characters) in sentences, write it, and return the path."""
    pairs: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    singles: collections.Counter = collections.Counter()
    for sentence in sentences:
        tokens = [*(sentence if characters else sentence.split()), "</s>"]
        singles.update(tokens)
        for before, token in zip(["<s>", *tokens], tokens, strict=False):
            pairs[before][token] += 1
    total, kinds = sum(singles.values()), len(singles)

    def single(token: str) -> float:
        return (singles[token] + kinds / (kinds + 1)) / (total + kinds)

    lines = ["\\data\\", f"ngram 1={kinds + 2}", f"ngram 2={sum(map(len, pairs.values()))}", "", "\\1-grams:"]
    for token in ("<unk>", "<s>", *singles):
        following = pairs.get(token)
        backoff = math.log10(len(following) / (sum(following.values()) + len(following))) if following else 0.0
        lines.append(f"{-99 if token == '<s>' else math.log10(single(token)):.6f}\t{token}\t{backoff:.6f}")
    lines += ["", "\\2-grams:"]
    for before, following in pairs.items():
        count = sum(following.values())
        for token, times in following.items():
            probability = (times + len(following) * single(token)) / (count + len(following))
            lines.append(f"{math.log10(probability):.6f}\t{before} {token}")
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return path
