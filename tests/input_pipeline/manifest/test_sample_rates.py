"""Clips below a model's rate are counted, wherever in the manifest they are; broken ones are left to others."""

import json

import numpy as np
import soundfile

from input_pipeline import manifest
from input_pipeline.manifest.sample_rates import HEADERS_READ, describe_upsampling


def read_corpus(folder, rates: list[int]) -> manifest.Manifest:
    """Write short clips of these rates, 0 for one that is broken, and read their manifest."""
    lines = []
    for number, rate in enumerate(rates):
        path = folder / f"{number}.wav"
        if rate:
            soundfile.write(path, np.zeros(80), rate)
        else:
            path.write_bytes(b"")
        lines.append({"audio_filepath": path.name, "duration": 0.01, "text": "a"})
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest.read(folder / "m.jsonl")


def test_clips_below_the_rate_are_counted_and_the_first_is_named(tmp_path):
    corpus = read_corpus(tmp_path, [16000, 0, 8000, 11025, 48000])
    warning = describe_upsampling(corpus, 16000)
    assert warning.startswith("2 of 5 clips checked were recorded below the model's 16000 Hz")
    assert f"the first of them {tmp_path}/m.jsonl:3 (2.wav) at 8000 Hz" in warning
    assert describe_upsampling(corpus, 8000) == ""


def test_headers_are_read_from_the_beginning_to_the_end(tmp_path):
    rates = [16000] * (2 * HEADERS_READ)
    rates[0] = rates[-1] = 8000
    warning = describe_upsampling(read_corpus(tmp_path, rates), 16000)
    assert warning.startswith(f"2 of {HEADERS_READ} clips checked")
