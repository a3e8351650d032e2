"""The exported folder: its own script and sherpa-onnx transcribe with it as DS2-JAX does."""

import ast
import itertools
import json
import re
import subprocess
import wave
from pathlib import Path

import numpy as np
import onnx
import pytest
from jax import export

import ds2_jax
from decoding.settings import BeamSettings
from ds2_jax.artifacts.load import load_model
from ds2_jax.export import folder, stablehlo
from ds2_jax.export.sherpa import STREAM_FEATURES
from ds2_jax.recognition.recogniser import Recogniser
from input_pipeline import audio
from input_pipeline.audio.features import FeatureSettings, extract
from tests.conftest import CLIPS
from tests.ds2_jax.export.networks import log_probs, random_variables, small_meta, train
from tests.ds2_jax.serving.clients import install
from tests.runs import run_main

# sherpa-onnx has frames of 20 ms, and removes the mean of a clip, which may move the start of a word by one of ours of 30 ms.
GRID_S = 0.0501
FEATURE_TOLERANCE = 1e-3  # of logarithms: both are computed in float32


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("small") / "model"
    meta = small_meta()
    folder.write(str(target), meta, random_variables(meta), "onnx", {"decode.json": b"{}\n"})
    return target


@pytest.fixture(scope="module")
def an4(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("an4") / "an4"
    folder.write(str(target), *load_model("models/an4"), "onnx", {})
    return target


def write_wav(path: Path, clip: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.rint(audio.read(str(clip), 16000)[0] * 32768).astype("<i2").tobytes())
    return path


def block(readme: str, number: int) -> str:
    """Return a block of Python of the README."""
    return readme.split("```python\n")[number].split("```")[0]


def environment_of(folder: Path, number: int, venv: Path) -> str:
    """Create an environment with the packages that the README names above its block; return its Python."""
    before = (folder / "README.md").read_text().split("```python\n")[number - 1]
    return install(venv, *re.findall("pip install (.*)", before)[-1].split())


def run_block(python: str, folder: Path, number: int, wav: Path) -> subprocess.CompletedProcess:
    """Run a block of the folder's README there with a file as its argument."""
    command = [python, "-c", block((folder / "README.md").read_text(), number), str(wav)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)


def test_the_description_lists_every_file_with_its_digest(small):
    metadata = json.loads((small / "metadata.json").read_text())
    names = {path.name for path in small.iterdir()}
    assert set(metadata["files"]) == names - {"metadata.json"}
    assert metadata["symbols"] == ["", " ", "a", "b", "c", "d"]
    assert (small / "tokens.txt").read_text() == "<blk> 0\n  1\na 2\nb 3\nc 4\nd 5\n"
    assert metadata["files"]["model.onnx"]["bytes"] == (small / "model.onnx").stat().st_size
    sizes = {name: values["bytes"] for name, values in metadata["files"].items()}
    assert sizes["model.int8.onnx"] < sizes["model.float16.onnx"] < sizes["model.onnx"]
    assert all(f"`{name}`" in (small / "README.md").read_text() for name in names - {"README.md"})


def test_the_file_describes_itself(small):
    properties = {p.key: p.value for p in onnx.load(small / "model.onnx").metadata_props}
    assert properties == {"sample_rate_hz": "16000", "output_frame_s": "0.03", "language": "en", "symbols": " abcd"}


def test_an_export_is_repeated_into_its_folder_but_not_into_another(small, tmp_path):
    meta = small_meta()
    before = (small / "model.onnx").read_bytes()
    folder.write(str(small), meta, random_variables(meta), "onnx", {"decode.json": b"{}\n"})
    assert (small / "model.onnx").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="has other contents"):
        folder.write(str(tmp_path), meta, random_variables(meta), "onnx", {})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_model_that_sherpa_cannot_run_says_why(tmp_path):
    meta = small_meta(features={"level_s": 5.0})
    folder.write(str(tmp_path / "model"), meta, random_variables(meta), "onnx", {})
    assert not (tmp_path / "model" / "model.sherpa.onnx").exists()
    assert "no file for sherpa-onnx: the engine normalises" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.slow
