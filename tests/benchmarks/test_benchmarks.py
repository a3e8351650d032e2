"""Each benchmark runs at a tiny size and prints one JSON line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.report import MARKER, NETWORK, power, write
from decoding.search import beam
from input_pipeline import manifest
from tests.runs import ROOT

ROUNDING = 0.02  # a step of a few ms is printed to 0.1 ms


def run(*command: str) -> dict:
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    return json.loads(line)


@pytest.mark.slow
def test_train_step():
    sizes = {"batch": 2, "frames": 40, "hidden": 4, "layers": 1, "labels": 3, "vocab": 7, "bins": 9, "steps": 2}
    result = run("benchmarks.train_step", "--cell=rnn", *(f"--{name}={size}" for name, size in sizes.items()))
    assert 0 < result["step_min_s"] <= result["step_median_s"]
    assert result["forward_s"] > 0
    # 2 utterances of 40 frames of 10 ms; both figures are rounded
    assert result["audio_s_per_s"] * result["step_median_s"] == pytest.approx(0.8, rel=ROUNDING)
    assert result["parameters"] > 11 * 41 * 32 + 11 * 21 * 32 * 32  # of the convolutions alone
    assert result["versions"].keys() >= {"jax", "jaxlib", "flax", "optax", "numpy"}
    assert result["devices"]
    assert result["sizes"].items() >= sizes.items()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_input_pipeline(clips, workers, tmp_path):
    augment = tmp_path / "augment.json"
    params = {"min_speed_rate": 0.9, "max_speed_rate": 1.1}
    augment.write_text(json.dumps([{"type": "speed", "params": params, "prob": 1}]))
    options = [f"--manifest={clips}", "--limit=5", f"--augment={augment}", f"--workers={workers}"]
    result = run("benchmarks.input_pipeline", *options)
    utterances = manifest.read(clips)
    assert result["audio_s"] == pytest.approx(utterances.duration[:5].sum(), abs=5 * utterances.duration_unit_s)
    assert min(result["end_to_end"], result["audio_s_per_s"], *result["parts"].values()) > 0
    assert result["parts"].keys() == {"decode", "speed", "features", "masks"}
    assert sum(result["share"].values()) == pytest.approx(1, abs=0.01)
    assert 0 <= result["padding"] < 1
    assert result["host"] == pytest.approx(16 * result["end_to_end"], abs=8)


@pytest.mark.slow
def test_input_pipeline_compares_features_with_samples(clips):
    options = [f"--manifest={clips}", "--limit=5", "--on_device", "--rounds=2", "--kind=fbank"]
    inputs = run("benchmarks.input_pipeline", *options)["inputs"]
    assert list(inputs) == ["features", "float32", "int16"]
    assert inputs["features"]["relative"] == 1
    assert inputs["float32"]["kb_per_s"] > 64  # 16,000 samples, and padding
    assert inputs["float32"]["kb_per_s"] == pytest.approx(2 * inputs["int16"]["kb_per_s"], rel=0.05)
    assert 0 < inputs["int16"]["mean"] < inputs["int16"]["largest"] < 1e-4  # FLAC, not augmented


def test_input_pipeline_reports_a_missing_manifest_in_one_line():
    command = [sys.executable, "-m", "benchmarks.input_pipeline", "--manifest=nowhere.jsonl"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 1
    assert (
        result.stderr == "python -m benchmarks.input_pipeline: manifest nowhere.jsonl does not exist; check the path\n"
    )


def test_batch_plan():
    result = run("benchmarks.batch_plan", "--utterances=3000", "--batch=7", "--speed")
    assert result["batches"] == pytest.approx(3000 / 7, abs=9)  # a few batches are not full
    assert result["to_worker_mb"] < 2 * result["manifest_mb"]
    assert 0 <= result["plan_s"] < 5
    assert result["process_peak_mb"] > result["plan_mb"]


def test_prepare_corpus(tmp_path):
    result = run("benchmarks.prepare_corpus", "--files=120", "--runs=2", f"--folder={tmp_path}")
    assert result["files"] == 120
    # both figures are rounded
    assert result["prepare_files_per_s"] * result["prepare_s"] == pytest.approx(120, rel=0.05)
    assert 0 < result["scan_processor_us"] < 1e5
    assert not list(tmp_path.iterdir())


def test_augmentation_pictures(tmp_path):
    picture = tmp_path / "augmentation.png"
    result = run("benchmarks.augmentation_pictures", f"--output={picture}")
    assert 10_000 < result["bytes"] == picture.stat().st_size < 200_000
    assert [path.name for path in tmp_path.iterdir()] == [picture.name]


@pytest.mark.slow
def test_clip_picture(tmp_path):
    picture = tmp_path / "clip.png"
    result = run("benchmarks.clip_picture", f"--output={picture}", "--clip=tests/clips/cen1-mtos-b.flac")
    assert result["text"] == "s m i t h"
    for path in (picture, ROOT / "docs" / "clip.png"):  # the second is the picture in the README
        assert path.stat().st_size < 150_000
        assert Image.open(path).size == (1200, 500)
    assert result["bytes"] == picture.stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == [picture.name]


@pytest.mark.slow
def test_shards(clips):
    sizes = ["--files=20", "--file_kb=10", "--runs=1", "--step_s=0.01", "--latency_ms=1", "--shards=2", "--batch=4"]
    result = run("benchmarks.shards", f"--manifest={clips}", *sizes)
    assert min(result[name] for name in ("pack_mb_per_s", "cp_mb_per_s")) >= 0
    assert min(result[name] for name in ("files", "shards")) > 1
    kinds = {"files", "store", "store_uncached", "store_again", "store_when_asked"}
    assert result["waiting"].keys() == kinds
    assert all(0 <= share < 1 for share in result["waiting"].values())


def test_ctc():
    result = run("benchmarks.ctc", "--batch=2", "--frames=30", "--labels=8", "--vocab=7", "--runs=2")
    assert result["speed_against_optax"] == pytest.approx(result["optax_median_s"] / result["median_s"], rel=0.1)
    assert result["temporary_floats"] < result["optax_temporary_floats"]


def test_recurrent():
    result = run(
        "benchmarks.recurrent", "--batch=2", "--frames=9", "--width=5", "--hidden=4", "--runs=2", "--cell=lstm"
    )
    assert 0 < result["min_s"] <= result["median_s"]


@pytest.mark.slow
def test_transcribe(clips):
    result = run("benchmarks.transcribe", f"--manifest={clips}", "--runs=1", "--batch=12")
    assert result["cores"] == 1
    assert result["audio_s_per_s"] > 1
    assert result["wer"] < 0.2  # the released model was trained on these clips


@pytest.mark.slow
def test_first_transcript():
    result = run("benchmarks.first_transcript", "--runs=1")
    assert 0 < result["import_s"] < result["load_s"] < result["transcribe_s"]
    assert result["import_s"] < 0.3


@pytest.mark.slow
def test_decoders(clips):
    options = ("--lm=models/an4/lm.bin", "--engines=greedy,ctc_beam_decoder", "--beams=10", "--runs=1")
    result = run("benchmarks.decoders", f"--manifest={clips}", *options)
    assert [(row["engine"], row["beam"]) for row in result["rows"]] == [("greedy", 1), ("ctc_beam_decoder", 10)]
    assert all(row["utterances_per_s"] > 1 and row["wer"] < 0.2 for row in result["rows"])


@pytest.mark.slow
def test_end_to_end(clips):
    result = run("benchmarks.end_to_end", f"--manifest={clips}", "--batches=1", "--rounds=1", "--rnn_size=4")
    assert result["share_of_step_speed"] > 0
    assert 0 <= result["waiting_share"] < 1


@pytest.mark.slow
def test_start_up_does_not_use_the_compilation_cache_of_the_user(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "user_cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    result = run("benchmarks.start_up", f"--manifest={clips}", "--runs=1")
    assert min(result["first_s"], result["again_s"]) > 0
    assert not (tmp_path / "user_cache").exists()


def test_report_fits_growth_counts_products_and_keeps_handwritten_text(tmp_path):
    assert power([[1, 9.0], [2, 3.0], [4, 12.0], [8, 48.0]]) == pytest.approx(2)
    assert NETWORK.train_flop / 1e9 == pytest.approx(180, rel=0.05)  # docs/performance.md
    figures = json.loads((ROOT / "docs" / "performance.json").read_text())
    write(figures, tmp_path, "a command")
    page = tmp_path / "performance.md"
    page.write_text(page.read_text() + "handwritten text")
    write(figures, tmp_path, "a command")
    assert page.read_text().endswith(MARKER + "\nhandwritten text")
    assert (tmp_path / "performance.png").stat().st_size > 1000


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc/self/smaps_rollup (Linux)")
@pytest.mark.skipif(not beam.native_available(), reason="the native decoder is not built (no compiler)")
def test_mapped_model_is_shared_by_processes():
    result = run("benchmarks.mapped_model", "--processes=2", "--threads=1", "--utterances=3")
    assert result["words"] > 50
    first, second = result["processes"]
    for memory in (first, second):
        assert 0 < memory["model"]["pss"] < memory["model"]["rss"] < memory["all"]["rss"]
        assert memory["model"]["private_dirty"] == 0


@pytest.mark.slow
def test_long_recordings_are_compared_with_their_clips(clips):
    result = run("benchmarks.long_recording", f"--manifest={clips}", "--minutes=1.5", "--pause=0.5")
    assert result["wer_joined"] <= result["wer_clips"] + 0.03
    assert result["audio_s"] > 80
