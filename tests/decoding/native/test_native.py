"""The native engine against brute force and a slow reference, on published results, in streams, in threads, with sanitizers."""

import functools
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from decoding.search import beam
from decoding.search.beam import make_engine
from decoding.settings import BeamSettings
from input_pipeline.text import Vocabulary
from tests.arpa import write_arpa
from tests.decoding.reference import LanguageScorer, search
from tests.runs import ROOT

FRAME_S = 0.03
LETTERS = Vocabulary((" ", "a", "b"))
MANDARIN = Vocabulary(tuple("你好世"))
WIDE: dict = {"beam_size": 2000, "threshold": 1e4, "cutoff_top_n": 100, "nbest": 2000}
FLOAT32 = 2e-4  # sums of some tens of float32 logarithms

pytestmark = pytest.mark.skipif(not beam.native_available(), reason="the native decoder is not built (no compiler)")


def random_log_probs(frames: int, size: int, seed: int, peak: float = 2.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, peak, (frames, size))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def native(vocabulary: Vocabulary, **settings):
    return make_engine(vocabulary, BeamSettings(engine="native", **settings), FRAME_S)


@pytest.fixture(scope="module")
def words_lm(tmp_path_factory) -> str:
    return str(write_arpa(tmp_path_factory.mktemp("lm") / "w.arpa", ["a ab b", "ab ba a", "b b ab", "a aba"]))


@pytest.fixture(scope="module")
def characters_lm(tmp_path_factory) -> str:
    return str(write_arpa(tmp_path_factory.mktemp("lm") / "c.arpa", ["你好世", "好你", "世你好"], characters=True))


