"""Divide recordings into splits by whole groups, such as speakers, with a deterministic rule."""

import collections
import hashlib
from collections.abc import Callable, Mapping, Sequence

from input_pipeline.corpora.assemble import CorpusError, Recording, Value


def split_by_group(
    recordings: Sequence[Value], shares: Mapping[str, float], group: Callable[[Value], str]
) -> dict[str, list[Value]]:
    """Divide recordings, or their records, into train and the splits of `shares`, by whole groups such as speakers.

    Groups are sorted by the MD5 of their names, and one joins a split if that brings the split closer to its share. Every
    split, including train, gets a group. Raises CorpusError if there are too few groups.
    """
    sizes = collections.Counter(group(one) for one in recordings)
    if len(sizes) <= len(shares):
        raise CorpusError(f"{len(sizes)} speakers or files are too few for {', '.join(['train', *shares])}")
    remaining = sorted(sizes, key=lambda name: hashlib.md5(name.encode(), usedforsecurity=False).digest())
    split_of: dict[str, str] = {}
    for reserved, (split, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
        size, target = 0, share * len(recordings)
        for name in list(remaining):
            if size + sizes[name] / 2 <= target and len(remaining) > reserved:
                size += sizes[name]
                split_of[name] = split
                remaining.remove(name)
        if not size:
            smallest = min(remaining, key=lambda name: sizes[name])
            split_of[smallest] = split
            remaining.remove(smallest)
    divided: dict[str, list[Value]] = {"train": [], **{split: [] for split in shares}}
    for one in recordings:
        divided[split_of.get(group(one), "train")].append(one)
    return divided


def by_speaker(recording: Recording) -> str:
    """Return the speaker of a recording, for groups of speakers."""
    return recording.speaker
