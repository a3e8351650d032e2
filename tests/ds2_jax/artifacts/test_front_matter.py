"""Front matter of model cards: facts, results that were measured with the exported model, and what a hub reads of it."""

import json

import pytest

from ds2_jax.artifacts.front_matter import Publication, ResultsError, front_matter, read_results
from ds2_jax.artifacts.load import PARTS
from ds2_jax.artifacts.model_card import make_card
from tests.runs import ROOT

AN4 = str(ROOT / "models" / "an4")
MEASURED = {"wer": 0.033635, "cer": 0.01638, "data": ["data/an4/test.jsonl"], "model": AN4, "checkpoint": None}
DECODING = "native, models/an4/lm.bin, alpha 0.5, beta 1, beam 100"


def write_results(path, **changes) -> str:
    path.write_text(json.dumps(MEASURED | {"decoding": DECODING} | changes))
    return str(path)


@pytest.mark.parametrize(("language", "code"), [("en", "en"), ("zh-TW", "zh"), ("pt_br", "pt"), ("none", None)])
def test_what_is_not_known_is_left_out(language, code):
    values = front_matter("mine", language, Publication(), [])
    assert values.get("language") == code
    assert values["library_name"] == "ds2-jax"
    assert values["pipeline_tag"] == "automatic-speech-recognition"
    assert not {"license", "datasets", "model-index"} & set(values)


def test_a_licence_is_an_identifier():
    with pytest.raises(ValueError, match=r"config\.export\.license is 'Apache License 2.0': use .* apache-2.0"):
        Publication(license="Apache License 2.0")


def test_results_are_quoted_only_of_the_exported_model(tmp_path):
    good, other = write_results(tmp_path / "a.json"), write_results(tmp_path / "b.json", model="models/an4_live")
    (found,) = read_results(Publication(results=good), AN4)
    assert found == {"wer": 0.033635, "cer": 0.01638, "data": MEASURED["data"], "decoding": DECODING}
    with pytest.raises(ResultsError, match=r"b\.json was measured with models/an4_live \(a bundle\), not with"):
        read_results(Publication(results=f"{good}, {other}"), AN4)
    with pytest.raises(ResultsError, match=r"gone\.json has no results"):
        read_results(Publication(results=str(tmp_path / "gone.json")), AN4)
    (tmp_path / "c.json").write_text('{"wer": 0.1}')
    with pytest.raises(ResultsError, match=r"c\.json has no results .*--mode=eval"):
        read_results(Publication(results=str(tmp_path / "c.json")), AN4)
    assert read_results(Publication(), AN4) == []


def test_a_hub_reads_the_card(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    publication = Publication(
        license="apache-2.0", datasets="an4, my/speech", results=write_results(tmp_path / "a.json")
    )
    (tmp_path / "b.json").write_text(json.dumps(MEASURED | {"decoding": "greedy", "wer": 0.0466}))
    results = read_results(publication, AN4) + read_results(Publication(results=str(tmp_path / "b.json")), AN4)
    (tmp_path / "README.md").write_text(make_card("mine", {}, front_matter("mine", "en", publication, results)))
    data = hub.ModelCard.load(tmp_path / "README.md").data
    assert (data.language, data.license, data.library_name) == ("en", "apache-2.0", "ds2-jax")
    assert data.datasets == ["an4", "my/speech"]
    assert data.metrics == ["wer", "cer"]
    read = [(r.metric_type, r.metric_name, r.metric_value) for r in data.eval_results]
    assert read == [
        ("wer", "WER, native with a language model", 3.36),
        ("cer", "CER, native with a language model", 1.64),
        ("wer", "WER, greedy", 4.66),
        ("cer", "CER, greedy", 1.64),
    ]
    assert {(r.task_type, r.dataset_name, r.dataset_type, r.dataset_split) for r in data.eval_results} == {
        ("automatic-speech-recognition", "an4", "an4", "test")
    }


@pytest.mark.parametrize(
    ("name", "datasets", "rates"),
    [
        ("an4", ["an4"], [4.66, 1.83, 3.36, 1.64]),
        ("an4_tuned", ["an4", "librispeech", "common_voice", "ljspeech", "speechocean762"], [3.1, 1.48, 1.94, 1.05]),
        ("an4_live", ["an4", "librispeech", "common_voice", "ljspeech", "speechocean762"], [5.95, 2.73, 3.88, 2.18]),
        ("en", ["librispeech", "common_voice", "ljspeech", "speechocean762", "an4"], [49.49, 18.09, 30.57, 14.54]),
    ],
)
def test_a_hub_reads_the_cards_of_released_models(name, datasets, rates):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard.load(ROOT / "models" / name / "README.md")
    assert (card.data.language, card.data.license, card.data.datasets) == ("en", "apache-2.0", datasets)
    assert [result.metric_value for result in card.data.eval_results] == rates
    assert all(f"{rate:.2f} %" in card.text for rate in rates)


def test_results_of_a_run_are_those_of_its_exported_checkpoint(tmp_path):
    run = tmp_path / "run"
    for part in PARTS:
        (run / "checkpoints" / "20" / part).mkdir(parents=True)
    write_results(run / "test.json", model=str(run), checkpoint="step 20", decoding="greedy")
    write_results(run / "eval.json", model=str(run), checkpoint="step 10")
    for source in (run, run / "checkpoints" / "20"):
        (found,) = read_results(Publication(), str(source))
        assert found["decoding"] == "greedy"
    with pytest.raises(ResultsError, match=r"was measured with .*run \(step 10\), not with"):
        read_results(Publication(results=str(run / "eval.json")), str(run))