@functools.cache
def paths_by_text(frames: int, size: int) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Group all size^frames paths by the label sequence that they read as."""
    groups: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for path in itertools.product(range(size), repeat=frames):
        groups.setdefault(tuple(k for k, _ in itertools.groupby(path) if k), []).append(path)
    return groups


def brute_force(log_probs: np.ndarray, scorer: LanguageScorer) -> list[tuple[str, float]]:
    """Score every text that the frames can hold, by the sum over all its paths."""
    best: dict[str, float] = {}
    frames = np.arange(len(log_probs))
    for symbols, paths in paths_by_text(*log_probs.shape).items():
        if scorer.is_allowed(symbols, ended=True):
            acoustic = np.logaddexp.reduce(log_probs[frames, np.array(paths)].astype(np.float64).sum(1))
            text = scorer.vocabulary.decode(symbols).rstrip(" ")
            best[text] = max(best.get(text, -np.inf), acoustic + scorer.score(symbols, ended=True))
    return sorted(best.items(), key=lambda item: -item[1])


CASES: dict[str, dict] = {
    "strict": {"lexicon": "strict"},
    "open": {"lexicon": "open", "unknown_score": -2.0},
    "end of sentence": {"lexicon": "strict", "end_of_sentence": True},
    "hot words": {"lexicon": "strict", "hot_words": "ba:2.5, bb:1.5"},
    "no weight": {"lexicon": "strict", "alpha": 0.0, "beta": 0.0},
    "heavy": {"lexicon": "open", "alpha": 2.0, "beta": -1.0},
}


def compare(found, expected: list[tuple[str, float]], count: int = 10) -> None:
    """The first texts and their scores are the same; texts of equal score may change places."""
    scores = {hypothesis.text: hypothesis.score for hypothesis in found}
    for (text, score), hypothesis in zip(expected[:count], found, strict=False):
        assert scores[text] == pytest.approx(score, abs=FLOAT32)
        assert hypothesis.score == pytest.approx(score, abs=FLOAT32)


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_the_sum_over_all_paths(case, words_lm):
    settings = {"alpha": 0.7, "beta": 0.4, **WIDE, **CASES[case], "lm": words_lm}
    scorer = LanguageScorer(LETTERS, BeamSettings(**settings), ["a", "ab", "b", "ba", "aba"])
    engine = native(LETTERS, **settings)
    for seed in range(5):
        rows = random_log_probs(6, LETTERS.size, seed)
        compare(engine.decode_batch([rows])[0], brute_force(rows, scorer))


@pytest.mark.parametrize("lexicon", [{"lexicon": "strict"}, {"lexicon": "open", "unknown_score": -3.0}], ids=str)
@pytest.mark.parametrize("hot_words", ["你好:2.0", "好界:3.0"])  # the model lacks 界
def test_characters_without_spaces_are_units(characters_lm, lexicon, hot_words):
    settings = {
        "alpha": 0.7,
        "beta": 0.4,
        **WIDE,
        "lm": characters_lm,
        "end_of_sentence": True,
        "hot_words": hot_words,
        **lexicon,
    }
    vocabulary = Vocabulary(tuple("你好界"))
    scorer = LanguageScorer(vocabulary, BeamSettings(**settings))
    for seed in range(5):
        rows = random_log_probs(6, vocabulary.size, seed)
        compare(native(vocabulary, **settings).decode_batch([rows])[0], brute_force(rows, scorer))


@pytest.mark.parametrize("case", ["strict", "open"])
def test_longer_utterances_equal_the_slow_reference(case, words_lm):
    settings = {"alpha": 0.7, "beta": 0.4, **WIDE, **CASES[case], "lm": words_lm}
    scorer = LanguageScorer(LETTERS, BeamSettings(**settings), ["a", "ab", "b", "ba", "aba"])
    engine = native(LETTERS, **settings)
    for seed in range(3):
        rows = random_log_probs(14, LETTERS.size, seed, peak=4.0)
        compare(engine.decode_batch([rows])[0], search(rows, scorer, 300), 3)


def test_one_hypothesis_needs_a_smaller_beam_than_several(words_lm):
    settings = {"alpha": 0.7, "beta": 0.4, "lm": words_lm}
    rows = [random_log_probs(60, LETTERS.size, seed, peak=4.0) for seed in range(40)]
    widest = native(LETTERS, **settings, **WIDE | {"beam_size": 500, "nbest": 2}).decode_batch(rows)

    def agreeing(nbest: int) -> int:
        found = native(LETTERS, **settings, beam_size=10, nbest=nbest).decode_batch(rows)
        return sum(a[0].text == b[0].text for a, b in zip(found, widest, strict=True))

    assert agreeing(1) > 1.5 * agreeing(2)


# The two matrices of the original's decoder test, one probability a symbol and frame, blank last; its results with a beam
# of 20 and no language model, and ln p of them as measured with it.
PUBLISHED = (
    """0.06390443 0.21124858 0.27323887 0.06870235 0.0361254 0.18184413 0.16493624
    0.03309247 0.22866108 0.24390638 0.09699597 0.31895462 0.0094893 0.06890021
    0.218104 0.19992557 0.18245131 0.08503348 0.14903535 0.08424043 0.08120984
    0.12094152 0.19162472 0.01473646 0.28045061 0.24246305 0.05206269 0.09772094
    0.1333387 0.00550838 0.00301669 0.21745861 0.20803985 0.41317442 0.01946335
    0.16468227 0.1980699 0.1906545 0.18963251 0.19860937 0.04377724 0.01457421""",
    """0.08034842 0.22671944 0.05799633 0.36814645 0.11307441 0.04468023 0.10903471
    0.09742457 0.12959763 0.09435383 0.21889204 0.15113123 0.10219457 0.20640612
    0.45033529 0.09091417 0.15333208 0.07939558 0.08649316 0.12298585 0.01654384
    0.02512238 0.22079203 0.19664364 0.11906379 0.07816055 0.22538587 0.13483174
    0.17928453 0.06065261 0.41153005 0.1172041 0.11880313 0.07113197 0.04139363
    0.15882358 0.1235788 0.23376776 0.20510435 0.00279306 0.05294827 0.22298418""",
)
RESULTS: tuple = (
    (0, {}, [("acdc", -6.480284), ("acd", -6.483004), ("acda", -6.521161)]),  # the second with a space at its end
    (1, {}, [("b'a", -4.989980), ("b'da", -5.298550), ("b' a", -5.337019)]),
    (0, {"cutoff_prob": 0.99, "cutoff_top_n": 3}, [("a bc", -6.984518)]),
    (1, {"cutoff_prob": 0.99, "cutoff_top_n": 3}, [("b'da", -5.813432)]),
)


@pytest.mark.parametrize(("number", "cutoff", "expected"), RESULTS)
def test_the_originals_published_results(number, cutoff, expected):
    probabilities = np.array(PUBLISHED[number].split(), np.float32).reshape(6, 7)
    rows = np.log(np.roll(probabilities, 1, axis=1))  # blank first
    vocabulary = Vocabulary(("'", " ", "a", "b", "c", "d"))
    found = native(vocabulary, beam_size=20, nbest=3, threshold=1e4, **cutoff).decode_batch([rows])[0]
    for hypothesis, (text, score) in zip(found, expected, strict=False):
        assert hypothesis.text == text
        assert hypothesis.score == pytest.approx(score, abs=1e-5)


def test_hypotheses_are_different_best_first_and_as_many_as_asked_for(words_lm):
    for lm in ("", words_lm):
        found = native(LETTERS, lm=lm, nbest=7).decode_batch([random_log_probs(8, LETTERS.size, 3)])[0]
        scores = [hypothesis.score for hypothesis in found]
        assert len({hypothesis.text for hypothesis in found if lm}) == (7 if lm else 0)
        assert scores == sorted(scores, reverse=True)


def test_a_strict_lexicon_writes_nothing_else_and_an_open_one_does(words_lm):
    rows = np.full((5, LETTERS.size), np.log(0.02), np.float32)
    for frame, symbol in enumerate((3, 3, 0, 3, 0)):  # b, b
        rows[frame, symbol] = np.log(0.94)
    strict = native(LETTERS, lm=words_lm).decode_batch([rows])[0][0].text
    assert set(strict.split()) <= {"a", "ab", "b", "ba", "aba"}
    assert native(LETTERS, lm=words_lm, lexicon="open", unknown_score=-0.5).decode_batch([rows])[0][0].text == "bb"


@pytest.mark.parametrize("beam_size", [1, 2, 10])
def test_a_strict_lexicon_leaves_no_word_unfinished(beam_size, tmp_path):
    lm = str(write_arpa(tmp_path / "w.arpa", ["aab bba", "bba aab abb"]))
    engine = native(LETTERS, lm=lm, beam_size=beam_size, nbest=beam_size)
    batch = [random_log_probs(frames, LETTERS.size, frames, peak=1.0) for frames in range(1, 40)]
    texts = [hypothesis.text for found in engine.decode_batch(batch) for hypothesis in found]
    assert {word for text in texts for word in text.split()} <= {"aab", "bba", "abb"}
    assert any(texts)


def test_a_hot_word_that_the_model_lacks_is_written(words_lm):
    rows = random_log_probs(9, LETTERS.size, 5)
    texts = [
        native(LETTERS, lm=words_lm, hot_words=hot).decode_batch([rows])[0][0].text.split() for hot in ("", "bab:40.0")
    ]
    assert "bab" not in texts[0]
    assert "bab" in texts[1]


def test_a_stream_equals_the_whole_and_tells_its_best_prefix(words_lm):
    rows = random_log_probs(40, LETTERS.size, 7, peak=4.0)
    engine = native(LETTERS, lm=words_lm, nbest=5)
    stream = engine.stream()
    told = []
    for first in range(0, 40, 7):
        stream.feed(rows[first : first + 7])
        told.append(stream.partial().text)
    assert stream.finish() == engine.decode_batch([rows])[0]
    assert told[-1]
    assert len(told[0]) < len(told[-1])


@pytest.mark.parametrize("with_lm", [True, False])
def test_settled_words_are_in_all_later_results(words_lm, with_lm):
    rng = np.random.default_rng(0)
    engine = native(LETTERS, lm=words_lm if with_lm else "", beam_size=8, nbest=8)
    most = 0
    for seed in range(20):
        rows = random_log_probs(60, LETTERS.size, seed, peak=4.0)
        stream = engine.stream()
        settled: list[str] = []
        start = 0
        while start < len(rows):
            size = int(rng.integers(1, 6))
            stream.feed(rows[start : start + size])
            start += size
            words = [word.text for word in stream.partial().words]
            assert words[: len(settled)] == settled
            settled = words[: stream.settled()]
        for hypothesis in stream.finish():
            assert hypothesis.text.split()[: len(settled)] == settled
        most = max(most, len(settled))
    assert most >= 2


def test_a_stream_of_silence_or_of_nothing_equals_the_whole():
    silence = np.log(np.tile([0.97, 0.01, 0.01, 0.01], (4, 1))).astype(np.float32)
    engine = native(LETTERS)
    for rows in (silence, silence[:0]):
        stream = engine.stream()
        stream.feed(rows[:1])
        stream.feed(rows[1:])
        assert stream.finish() == engine.decode_batch([rows])[0] == [stream.partial()]


def test_a_piece_that_is_no_log_probabilities_is_refused_and_the_stream_goes_on(words_lm):
    rows = random_log_probs(9, LETTERS.size, 3)
    engine = native(LETTERS, lm=words_lm)
    stream = engine.stream()
    stream.feed(rows[:5])
    broken = rows[5:].copy()
    broken[2, 1] = np.nan
    for piece, message in (
        (broken, "of this piece are not finite at frame 2 of 4"),
        (np.exp(rows), "this piece reach .*: give natural logarithms"),
        (rows[0], r"of this piece have shape \[4\]; the vocabulary requires \[U, 4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.feed(piece)
    stream.feed(rows[5:])
    assert stream.finish() == engine.decode_batch([rows])[0]


def test_words_lie_where_they_were_said():
    path = "_aa__ _bb"
    ids = [0 if c == "_" else LETTERS.symbols.index(c) + 1 for c in path]
    rows = np.full((len(ids), LETTERS.size), 0.02)
    rows[np.arange(len(ids)), ids] = 0.94
    rows[2, ids[2]] = 0.97  # surest
    [[found]] = native(LETTERS).decode_batch([np.log(rows).astype(np.float32)])
    assert [(w.text, round(w.start_s / FRAME_S), round(w.end_s / FRAME_S)) for w in found.words] == [
        ("a", 2, 3),
        ("b", 7, 8),
    ]
    assert found.words[0].confidence == pytest.approx(0.97, abs=1e-4)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_change_nothing(words_lm, threads):
    batch = [random_log_probs(frames, LETTERS.size, frames) for frames in range(1, 30)]
    one = native(LETTERS, lm=words_lm, threads=1).decode_batch(batch)
    assert native(LETTERS, lm=words_lm, threads=threads).decode_batch(batch) == one


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="its size is read from /proc")
def test_threads_that_cannot_be_started_are_done_without(words_lm):
    code = f"""
