"""Engines behind one interface, on real speech and made probabilities; what does not fit is said before it is used."""

import dataclasses
import itertools
import json
import logging
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from decoding.search import beam, greedy
from decoding.search.beam import make_engine
from decoding.search.confidence import align
from decoding.search.library_engine import PYCTCDECODE
from decoding.settings import BeamSettings
from ds2_jax.artifacts.load import load_model
from ds2_jax.configs import base
from ds2_jax.parallel import sharding
from ds2_jax.recognition.evaluation import EvaluationSettings, Evaluator
from input_pipeline import manifest as manifests
from input_pipeline.cores import usable_cores
from input_pipeline.text import Vocabulary
from tests.arpa import write_arpa
from tests.decoding.engines import ENGINES, LIBRARIES, needs_pyctcdecode
from tests.runs import ROOT

FRAME_S = 0.03
LETTERS = Vocabulary((" ", "a", "b", "c", "'"))
MANDARIN = Vocabulary(tuple("你好世界"))
EXACT = 1e-9  # the same float64 arithmetic
NEAR_FRAMES = 3.01  # a symbol lies in a few frames, and engines choose among them
NEAR = 0.05  # of a confidence, for the same reason
FLOAT32 = 2e-4  # sums of some hundred float32 logarithms, normalised once more by a library


@pytest.fixture(scope="module")
def sentences(clips) -> list[str]:
    return [json.loads(line)["text"] for line in clips.read_text().splitlines()]


@pytest.fixture(scope="module")
def words_lm(sentences, tmp_path_factory) -> str:
    return str(write_arpa(tmp_path_factory.mktemp("lm") / "words.arpa", sentences))


@pytest.fixture(scope="module")
def speech_log_probs(clips):
    """Vocabulary of the released model, seconds of a frame, and its log-probabilities of the clips, in order."""
    meta, variables = load_model(str(ROOT / "models" / "an4"))
    evaluator = Evaluator(meta, sharding.make_mesh(), EvaluationSettings(), all_symbols=True)
    corpus = evaluator.corpus(manifests.read_many(str(clips)))
    found, _ = evaluator.log_probs(variables, corpus)
    return meta.vocabulary, meta.output_frame_s, [found[row] for row in sorted(found)]


def spelled(path: str, vocabulary: Vocabulary, sure: float = 0.9) -> np.ndarray:
    """Make log-probabilities [U, K] whose best path is the one written; '_' is the blank."""
    ids = [0 if c == "_" else vocabulary.symbols.index(c) + 1 for c in path]
    rows = np.full((len(ids), vocabulary.size), (1 - sure) / (vocabulary.size - 1))
    rows[np.arange(len(ids)), ids] = sure
    return np.log(rows).astype(np.float32)


def test_every_setting_of_the_recipe_is_one_of_the_decoder():
    assert set(base.get_config().decode.to_dict()) == {field.name for field in dataclasses.fields(BeamSettings)}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("engine", "flashlight"),
        ("lexicon", "loose"),
        ("alpha", -0.1),
        ("alpha", float("nan")),
        ("beta", float("inf")),
        ("beam_size", 0),
        ("beam_size", 3_000_000_000),
        ("cutoff_prob", 1.01),
        ("cutoff_prob", 0.0),
        ("cutoff_top_n", 0),
        ("cutoff_top_n", 3_000_000_000),
        ("threshold", 0.0),
        ("unknown_score", 1.0),
        ("nbest", 101),
        ("threads", -1),
        ("alpha", "much"),
        ("beam_size", 10.5),
        ("nbest", True),
        ("hot_words", "cat"),
        ("hot_words", "cat:much"),
        ("hot_words", "cat:1, cat:2"),
    ],
)
def test_a_wrong_value_is_named_with_its_field_and_a_remedy(field, value):
    with pytest.raises(ValueError, match=rf"config\.decode\.{field} is {value!r}: \w+"):
        BeamSettings(**{field: value})


