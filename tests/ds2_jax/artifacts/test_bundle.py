"""Bundles as files: written completely, checked when read, never confused with other folders."""

import dataclasses
import json
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from ds2_jax.artifacts.bundle import (
    MODEL_FILES,
    ModelFileError,
    ModelMeta,
    check_digests,
    is_bundle,
    load_bundle,
    save_bundle,
)
from ds2_jax.artifacts.load import load_model
from ds2_jax.network.model import ModelSettings, init_variables
from ds2_jax.training.data import adapt_outputs
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FeatureStats
from input_pipeline.storage.digests import LISTING
from input_pipeline.text import Vocabulary

HALF = 1e-3  # float16 keeps 11 bits of a parameter


def make_meta(**changes) -> ModelMeta:
    model = ModelSettings(**{"conv": "3x5/2x2:3", "rnn_size": 4, "rnn_layers": 1, **changes})
    stats = FeatureStats(np.linspace(-9, -5, 7, dtype=np.float32), np.linspace(1, 2, 7, dtype=np.float32))
    vocabulary = Vocabulary((" ", "a", "b", "'"))
    return ModelMeta(model, FeatureSettings(kind="fbank", mel_bins=7), "corpus", stats, vocabulary, "en")


@pytest.fixture(scope="module")
def variables() -> dict:
    meta = make_meta()
    return init_variables(meta.network, meta.feature_size, 0)


@pytest.fixture
def bundle(variables, tmp_path):
    save_bundle(tmp_path / "bundle", make_meta(), variables, "# a card\n")
    return tmp_path / "bundle"


def test_a_bundle_restores_model_features_and_vocabulary(bundle, variables):
    assert is_bundle(bundle)
    meta, loaded = load_model(str(bundle))
    assert meta.differences(make_meta()) == []
    assert meta.stats is not None
    np.testing.assert_array_equal(meta.stats.mean, np.linspace(-9, -5, 7, dtype=np.float32))
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=HALF, atol=1e-7)
    np.testing.assert_array_equal(
        loaded["batch_stats"]["conv_norm_0"]["var"], variables["batch_stats"]["conv_norm_0"]["var"]
    )


def test_a_bundle_consists_of_plain_files(bundle):
    names = {file.name for file in bundle.iterdir()}
    assert names == {
        "config.json",
        "vocabulary.txt",
        "feature_stats.npz",
        "model.safetensors",
        "README.md",
        "SHA256SUMS",
    }
    assert json.loads((bundle / "config.json").read_text())["version"] == 1


def test_the_normalisation_is_kept_and_old_bundles_do_not_spell_numbers(bundle, variables):
    assert not load_model(str(bundle))[0].text.spell_numbers
    spelling = dataclasses.replace(make_meta(), language="de", spell_numbers=True)
    assert spelling.differences(make_meta()) == [
        "text.language is 'de' here and 'en' there",
        "text.spell_numbers is True here and False there",
    ]
    save_bundle(bundle, spelling, variables, "# a card\n")
    assert load_model(str(bundle))[0].text.normalise("Raum 7") == "raum sieben"
    config = json.loads((bundle / "config.json").read_text())
    del config["spell_numbers"]
    (bundle / LISTING).unlink()
    (bundle / "config.json").write_text(json.dumps(config))
    assert load_model(str(bundle))[0].text.normalise("Raum 7") == "raum 7"


def test_the_length_of_parts_is_kept_and_checked(bundle, variables):
    assert load_model(str(bundle))[0].part_s == 0.3
    save_bundle(bundle, dataclasses.replace(make_meta(), part_s=6.0), variables, "# a card\n")
    assert load_model(str(bundle))[0].part_s == 6.0
    config = json.loads((bundle / "config.json").read_text())
    (bundle / LISTING).unlink()
    for wrong in (-1.0, 13, "six"):
        (bundle / "config.json").write_text(json.dumps(config | {"part_s": wrong}))
        with pytest.raises(ModelFileError, match="part_s"):
            load_model(str(bundle))


def test_exporting_again_keeps_files_added_to_the_bundle(bundle, variables):
    (bundle / "lm.bin").write_bytes(b"a language model")
    save_bundle(bundle, make_meta(), variables, "# a new card\n")
    assert (bundle / "lm.bin").read_bytes() == b"a language model"
    assert (bundle / "README.md").read_text() == "# a new card\n"


def test_exporting_again_keeps_added_folders_and_leaves_no_temporary_files(bundle, variables):
    (bundle / "reports").mkdir()
    (bundle / "reports" / "test.html").write_text("3.36 %")
    save_bundle(bundle, make_meta(), variables, "# a new card\n")
    assert (bundle / "reports" / "test.html").read_text() == "3.36 %"
    assert list(bundle.parent.iterdir()) == [bundle]


def test_exporting_through_a_link_replaces_the_folder_behind_it(bundle, variables):
    link = bundle.with_name("newest")
    link.symlink_to(bundle)
    save_bundle(link, make_meta(), variables, "# a new card\n")
    assert link.is_symlink()
    assert (bundle / "README.md").read_text() == "# a new card\n"


def test_an_export_that_fails_at_its_last_step_leaves_the_old_bundle(bundle, variables, monkeypatch):
    rename = Path.rename

    def fail(self, target):
        if self.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        save_bundle(bundle, make_meta(), variables, "# a new card\n")
    assert list(bundle.parent.iterdir()) == [bundle]
    assert (bundle / "README.md").read_text() == "# a card\n"
    load_bundle(bundle)


