"""The same audio twice: in one manifest, or in several, which must not share any; told by content, whatever the files' names."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from input_pipeline.manifest.examination import Clip
from input_pipeline.manifest.problems import Problem
from input_pipeline.manifest.table import Manifest, absolute_path


def copy_problems(checked: Manifest, clips: Sequence[Clip], removed: set[int]) -> Iterator[Problem]:
    """Yield rows with the same file or samples as an earlier row; of copies with different texts, all: the right one is unknown.

    removed: rows that are left out for other reasons; they do not count.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, clip in enumerate(clips):
        if row not in removed and not clip.fault:
            groups[clip.digest].append(row)
    for rows in groups.values():
        differ = len({_text(checked, row) for row in rows}) > 1
        for row in rows if differ else rows[1:]:
            other = rows[0]
            if differ:
                other = next(one for one in rows if _text(checked, one) != _text(checked, row))
            what = f"the same {_what(checked, row, other)} as line {checked.line[other]}"
            if differ:
                yield Problem(row, "conflict", f"{what}, with another text: {checked.text[row]!r}")
            else:
                yield Problem(row, "duplicate", what)


def _what(checked: Manifest, row: int, other: int) -> str:
    part = checked.part(row)
    if absolute_path(checked.audio[row]) != absolute_path(checked.audio[other]) or part != checked.part(other):
        return "audio"
    return "segment" if part else "file"


def _text(checked: Manifest, row: int) -> str:
    return " ".join(checked.text[row].split())


def shared_audio(corpora: Sequence[tuple[Manifest, Sequence[Clip]]]) -> Iterator[str]:
    """Describe the clips whose audio an earlier one of several manifests also has."""
    first: dict[bytes, tuple[int, int]] = {}
    for number, (checked, clips) in enumerate(corpora):
        for row, clip in enumerate(clips):
            if clip.fault:
                continue
            other, other_row = first.setdefault(clip.digest, (number, row))
            if other != number:
                earlier = corpora[other][0]
                texts = "" if _text(earlier, other_row) == _text(checked, row) else ", with another text"
                yield f"{checked.where(row)}: the same audio as {earlier.where(other_row)}{texts}"


def shared_speakers(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Describe the speakers that several manifests name, with their utterances in each."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for checked in manifests:
        for row in range(len(checked)):
            if speaker := checked.speaker(row):
                source = checked.sources[0]
                counts[speaker][source] = counts[speaker].get(source, 0) + 1
    for speaker, by_source in counts.items():
        if len(by_source) > 1:
            yield f"{speaker}: " + ", ".join(f"{count} in {source}" for source, count in by_source.items())