@pytest.mark.parametrize(
    ("settings", "beyond"),
    [
        ({"alpha": 0.0}, {"alpha": -1e-9}),
        ({"unknown_score": 0.0}, {"unknown_score": 1e-9}),
        ({"beam_size": 1}, {"beam_size": 0}),
        ({"beam_size": 1_000_000}, {"beam_size": 1_000_001}),
        ({"cutoff_prob": 1e-9}, {"cutoff_prob": 0.0}),
        ({"cutoff_prob": 1.0}, {"cutoff_prob": 1.0 + 1e-9}),
        ({"cutoff_top_n": 1}, {"cutoff_top_n": 0}),
        ({"cutoff_top_n": 1_000_000}, {"cutoff_top_n": 1_000_001}),
        ({"threshold": 1e-9}, {"threshold": 0.0}),
        ({"nbest": 1}, {"nbest": 0}),
        ({"nbest": 7, "beam_size": 7}, {"nbest": 8, "beam_size": 7}),
        ({"threads": 0}, {"threads": -1}),
    ],
)
def test_a_limit_is_allowed_and_what_is_beyond_it_is_not(settings, beyond):
    BeamSettings(**settings)
    with pytest.raises(ValueError, match=next(iter(beyond))):
        BeamSettings(**beyond)


def test_threads_are_those_asked_for_or_one_for_each_core():
    assert BeamSettings(threads=3).thread_count == 3
    assert BeamSettings().thread_count == usable_cores()


def test_hot_words_are_read_with_their_weights():
    assert BeamSettings(hot_words=" ab:2.5, c'a:-1 ,").hot_word_weights() == {"ab": 2.5, "c'a": -1.0}


