"""Write the utterances of a recording as a corpus: a manifest, their audio, and a list of what was left out."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from decoding.hypothesis import as_json
from ds2_jax.recognition.alignment import AlignedUtterance, Alignment
from input_pipeline import manifest
from input_pipeline.audio import write_flac
from input_pipeline.audio.long_reader import open_long
from input_pipeline.audio.reader import mix

CUTS = ("flac", "segments")  # files of their own, or parts of the recording
MANIFEST, LEFT_OUT, AUDIO = "manifest.jsonl", "left_out.jsonl", "audio"


def write(folder: str, path: str, found: Alignment, *, cut: str) -> None:
    """Write a folder that does not exist, whole or not at all; path: of the recording. Raises OSError, AudioError."""
    target = Path(folder).absolute()
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        made = Path(temporary, target.name)
        made.mkdir()
        if cut == "segments":
            relative = os.path.relpath(path, target)
            records = [{**_place(one, relative), **_describe(one)} for one in found.utterances]
        else:
            records = _cut(found.utterances, path, made)
        manifest.write(made / MANIFEST, records)
        manifest.write(made / LEFT_OUT, [as_json(one) for one in found.left_out])
        shutil.move(made, target)


def split(blocks: Iterable[np.ndarray], spans: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
    """Yield the samples first <= n < end of each span; spans do not overlap, and are in order; blocks [n] are read once."""
    source = iter(blocks)
    block, begin = np.zeros(0, np.float32), 0
    for first, end in spans:
        pieces = []
        while True:
            pieces.append(block[max(0, first - begin) : max(0, end - begin)])
            if begin + len(block) >= end:
                break
            begin += len(block)
            following = next(source, None)
            if following is None:
                block = block[:0]
                break
            block = following
        yield np.concatenate(pieces)


def _cut(utterances: Sequence[AlignedUtterance], path: str, folder: Path) -> list[dict]:
    """Write the audio of utterances as FLAC files, while the recording is read once; return their records."""
    (folder / AUDIO).mkdir()
    digits = max(4, len(str(len(utterances))))
    records = []
    with open_long(path, whole=False) as audio:
        rate_hz = audio.sample_rate_hz
        spans = [(round(one.start_s * rate_hz), round(one.end_s * rate_hz)) for one in utterances]
        pieces = split((mix(block)[0] for block in audio.blocks()), spans)
        for number, (one, samples) in enumerate(zip(utterances, pieces, strict=True), start=1):
            name = f"{AUDIO}/{number:0{digits}d}.flac"
            write_flac(folder / name, samples, rate_hz)
            own = {"audio_filepath": name, "duration": round(len(samples) / rate_hz, 4)}
            records.append({**own, **_describe(one), "recording": path, "recording_s": round(one.start_s, 3)})
    return records


def _place(one: AlignedUtterance, path: str) -> dict:
    return {"audio_filepath": path, "offset": round(one.start_s, 3), "duration": round(one.end_s - one.start_s, 3)}


def _describe(one: AlignedUtterance) -> dict:
    return {"text": one.text, "score": round(one.score, 4), "confidence": round(one.confidence, 4)}
