"""Releases of the original in both containers: the bundle's network agrees with the original's formulas in NumPy."""

import dataclasses
import json
import shutil
import tarfile

import jax
import numpy as np
import pytest

from ds2_jax.artifacts.bundle import load_bundle
from ds2_jax.cli import import_model
from ds2_jax.configs import base
from ds2_jax.foreign import published, release
from ds2_jax.foreign.original import Topology, fluid_names
from ds2_jax.network.model import DeepSpeech2, ModelSettings, init_variables
from input_pipeline import audio
from tests.conftest import CLIPS
from tests.ds2_jax.foreign.originals import Original, spectrogram, statistics, write_release
from tests.file_server import serving

AGREEMENT = 1e-4  # of logits
NETWORKS = {
    "shared": Original([4, 3], 2, 9, 28),
    "unshared": Original([3, 5, 4], 3, 7, 12, shared=False),
    "gru": Original([4, 6], 2, 8, 28, gru=True),
}


def import_release(source, output, **settings) -> dict:
    config = base.get_config()
    for name, value in settings.items():
        config[name.partition("__")[0]][name.partition("__")[2]] = value
    return import_model.run_import(config, str(source), "", str(output))


@pytest.mark.parametrize("kind", ["v2", "fluid"])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_imported_model_computes_what_the_original_computes(name, kind, tmp_path):
    original = NETWORKS[name]
    import_release(write_release(tmp_path / "release", original, kind), tmp_path / "bundle")
    meta, variables = load_bundle(tmp_path / "bundle")
    samples = audio.read(CLIPS / "cen1-mtos-b.flac", 16000)[0][:16000]
    theirs = original.logits(spectrogram(samples, *statistics()))
    features = meta.front_end(samples)[None]
    padded = np.pad(features, ((0, 0), (0, 10), (0, 0)))
    run = jax.jit(lambda x, frames: meta.network.apply(variables, x, frames, train=False))
    ours, lengths = run(padded, np.array([features.shape[1]]))
    assert lengths[0] == len(theirs)
    assert np.ptp(theirs, axis=0).max() > 0.1  # the network reacts to the clip
    np.testing.assert_allclose(np.roll(ours[0, : lengths[0]], -1, axis=1), theirs, atol=AGREEMENT)


@pytest.mark.parametrize(
    ("settings", "trainable", "statistics"),
    [
        ({"cell": "rnn", "rnn_size": 2048, "share_input": True}, 45_024_509, 12_416),
        ({"cell": "gru_relu", "rnn_size": 1024}, 52_466_941, 36_992),
        ({"cell": "gru_relu", "rnn_size": 2048}, 192_763_133, 73_856),
    ],
)
def test_our_network_has_as_many_parameters_as_the_published_ones(settings, trainable, statistics):
    model = ModelSettings(merge="concat", norm="projection", **settings)
    shapes = jax.eval_shape(lambda: init_variables(DeepSpeech2(model, 29), 161, 0))
    counts = [sum(array.size for array in jax.tree.leaves(shapes[part])) for part in ("params", "batch_stats")]
    assert counts == [trainable, statistics]


@pytest.mark.parametrize(
    ("original", "trainable", "statistics"),
    [
        (Original([32, 32], 3, 2048, 28), 45_024_509, 12_416),
        (Original([32, 32], 3, 1024, 28, gru=True), 52_466_941, 36_992),
    ],
    ids=["rnn", "gru"],
)
@pytest.mark.slow
def test_networks_of_the_published_sizes_have_the_published_numbers_of_parameters(
    original, trainable, statistics, tmp_path
):
    facts = import_release(write_release(tmp_path / "release", original, "fluid"), tmp_path / "bundle")
    assert (facts["parameters"], facts["statistics"], facts["symbols"]) == (trainable, statistics, 28)


@pytest.mark.parametrize(
    ("topology", "tensors"), [(Topology(2, 3, False, True), 39), (Topology(2, 3, True, False), 54)]
)
def test_fluid_files_of_published_networks_have_this_many_tensors(topology, tensors):
    assert len(fluid_names(topology)) == tensors


def test_a_release_is_read_from_its_archive_and_from_its_parameter_file(tmp_path):
    folder = write_release(tmp_path / "model", NETWORKS["gru"])
    (folder / "README.md").write_text("A model.\n")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(folder, "inner/model")
    facts = [import_release(folder, tmp_path / "a"), import_release(folder / "params.tar.gz", tmp_path / "b")]
    facts.append(import_release(tmp_path / "model.tar.gz", tmp_path / "c"))
    assert len({json.dumps({**f, "bundle": "", "from": ""}) for f in facts}) == 1
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}) == 1