def test_greedy_behind_the_interface_is_greedy():
    rows = spelled("_aa_b c_", LETTERS)
    [[found]] = make_engine(LETTERS, BeamSettings(engine="greedy"), FRAME_S).decode_batch([rows])
    assert found == greedy.decode_log_probs(rows, LETTERS, FRAME_S)
    assert found.score == pytest.approx(float(rows.max(1).sum()), rel=1e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_clear_is_read_with_word_times_and_confidence(name):
    engine = make_engine(LETTERS, BeamSettings(engine=name), FRAME_S)
    rows = spelled("__ab__ _c'a_", LETTERS)
    [[found]] = engine.decode_batch([rows])
    assert (engine.name, found.text) == (name, "ab c'a")
    assert [(w.text, round(w.start_s / FRAME_S)) for w in found.words] == [("ab", 2), ("c'a", 8)]
    assert [w.end_s for w in found.words] == sorted(w.end_s for w in found.words)
    assert 0.85 < found.confidence <= 0.91
    assert all(0.85 < word.confidence <= 0.91 for word in found.words)


@pytest.mark.parametrize("name", ENGINES)
def test_each_character_is_a_word_where_there_is_no_space(name, tmp_path):
    lm = str(write_arpa(tmp_path / "zh.arpa", ["你好世界", "你好"], characters=True))
    rows = spelled("_你_好_世界", MANDARIN)
    for settings in (BeamSettings(engine=name), BeamSettings(engine=name, lm=lm)):
        [[found]] = make_engine(MANDARIN, settings, FRAME_S).decode_batch([rows])
        assert found.text == "你好世界"
        assert [word.text for word in found.words] == list("你好世界")


@pytest.mark.parametrize("name", ENGINES)
def test_a_model_of_characters_decides_between_characters(name, tmp_path):
    lm = str(write_arpa(tmp_path / "zh.arpa", ["你好"] * 20 + ["世界"] * 20, characters=True))
    rows = spelled("你_好", MANDARIN)
    rows[2] = np.log([0.02, 0.02, 0.47, 0.02, 0.47])  # 好 or 界
    engine = make_engine(MANDARIN, BeamSettings(engine=name, lm=lm, alpha=1.0), FRAME_S)
    assert engine.decode_batch([rows])[0][0].text == "你好"
    rows[0] = spelled("世", MANDARIN)[0]
    assert engine.decode_batch([rows])[0][0].text == "世界"


@pytest.mark.parametrize("name", ENGINES)
def test_a_character_that_the_model_lacks_is_written_in_an_open_lexicon_alone(name, tmp_path):
    lm = str(write_arpa(tmp_path / "zh.arpa", ["你好", "你世"], characters=True))
    rows = spelled("你_界_", MANDARIN)
    strict = BeamSettings(engine=name, lm=lm)
    soft = dataclasses.replace(strict, lexicon="open", unknown_score=-0.1)
    hard = dataclasses.replace(soft, unknown_score=-1000.0)
    found = [make_engine(MANDARIN, s, FRAME_S).decode_batch([rows])[0][0].text for s in (strict, soft, hard)]
    assert found[1] == "你界"
    assert "界" not in found[0] + found[2]


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize(("nbest", "log_p", "found"), [(1, -4.9, "b"), (1, -5.1, "a"), (2, -9.9, "b"), (2, -10.1, "a")])
def test_a_library_considers_symbols_above_its_limit(name, nbest, log_p, found, tmp_path):
    lm = str(write_arpa(tmp_path / "lm.arpa", ["b", "b b"]))
    rows = np.array([[-30.0, -30.0, 0.0, log_p, -30.0, -30.0]], np.float32)
    settings = BeamSettings(
        engine=name, lm=lm, lexicon="open", unknown_score=-50.0, threshold=60.0, alpha=1.0, nbest=nbest
    )
    assert make_engine(LETTERS, settings, FRAME_S).decode_batch([rows])[0][0].text == found


@pytest.mark.parametrize("name", ENGINES)
def test_the_score_of_an_unknown_word_is_a_natural_logarithm_weighed_by_alpha(name, tmp_path):
    lm = str(write_arpa(tmp_path / "lm.arpa", ["ab cab", "cab ab ab"]))
    rows = spelled("_c_c_", LETTERS, sure=0.9999)
    near = BeamSettings(engine=name, lm=lm, alpha=0.5, lexicon="open", unknown_score=-1.0)
    far = dataclasses.replace(near, unknown_score=-3.0)
    first, second = (make_engine(LETTERS, settings, FRAME_S).decode_batch([rows])[0][0] for settings in (near, far))
    assert first.text == second.text == "cc"
    assert first.score - second.score == pytest.approx(near.alpha * 2.0, abs=FLOAT32)


@pytest.mark.parametrize("name", ENGINES)
def test_as_many_hypotheses_as_asked_for_where_the_network_is_sure(name):
    rows = spelled("_ab_c'a_b_", LETTERS, sure=0.999)
    found = make_engine(LETTERS, BeamSettings(engine=name, nbest=5), FRAME_S).decode_batch([rows])[0]
    assert len({hypothesis.text for hypothesis in found}) == 5


@pytest.mark.parametrize("name", ENGINES)
def test_a_language_model_corrects_a_word(name, tmp_path):
    lm = str(write_arpa(tmp_path / "lm.arpa", ["ab cab", "cab ab ab"]))
    rows = spelled("a_a cab", LETTERS)
    rows[2] = np.log([0.02, 0.02, 0.5, 0.42, 0.02, 0.02])  # a, or b
    assert make_engine(LETTERS, BeamSettings(engine=name), FRAME_S).decode_batch([rows])[0][0].text == "aa cab"
    with_lm = make_engine(LETTERS, BeamSettings(engine=name, lm=lm), FRAME_S)
    assert with_lm.decode_batch([rows])[0][0].text == "ab cab"


@pytest.mark.parametrize("name", ENGINES)
def test_real_speech_is_read_as_greedily_where_the_network_is_sure(name, speech_log_probs, sentences, words_lm):
    vocabulary, frame_s, log_probs = speech_log_probs
    for lm in ("", words_lm):
        engine = make_engine(vocabulary, BeamSettings(engine=name, lm=lm), frame_s)
        found = [best.text for best, *_ in engine.decode_batch(log_probs)]
        assert sum(a != b for a, b in zip(found, sentences, strict=True)) <= 1


@pytest.mark.parametrize("name", ENGINES)
def test_word_times_are_near_those_of_greedy_decoding(name, speech_log_probs, words_lm):
    vocabulary, frame_s, log_probs = speech_log_probs
    engine = make_engine(vocabulary, BeamSettings(engine=name, lm=words_lm), frame_s)
    compared = 0
    for rows, [found, *_] in zip(log_probs, engine.decode_batch(log_probs), strict=True):
        plain = greedy.decode_log_probs(rows, vocabulary, frame_s)
        if plain.text == found.text:
            compared += 1
            for a, b in zip(plain.words, found.words, strict=True):
                assert abs(a.start_s - b.start_s) <= NEAR_FRAMES * frame_s
                assert abs(a.end_s - b.end_s) <= NEAR_FRAMES * frame_s
                assert abs(a.confidence - b.confidence) < NEAR
    assert compared >= len(log_probs) - 1


@pytest.mark.parametrize("name", ENGINES)
def test_hypotheses_are_different_and_best_first(name, speech_log_probs, words_lm):
    vocabulary, frame_s, log_probs = speech_log_probs
    settings = BeamSettings(engine=name, lm=words_lm, nbest=4, threshold=30.0)
    softened = [0.3 * rows - np.log(np.exp(0.3 * rows).sum(1, keepdims=True)) for rows in log_probs[:3]]
    for found in make_engine(vocabulary, settings, frame_s).decode_batch(softened):
        assert 1 < len(found) <= 4
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        assert len({h.text for h in found}) == len(found)
        assert all(" ".join(word.text for word in h.words) == h.text for h in found)
        assert all(0 <= w.start_s < w.end_s for h in found for w in h.words)


@needs_pyctcdecode
def test_both_libraries_give_the_same(speech_log_probs, words_lm):
    vocabulary, frame_s, log_probs = speech_log_probs
    fast, slow = (
        make_engine(vocabulary, BeamSettings(engine=name, lm=words_lm), frame_s).decode_batch(log_probs)
        for name in ("ctc_beam_decoder", "pyctcdecode")
    )
    assert [found[0].text for found in fast] == [found[0].text for found in slow]
    np.testing.assert_allclose([f[0].score for f in fast], [s[0].score for s in slow], rtol=FLOAT32)


@pytest.mark.parametrize("name", ENGINES)
def test_threads_change_nothing(name, speech_log_probs, words_lm):
    vocabulary, frame_s, log_probs = speech_log_probs
    one, four = (
        make_engine(vocabulary, BeamSettings(engine=name, lm=words_lm, threads=n), frame_s).decode_batch(log_probs * 4)
        for n in (1, 4)
    )
    assert one == four


@pytest.mark.parametrize("name", ENGINES)
def test_other_weights_are_as_if_the_engine_were_made_with_them(name, speech_log_probs, words_lm):
    vocabulary, frame_s, log_probs = speech_log_probs
    changed = make_engine(vocabulary, BeamSettings(engine=name, lm=words_lm), frame_s)
    changed.rescale(1.75, -0.5)
    made = make_engine(vocabulary, BeamSettings(engine=name, lm=words_lm, alpha=1.75, beta=-0.5), frame_s)
    assert changed.decode_batch(log_probs[:4]) == made.decode_batch(log_probs[:4])
    with pytest.raises(ValueError, match="finite"):
        changed.rescale(float("nan"), 0.0)


@pytest.mark.parametrize("name", ENGINES)
def test_a_hot_word_wins_where_it_is_close(name):
    rows = spelled("a_a c", LETTERS)
    rows[2] = np.log([0.02, 0.02, 0.6, 0.32, 0.02, 0.02])
    texts = [
        make_engine(LETTERS, BeamSettings(engine=name, hot_words=hot), FRAME_S).decode_batch([rows])[0][0].text
        for hot in ("", "ab:3")
    ]
    assert texts == ["aa c", "ab c"]


@pytest.mark.parametrize("name", ["greedy", *ENGINES])
def test_an_utterance_without_frames_is_empty_text(name):
    engine = make_engine(LETTERS, BeamSettings(engine=name), FRAME_S)
    none, some = np.zeros((0, LETTERS.size), np.float32), spelled("ab", LETTERS)
    assert [found[0].text for found in engine.decode_batch([none, some, none])] == ["", "ab", ""]
    assert engine.decode_batch([]) == []


@pytest.mark.parametrize("name", ["greedy", *ENGINES])
def test_silence_is_empty_text(name):
    [[found]] = make_engine(LETTERS, BeamSettings(engine=name), FRAME_S).decode_batch([spelled("____", LETTERS)])
    assert (found.text, found.words) == ("", [])


@pytest.mark.parametrize("name", ["greedy", *ENGINES])
def test_arrays_that_are_no_log_probabilities_are_refused(name):
    engine = make_engine(LETTERS, BeamSettings(engine=name), FRAME_S)
    rows = spelled("abc", LETTERS)
    broken = rows.copy()
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"utterance 1 are not finite at frame 1 of 3.*checkpoint"):
        engine.decode_batch([rows, broken])
    with pytest.raises(ValueError, match="natural logarithms"):
        engine.decode_batch([np.exp(rows)])
    with pytest.raises(ValueError, match=r"\[3, 5\].*\[U, 6\]"):
        engine.decode_batch([rows[:, 1:]])