import re, resource
from pathlib import Path
from tests.decoding.native.test_native import *
batch = [random_log_probs(9, LETTERS.size, number) for number in range(64)]
one = native(LETTERS, lm={words_lm!r}, threads=1).decode_batch(batch)
many = native(LETTERS, lm={words_lm!r}, threads=64)
used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))  # room for a few threads of 64
print(many.decode_batch(batch) == one)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "True\n", result.stderr[-3000:]


def test_pruning_keeps_the_best_text(words_lm):
    rows = random_log_probs(30, LETTERS.size, 11, peak=5.0)
    wide = native(LETTERS, lm=words_lm, **WIDE).decode_batch([rows])[0][0]
    pruned = native(LETTERS, lm=words_lm, cutoff_prob=0.999, beam_size=50).decode_batch([rows])[0][0]
    assert pruned.text == wide.text
    assert pruned.score == pytest.approx(wide.score, abs=0.05)


def test_a_frame_whose_symbols_may_not_stand_here_is_passed_over(words_lm):
    rows = np.full((3, LETTERS.size), np.log(1e-3), np.float32)
    rows[0, 1] = rows[1, 2] = rows[2, 0] = np.log(0.997)  # a space, where no word has been; a; blank
    assert native(LETTERS, lm=words_lm, cutoff_top_n=1).decode_batch([rows])[0][0].text == "a"


