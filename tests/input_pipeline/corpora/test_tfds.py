"""TensorFlow Datasets: an audio data set is converted to shards in an environment with TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from input_pipeline import audio, manifest
from input_pipeline.corpora.assemble import CorpusError
from input_pipeline.corpora.prepare import main
from input_pipeline.corpora.tfds import INSTALL, encode
from tests.runs import ROOT

# Builds the data set `spoken` from a manifest: audio as samples, and as files that are decoded lazily.
BUILDER = """
import json, sys
from pathlib import Path
import numpy as np, soundfile, tensorflow_datasets as tfds

clips, folder = Path(sys.argv[1]), sys.argv[2]
lines = [json.loads(line) for line in clips.read_text().splitlines()]

class Spoken(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.3")

    def _info(self):
        f = tfds.features
        return tfds.core.DatasetInfo(builder=self, supervised_keys=("speech", "text"), features=f.FeaturesDict({
            "speech": f.Audio(sample_rate=16000, dtype=np.int16),
            "file": f.Audio(file_format="flac_", lazy_decode=True, dtype=np.int32),
            "text": f.Text(), "comment": f.Text(),
            "speaker_id": f.Tensor(shape=(), dtype=np.int64),
            "gender": f.ClassLabel(names=["f", "m"]),
            "score": f.Scalar(np.float32),
            "parts": f.Sequence(f.Scalar(np.int64)),
        }))

    def _split_generators(self, _):
        return {"train": self._generate_examples(lines[:9]), "test": self._generate_examples(lines[9:])}

    def _generate_examples(self, chosen):
        for number, line in enumerate(chosen):
            path = clips.parent / line["audio_filepath"]
            yield number, {
                "speech": soundfile.read(path, dtype="int16")[0], "file": open(path, "rb"), "text": line["text"],
                "comment": "", "speaker_id": 7, "gender": "m", "score": 0.5, "parts": [1, 2],
            }

Spoken(data_dir=folder).download_and_prepare()
"""


@pytest.fixture(scope="session")
def tensorflow_python() -> Path:
    """Return the Python of an environment with TensorFlow, created once in build/ (2 GB, a few minutes)."""
    folder = ROOT / "build" / "tfds-env"
    python, made = folder / "bin" / "python", folder / "made"
    if not made.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *INSTALL.split()]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        if ran.returncode:
            pytest.skip(f"TensorFlow cannot be installed here: {ran.stderr.strip().splitlines()[-1]}")
        made.touch()
    return python


@pytest.fixture(scope="session")
def data_dir(tensorflow_python, clips, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    script = folder / "spoken.py"
    script.write_text(BUILDER)
    command = [str(tensorflow_python), str(script), str(clips), str(folder / "data")]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return folder / "data"


def prepare(python: Path, data_dir: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [str(python), "-m", "input_pipeline.prepare", "tfds", "--name=spoken", f"--data_dir={data_dir}", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["speech", "file"])
def test_a_data_set_becomes_shards_with_all_its_features(tensorflow_python, data_dir, clips, tmp_path, key):
    flags = ["--split=train,test", f"--output={tmp_path}", "--shards=2", "--text_key=text", f"--audio_key={key}"]
    ran = prepare(tensorflow_python, data_dir, *flags)
    assert ran.returncode == 0, ran.stderr
    assert "train                 9" in ran.stdout
    theirs = {line["text"]: line for line in map(json.loads, clips.read_text().splitlines())}
    packed = manifest.read_many(f"{tmp_path}/train.jsonl,{tmp_path}/test.jsonl")
    assert len(packed) == len(theirs) == 12
    for row, text in enumerate(packed.text):
        path = clips.parent / theirs[text]["audio_filepath"]
        samples, rate_hz = audio.read(path)
        np.testing.assert_array_equal(audio.read(packed.audio[row])[0], samples)
        assert packed.duration[row] == pytest.approx(len(samples) / rate_hz, abs=0.0005)
        extra = packed.extra[row]
        assert {name: extra[name] for name in ("speaker", "gender", "score", "comment")} == {
            "speaker": "7",
            "gender": "m",
            "score": 0.5,
            "comment": "",
        }
    again = prepare(tensorflow_python, data_dir, *flags)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split=dev"], "--split=dev: spoken has train, test"),
        (["--split=train", "--name=spokn"], "--name=spokn: TensorFlow Datasets cannot prepare it"),
        (["--split=train", "--audio_key=text"], "choose one of the features with audio, file, speech"),
        (["--split=train", "--shards=10"], "train has 9 utterances"),
        (["--split=train", "--audio_key=speech", "--output=/proc/x"], "/proc/x"),
    ],
)
def test_invalid_options_are_reported(tensorflow_python, data_dir, tmp_path, flags, message):
    ran = prepare(tensorflow_python, data_dir, f"--output={tmp_path / 'out'}", *flags)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert message in ran.stderr.strip().splitlines()[-1]  # after TensorFlow's messages


def test_the_error_without_tensorflow_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert main(["tfds", "--name=librispeech", "--split=train_clean100", f"--output={tmp_path / 'out'}"]) == 1
    error = capsys.readouterr().err
    assert f"tfds-env/bin/pip install {INSTALL}" in error
    assert "Training does not need it" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_are_encoded_as_flac_without_loss(tmp_path, bits, kind, channels):
    top = 1 << (min(bits, 8 * np.dtype(kind).itemsize) - 1)
    samples = np.random.default_rng(0).integers(-top, top, (500, channels)).astype(kind)
    content, seconds = encode(samples[:, 0] if channels == 1 else samples, 8000, bits, "x")
    (tmp_path / "a.flac").write_bytes(content)
    read, rate_hz = soundfile.read(tmp_path / "a.flac", dtype="int32", always_2d=True)
    np.testing.assert_array_equal(read >> (32 - bits), samples)
    assert rate_hz == 8000
    assert seconds == 500 / 8000


def test_samples_that_do_not_fit_and_unknown_rates_are_reported(tone):
    with pytest.raises(CorpusError, match=r"x: samples exceed 16 bits: set --bits=24"):
        encode(np.array([40_000]), 8000, 16, "x")
    with pytest.raises(CorpusError, match="set --sample_rate"):
        encode(np.array([4]), 0, 16, "x")
    with pytest.raises(CorpusError, match=r"x: .*not in an audio format"):
        encode(b"nothing", 0, 16, "x")
    whole = Path(tone(seconds=0.5)).read_bytes()
    assert encode(whole, 0, 16, "x") == (whole, 0.5)
    quiet, _ = encode(np.linspace(-0.5, 0.5, 100), 8000, 24, "x")
    np.testing.assert_allclose(audio.read(quiet)[0], np.linspace(-0.5, 0.5, 100), atol=1e-6)