def test_an_engine_that_has_no_streams_says_which_ones_have():
    with pytest.raises(
        ValueError, match=r"'ctc_beam_decoder' decodes complete utterances only: choose .*'native'.*'greedy'"
    ):
        make_engine(LETTERS, BeamSettings(engine="ctc_beam_decoder"), FRAME_S).stream()


def test_spelled_letters_are_words(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "decoding"):
        lm = str(write_arpa(tmp_path / "letters.arpa", ["a b c", "c a b"]))
        engine = make_engine(LETTERS, BeamSettings(engine="ctc_beam_decoder", lm=lm), FRAME_S)
    assert "right for spelled letters" in caplog.text
    assert engine.decode_batch([spelled("a b", LETTERS)])[0][0].text == "a b"


def test_a_hot_word_that_cannot_be_spelled_is_refused():
    with pytest.raises(ValueError, match=r"'añb' .*U\+00F1.*spell it with"):
        make_engine(LETTERS, BeamSettings(engine="ctc_beam_decoder", hot_words="añb:2"), FRAME_S)


@pytest.mark.parametrize("name", ENGINES)
def test_a_hot_phrase_of_words_that_the_model_lacks_can_be_written(name, tmp_path):
    lm = str(write_arpa(tmp_path / "lm.arpa", ["cab", "ab cab"]))
    rows = spelled("ba_ _ac", LETTERS)
    settings = BeamSettings(engine=name, lm=lm, alpha=0.2, hot_words="ba ac:20", lexicon="open")
    if name == "native":
        settings = dataclasses.replace(settings, lexicon="strict")
    assert make_engine(LETTERS, settings, FRAME_S).decode_batch([rows])[0][0].text == "ba ac"


