"""Words are found where text and recording agree; where they differ, what is hardly less probable is taken from the text."""

import subprocess
import sys
import tempfile

import numpy as np
import pytest

from decoding.alignment import recording
from decoding.alignment.recording import Found, TextFinder
from decoding.hypothesis import BLANK
from input_pipeline.text import Vocabulary
from tests.runs import ROOT

SPELLED = Vocabulary((" ", *"abcdefghij"))
CHARACTERS = Vocabulary(tuple("甲乙丙丁戊己"))
TEXT = ["abc", "dea", "fab", "cid", "jab", "had", "egg", "bed", "cab", "fed"]
SURE, UNSURE = 9.0, 2.0


def speak(words: list[str], vocabulary: Vocabulary, doubts: dict[int, str] | None = None) -> np.ndarray:
    """Return the output of a network that hears words; doubts: another word for some, which it hears nearly as well."""
    spaced = " " in vocabulary.symbols
    rows: list[tuple[int, int]] = []  # the best symbol, and another one that is nearly as probable
    for i, word in enumerate(words):
        other = (doubts or {}).get(i, word)
        for symbol, second in zip(vocabulary.encode(word), vocabulary.encode(other), strict=True):
            rows += [(int(symbol), int(second)), (BLANK, BLANK)]
        rows += [(1, 1)] * spaced + [(BLANK, BLANK)] * 3
    logits = np.zeros((len(rows), vocabulary.size))
    for t, (symbol, second) in enumerate(rows):
        logits[t, second] = SURE - UNSURE
        logits[t, symbol] = SURE
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def find(text: list[str], log_probs: np.ndarray, vocabulary: Vocabulary, limit: float = 6.0, size: int = 7) -> Found:
    """Find a text in an output that arrives in pieces of `size` frames."""
    with tempfile.TemporaryFile() as file:
        finder = TextFinder(text, vocabulary, 0.02, limit, file)
        for first in range(0, len(log_probs), size):
            finder.feed(log_probs[first : first + size])
        return finder.finish()


def numbers(found: Found) -> list[int]:
    return [word.word for word in found.words]


@pytest.fixture(params=[20.0, 0.5], ids=["one stretch", "stretches of half a second"])
def _stretches(request, monkeypatch):
    monkeypatch.setattr(recording, "LONGEST_S", request.param)


@pytest.mark.usefixtures("_stretches")
@pytest.mark.parametrize(("text", "vocabulary"), [(TEXT, SPELLED), (list("甲乙丙丁戊己甲丙"), CHARACTERS)])
def test_a_text_is_found_as_it_was_spoken(text, vocabulary):
    log_probs = speak(text, vocabulary)
    found = find(text, log_probs, vocabulary)
    assert numbers(found) == list(range(len(text)))
    assert not len(found.other)
    heard = log_probs.argmax(1)
    for word in found.words:
        symbols = vocabulary.encode(text[word.word]).tolist()
        assert [symbol.symbol for symbol in word.symbols] == symbols
        assert [int(heard[symbol.first]) for symbol in word.symbols] == symbols


@pytest.mark.usefixtures("_stretches")
def test_text_that_was_not_spoken_and_speech_that_is_not_in_the_text_are_left_out():
    spoken = [*TEXT[:3], *TEXT[6:], "jig", "dig"]
    found = find(TEXT, speak(spoken, SPELLED), SPELLED)
    assert numbers(found) == [0, 1, 2, 6, 7, 8, 9]
    assert len(found.other) > 0
    assert found.other.min() > found.words[-1].end


@pytest.mark.usefixtures("_stretches")
def test_a_changed_word_is_left_out_and_its_speech_is_other():
    found = find([*TEXT[:4], "gig", *TEXT[5:]], speak(TEXT, SPELLED), SPELLED)
    assert numbers(found) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    before, after = found.words[3], found.words[4]
    assert len(found.other) > 0
    assert before.end <= found.other.min() <= found.other.max() < after.first


@pytest.mark.parametrize(("limit", "kept"), [(3 * UNSURE + 1, True), (1.0, False)])
def test_a_word_of_the_text_is_taken_if_it_is_hardly_less_probable(limit, kept):
    """The decoder prefers what it hears: the model of the text has both words there."""
    text = ["jab", "had", "cab", *TEXT, "jab", "had", "dab", *TEXT]
    spoken = [*text[:2], "dab", *text[3:]]
    found = find(text, speak(spoken, SPELLED, doubts={2: "cab"}), SPELLED, limit)
    assert (2 in numbers(found)) == kept
    assert set(range(len(text))) - {2} <= set(numbers(found))


@pytest.mark.usefixtures("_stretches")
def test_silence_and_noise_have_no_words():
    assert find(TEXT, np.zeros((0, SPELLED.size), np.float32), SPELLED) == ([], pytest.approx(np.zeros(0)))
    silence = np.full((100, SPELLED.size), -20.0, np.float32)
    silence[:, BLANK] = 0.0
    assert numbers(find(TEXT, silence, SPELLED)) == []


def test_without_the_native_decoder_the_library_finds_the_same(monkeypatch):
    spoken = [*TEXT[:3], *TEXT[6:]]
    native = find(TEXT, speak(spoken, SPELLED), SPELLED)
    monkeypatch.setattr("decoding.search.beam.native_available", lambda: False)
    assert find(TEXT, speak(spoken, SPELLED), SPELLED).words == native.words


HOUR = """
import resource, tempfile
import numpy as np
from decoding.alignment.recording import TextFinder
from tests.decoding.alignment.test_recording import SPELLED, speak

rng = np.random.default_rng(0)
text = ["".join(rng.choice(list("abcdefghij"), rng.integers(3, 9))) for _ in range(12_000)]
changed = [word if i % 20 else word[::-1] for i, word in enumerate(text)]
speak(changed[:10], SPELLED)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with tempfile.TemporaryFile() as file:
    finder, frames = TextFinder(text, SPELLED, 0.02, 6.0, file), 0
    for first in range(0, len(text), 10):
        log_probs = speak(changed[first : first + 10], SPELLED)
        frames += len(log_probs)
        finder.feed(log_probs)
    found = len(finder.finish().words)
print(0.02 * frames, found / len(text), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_an_hour_with_its_text_takes_little_memory():
    """Of the decoder, its model of the text, and the comparison; 40 MB were measured."""
    result = subprocess.run([sys.executable, "-c", HOUR], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, share, megabytes = map(float, result.stdout.split())
    assert seconds > 3600
    assert 0.93 < share < 0.97
    assert megabytes < 100
