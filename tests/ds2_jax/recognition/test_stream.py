"""Streams of real speech: the same for any cutting, endpoints, finals equal to the offline decoder's."""

import dataclasses
import itertools

import numpy as np
import pytest
import soundfile

import ds2_jax
from ds2_jax.network.model import ModelSettings, init_variables
from ds2_jax.recognition.recogniser import Recogniser
from ds2_jax.recognition.stream_settings import EndpointSettings, StreamSettings
from input_pipeline.audio import AudioError
from tests.runs import ROOT

NO_ENDPOINTS = EndpointSettings(silence_s=0, after_text_s=0, longest_s=0, early_s=0)
PLAIN = StreamSettings(voice_gate="off", endpoint=NO_ENDPOINTS)
CLIP = ROOT / "tests" / "clips" / "cen1-fmjc-b.flac"


@pytest.fixture(scope="module")
def model():
    return ds2_jax.load(ROOT / "models" / "an4")


@pytest.fixture(scope="module")
def live(model):
    """A small unidirectional network without training: its output is arbitrary, but depends on the audio."""
    meta = dataclasses.replace(
        model.meta,
        model=ModelSettings(
            conv="11x21/3x2:4, 7x11/1x2:4", rnn_size=24, rnn_layers=2, bidirectional=False, lookahead=3
        ),
        features=dataclasses.replace(model.meta.features, normalise_db=False),
    )
    variables = init_variables(meta.network, meta.feature_size, 0)
    variables["params"]["output"]["kernel"] = 20 * variables["params"]["output"]["kernel"]
    return Recogniser(meta, variables, dataclasses.replace(model.settings, engine="greedy", lm=""))


@pytest.fixture(scope="module")
def samples():
    return soundfile.read(CLIP, dtype="float32")[0]


def feed(stream, samples: np.ndarray, size: int) -> tuple[np.ndarray, list]:
    """Feed samples in pieces; return the frames' probabilities and the finals."""
    seen = []
    decode = stream._decode

    def record(log_probs):
        seen.append(log_probs)
        decode(log_probs)

    stream._decode = record
    finals = []
    for start in range(0, len(samples), size):
        stream.feed(samples[start : start + size])
        finals += stream.finals()
    finals += stream.finish()
    return np.concatenate(seen), finals


@pytest.mark.parametrize("size", [1, 160, 999, 1 << 20])
def test_a_unidirectional_network_gives_the_probabilities_of_the_whole_clip(live, samples, size):
    samples = samples[:8000] if size == 1 else samples
    log_probs, finals = feed(live.stream(16000, PLAIN), samples, size)
    np.testing.assert_allclose(log_probs, live.log_probs((samples, 16000)), atol=1e-4)
    [segment] = finals
    assert segment.text == live.transcribe((samples, 16000)).text
    assert segment.text
    assert segment.reason == "commit"


def test_a_bidirectional_network_with_all_of_the_right_context_gives_those_of_the_whole_clip(model, samples):
    settings = dataclasses.replace(PLAIN, chunk_ms=3000, right_ms=6000)
    log_probs, [segment] = feed(model.stream(16000, settings), samples, 1000)
    np.testing.assert_allclose(log_probs, model.log_probs((samples, 16000)), atol=1e-3)
    assert segment.text == model.transcribe((samples, 16000)).text


def test_partial_results_grow_and_settled_words_stay(model, samples):
    stream = model.stream(16000, PLAIN)
    settled: list[str] = []
    texts = []
    for start in range(0, len(samples), 1600):
        stream.feed(samples[start : start + 1600])
        partial = stream.partial()
        words = [word.text for word in partial.words]
        assert words[: len(settled)] == settled
        assert partial.settled <= len(words)
        settled = words[: partial.settled]
        texts.append(partial.text)
    [segment] = stream.finish()
    assert len(set(texts)) > 2
    assert segment.text.split()[: len(settled)] == settled
    assert 0 <= segment.words[0].start_s < segment.words[-1].end_s <= len(samples) / 16000 + 0.1


