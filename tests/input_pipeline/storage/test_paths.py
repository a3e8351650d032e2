"""Paths as people write them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from input_pipeline.storage.paths import refuse_inputs, why_missing
from tests.runs import ROOT


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("clips\\a.flac", "it has back slashes: write / between folders; {0}/clips/a.flac exists"),
        ("D:\\clips\\b.flac", "it has back slashes: write / between folders"),
        ("clips/a.flac\r", "it ends in a carriage return (\\r), which does not belong to it; {0}/clips/a.flac exists"),
        ("clips/a.flac ", "it ends in a space, which does not belong to it; {0}/clips/a.flac exists"),
        ("clips/A.flac", "there is a.flac: upper and lower case differ"),
        ("Clips/a.flac", "there is clips: upper and lower case differ"),
        ("clips/a", "there is a.flac: the ending differs"),
        ("clips/a.wav", "there is a.flac: the ending differs"),
        ("clips/cafe\u0301.flac", "there is caf\u00e9.flac with accents in composed (NFC) form, another spelling"),
        ("clips/u\u0308ber.flac", ""),
        ("file:///data/a.flac", "it is an address: write the path without file://"),
        ("clops/deep/a.flac", "there is no folder {0}/clops"),
        ("clips/b.flac", ""),
        ("clips/link.flac", "it is a link to gone.flac, which does not exist"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_is_overlooked(tmp_path, path, reason):
    (tmp_path / "clips").mkdir()
    for name in ("a.flac", "caf\u00e9.flac"):
        (tmp_path / "clips" / name).touch()
    (tmp_path / "clips" / "link.flac").symlink_to("gone.flac")
    found = why_missing(f"{tmp_path}/{path}" if not path.startswith("file:") else path)
    assert found.startswith(reason.format(tmp_path))
    assert bool(found) == bool(reason)


COMMANDS = {
    "text": "input_pipeline.text m.jsonl --output={}",
    "stats": "input_pipeline.stats m.jsonl --output={}",
    "join": "input_pipeline.join m.jsonl --output={}",
    "check": "input_pipeline.manifest check m.jsonl --output={}",
    "select": "input_pipeline.manifest select m.jsonl --min_confidence=0.5 --output={}",
    "lm": "decoding.lm train --text=m.jsonl --output={}",
    "lm, excluded": "decoding.lm train --text=other.txt --exclude=m.jsonl --output={}",
    "lm, arpa": "decoding.lm train --text=m.jsonl --output=lm.bin --arpa={}",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_over_what_it_reads(command, tmp_path):
    given = tmp_path / "m.jsonl"
    given.write_text(json.dumps({"audio_filepath": "a.wav", "duration": 1.0, "text": "go"}) + "\n")
    (tmp_path / "other.txt").write_text("stop\n")
    (tmp_path / "linked.jsonl").symlink_to(given)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    line = [sys.executable, "-m", *COMMANDS[command].format("linked.jsonl").split()]
    result = subprocess.run(
        line, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert result.returncode in (1, 2)
    assert "=linked.jsonl is m.jsonl, which is read, and would be lost: choose another name" in result.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_is_itself_by_whatever_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").touch()
    Path("b").touch()
    Path("link").symlink_to("a")
    Path("second_name").hardlink_to("a")
    for output in ("a", "./a", str(tmp_path / "a"), "link", "second_name"):
        with pytest.raises(ValueError, match=f"--arpa={output} is a, which is read"):
            refuse_inputs(["b", output], ["s3://bucket/a", "gone", "", "a"], "--arpa")
    refuse_inputs(["b", "new", ""], ["a", "gone", ""])