def test_a_folder_that_is_no_bundle_is_not_overwritten(variables, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelFileError, match="is not a bundle"):
        save_bundle(tmp_path / "mine", make_meta(), variables, "")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def cut_parameters(bundle):
    data = (bundle / "model.safetensors").read_bytes()
    (bundle / "model.safetensors").write_bytes(data[: len(data) // 2])


def change_version(bundle):
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps(config | {"version": 99}))


def change_size(bundle):
    config = json.loads((bundle / "config.json").read_text())
    config["model"]["rnn_size"] = 5
    (bundle / "config.json").write_text(json.dumps(config))


def shorten_vocabulary(bundle):
    (bundle / "vocabulary.txt").write_text(" \na\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_parameters, "cannot be read"),
        (change_version, "version 99"),
        (change_size, "requires"),
        (shorten_vocabulary, "output"),
    ],
)
def test_damage_is_reported(bundle, damage, message):
    (bundle / LISTING).unlink()
    damage(bundle)
    with pytest.raises(ModelFileError, match=message) as error:
        load_bundle(bundle)
    assert "bundle" in str(error.value)


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_flipped_bit_is_found_in_every_file(bundle, name):
    load_bundle(bundle)
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 4
    (bundle / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=f"{name} is damaged: .*SHA256SUMS"):
        load_bundle(bundle)


def test_a_listing_has_the_format_of_sha256sum(bundle):
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", LISTING], cwd=bundle, check=True)


def test_a_bundle_without_digests_is_read_and_called_unverified(bundle, caplog):
    caplog.set_level("INFO", "ds2_jax")
    load_bundle(bundle)
    assert caplog.text == ""
    (bundle / LISTING).unlink()
    load_bundle(bundle)
    assert f"{bundle} is unverified: it has no digest of config.json, vocabulary.txt" in caplog.text


def test_exporting_again_does_not_make_a_damaged_added_file_valid(bundle, variables):
    save_bundle(bundle, make_meta(), variables, "# a card\n", {"lm.bin": b"a language model"})
    (bundle / "lm.bin").write_bytes(b"a damaged model")
    save_bundle(bundle, make_meta(), variables, "# a new card\n")
    with pytest.raises(ModelFileError, match=r"lm\.bin is damaged"):
        check_digests(bundle, ["lm.bin"])


def test_parameters_that_are_not_finite_are_refused(bundle, variables):
    broken = jax.tree.map(np.array, variables)
    broken["params"]["output"]["bias"][1] = np.nan
    save_bundle(bundle, make_meta(), broken, "# a card\n")
    with pytest.raises(ModelFileError, match=r"\['params'\]\['output'\]\['bias'\] has values that are not finite"):
        load_model(str(bundle))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("model", "rnn_size", "4"),
        ("model", "rnn_size", 4.0),
        ("model", "rnn_size", 10**30),
        ("model", "bidirectional", 1),
        ("model", "conv", None),
        ("model", "unknown", 1),
        ("features", "sample_rate_hz", [16000]),
        ("features", "window_ms", True),
        ("features", "kind", {}),
        ("", "model", []),
        ("", "language", 5),
        ("", "features", None),
    ],
)
def test_values_of_other_types_are_refused_by_name(bundle, section, name, value):
    (bundle / LISTING).unlink()
    config = json.loads((bundle / "config.json").read_text())
    (config[section] if section else config)[name] = value
    (bundle / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=r"config\.json") as error:
        load_bundle(bundle)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"', "", "[" * 100_000])
def test_json_that_is_no_description_is_refused(bundle, text):
    (bundle / LISTING).unlink()
    (bundle / "config.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"export"):
        load_bundle(bundle)


def test_the_error_for_a_folder_without_a_model_says_what_is_expected(tmp_path):
    with pytest.raises(ModelFileError, match=r"a bundle .* a checkpoint, or a run folder"):
        load_model(str(tmp_path))


def test_differences_state_both_values():
    differences = make_meta().differences(make_meta(rnn_size=5))
    assert differences == ["model.rnn_size is 4 here and 5 there"]


def adapt(variables, *symbols: str) -> dict:
    """Return the output layer for these symbols."""
    meta = make_meta()
    return adapt_outputs(variables, meta, dataclasses.replace(meta, vocabulary=Vocabulary(symbols)), 0)["params"][
        "output"
    ]


def test_a_longer_vocabulary_keeps_the_old_outputs(variables):
    old, new = variables["params"]["output"], adapt(variables, " ", "a", "b", "'", "é", "ß")
    np.testing.assert_array_equal(new["kernel"][:, :5], old["kernel"])
    np.testing.assert_array_equal(new["bias"][:5], old["bias"])
    assert new["kernel"].shape == (4, 7)
    assert np.abs(new["kernel"][:, 5:]).min() > 0


def test_another_vocabulary_keeps_the_outputs_of_shared_symbols_and_of_the_blank(variables):
    old, new = variables["params"]["output"], adapt(variables, "ß", "b", "ü")
    np.testing.assert_array_equal(new["kernel"][:, [0, 2]], old["kernel"][:, [0, 3]])
    np.testing.assert_array_equal(new["bias"], [old["bias"][0], 0, old["bias"][3], 0])
    assert np.abs(new["kernel"][:, [1, 3]]).min() > 0