def test_endpoints_cut_at_pauses_and_finals_are_those_of_the_offline_decoder(model, samples):
    pause = np.zeros(3 * 16000, np.float32) + 1e-4 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    speech = np.concatenate([samples, pause, samples, pause])
    stream = model.stream(16000, StreamSettings(voice_gate="off"))
    pieces: list[list[np.ndarray]] = [[]]
    decode = stream._decode

    def record(log_probs):
        pieces[-1].append(log_probs)
        ended = len(stream._finals)
        decode(log_probs)
        if len(stream._finals) > ended:
            pieces.append([])

    stream._decode = record
    stream.feed(speech)
    finals = stream.finals()
    text = model.transcribe((samples, 16000)).text
    assert [segment.text for segment in finals] == [text, text]
    assert {segment.reason for segment in finals} <= {"sure", "silence"}
    duration_s = len(samples) / 16000
    assert finals[1].start_s >= finals[0].end_s > duration_s - 0.5
    assert abs(finals[1].words[0].start_s - finals[0].words[0].start_s - duration_s - 3) < 0.2
    for segment in finals:
        times = [time_s for word in segment.words for time_s in (word.start_s, word.end_s)]
        assert sorted(set(times)) == times  # words end after they start, before the next one
        assert segment.start_s <= times[0] < times[-1] <= segment.end_s
    offline = model.decode([np.concatenate(piece) for piece in pieces[:2]])
    assert [nbest[0].text for nbest in offline] == [segment.text for segment in finals]
    assert len(speech) / 16000 - 0.5 < stream.processed_s <= len(speech) / 16000
    assert stream.finish()[-1].text == ""


@pytest.mark.parametrize(
    ("endpoint", "reason", "least_s", "most_s"),
    [
        ({"silence_s": 0, "after_text_s": 1.2, "early_s": 0}, "silence", 1.0, 1.7),
        ({"silence_s": 0, "after_text_s": 1.2, "early_s": 0.4, "early_confidence": 0.0}, "sure", 0.2, 0.9),
        ({"silence_s": 0, "after_text_s": 0, "early_s": 0, "longest_s": 1.5}, "length", -9, 0),
    ],
)
def test_each_rule_ends_a_segment_in_its_time(model, samples, endpoint, reason, least_s, most_s):
    """least_s, most_s: end of the segment after the end of the speech."""
    stream = model.stream(16000, StreamSettings(voice_gate="off", endpoint=EndpointSettings(**endpoint)))
    stream.feed(np.concatenate([samples, np.full(40000, 1e-4, np.float32)]))
    first = stream.finals()[0]
    assert first.reason == reason
    end_s = first.words[-1].end_s if reason != "length" else 1.5 + 0.4
    assert least_s <= first.end_s - end_s <= most_s


def test_a_segment_that_is_too_long_is_followed_by_the_next_one(model, samples):
    endpoint = EndpointSettings(silence_s=0, after_text_s=0, early_s=0, longest_s=1.5)
    stream = model.stream(16000, StreamSettings(voice_gate="off", endpoint=endpoint))
    for piece in np.array_split(np.concatenate([samples, samples, samples]), 60):
        stream.feed(piece)
    finals = [*stream.finals(), *stream.finish()]
    assert len(finals) == pytest.approx(3 * len(samples) / 16000 / 1.7, abs=2)
    for before, after in itertools.pairwise(finals):
        assert after.start_s == pytest.approx(before.end_s)
        assert 1.5 <= before.end_s - before.start_s < 2.0
        assert all(after.start_s <= word.start_s for word in after.words)


def test_commits_divide_the_audio_and_each_part_is_as_alone(model, samples):
    stream = model.stream(16000, PLAIN)
    texts = []
    for part in (samples, samples[:20000], samples):
        stream.feed(part)
        stream.commit()
        [segment] = stream.finals()
        texts.append(segment.text)
    alone = model.stream(16000, PLAIN)
    alone.feed(samples[:20000])
    assert texts == [model.transcribe((samples, 16000)).text, alone.finish()[0].text, texts[0]]
    assert stream.finish()[0].text == ""


