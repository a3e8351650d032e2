"""A recording and its text: words in their places, utterances between pauses, what differs is left out and listed."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ds2_jax
from decoding.alignment.forced import PlacedSymbol, PlacedWord
from decoding.alignment.utterances import UtteranceSettings
from ds2_jax.recognition import alignment, utterance_files
from ds2_jax.recognition.alignment import Alignment, Text
from ds2_jax.recognition.recogniser import Recogniser
from input_pipeline import audio, manifest
from input_pipeline.audio.pauses import LevelMeter
from input_pipeline.text import Vocabulary
from tests.conftest import CLIPS
from tests.runs import ROOT

RATE_HZ, PAUSE_S = 16000, 1.0
Clips = list[tuple[str, float, float]]  # text, first and last second in the recording


@pytest.fixture(scope="module")
def model() -> Recogniser:
    return ds2_jax.load(ROOT / "models" / "an4", engine="greedy")


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> tuple[Path, Clips]:
    """Write all clips of the repository as one recording; return it and the clips."""
    rows = manifest.read_many(str(CLIPS / "manifest.jsonl"))
    rng, pieces, clips, done = np.random.default_rng(0), [], [], 0
    for source, text in zip(rows.audio, rows.text, strict=True):
        samples, _ = soundfile.read(source, dtype="float32")
        noise = np.std(samples[:800]) * rng.standard_normal(int(PAUSE_S * RATE_HZ))
        clips.append((text, done / RATE_HZ, (done + len(samples)) / RATE_HZ))
        pieces += [samples, noise.astype(np.float32)]
        done += len(samples) + len(noise)
    path = tmp_path_factory.mktemp("book") / "book.flac"
    soundfile.write(path, np.concatenate(pieces), RATE_HZ)
    return path, clips


@pytest.fixture(scope="module")
def changed(model, recording) -> Alignment:
    """Align with a text of which one clip is missing, one has another word, and a sentence is added."""
    path, clips = recording
    texts = [text for text, _, _ in clips]
    texts[3] = texts[3].replace("r", "x")
    del texts[5]
    texts.insert(8, "Page 12: hello, this was never said!")
    return model.align(path, "\n".join(texts))


def test_words_are_found_where_they_are_spoken(model, recording):
    path, clips = recording
    found = model.align(path, "\n".join(text.upper() for text, _, _ in clips))
    words = [(word, start_s, end_s) for text, start_s, end_s in clips for word in text.split()]
    assert [word.text for word in found.words] == [word for word, _, _ in words]
    for word, (_, start_s, end_s) in zip(found.words, words, strict=True):
        assert start_s < word.start_s < word.end_s < end_s
        assert "".join(symbol.text for symbol in word.symbols) == word.text
    assert sum(one.end_s - one.start_s for one in found.utterances) > 0.9 * sum(e - s - 0.6 for _, s, e in clips)
    assert (found.text_words, found.remarks) == (len(words), ())


def test_utterances_begin_and_end_in_pauses_and_have_the_text_between(changed, recording):
    _, clips = recording
    assert len(changed.utterances) > 5
    middles = {text: (start_s + end_s) / 2 for text, start_s, end_s in clips}
    for one in changed.utterances:
        assert 2 <= one.end_s - one.start_s + 1e-6 <= 15
        inside = [text for text, middle_s in middles.items() if one.start_s < middle_s < one.end_s]
        assert one.text == " ".join(inside)
        assert [word.text for word in one.words] == one.text.split()
        assert one.score < 0.5
        assert one.confidence > 0.5
    for before, after in itertools.pairwise(changed.utterances):
        assert before.end_s <= after.start_s


def test_what_differs_is_left_out_and_listed(changed, recording):
    _, clips = recording
    kept = {one.text for one in changed.utterances}
    assert not any(clips[3][0] in text or clips[5][0] in text for text in kept)
    listed = {one.reason: one for one in changed.left_out}
    assert listed[alignment.NOT_IN_TEXT].recognised == clips[5][0]
    assert clips[5][1] < listed[alignment.NOT_IN_TEXT].start_s < listed[alignment.NOT_IN_TEXT].end_s < clips[5][2]
    assert listed[alignment.NOT_SPOKEN].text == "page 12 hello this was never said"
    assert "x" in listed[alignment.UNFIT].text
    assert listed[alignment.UNFIT].recognised


def test_speech_before_and_after_a_word_of_the_text_is_listed_to_its_end(model):
    """Less than half a second lies between both."""
    found = model.align(CLIPS / "cen1-fjdn-b.flac", "l")
    [word], [left_out] = found.words, found.left_out
    assert (left_out.reason, left_out.text, left_out.recognised) == (alignment.UNFIT, "l", "n e l s o n")
    assert left_out.start_s < word.start_s - 0.2
    assert word.end_s + 0.2 < left_out.end_s


@pytest.mark.parametrize("cut", utterance_files.CUTS)
def test_the_files_of_utterances_are_a_corpus(changed, recording, tmp_path, cut):
    path, _ = recording
    utterance_files.write(str(tmp_path / "book"), str(path), changed, cut=cut)
    rows = manifest.read_many(str(tmp_path / "book" / "manifest.jsonl"))
    assert list(rows.text) == [one.text for one in changed.utterances]
    whole, _ = soundfile.read(path, dtype="float32")
    for clip, one in zip(rows.clips, changed.utterances, strict=True):
        samples, rate_hz = audio.read(clip)
        first = round(
            (round(one.start_s, 3) if cut == "segments" else one.start_s) * rate_hz
        )  # milliseconds in a manifest
        assert abs(len(samples) - (one.end_s - one.start_s) * rate_hz) < 0.002 * rate_hz
        assert np.abs(samples - whole[first : first + len(samples)]).max() < 1e-4
    assert len((tmp_path / "book" / "left_out.jsonl").read_text().splitlines()) == len(changed.left_out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["book"]


def test_nothing_is_written_if_the_recording_has_gone(changed, tmp_path):
    with pytest.raises(audio.AudioError, match=r"gone\.flac does not exist"):
        utterance_files.write(str(tmp_path / "book"), str(tmp_path / "gone.flac"), changed, cut="flac")
    assert not list(tmp_path.iterdir())


def test_blocks_are_divided_as_one_array_is():
    samples = np.arange(100, dtype=np.float32)
    spans = [(0, 3), (7, 30), (30, 31), (55, 99)]
    for size in (1, 7, 20, 100):
        blocks = (samples[i : i + size] for i in range(0, 100, size))
        parts = list(utterance_files.split(blocks, spans))
        assert [part.tolist() for part in parts] == [samples[a:b].tolist() for a, b in spans]
    assert [len(part) for part in utterance_files.split([samples], [(90, 120), (130, 140)])] == [10, 0]


def test_a_cut_recording_is_aligned_as_far_as_it_goes(model, recording, tmp_path):
    path, clips = recording
    cut = tmp_path / "cut.flac"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    text = " ".join(text for text, _, _ in clips)
    with pytest.raises(audio.AudioError, match="ends early"):
        model.align(cut, text)
    found = model.align(cut, text, whole=False)
    assert "ends early" in found.remarks[0]
    assert 5 < len(found.words) < found.text_words
    assert found.words[-1].end_s <= found.duration_s


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_audio_without_speech_has_no_utterances(model, noise):
    samples = noise * np.random.default_rng(0).standard_normal(5 * RATE_HZ).astype(np.float32)
    found = model.align((samples, RATE_HZ), "five six seven")
    assert found.utterances == []


def test_an_exact_text_has_all_words_and_is_refused_if_it_cannot_be(model):
    clip = CLIPS / "cen1-mtos-b.flac"
    words = model.align_exactly(clip, "s m i t h")
    assert [word.text for word in words] == list("smith")
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(words))
    assert [word.text for word in model.align_exactly(clip, "s m e t h")] == list("smeth")
    with pytest.raises(ValueError, match="the model cannot write '12'"):
        model.align_exactly(clip, "s 12 h")
    with pytest.raises(ValueError, match="check that they belong together"):
        model.align_exactly(clip, "smith " * 50)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "the text has no words"), ("привет мир", "none of the 2 words of the text, such as 'привет'")],
)
def test_a_text_that_the_model_cannot_write_is_refused(model, text, message):
    with pytest.raises(ValueError, match=message):
        model.align((np.ones(RATE_HZ, np.float32), RATE_HZ), text)


@pytest.mark.parametrize(("missing", "kept"), [(1, []), (2, []), (3, ["one two", "six seven"])])
def test_words_around_a_few_that_were_not_heard_may_have_others_beside_them(model, missing, kept):
    """Such as a changed word of which the network heard nothing; a sentence is longer."""
    words = [*["one", "two"], *["x"] * missing, *["six", "seven"]]
    vocabulary = Vocabulary.build(["one two x six seven"])
    meta = replace(model.meta, vocabulary=vocabulary)
    spoken = [0, 1, missing + 2, missing + 3]
    starts = [0, 50, 150, 200]  # frames; a pause of loud music between the phrases
    placed = [PlacedWord(i, [PlacedSymbol(1, at, at + 40, -0.1)], 0.0) for i, at in zip(spoken, starts, strict=True)]
    meter = LevelMeter(RATE_HZ)
    meter.feed(np.random.default_rng(0).standard_normal(10 * RATE_HZ).astype(np.float32))
    silence = np.zeros(500, np.int32)
    heard = alignment._Heard(silence, np.ones(500), meta)
    divided = alignment._Divided(Text(" ".join(words), meta), placed, silence[:0], meter.pauses(), heard)
    utterances, _ = divided.choose(10.0, UtteranceSettings(shortest_s=1.0))
    assert [one.text for one in utterances] == kept
