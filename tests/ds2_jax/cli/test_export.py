"""Exporting over a bundle: refused, or everything that people added stays."""

import dataclasses
import json
import logging
from pathlib import Path

import pytest
import yaml

from ds2_jax.artifacts.bundle import save_bundle
from ds2_jax.artifacts.load import load_meta, load_model
from ds2_jax.cli.evaluate import run_eval
from ds2_jax.cli.export import run_export
from ds2_jax.configs import base
from tests.runs import ROOT

MODELS = ROOT / "models"


def export(source: str, output: Path, *, overwrite: bool = False, lm: str = "") -> None:
    config = base.get_config()
    config.restore = str(MODELS / source)
    config.decode.lm = lm
    run_export(config, "", str(output), "bundle", overwrite=overwrite)


def test_a_bundle_is_only_replaced_on_request_and_keeps_its_results(tmp_path):
    card = tmp_path / "mine" / "README.md"
    export("an4", tmp_path / "mine")
    written = card.read_text().replace("## Training", "## Results\n\nWER **3.36 %**\n\n## Training of old")
    card.write_text(f"{written}\nLicence: CC0\n")
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    with pytest.raises(ValueError, match=r"is a bundle already: .*--overwrite"):
        export("an4_live", tmp_path / "mine")
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
    export("an4_live", tmp_path / "mine", overwrite=True)
    assert load_meta(str(tmp_path / "mine")).model.rnn_size == 512
    assert "WER **3.36 %**" in card.read_text()
    assert card.read_text().endswith("Licence: CC0\n")
    assert "| `rnn_size` | 512 |" in card.read_text()
    assert "| `rnn_size` | 384 |" not in card.read_text()
    assert "4,883,388 parameters" in card.read_text()


def test_a_model_that_was_trained_in_bfloat16_is_exported_to_compute_in_float32(tmp_path):
    meta, variables = load_model(str(MODELS / "an4"))
    trained = dataclasses.replace(meta, model=dataclasses.replace(meta.model, compute_dtype="bfloat16"))
    save_bundle(str(tmp_path / "trained"), trained, variables, "", {})
    export(str(tmp_path / "trained"), tmp_path / "mine")
    assert load_meta(str(tmp_path / "mine")).model == meta.model
    assert "| `compute_dtype` | float32 |" in (tmp_path / "mine" / "README.md").read_text()


def test_results_that_were_measured_with_the_model_are_on_its_card(clips, tmp_path):
    config = base.get_config()
    config.restore, config.data.test, config.decode.engine = str(MODELS / "an4"), str(clips), "greedy"
    run_eval(config, str(tmp_path / "run"))
    config.export.results, config.export.license = str(tmp_path / "run" / "eval.json"), "apache-2.0"
    run_export(config, "", str(tmp_path / "mine"), "bundle")
    _, front, _ = (tmp_path / "mine" / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(front)
    assert (values["language"], values["license"]) == ("en", "apache-2.0")
    ((result,),) = [model["results"] for model in values["model-index"]]
    assert result["dataset"] == {"name": "clips", "type": "clips", "split": "manifest"}
    measured = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert [metric["value"] for metric in result["metrics"]] == [
        round(100 * measured[rate], 2) for rate in ("wer", "cer")
    ]
    config.restore = str(MODELS / "an4_live")
    with pytest.raises(ValueError, match=r"eval\.json was measured with .*an4 \(a bundle\), not with"):
        run_export(config, "", str(tmp_path / "live"), "bundle")
    assert not (tmp_path / "live").exists()


def test_a_card_without_marks_stays_whole_and_is_named(tmp_path, caplog):
    export("an4", tmp_path / "mine")
    card = tmp_path / "mine" / "README.md"
    old = (MODELS / "an4" / "README.md").read_text()
    card.write_text(old)
    with caplog.at_level(logging.WARNING):
        export("an4_live", tmp_path / "mine", overwrite=True)
    assert card.read_text() == old
    assert "are kept (model, network, training, language_model, front matter)" in caplog.text


def test_a_language_model_that_was_tuned_for_the_replaced_network_is_named(tmp_path, caplog):
    export("an4", tmp_path / "mine")
    with caplog.at_level(logging.WARNING):
        export("an4_live", tmp_path / "mine", overwrite=True)
        assert "another network" not in caplog.text
        export("an4_live", tmp_path / "mine", overwrite=True, lm="none")
    assert "are kept (lm.bin, decode.json), although they were tuned for another network" in caplog.text
