"""Divide recordings into splits by whole groups, such as speakers: by a fixed rule, the same on every machine."""

import collections
import hashlib
from collections.abc import Callable, Mapping, Sequence

from input_pipeline.corpora.assemble import CorpusError, Recording, Value


def split_off(
    recordings: Sequence[Value], shares: Mapping[str, float], group: Callable[[Value], str]
) -> dict[str, list[Value]]:
    """Divide recordings, or their records, into train and `shares` of them, by whole groups such as speakers.

    The rule is fixed: groups come in the order of the MD5 of their names, and one joins a split if that brings the
    split nearer to its share. Every split has a group, train too. Raises CorpusError where there are too few.
    """
    sizes = collections.Counter(group(one) for one in recordings)
    if len(sizes) <= len(shares):
        raise CorpusError(f"{len(sizes)} speakers or files are too few for {', '.join(['train', *shares])}")
    left = sorted(sizes, key=lambda name: hashlib.md5(name.encode(), usedforsecurity=False).digest())
    split_of: dict[str, str] = {}
    for later, (split, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
        have, wanted = 0, share * len(recordings)
        for name in list(left):
            if have + sizes[name] / 2 <= wanted and len(left) > later:
                have += sizes[name]
                split_of[name] = split
                left.remove(name)
        if not have:
            smallest = min(left, key=lambda name: sizes[name])
            split_of[smallest] = split
            left.remove(smallest)
    divided: dict[str, list[Value]] = {"train": [], **{split: [] for split in shares}}
    for one in recordings:
        divided[split_of.get(group(one), "train")].append(one)
    return divided


def by_speaker(recording: Recording) -> str:
    """Return the group of a recording where groups are speakers."""
    return recording.speaker