def test_the_language_follows_from_the_vocabulary_and_the_rate_from_the_settings(tmp_path):
    original = Original([2], 1, 3, 5)
    mandarin = write_release(tmp_path / "zh", original, "fluid", "的一是a ")
    import_release(mandarin, tmp_path / "a", features__source_rate_hz=8000)
    import_release(write_release(tmp_path / "en", original, "fluid"), tmp_path / "b")
    metas = [load_bundle(tmp_path / name)[0] for name in "ab"]
    assert [(m.language, m.features.source_rate_hz) for m in metas] == [("zh", 8000), ("en", 0)]


def test_a_published_model_is_fetched_verified_and_gets_its_weights(tmp_path, monkeypatch):
    folder = write_release(tmp_path / "model", Original([2], 1, 3, 5), "fluid")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        for path in folder.iterdir():
            tar.add(path, path.name)
    monkeypatch.chdir(tmp_path)
    content = (tmp_path / "model.tar.gz").read_bytes()
    with serving(content) as server:
        monkeypatch.setattr(published, "HOST", server.url("models"))
        name = "baidu_cn1.2k_fluid"  # without a published digest
        import_model.run_import(base.get_config(), "", name, "bundle")
        with pytest.raises(OSError, match=r"md5 .* instead of fafb11fe"):
            import_model.run_import(base.get_config(), "", "librispeech_fluid", "other")
    assert (tmp_path / "data/models/baidu_cn1.2k_model_fluid.tar.gz").read_bytes() == content
    decoding = json.loads((tmp_path / "bundle" / "decode.json").read_text())
    assert decoding["alpha"] == pytest.approx(1.15 / np.log(10), abs=1e-4)
    assert (decoding["beta"], decoding["beam_size"]) == (0.15, 500)
    meta, _ = load_bundle(tmp_path / "bundle")
    assert (meta.language, meta.features.source_rate_hz) == ("zh", 8000)
    assert not (tmp_path / "other").exists()


def test_the_published_models_are_those_of_the_original():
    digests = {name: model.md5 and model.md5[:8] for name, model in published.MODELS.items()}
    assert digests == {
        "librispeech": "1f72d0c5",
        "baidu_en8k": "5fe7639e",
        "aishell": "0ee83aa1",
        "baidu_cn1.2k": None,
        "librispeech_fluid": "fafb11fe",
        "baidu_en8k_fluid": "7e58fbf6",
        "aishell_fluid": "2bf0cc8b",
        "baidu_cn1.2k_fluid": None,
    }


def test_the_published_models_are_decoded_with_the_weights_of_the_original():
    weights = {name: dataclasses.astuple(model.weights) for name, model in published.MODELS.items()}
    models = {
        "librispeech": (2.5, 0.3, 500, 1.0),
        "baidu_en8k": (1.4, 0.35, 500, 1.0),
        "aishell": (2.6, 5.0, 300, 0.99),
        "baidu_cn1.2k": (1.15, 0.15, 500, 1.0),
    }
    assert weights == models | {f"{name}_fluid": values for name, values in models.items()}
    assert published.MODELS["librispeech"].weights.to_json()["alpha"] == pytest.approx(1.0857)  # 2.5 / ln(10)


def trained() -> Original:
    """Return a network that finds blanks, as training makes it do."""
    original = Original([4], 1, 9, 28)
    original.arrays["outbias"][-1] = 100
    return original


def test_check_prints_what_is_required_and_writes_nothing(tmp_path, capsys):
    folder = write_release(tmp_path / "release", trained(), "fluid")
    facts = import_model.run_import(base.get_config(), str(folder), "", "", check=True)
    assert facts["network"] == "1 convolutions, 1 recurrent layers (RNN, shared projection)"
    shown = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in shown] == ["ok  "] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conv0.w2", -1.0, "variances of batch normalisation are at least 0 .*moving_variance"),
        ("fc0both.w1", np.nan, "all values are finite .*layer_1_batch_norm_moving_mean"),
        ("fc0both.w0", -1.0, "at least 90% of the scales"),
        ("outbias", 0.0, "the blank has the highest score"),
    ],
)
def test_a_network_that_was_not_trained_is_refused_with_what_it_lacks(name, value, message, tmp_path):
    original = trained()
    original.arrays[name][:] = value
    folder = write_release(tmp_path / "release", original, "fluid")
    with pytest.raises(ValueError, match=message):
        import_model.run_import(base.get_config(), str(folder), "", "", check=True)


def test_a_source_is_needed_and_a_folder_that_exists_is_kept(tmp_path):
    folder = write_release(tmp_path / "release", Original([2], 1, 3, 5), "fluid")
    config = base.get_config()
    for source, download in (("", ""), (str(folder), "aishell")):
        with pytest.raises(ValueError, match="needs either --source=FILE_OR_FOLDER or --download=NAME"):
            import_model.run_import(config, source, download, str(tmp_path / "bundle"))
    with pytest.raises(ValueError, match="exists: choose another folder"):
        import_model.run_import(config, str(folder), "", str(folder))
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="does not exist: give a file or folder"):
        release.read(str(folder), 0, "en")