@pytest.mark.parametrize("name", LIBRARIES)
def test_hot_words_that_a_library_cannot_weigh_are_refused(name):
    with pytest.raises(ValueError, match=r"one weight.*engine=native"):
        make_engine(LETTERS, BeamSettings(engine=name, hot_words="ab:2, c:3"), FRAME_S)
    with pytest.raises(ValueError, match=r"single characters.*engine=native"):
        make_engine(MANDARIN, BeamSettings(engine=name, hot_words="你好:2"), FRAME_S)


def test_auto_says_what_is_lost_without_the_native_engine(monkeypatch, caplog):
    monkeypatch.setattr(beam, "native_available", lambda: False)
    with caplog.at_level(logging.INFO, "decoding"):
        engine = make_engine(LETTERS, BeamSettings(), FRAME_S)
    assert engine.name == "ctc_beam_decoder"
    assert "no strict lexicon" in caplog.text
    with pytest.raises(ValueError, match=r"not built.*ctc_beam_decoder"):
        make_engine(LETTERS, BeamSettings(engine="native"), FRAME_S)


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("ctc_beam_decoder", "pip install ctc-beam-decoder"),
        ("pyctcdecode", "make pyctcdecode, or pip install --no-deps pyctcdecode==0.5.0 pygtrie~=2.5"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_installation(name, install, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    expected = (
        rf"^the decoder needs {name}, which cannot be imported .*\({re.escape(install)}\), or choose another --config"
    )
    with pytest.raises(ValueError, match=expected):
        make_engine(LETTERS, BeamSettings(engine=name), FRAME_S)


@needs_pyctcdecode
def test_pyctcdecode_needs_kenlm_for_a_language_model_alone(tmp_path, monkeypatch):
    lm = str(write_arpa(tmp_path / "lm.arpa", ["ab cab"]))
    make_engine(LETTERS, BeamSettings(engine="pyctcdecode", lm=lm), FRAME_S)  # it imports kenlm once
    assert not logging.getLogger("pyctcdecode").isEnabledFor(logging.WARNING)  # it warns of every vocabulary
    monkeypatch.setitem(sys.modules, "kenlm", None)
    assert make_engine(LETTERS, BeamSettings(engine="pyctcdecode"), FRAME_S).name == "pyctcdecode"
    with pytest.raises(
        ValueError, match=r"^the decoder needs kenlm, which cannot be imported .*pip install ufal\.kenlm"
    ):
        make_engine(LETTERS, BeamSettings(engine="pyctcdecode", lm=lm), FRAME_S)


@pytest.mark.slow
def test_pyctcdecode_works_as_make_installs_it(tmp_path):
    """Without its dependencies, into a folder of its own: the packages are those that the make target names."""
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *PYCTCDECODE], check=True)
    program = (
        "import numpy, pyctcdecode; from tests.decoding.search.test_beam import *\n"
        "engine = make_engine(LETTERS, BeamSettings(engine='pyctcdecode'), FRAME_S)\n"
        "print(pyctcdecode.__file__, engine.decode_batch([spelled('_a_ab', LETTERS)])[0][0].text)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [str(tmp_path / "pyctcdecode" / "__init__.py"), "aab"]


def test_the_make_target_installs_those_packages(tmp_path):
    """Run with a pip that only prints its arguments."""
    (tmp_path / "bin").mkdir()
    program = f'#!/bin/sh\nif [ "$1" = -c ]; then exec {sys.executable} "$@"; fi\necho "$@"\n'
    (tmp_path / "bin" / "python").write_text(program)
    (tmp_path / "bin" / "python").chmod(0o755)
    command = ["make", "--no-print-directory", "pyctcdecode", f"VENV={tmp_path}", "--old-file=install"]
    pip = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert pip.startswith("-m pip install ")
    assert pip.endswith(f"--no-deps {' '.join(PYCTCDECODE)}")


def test_confidence_takes_the_best_frames_in_order():
    rng = np.random.default_rng(1)
    for _ in range(50):
        rows = np.log(rng.dirichlet(np.ones(4), size=7))
        symbols = rng.integers(0, 4, size=rng.integers(1, 4)).tolist()
        choices = itertools.combinations(range(1, 6), len(symbols))
        slow = max(sum(rows[frame, symbol] for frame, symbol in zip(c, symbols, strict=True)) for c in choices)
        assert align(rows, symbols, 1, 6).log_p == pytest.approx(slow, abs=EXACT)


@pytest.mark.parametrize(("first", "end"), [(0, 1), (2, 3), (1, 1)])
def test_a_word_with_more_symbols_than_frames_has_a_confidence(first, end):
    rows = spelled("abc", LETTERS)
    assert np.isfinite(align(rows, [2, 3, 4, 2], first, end).log_p)
    found = align(rows, [2, 3, 4], first, end)
    assert (found.first, found.end) == (0, 3)
    assert found.log_p == pytest.approx(3 * np.log(0.9), rel=1e-5)


def test_a_word_reaches_as_far_as_its_outer_symbols_do():
    found = align(spelled("__aab_bb_", LETTERS), [2, 3], 0, 9)
    assert (found.first, found.end) == (2, 5)