def test_commits_without_audio_are_empty_and_change_nothing(model, samples):
    stream = model.stream(24000, PLAIN)
    for part in np.array_split(samples, 3):
        stream.feed(part)
    stream.commit()
    for _ in range(3):
        stream.commit()
    stream.feed(samples)
    segments = [*stream.finals(), *stream.finish()]
    empty = segments[1:-1]
    assert [(segment.text, segment.reason) for segment in empty] == [("", "commit")] * 3
    assert segments[0].text == segments[-1].text != ""
    assert {time_s for segment in empty for time_s in (segment.start_s, segment.end_s)} == {segments[-1].start_s}


def test_commits_and_audio_may_be_ahead_of_the_computation(model, samples):
    """As a server uses a stream: everything is received first."""
    stream = model.stream(16000, PLAIN)
    for _ in range(2):
        stream.receive(samples)
        stream.end()
    stream.close()
    step = model.stream_step(PLAIN)
    while (chunk := stream.next_chunk()) is not None:
        assert stream.next_chunk() is None  # until the output is accepted
        [output] = step([chunk])
        stream.accept(output)
    assert stream.is_done
    text = model.transcribe((samples, 16000)).text
    assert [segment.text for segment in stream.finals()] == [text, text, ""]


def test_streams_in_one_batch_do_not_influence_each_other(model, samples):
    step = model.stream_step(PLAIN)
    streams = [model.stream(16000, PLAIN) for _ in range(3)]
    for stream, part in zip(streams, (samples, samples[:25000], samples[::-1]), strict=True):
        stream.receive(part)
        stream.close()
    while chunks := [(s, c) for s in streams if (c := s.next_chunk()) is not None]:
        for (stream, _), output in zip(chunks, step([c for _, c in chunks]), strict=True):
            stream.accept(output)
    for stream, part in zip(streams, (samples, samples[:25000], samples[::-1]), strict=True):
        alone = model.stream(16000, PLAIN)
        alone.feed(part)
        assert [s.text for s in stream.finals()] == [s.text for s in alone.finish()]


def test_rules_for_endpoints_need_no_other_program(model):
    assert model.stream_step(PLAIN) is model.stream_step(StreamSettings(voice_gate="off"))
    assert model.stream_step(PLAIN) is not model.stream_step(StreamSettings(chunk_ms=200))


def test_other_rates_and_types_are_understood(model, samples):
    text = model.transcribe((samples, 16000)).text
    stream = model.stream(48000, PLAIN)
    stream.feed((np.repeat(samples, 3)[:, None] * [32767, 32767]).astype(np.int16))
    assert stream.finish()[0].text == text


def test_misuse_is_refused_by_name(model, samples):
    stream = model.stream()
    stream.finish()
    assert stream.finish() == []
    with pytest.raises(ValueError, match="the stream is finished"):
        stream.feed(samples)
    with pytest.raises(AudioError, match="the sample rate is -1"):
        model.stream(-1)
    with pytest.raises(AudioError, match="not finite"):
        model.stream().feed(np.array([np.nan], np.float32))
    with pytest.raises(ValueError, match=r"config\.stream\.voice_gate is 'maybe': choose one of auto, on, off"):
        StreamSettings(voice_gate="maybe")
    with pytest.raises(ValueError, match=r"config\.stream\.endpoint\.early_confidence is 2"):
        EndpointSettings(early_confidence=2)
    with pytest.raises(ValueError, match=r"config\.stream\.chunk_ms is '1'"):
        StreamSettings(chunk_ms="1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"normalisation": "utterance"}, "'utterance', which needs the whole clip")],
)
def test_models_that_need_the_whole_clip_are_refused(model, changes, message):
    meta = dataclasses.replace(model.meta, **changes)
    with pytest.raises(ValueError, match=message):
        Recogniser(meta, model.variables, model.settings).stream()


def test_the_state_is_one_small_pytree(live):
    assert live.stream_step(PLAIN).initial.bytes < 20_000