def test_stablehlo_runs_with_the_packages_that_its_readme_names(tmp_path):
    meta = small_meta({"cell": "lstm", "bidirectional": False, "lookahead": 2})
    variables = random_variables(meta)
    folder.write(str(tmp_path / "model"), meta, variables, "stablehlo", {})
    clip = audio.read(str(CLIPS / "cen1-fjdn-b.flac"), 16000)[0]
    np.save(tmp_path / "features.npy", meta.front_end(clip))
    script = block((tmp_path / "model" / "README.md").read_text(), 1)
    script += f"np.save({str(tmp_path / 'output.npy')!r}, log_probs[0, : lengths[0]])\n"
    python = environment_of(tmp_path / "model", 1, tmp_path / "venv")
    command = [python, "-c", script, str(tmp_path / "features.npy")]
    done = subprocess.run(command, cwd=tmp_path / "model", capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    [ours] = log_probs(meta, variables, [clip])
    np.testing.assert_allclose(np.load(tmp_path / "output.npy"), ours, atol=1e-5)


def test_stablehlo_is_written_for_three_platforms_and_calls_nothing_foreign():
    meta = small_meta()
    exported = export.deserialize(bytearray(stablehlo.build(meta, random_variables(meta))))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert set(re.findall(r"custom_call @(\w+)", exported.mlir_module())) == {"shape_assertion"}  # checks inputs


def test_formats_of_one_model_share_a_folder_and_those_of_another_model_are_removed(tmp_path):
    meta, target = small_meta(), tmp_path / "model"
    variables = random_variables(meta)
    folder.write(str(target), meta, variables, "stablehlo", {})
    folder.write(str(target), meta, variables, "onnx", {})
    readme = (target / "README.md").read_text()
    assert "## ONNX" in readme
    assert "## StableHLO" in readme
    assert {"model.onnx", "model.stablehlo"} <= set(json.loads((target / "metadata.json").read_text())["files"])
    variables["params"]["output"]["bias"] += 1
    folder.write(str(target), meta, variables, "onnx", {})
    assert not (target / "model.stablehlo").exists()
    assert "## StableHLO" not in (target / "README.md").read_text()


@pytest.mark.slow
def test_main_exports_a_bundle_with_its_language_model(tmp_path):
    done = run_main("--mode=export", "--format=onnx", "--config.restore=models/an4", f"--output={tmp_path / 'an4'}")
    assert done.returncode == 0, done.stderr
    names = json.loads(done.stdout.splitlines()[-1])["bytes"]
    assert {"model.onnx", "model.sherpa.onnx", "lm.bin", "decode.json"} <= set(names)
    assert (tmp_path / "an4" / "lm.bin").read_bytes() == Path("models/an4/lm.bin").read_bytes()


@pytest.mark.slow
def test_the_script_of_the_readme_transcribes_without_jax(an4, tmp_path):
    python = environment_of(an4, 1, tmp_path / "venv")
    model = ds2_jax.load("models/an4", engine="greedy")
    for clip in sorted(CLIPS.glob("*.flac")):
        wav = write_wav(tmp_path / "clip.wav", clip)
        done = run_block(python, an4, 1, wav)
        assert done.stdout.strip() == model.transcribe(str(clip)).text, done.stderr
    absent = subprocess.run([python, "-c", "import jax"], capture_output=True, text=True)
    assert "No module named 'jax'" in absent.stderr


@pytest.mark.slow
def test_sherpa_onnx_gives_the_same_text_and_times(an4, tmp_path):
    python = environment_of(an4, 2, tmp_path / "venv")
    model = ds2_jax.load("models/an4", engine="greedy")
    for clip in sorted(CLIPS.glob("*.flac")):
        wav = write_wav(tmp_path / "clip.wav", clip)
        done = run_block(python, an4, 2, wav)
        assert done.returncode == 0, done.stderr
        text, symbols = done.stdout.splitlines()
        ours = model.transcribe(str(clip))
        assert text == ours.text
        times = [
            start for symbol, start in ast.literal_eval(symbols) if symbol != " "
        ]  # each word of the clips is one letter
        assert [word.start_s for word in ours.words] == pytest.approx(times, abs=GRID_S)


@pytest.fixture(scope="module")
def streaming(tmp_path_factory) -> tuple[Recogniser, Path]:
    """A small network on the features of sherpa-onnx, trained on the clips until it spells them, and its exported folder."""
    target = tmp_path_factory.mktemp("streaming") / "model"
    rows = [json.loads(line) for line in (CLIPS / "manifest.jsonl").read_text().splitlines()]
    clips = [audio.read(str(CLIPS / row["audio_filepath"]), 16000)[0] for row in rows]
    features = {**STREAM_FEATURES, "mel_bins": 80, "normalise_db": False}
    network = {"conv": "5x9/4x4:8", "rnn_size": 48, "rnn_layers": 1, "bidirectional": False, "lookahead": 2}
    meta, variables = train(network, features, clips, [row["text"] for row in rows])
    folder.write(str(target), meta, variables, "onnx", {})
    return Recogniser(meta, variables, BeamSettings(engine="greedy")), target


@pytest.mark.slow
def test_sherpa_onnx_streams_the_same_text_and_times_from_the_same_features(streaming, tmp_path):
    model, target = streaming
    python = environment_of(target, 2, tmp_path / "venv")
    spoken = 0
    for clip in sorted(CLIPS.glob("*.flac")):
        wav = write_wav(tmp_path / "clip.wav", clip)
        done = run_block(python, target, 2, wav)
        assert done.returncode == 0, done.stderr
        *texts, symbols = done.stdout.splitlines()
        samples = np.pad(audio.read(str(clip), 16000)[0], (0, 8000))  # as the script does
        ours = model.transcribe((samples, 16000))
        assert " ".join(texts[-1].split()) == ours.text  # the engine keeps a space after a space
        assert texts[-1].startswith(texts[-2])  # what was recognised before stays
        starts = [
            start
            for before, (symbol, start) in itertools.pairwise([(" ", 0), *ast.literal_eval(symbols)])
            if before[0] == " " != symbol
        ]
        assert [word.start_s for word in ours.words] == pytest.approx(starts, abs=1e-3)
        spoken += len(ours.words)
    assert spoken > 30


@pytest.mark.slow
def test_features_are_those_of_sherpa_onnx(streaming, tmp_path):
    _, target = streaming
    python = install(tmp_path / "venv", "sherpa-onnx", "numpy")
    settings = FeatureSettings(kind="sherpa", window_ms=25.0, mel_bins=80, normalise_db=False)
    script = """
import sys
import numpy, sherpa_onnx
recogniser = sherpa_onnx.OnlineRecognizer.from_nemo_ctc("tokens.txt", "model.sherpa.streaming.onnx", num_threads=1)
stream = recogniser.create_stream()
samples = numpy.load(sys.argv[1])
stream.accept_waveform(16000, samples)
stream.input_finished()
count = (len(samples) + 80) // 160
numpy.save(sys.argv[2], numpy.array(stream.get_frames(0, count)).reshape(count, 80))
"""
    for clip in sorted(CLIPS.glob("*.flac"))[:3]:
        samples = audio.read(str(clip), 16000)[0]
        np.save(tmp_path / "samples.npy", samples)
        subprocess.run(
            [python, "-c", script, tmp_path / "samples.npy", tmp_path / "features.npy"], cwd=target, check=True
        )
        np.testing.assert_allclose(
            extract(samples, settings), np.load(tmp_path / "features.npy"), atol=FEATURE_TOLERANCE
        )
