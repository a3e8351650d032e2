"""Transcripts are printed as soon as they are there, and only as long as someone reads them."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2_jax.cli import infer
from ds2_jax.configs import base
from tests.conftest import CLIPS
from tests.runs import ROOT, start_main

CLIP = CLIPS / "cen1-mtos-b.flac"


def write_cut(path: Path, repeats: int) -> Path:
    """Write speech whose header states more than there is: a warning says so when it has been transcribed."""
    soundfile.write(path, np.tile(soundfile.read(CLIP, dtype="int16")[0], repeats), 16000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 9 // 10])
    return path


@pytest.fixture(params=["a recording", "clips"])
def flags(request, tmp_path) -> list[str]:
    """Return flags for a clip, what takes at least some seconds to transcribe, and a cut file at the end."""
    if request.param == "a recording":
        return [f"--audio={CLIP},{write_cut(tmp_path / 'cut.wav', 400)}"]
    paths = [CLIP] * 600 + [write_cut(tmp_path / "cut.wav", 1)]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps({"audio_filepath": str(path)}) + "\n" for path in paths))
    return [f"--config.data.test={manifest}", "--config.infer.samples=0"]


def test_transcription_stops_quietly_when_its_reader_has_gone(flags):
    with start_main("--mode=infer", "--config.restore=models/an4", "--config.decode.engine=greedy", *flags) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == f"{CLIP}\n"
        process.stdout.close()
        assert process.wait(300) == 0
        messages = process.stderr.read()
    assert not any(word in messages for word in ("cut.wav", "Traceback", "error")), messages


def test_the_first_transcript_replaces_the_progress_bar(tmp_path, monkeypatch):
    """What a terminal shows of both streams; nothing rewrites a line after it."""
    monkeypatch.setattr(infer, "BAR_DELAY_S", 0.0)
    config = base.get_config()
    config.restore = str(ROOT / "models" / "an4")
    config.decode.engine = "greedy"
    screen = tmp_path / "screen"
    with screen.open("w") as both, contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
        infer.run_infer(config, "", [str(CLIP)] * 3, "")
    before, *after = screen.read_bytes().decode().split(f"{CLIP}\n")
    assert "transcribe:" in before
    assert len(after) == 3
    assert not any("\r" in text for text in after)
