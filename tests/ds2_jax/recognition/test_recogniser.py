"""The Python API: all kinds of audio, few compiled programs, clear errors for misuse, light imports."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import ds2_jax
from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.network.model import ModelSettings, init_variables
from ds2_jax.recognition.batched_network import LONGEST_S
from ds2_jax.recognition.recogniser import Recogniser
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.text import Vocabulary
from tests.conftest import CLIPS
from tests.runs import ROOT, run_main

AN4 = ROOT / "models" / "an4"
CLIP = CLIPS / "cen1-fmjc-b.flac"
SAME = 1e-4  # for log probabilities: padding and batching change the order of float32 sums
RATE_HZ = 16000


@pytest.fixture(scope="module")
def model() -> Recogniser:
    return ds2_jax.load(AN4)


@pytest.fixture(scope="module")
def small() -> Recogniser:
    """Return a network of a few hundred random parameters."""
    network = ModelSettings(conv="3x5/3x2:2", rnn_size=4, rnn_layers=1)
    meta = ModelMeta(
        network, FeatureSettings(kind="fbank", mel_bins=8), "utterance", None, Vocabulary(tuple(" abc")), "en"
    )
    return Recogniser(meta, init_variables(meta.network, meta.feature_size, 0), ds2_jax.BeamSettings(engine="greedy"))


def noise(seconds: float, rate_hz: int = RATE_HZ) -> tuple[np.ndarray, int]:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * rate_hz)).astype(np.float32), rate_hz


def texts() -> dict[str, str]:
    records = map(json.loads, (CLIPS / "manifest.jsonl").read_text().splitlines())
    return {str(CLIPS / record["audio_filepath"]): record["text"] for record in records}


def test_a_clip_is_transcribed_with_times_and_confidence(model):
    transcript = model.transcribe(CLIP)
    assert transcript.text == str(transcript) == texts()[str(CLIP)]
    assert transcript.words[0].text == transcript.text.split()[0]
    times = [time for word in transcript.words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < transcript.duration_s
    assert 0.5 < transcript.confidence <= 1
    assert transcript.nbest[0].text == transcript.text
    assert transcript.sample_rate_hz == RATE_HZ


def test_every_kind_of_source_gives_the_same_output(model):
    samples, rate_hz = soundfile.read(CLIP, dtype="int16")
    stereo = np.stack([samples, samples], axis=1)
    with open(CLIP, "rb") as file:
        sources = [CLIP, str(CLIP), CLIP.read_bytes(), file, io.BytesIO(CLIP.read_bytes())]
        sources += [(samples, rate_hz), (samples / 32768, rate_hz), (stereo, rate_hz)]
        expected = model.log_probs(CLIP)
        for source in sources:
            np.testing.assert_allclose(model.log_probs(source), expected, atol=SAME)


def test_another_sample_rate_is_resampled_and_reported(model):
    samples, rate_hz = soundfile.read(CLIP, dtype="float32")
    transcript = model.transcribe((np.repeat(samples, 3), 3 * rate_hz))
    assert transcript.sample_rate_hz == 3 * rate_hz
    assert transcript.text == model.transcribe(CLIP).text


def test_a_list_gives_the_transcripts_of_single_clips_in_its_order(model):
    paths = [*texts(), *reversed(texts())]
    transcripts = model.transcribe(paths)
    assert [transcript.text for transcript in transcripts] == [texts()[path] for path in paths]
    for path, transcript in list(zip(paths, transcripts, strict=True))[:3]:
        assert transcript.confidence == pytest.approx(model.transcribe(path).confidence, abs=1e-3)
    assert model.transcribe([]) == []


def test_log_probs_are_probabilities_of_the_symbols_and_the_blank(model):
    log_probs = model.log_probs(CLIP)
    seconds = soundfile.info(CLIP).duration
    assert log_probs.dtype == np.float32
    assert log_probs.shape[1] == model.vocabulary.size
    assert len(log_probs) * model.output_frame_s == pytest.approx(seconds, abs=3 * model.output_frame_s)
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1, atol=SAME)
    assert model.decode([log_probs])[0][0].text == model.transcribe(CLIP).text


def test_settings_of_decoding_are_completed_by_the_bundle():
    greedy, several = ds2_jax.load(AN4, engine="greedy"), ds2_jax.load(AN4, nbest=3, beam_size=50)
    assert greedy.engine.name == "greedy"
    assert several.settings.lm == str(AN4 / "lm.bin")
    assert several.settings.beam_size == 50
    assert len(several.transcribe(CLIP).nbest) == 3


@pytest.mark.slow
def test_any_lengths_and_numbers_of_clips_compile_a_dozen_programs(small):
    for seconds in (0.1, 1, 2.9, 5, 8, 14, 22, 29, 41, LONGEST_S):
        small.transcribe(noise(seconds))
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.uniform(0.1, LONGEST_S, 20), rng.uniform(0.1, 16.0, 60)])
    transcripts = small.transcribe([noise(seconds) for seconds in lengths])
    assert [transcript.duration_s for transcript in transcripts] == pytest.approx(lengths, abs=1 / RATE_HZ)
    assert 10 <= small.network.forward._cache_size() <= 12


def test_padding_and_other_clips_do_not_change_the_output(small):
    clips = [noise(seconds) for seconds in (0.5, 1.0, 3.9, 3.0)]
    expected = [small.log_probs(clip) for clip in clips]
    batched = small.network.compute_together([small.meta.front_end(samples) for samples, _ in clips])
    for one, other in zip(expected, batched, strict=True):
        np.testing.assert_allclose(one, other, atol=SAME)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("nowhere.wav", ds2_jax.AudioError, "nowhere.wav does not exist; check the path"),
        (b"no audio", ds2_jax.AudioError, "not in an audio format that libsndfile can read"),
        (
            np.zeros(16000, np.float32),
            TypeError,
            r"ndarray is not an audio source: pass .* \(samples, sample_rate_hz\)",
        ),
        ((np.zeros(0, np.float32), RATE_HZ), ds2_jax.AudioError, "the array has no samples"),
        ((np.full(16000, np.nan), RATE_HZ), ds2_jax.AudioError, "the array has samples that are not finite"),
        ((np.ones(16000), 0), ds2_jax.AudioError, "the sample rate is 0: give samples a second"),
        ((np.ones(16000), "16000"), ds2_jax.AudioError, "the sample rate is '16000'"),
        ((np.ones((2, 2, 2)), RATE_HZ), ds2_jax.AudioError, r"shape \(2, 2, 2\)"),
        (None, TypeError, "NoneType is not an audio source: pass a path"),
        ((RATE_HZ, np.zeros(16000)), TypeError, r"the tuple is not \(samples, sample_rate_hz\)"),
    ],
)
def test_misuse_raises_an_error_that_says_what_to_do(small, source, kind, message):
    with pytest.raises(kind, match=message):
        small.transcribe(source)
    with pytest.raises(kind, match=message):
        small.transcribe([noise(1), source])


def test_errors_of_loading_say_what_can_be_loaded():
    with pytest.raises(ds2_jax.ModelFileError, match="the model 'nowhere' does not exist: give a bundle"):
        ds2_jax.load("nowhere")
    with pytest.raises(TypeError, match=r"unknown setting 'beam': use one of engine, lm, .* beam_size"):
        ds2_jax.load(AN4, beam=5)
    with pytest.raises(ValueError, match=r"config\.decode\.nbest is 0"):
        ds2_jax.load(AN4, nbest=0)
    with pytest.raises(AttributeError, match=r"no attribute 'laod'; it has AudioError, .*load"):
        ds2_jax.laod  # noqa: B018


def test_one_bad_clip_does_not_stop_the_rest(small):
    results = dict(small.transcribe_each([noise(1), "nowhere.wav", noise(2)]))
    assert isinstance(results[1], ds2_jax.AudioError)
    assert {results[0].duration_s, results[2].duration_s} == {1.0, 2.0}


def test_digital_silence_has_no_text(model, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(2 * RATE_HZ), RATE_HZ)
    content = (tmp_path / "a.wav").read_bytes()
    for source in (tmp_path / "a.wav", content, io.BytesIO(content), (np.zeros(2 * RATE_HZ), RATE_HZ)):
        transcript = model.transcribe(source)
        assert (transcript.text, transcript.duration_s, transcript.sample_rate_hz) == ("", 2.0, RATE_HZ)
    assert model.log_probs(content).argmax(1).max() == 0


def test_clips_do_not_wait_for_a_long_recording_behind_them(small):
    ready = [index for index, _ in small.transcribe_each([noise(1), noise(LONGEST_S + 1), noise(1)])]
    assert ready == [0, 1, 2]


def test_evaluation_in_python_equals_that_of_the_command_line(model, clips):
    evaluation = ds2_jax.evaluate(model, str(clips))
    command = run_main("--mode=eval", f"--config.restore={AN4}", f"--config.data.test={clips}")
    assert json.loads(command.stdout.splitlines()[-1])["cer"] == evaluation.result.as_dict()["cer"]


def test_heavy_packages_are_not_imported_before_they_are_needed():
    code = (
        "import sys, ds2_jax\n"
        "print(sorted({'jax', 'numpy', 'flax', 'soundfile'} & set(sys.modules)))\n"
        f"text = ds2_jax.load({str(AN4)!r}).transcribe({str(CLIP)!r}).text\n"
        "heavy = {'orbax', 'grain', 'tensorboardX', 'optax', 'clu', 'tensorstore', 'matplotlib', 'fsspec', 'array_record'}\n"
        "print(sorted(heavy & set(sys.modules)))\nprint(text)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.stdout.splitlines() == ["[]", "[]", texts()[str(CLIP)]], result.stderr
