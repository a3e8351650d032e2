"""Long recordings: the text of their clips, no seams, all of the output, constant memory, bad input."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

import ds2_jax
from decoding.scoring.error_rate import count_utterance
from decoding.search.greedy import decode_log_probs
from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.network.model import ModelSettings, init_variables
from ds2_jax.recognition.recogniser import Recogniser
from ds2_jax.recognition.recording import RecordingSettings
from input_pipeline import manifest as manifests
from input_pipeline.audio import Segment
from input_pipeline.audio.cutting import CutSettings
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FeatureStats, FrontEnd
from input_pipeline.text import ScoringRules, Vocabulary
from tests.conftest import CLIPS
from tests.runs import ROOT, slow

RATE_HZ = 16000
SAME = 1e-3  # padding and batching change the order of float32 sums
LIMIT_MB = 300  # above a recording of two minutes; 20 minutes of samples alone are 77 MB, and of features more


@pytest.fixture(scope="module")
def model() -> Recogniser:
    return ds2_jax.load(ROOT / "models" / "an4")


@pytest.fixture(scope="module")
def small() -> Recogniser:
    """Return a network of a few hundred random parameters that writes a lot."""
    network = ModelSettings(conv="3x5/3x2:2", rnn_size=4, rnn_layers=1)
    features = FeatureSettings(kind="fbank", mel_bins=8, normalise_db=False)
    frames = FrontEnd(features, "none")(0.1 * np.random.default_rng(1).standard_normal(RATE_HZ).astype(np.float32))
    stats = FeatureStats(frames.mean(0), frames.std(0))
    meta = ModelMeta(network, features, "corpus", stats, Vocabulary(tuple(" abc")), "en")
    return Recogniser(meta, init_variables(meta.network, meta.feature_size, 0), ds2_jax.BeamSettings(engine="greedy"))


def join_clips(pause_s: float) -> tuple[np.ndarray, str]:
    """Return all clips of the repository as one recording, and its text."""
    rows = manifests.read_many(str(CLIPS / "manifest.jsonl"))
    rng = np.random.default_rng(0)
    pieces = []
    for path in rows.audio:
        samples, _ = soundfile.read(path, dtype="float32")
        noise = np.std(samples[:800]) * rng.standard_normal(int(pause_s * RATE_HZ))
        pieces += [samples, noise.astype(np.float32)]
    return np.concatenate(pieces), " ".join(rows.text)


@pytest.mark.parametrize("pause_s", [0.0, slow(30.0)])
def test_a_joined_recording_has_the_text_of_its_clips(model, pause_s):
    samples, text = join_clips(pause_s)
    samples = np.tile(samples, 1 if pause_s else 2)
    text = text if pause_s else f"{text} {text}"
    transcript = model.transcribe((samples, RATE_HZ))
    errors, _ = count_utterance(text, transcript.text, ScoringRules.for_language("en"))
    assert errors.errors <= 0.03 * errors.reference
    starts = [word.start_s for word in transcript.words]
    assert starts == sorted(starts)
    assert transcript.words[-1].end_s < transcript.duration_s == pytest.approx(len(samples) / RATE_HZ)
    assert transcript.text == " ".join(word.text for word in transcript.words)


def test_words_around_a_pause_are_apart_in_the_output(model):
    samples, text = join_clips(1.0)
    log_probs = model.log_probs((np.tile(samples, 2), RATE_HZ))
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1, atol=1e-3)
    heard = decode_log_probs(log_probs, model.vocabulary, model.output_frame_s)
    errors, _ = count_utterance(f"{text} {text}", heard.text, ScoringRules.for_language("en"))
    assert errors.errors <= 0.05 * errors.reference


def test_a_part_has_the_output_of_a_clip(small):
    clip = 0.1 * np.random.default_rng(0).standard_normal(4 * RATE_HZ).astype(np.float32)
    silence = np.zeros(40 * RATE_HZ, np.float32)
    output = small.log_probs((np.concatenate([silence, clip, silence]), RATE_HZ))
    step = 3 * 160  # samples of an output frame
    assert len(output) == pytest.approx((80 + 4) * RATE_HZ / step, abs=20)
    assert output.dtype == np.float32
    edge = int(CutSettings().edge_s * RATE_HZ)
    first = round((40 * RATE_HZ - edge) / step)
    before = np.zeros(len(silence) - first * step, np.float32)
    expected = small.log_probs((np.concatenate([before, clip, np.zeros(edge, np.float32)]), RATE_HZ))[2:]
    count = len(expected) - 20  # the silence kept after the clip is a whole number of frames
    here = _align(output, expected, first + 2)  # the part begins with a space
    np.testing.assert_allclose(output[here : here + count], expected[:count], atol=0.1)


def _align(output: np.ndarray, expected: np.ndarray, near: int) -> int:
    """Return where the output is most similar to the expected one, near a frame."""
    count = len(expected) - 20
    return min(range(near - 3, near + 4), key=lambda at: np.abs(output[at : at + count] - expected[:count]).sum())


def test_audio_without_pauses_has_no_seams(small):
    samples = 0.1 * np.random.default_rng(0).standard_normal(55 * RATE_HZ).astype(np.float32)
    whole = small.log_probs((samples, RATE_HZ))
    pieces = np.concatenate(list(small.long_log_probs((samples, RATE_HZ))))
    count = min(len(whole), len(pieces))
    assert count >= 55 * RATE_HZ // 480 - 2
    np.testing.assert_allclose(pieces[:count], whole[:count], atol=SAME)  # a second of context is all that it needs


def test_channels_are_speakers(model):
    first, _ = soundfile.read(CLIPS / "cen1-mtos-b.flac", dtype="float32")
    second, _ = soundfile.read(CLIPS / "cen1-fmjc-b.flac", dtype="float32")
    left = np.concatenate([first, np.zeros_like(second)])
    right = np.concatenate([np.zeros_like(first), second])
    separate = RecordingSettings(channels="separate")
    recording = model.recognise_recording((np.stack([left, right], axis=1), RATE_HZ), separate)
    found = {speaker: " ".join(t.passage.text for t in recording.turns if t.speaker == speaker) for speaker in "LR"}
    assert found == {"L": model.transcribe((first, RATE_HZ)).text, "R": model.transcribe((second, RATE_HZ)).text}
    assert [turn.speaker for turn in recording.turns] == sorted(turn.speaker for turn in recording.turns)
    with pytest.raises(ds2_jax.AudioError, match=r"has 1 channel; config\.infer\.channels=separate takes"):
        model.recognise_recording((first, RATE_HZ), separate)
    with pytest.raises(
        ds2_jax.AudioError, match=r"call\.wav, channel 1 is one channel already: use config\.infer\.channels=mix"
    ):
        model.recognise_recording(Segment("call.wav", channel=1), separate)


def test_silence_has_no_text(small):
    transcript = small.transcribe((np.zeros(100 * RATE_HZ, np.float32), RATE_HZ))
    assert transcript.text == ""
    assert transcript.duration_s == 100


def test_a_recording_that_ends_early_keeps_what_was_read(small, tmp_path):
    path = tmp_path / "cut.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(120 * RATE_HZ), RATE_HZ)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    [(_, transcript)] = small.transcribe_each([path], whole=False)
    assert transcript.duration_s == pytest.approx(80, abs=0.1)
    assert any("80.0 s" in remark for remark in transcript.remarks)
    with pytest.raises(ds2_jax.AudioError, match="is truncated"):
        small.transcribe(path)
    with pytest.raises(ds2_jax.AudioError, match="is truncated"):
        list(small.long_log_probs(path))


def test_one_bad_recording_does_not_stop_the_rest(small, tmp_path):
    samples = 0.1 * np.random.default_rng(0).standard_normal(70 * RATE_HZ).astype(np.float32)
    bad = samples.copy()
    bad[-5:] = np.nan
    results = dict(small.transcribe_each([(samples, RATE_HZ), (bad, RATE_HZ), (samples[:RATE_HZ], RATE_HZ)]))
    assert "not finite" in str(results[1])
    assert {results[0].duration_s, results[2].duration_s} == {70.0, 1.0}


def test_progress_is_reported_with_each_batch(small):
    samples = 0.1 * np.random.default_rng(0).standard_normal(70 * RATE_HZ).astype(np.float32)
    reported: list[float] = []
    small.recognise_recording((samples, RATE_HZ), on_progress=lambda done_s, total_s: reported.append(done_s))
    assert len(reported) >= 5
    assert reported == sorted(reported)
    assert reported[-1] == pytest.approx(70, abs=1)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording(tmp_path):
    samples, _ = join_clips(0.0)
    path = tmp_path / "long.flac"
    peaks = []
    for minutes in (2, 20):
        with soundfile.SoundFile(path, "w", RATE_HZ, 1) as file:
            for _ in range(round(minutes * 60 * RATE_HZ / len(samples))):
                file.write(samples)
        code = f"import ds2_jax, resource\nds2_jax.load('models/an4').transcribe({str(path)!r})\n"
        code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=1200)
        peaks.append(int(result.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] - peaks[0] < LIMIT_MB