def test_large_vocabularies_search_children_in_order(tmp_path):
    letters = [chr(0x4E00 + i) for i in range(200)]
    vocabulary = Vocabulary((" ", *letters))
    words = ["".join(letters[i : i + 2]) for i in range(0, 200, 3)]
    lm = str(write_arpa(tmp_path / "w.arpa", [" ".join(words)]))
    spelled = [0, *vocabulary.encode(f"{words[40]} {words[3]}"), 0]
    rows = np.full((len(spelled), vocabulary.size), np.log(1e-4), np.float32)
    rows[np.arange(len(spelled)), spelled] = np.log(0.97)
    assert native(vocabulary, lm=lm).decode_batch([rows])[0][0].text == f"{words[40]} {words[3]}"


@pytest.mark.parametrize("damage", ["truncated", "order 7"])
def test_a_model_that_kenlm_cannot_load_is_named(damage, words_lm, tmp_path):
    path = tmp_path / "lm.arpa"
    text = Path(words_lm).read_text()
    if damage == "truncated":
        path.write_text(text[: len(text) * 2 // 3])
    else:
        more = "".join(f"ngram {n}=1\n" for n in range(3, 8))
        path.write_text(text.replace("\n\n\\1-grams", f"\n{more}\n\\1-grams"))
    with pytest.raises(ValueError, match=rf"{path.name}'.*(order 6|choose another file)"):
        native(LETTERS, lm=str(path))


@pytest.mark.slow
def test_sanitizers_find_nothing(words_lm, characters_lm, tmp_path):
    build = subprocess.run(
        [sys.executable, "-m", "decoding.native.build", "--sanitize"], cwd=ROOT, capture_output=True, text=True
    )
    assert build.returncode == 0, build.stderr
    extension = build.stdout.split(": ")[1].split(" (")[0].strip()
    compiler = os.environ.get("CXX", "g++")
    libraries = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so.6")
    ]
    code = f"""
import sys, importlib.util
spec = importlib.util.spec_from_file_location("decoding.native._native", {extension!r})
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
sys.modules["decoding.native._native"] = module
from tests.decoding.native.test_native import *
for lm, vocabulary in (({words_lm!r}, LETTERS), ({characters_lm!r}, MANDARIN), ("", LETTERS)):
    for lexicon in ("strict", "open"):
        engine = native(vocabulary, lm=lm, lexicon=lexicon, nbest=20, threads=4, hot_words=vocabulary.symbols[1] + ":1.0")
        engine.decode_batch([random_log_probs(n, vocabulary.size, n) for n in range(1, 60)])
        stream = engine.stream(); stream.feed(random_log_probs(50, vocabulary.size, 1)); stream.partial(); stream.finish()
print("searched")
"""
    environment = os.environ | {"LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    environment["UBSAN_OPTIONS"] = "halt_on_error=1"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "searched" in result.stdout
    assert "runtime error" not in result.stderr
