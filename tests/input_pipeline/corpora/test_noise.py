"""MUSAN, RIRS_NOISES and the background noise of CHiME-3: manifests for the augmentation file."""

import io
import json

import numpy as np
import pytest
import soundfile

from input_pipeline import manifest
from input_pipeline.augment import Augmentation
from input_pipeline.corpora import chime3, musan, prepare, rirs
from tests import corpus_archives


def augment(path, tmp_path) -> np.ndarray:
    """Add noise from a manifest to a signal through an augmentation file; return the added noise."""
    params = {"min_snr_dB": 10, "max_snr_dB": 10, "noise_manifest_path": str(path)}
    (tmp_path / "augment.json").write_text(json.dumps([{"type": "noise", "params": params, "prob": 1.0}]))
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    augmentation = Augmentation.load(tmp_path / "augment.json", 16_000)
    return augmentation.apply_audio(samples, 16_000, rate=1.0, rng=np.random.default_rng(1)) - samples


def test_musan_gives_a_manifest_for_each_kind_usable_as_noise(tmp_path, monkeypatch, capsys):
    names = (
        "noise/free-sound/noise-free-sound-0000",
        "music/fma/music-fma-0000",
        "speech/librivox/speech-librivox-0000",
    )
    files: dict[str, bytes | str] = {
        f"musan/{name}.wav": corpus_archives.clip(i, "WAV") for i, name in enumerate(names)
    }
    packed = corpus_archives.tar(files | {"musan/README": "MUSAN", "musan/noise/free-sound/ANNOTATIONS": "x"})
    corpus_archives.publish(monkeypatch, musan, packed)
    site = corpus_archives.write_tree(tmp_path / "site", {"musan.tar.gz": packed})
    target = tmp_path / "musan"
    with corpus_archives.serve(site) as address:
        assert prepare.main(["musan", f"--target_dir={target}", f"--url={address}"]) == 0
    assert corpus_archives.read_manifest(target / "noise.jsonl") == [
        {
            "audio_filepath": "musan/musan/noise/free-sound/noise-free-sound-0000.wav",
            "duration": corpus_archives.duration(0),
            "text": "",
            "sample_rate": 16_000,
        }
    ]
    assert sorted(path.name for path in target.glob("*.jsonl")) == ["music.jsonl", "noise.jsonl", "speech.jsonl"]
    assert np.abs(augment(target / "noise.jsonl", tmp_path)).max() > 0
    out = capsys.readouterr().out
    assert f'"noise_manifest_path": "{target}/noise.jsonl"' in out
    assert "noise                 1" in out


def test_kinds_of_musan_can_be_chosen(tmp_path):
    tree = corpus_archives.write_tree(
        tmp_path / "musan",
        {f"{kind}/a/{kind}.wav": corpus_archives.clip(1, "WAV") for kind in ("noise", "music", "speech")},
    )
    assert prepare.main(["musan", f"--source={tree}", f"--target_dir={tmp_path / 'x'}", "--kinds=music"]) == 0
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["music.jsonl"]


def test_a_missing_kind_is_reported_before_the_others_are_read(tmp_path, capsys):
    tree = corpus_archives.write_tree(
        tmp_path / "musan", {"noise/a/noise.wav": corpus_archives.clip(1, "WAV"), "speech/README": ""}
    )
    assert prepare.main(["musan", f"--source={tree}", f"--target_dir={tmp_path / 'x'}", "--kinds=noise,speech"]) == 1
    error = capsys.readouterr().err
    assert "no recordings for" in error
    assert "x/speech.jsonl: check what was skipped above; if nothing was, the corpus is incomplete" in error
    assert not (tmp_path / "x").exists()


def stereo() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, (800, 2)), 16_000, format="WAV")
    return file.getvalue()


