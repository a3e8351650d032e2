"""Settings of decoding from the command line, the bundle and the defaults; and their effect in main.py."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from decoding.settings import BeamSettings
from ds2_jax.artifacts.bundle import load_bundle, save_bundle
from ds2_jax.cli import settings
from ds2_jax.configs import base
from ds2_jax.recognition import decode_settings
from ds2_jax.recognition.decode_settings import make_engine
from input_pipeline.text import Vocabulary
from tests.arpa import write_arpa
from tests.decoding.engines import needs_pyctcdecode
from tests.ds2_jax.recognition.doubt import six_or_sax
from tests.runs import ROOT, run_main

AN4 = ROOT / "models" / "an4"


@pytest.fixture(scope="module")
def lm(clips, tmp_path_factory) -> Path:
    texts = [json.loads(line)["text"] for line in clips.read_text().splitlines()]
    return write_arpa(tmp_path_factory.mktemp("lm") / "mine.arpa", texts)


@pytest.fixture(scope="module")
def bundle(lm, tmp_path_factory) -> Path:
    """Export the released model with a language model and tuned weights through the command line."""
    output = tmp_path_factory.mktemp("bundle") / "with_lm"
    tuned = [f"--config.decode.lm={lm}", "--config.decode.alpha=0.75", "--config.decode.beta=0.25"]
    result = run_main("--mode=export", f"--config.restore={AN4}", f"--output={output}", *tuned)
    assert result.returncode == 0, result.stderr
    return output


def settings_with(restore: Path | str = "", **decode):
    """Complete settings as main.py does."""
    config = base.get_config()
    config.restore = str(restore)
    config.decode.update(decode)
    return settings.read_decoding(config)


def test_the_default_engine_is_greedy_without_a_language_model_and_auto_with_one(lm):
    assert settings_with().engine == "greedy"
    assert settings_with(lm=str(lm)).engine == "auto"
    assert settings_with(lm=str(lm), engine="greedy").engine == "greedy"
    assert settings_with(AN4 / "nowhere").engine == "greedy"


def test_what_greedy_decoding_ignores_selects_another_engine(caplog):
    assert settings_with(nbest=3).engine == settings_with(hot_words="go:3").engine == "auto"
    meta, _ = load_bundle(AN4)
    cases: list[tuple[dict, str]] = [
        ({"nbest": 3}, "nbest"),
        ({"hot_words": "go:3", "nbest": 2}, "hot_words and nbest"),
    ]
    for given, named in cases:
        caplog.clear()
        assert make_engine(settings_with(**given), meta).name != "greedy"
        assert "does not use" not in caplog.text
        assert make_engine(settings_with(engine="greedy", **given), meta).name == "greedy"
        assert f"'greedy', which does not use config.decode.{named}:" in caplog.text


def test_a_bundle_provides_its_language_model_and_weights(bundle):
    assert {"lm.arpa", "decode.json"} <= {path.name for path in bundle.iterdir()}
    chosen = settings_with(bundle)
    assert (chosen.engine, chosen.lm) == ("auto", str(bundle / "lm.arpa"))
    assert (chosen.alpha, chosen.beta, chosen.lexicon) == (0.75, 0.25, "strict")


def test_given_settings_take_precedence_over_the_bundle(bundle, lm):
    chosen = settings_with(bundle, alpha=0.5, lexicon="open", engine="pyctcdecode")
    assert (chosen.alpha, chosen.beta, chosen.lexicon, chosen.engine) == (0.5, 0.25, "open", "pyctcdecode")
    other = settings_with(bundle, lm=str(lm))
    assert (other.lm, other.alpha) == (str(lm), 0.5), "weights that were tuned with another language model"
    none = settings_with(bundle, lm="none")
    assert (none.lm, none.engine) == ("", "greedy")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ('{"alhpa": 1}', "alhpa"), ('{"alpha": -3}', "config.decode.alpha")],
)
def test_a_damaged_settings_file_is_reported(content, message, bundle, tmp_path):
    meta, variables = load_bundle(bundle)
    extra_files = {"lm.arpa": bundle / "lm.arpa", "decode.json": content.encode()}
    save_bundle(tmp_path / "damaged", meta, variables, "", extra_files)
    with pytest.raises(ValueError, match=message):
        settings_with(tmp_path / "damaged")


def test_a_new_language_model_replaces_all_files_of_the_old_one(bundle, lm, tmp_path):
    meta, variables = load_bundle(bundle)
    old = {"lm.bin": b"old", "unigrams.txt": b"old\n", "decode.json": b"{}"}
    save_bundle(tmp_path / "twice", meta, variables, "", old)
    save_bundle(tmp_path / "twice", meta, variables, "", {"lm.arpa": lm})
    names = {path.name for path in (tmp_path / "twice").iterdir()}
    assert names & {"lm.bin", "lm.arpa", "unigrams.txt", "decode.json"} == {"lm.arpa"}


def test_a_language_model_that_does_not_fit_is_not_exported(tmp_path):
    foreign = write_arpa(tmp_path / "zh.arpa", ["你好 世界"])
    result = run_main(
        "--mode=export", f"--config.restore={AN4}", f"--output={tmp_path / 'no'}", f"--config.decode.lm={foreign}"
    )
    assert result.returncode == 1
    assert "2 of its 2 words" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "no").exists()


def evaluate(restore: Path, clips: Path, *flags: str) -> tuple[dict, str]:
    result = run_main("--mode=eval", f"--config.restore={restore}", f"--config.data.test={clips}", *flags)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


def test_evaluation_uses_the_language_model_of_the_bundle_unless_it_is_disabled(bundle, clips):
    result, log = evaluate(bundle, clips)
    assert result["engine"] != "greedy"
    assert result["decoding"] == f"{result['engine']}, {bundle / 'lm.arpa'}, alpha 0.75, beta 0.25, beam 100"
    assert f"{bundle / 'lm.arpa'}, alpha 0.75, beta 0.25" in log
    greedy, _ = evaluate(bundle, clips, "--config.decode.engine=greedy")
    assert greedy["engine"] == greedy["decoding"] == "greedy"
    assert greedy["loss"] == result["loss"]
    assert abs(result["wer"] - greedy["wer"]) < 0.1


@needs_pyctcdecode
def test_both_libraries_give_the_same_evaluation(bundle, clips):
    both = [
        evaluate(bundle, clips, f"--config.decode.engine={name}")[0] for name in ("pyctcdecode", "ctc_beam_decoder")
    ]
    unnamed = {"engine": "", "decoding": "", "date": ""}
    assert both[0] | unnamed == both[1] | unnamed


def test_settings_of_decoding_can_be_set_with_a_restored_model(bundle, clips):
    _, log = evaluate(bundle, clips, "--config.decode.alpha=0.2", "--config.decode.end_of_sentence=true")
    assert "alpha 0.2, beta 0.25" in log


def noisy(path: Path, folder: Path) -> str:
    """Write a noisy copy of a clip, for which the network is less certain; return its path."""
    samples, rate = soundfile.read(path, dtype="float32")
    noise = np.random.default_rng(0).normal(0, samples.std(), len(samples))
    soundfile.write(folder / f"{path.stem}.wav", samples + noise, rate)
    return str(folder / f"{path.stem}.wav")


def test_infer_writes_and_prints_hypotheses_with_scores_times_and_confidences(bundle, clips, tmp_path):
    audio = [noisy(path, tmp_path) for path in sorted(clips.parent.glob("*.flac"))[:2]]
    flags = ["--config.decode.nbest=3", "--config.decode.threshold=40"]
    common = ["--mode=infer", f"--config.restore={bundle}", f"--audio={','.join(audio)}", *flags]
    printed = run_main(*common)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.count("hypothesis:") == printed.stdout.count("words:") == 2
    assert re.search(r"n-best +score, ln +confidence\n +1 +-\d+\.\d+ +\d+%  \w", printed.stdout)
    assert re.search(r"words: +\w+ \d\.\d\d-\d\.\d\d s \d+%", printed.stdout)
    written = run_main(*common, f"--output={tmp_path / 'out.jsonl'}")
    assert written.returncode == 0, written.stderr
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for record in records:
        assert [set(word) for word in record["words"]] == [{"text", "start_s", "end_s", "confidence"}] * len(
            record["words"]
        )
        ranked = record.get("nbest", [record])
        assert ranked[0]["text"] == record["text"]
        assert [h["score"] for h in ranked] == sorted((h["score"] for h in ranked), reverse=True)
    assert any(len(record.get("nbest", ())) > 1 for record in records)


def test_a_wrong_setting_is_reported_before_the_model_is_loaded(clips):
    result = run_main(
        "--mode=eval", f"--config.data.test={clips}", "--config.restore=x", "--config.decode.lexicon=loose"
    )
    assert result.returncode == 1
    assert "config.decode.lexicon is 'loose'" in result.stderr.splitlines()[-1]


def test_hot_words_are_spelled_as_transcripts_are():
    meta, _ = load_bundle(AN4)
    spelled = decode_settings.spell_hot_words(BeamSettings(hot_words="Rub  Out:2, O\u2019CLOCK:0.1"), meta)
    assert spelled.hot_word_weights() == {"rub out": 2.0, "o'clock": 0.1}
    upper = dataclasses.replace(meta, language="none", vocabulary=Vocabulary(tuple(" ABNO")))
    assert decode_settings.spell("Anno", upper) == "ANNO"
    turkish = dataclasses.replace(meta, language="tr", vocabulary=Vocabulary(tuple("IİR")))
    assert [decode_settings.spell(word, turkish) for word in ("Irı", "iri", "İri")] == ["IRI", "İRİ", "İRİ"]
    with pytest.raises(ValueError, match="name 'anna' once"):
        decode_settings.spell_hot_words(BeamSettings(hot_words="Anna:2, anna:3"), meta)


@pytest.mark.parametrize("hot", ["SAX:9", "Sax:9", "sax:9"])
def test_hot_words_ignore_case(hot):
    meta, _ = load_bundle(AN4)
    engine = decode_settings.make_engine(BeamSettings(engine="native", hot_words=hot), meta)
    assert engine.decode_batch([six_or_sax(meta.vocabulary)])[0][0].text.split() == ["sax"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lm": "/etc/passwd"}, "must not set lm"),
        ({"unigrams": "../words.txt"}, "must not set unigrams"),
        ({"lexicon": 5}, r"config\.decode\.lexicon is 5"),
        ({"alpha": "1"}, r"config\.decode\.alpha is '1'"),
        ({"end_of_sentence": "no"}, r"config\.decode\.end_of_sentence is 'no'"),
        ({"hot_words": 5}, r"config\.decode\.hot_words is 5"),
        (["lm"], "cannot be read"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_bundle_names_no_other_files_and_no_values_of_other_types(values, message, tmp_path):
    for name in ("config.json", "model.safetensors", "lm.bin"):
        (tmp_path / name).symlink_to(AN4 / name)
    (tmp_path / "decode.json").write_text(values if isinstance(values, str) else json.dumps(values))
    with pytest.raises(ValueError, match=message):
        decode_settings.complete({}, str(tmp_path))
