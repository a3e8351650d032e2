"""What --output names, and that nothing that is read is overwritten."""

import json
from pathlib import Path

import pytest

from ds2_jax.cli import align, infer, output_file, suspects
from ds2_jax.configs import base
from tests.conftest import CLIPS

CLIP = CLIPS / "cen1-mtos-b.flac"


@pytest.fixture
def manifest(tmp_path) -> Path:
    """Return a manifest of one clip."""
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"audio_filepath": str(CLIP), "duration": 2.0, "text": "s m i t h"}) + "\n")
    return path


@pytest.fixture
def config(manifest):
    """Return the settings of a command that reads it."""
    settings = base.get_config()
    settings.restore, settings.data.test = "models/an4", f"{manifest}:2"
    return settings


def test_spaces_around_commas_do_not_belong_to_paths():
    assert output_file.parse("a.json, b c.txt,,") == ["a.json", "b c.txt"]


@pytest.mark.parametrize("through_link", [False, True])
@pytest.mark.parametrize(
    "run",
    [
        lambda config, output: infer.run_infer(config, "", [], f"new.srt, {output}"),
        lambda config, output: align.run_align(config, "", [], "", output),
        lambda config, output: suspects.run_suspects(config, "", output),
    ],
    ids=["infer", "align", "suspects"],
)
def test_a_manifest_is_not_overwritten(run, through_link, manifest, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    link = tmp_path / "link.jsonl"
    link.symlink_to(manifest)
    before = manifest.read_text()
    with pytest.raises(ValueError, match=r"is .*m\.jsonl, which is read, and would be lost"):
        run(config, str(link if through_link else manifest))
    assert manifest.read_text() == before


def test_a_negative_number_of_samples_is_refused(config):
    config.infer.samples = -1
    with pytest.raises(ValueError, match=r"config\.infer\.samples is -1: use 0 \(all\) or more"):
        infer.run_infer(config, "", [], "")


def test_a_text_and_a_recording_are_not_overwritten(tmp_path):
    text, recording = tmp_path / "book.txt", tmp_path / "speech"
    text.write_text("s m i t h\n")
    recording.write_bytes(CLIP.read_bytes())
    with pytest.raises(ValueError, match=r"book\.txt, which is read"):
        align.run_align(base.get_config(), "", [str(recording)], str(text), str(text))
    with pytest.raises(ValueError, match="speech, which is read"):
        infer.run_infer(base.get_config(), "", [str(recording)], str(recording))