def test_rirs_are_listed_by_kind(tmp_path, monkeypatch, capsys):
    real, point = "RIRS_NOISES/real_rirs_isotropic_noises", "RIRS_NOISES/pointsource_noises"
    files: dict[str, bytes | str] = {
        f"{real}/air_type1_air_binaural_booth_0_1.wav": stereo(),
        f"{real}/RVB2014_type1_noise_largeroom1_1.wav": corpus_archives.clip(1, "WAV"),
        f"{real}/rir_list": f"--rir-id 00001 --room-id air_booth {real}/air_type1_air_binaural_booth_0_1.wav\n",
        f"{real}/noise_list": f"--noise-id 1 --noise-type isotropic --room-linkage largeroom1 "
        f"{real}/RVB2014_type1_noise_largeroom1_1.wav\n",
        f"{point}/noise-free-sound-0000.wav": corpus_archives.clip(2, "WAV"),
        f"{point}/noise_list": f"--noise-id 1 --noise-type point-source --bg-fg-type foreground "
        f"{point}/noise-free-sound-0000.wav\n",
    }
    for room in rirs.SIMULATED:
        files[f"RIRS_NOISES/simulated_rirs/{room}/Room001/Room001-00001.wav"] = corpus_archives.clip(3, "WAV")
        files[f"RIRS_NOISES/simulated_rirs/{room}/rir_list"] = "--rir-id 1\n"
    packed = corpus_archives.zipped(files)
    corpus_archives.publish(monkeypatch, rirs, packed)
    site = corpus_archives.write_tree(tmp_path / "site", {"rirs_noises.zip": packed})
    target = tmp_path / "rirs"
    with corpus_archives.serve(site) as address:
        assert prepare.main(["rirs", f"--target_dir={target}", f"--url={address}/rirs_noises.zip"]) == 0
    kinds = {path.stem for path in target.glob("*.jsonl")}
    assert kinds == {"real", "isotropic_noise", "pointsource_noise", "smallroom", "mediumroom", "largeroom"}
    (record,) = corpus_archives.read_manifest(target / "real.jsonl")
    assert record["channels"] == 2
    assert record["text"] == ""
    assert len(manifest.read(target / "smallroom.jsonl", need_text=False)) == 1
    assert np.abs(augment(target / "pointsource_noise.jsonl", tmp_path)).max() > 0
    assert f'"impulse_manifest_path": "{target}/real.jsonl"' in capsys.readouterr().out


INNER: dict[str, bytes | str] = {
    f"{name}.zip": corpus_archives.zipped(
        {
            f"CHiME3/data/audio/16kHz/backgrounds/BGD_150203_010_{name[-3:].upper()}.CH1.wav": corpus_archives.clip(
                i, "WAV"
            )
        }
    )
    for i, name in enumerate(chime3.INNER)
}


@pytest.mark.parametrize("state", ["outer archive", "inner archives", "unpacked"])
def test_background_noise_is_read_from_any_state_of_the_archive(tmp_path, monkeypatch, state):
    outer = corpus_archives.zipped(INNER)
    corpus_archives.publish(monkeypatch, chime3, outer)
    unpacked = {f"CHiME3/data/audio/16kHz/backgrounds/{i}.wav": corpus_archives.clip(i, "WAV") for i in range(4)}
    states: dict[str, corpus_archives.Files] = {
        "outer archive": {chime3.ARCHIVE.name: outer},
        "inner archives": INNER,
        "unpacked": unpacked,
    }
    source = corpus_archives.write_tree(tmp_path / "source", states[state])
    before = sorted(source.rglob("*"))
    target = tmp_path / "chime3"
    for _ in range(2):  # the second time, everything is unpacked
        assert prepare.main(["chime3", f"--source={source}", f"--target_dir={target}"]) == 0
        records = corpus_archives.read_manifest(target / "background.jsonl")
        assert [record["text"] for record in records] == [""] * 4
    assert sorted(source.rglob("*")) == before
    assert np.abs(augment(target / "background.jsonl", tmp_path)).max() > 0


def test_a_source_without_background_noise_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert prepare.main(["chime3", f"--source={tmp_path / 'empty'}", f"--target_dir={tmp_path / 'x'}"]) == 1
    error = capsys.readouterr().err
    assert "contains neither myairbridge-AG0Y3DNBE5IWRRTV.zip nor CHiME3_background_bus.zip" in error
