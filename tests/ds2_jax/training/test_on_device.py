"""Training with features made inside the step: the numbers of the host's features, exact resuming, ordinary models."""

import json

import jax
import numpy as np
import pytest

from ds2_jax.artifacts.load import load_model
from ds2_jax.cli import settings
from ds2_jax.cli.train import run_train as train
from ds2_jax.configs import base
from ds2_jax.parallel import sharding
from ds2_jax.recognition.evaluation import EvaluationSettings, Evaluator
from input_pipeline import manifest as manifests
from tests.ds2_jax.training.test_train import assert_same_run, config_for, loss_curve

SAME = 1e-4  # relative, of losses: features differ in their last digits, of which some steps make more


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Disable LLVM's optimisations (not XLA's partitioning)."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def augmentation(tmp_path_factory) -> str:
    speed = {"min_speed_rate": 0.9, "max_speed_rate": 1.1}
    masks = {"n_freq_masks": 1, "F": 4, "n_time_masks": 1, "T": 20, "p": 0.2, "W": 10}
    path = tmp_path_factory.mktemp("augment") / "augment.json"
    entries = [("speed", speed), ("specaugment", masks)]
    path.write_text(json.dumps([{"type": kind, "params": params, "prob": 0.9} for kind, params in entries]))
    return str(path)


def device_config(clips, augmentation, *, on_device: bool = True):
    config = config_for(clips, augmentation)
    config.features.on_device = on_device
    config.train.epochs = 2
    return config


@pytest.fixture(scope="module")
def trained(clips, augmentation, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("device") / "run"
    train(device_config(clips, augmentation), str(workdir))
    return workdir


@pytest.mark.slow
def test_losses_are_those_of_the_hosts_features(clips, augmentation, trained, tmp_path):
    train(device_config(clips, augmentation, on_device=False), str(tmp_path / "run"))
    losses, expected = (np.array(loss_curve(workdir)) for workdir in (trained, tmp_path / "run"))
    assert len(losses) > 6
    np.testing.assert_allclose(losses, expected, rtol=SAME)


@pytest.mark.slow
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(clips, augmentation, trained, tmp_path):
    config = device_config(clips, augmentation)
    config.train.max_steps = 6  # in the middle of the second epoch, after the warm-up
    train(config, str(tmp_path / "run"))
    config.train.max_steps = 0
    train(config, str(tmp_path / "run"))
    assert_same_run(tmp_path / "run", trained)


@pytest.mark.slow
def test_the_model_is_an_ordinary_one_and_evaluates_the_same_either_way(clips, trained):
    meta, variables = load_model(str(trained))
    assert not {"on_device", "transfer"} & meta.to_json()["features"].keys()
    log_probs = []
    for transfer in ("", "float32", "int16"):
        evaluator = Evaluator(meta, sharding.make_mesh(), EvaluationSettings(transfer=transfer), all_symbols=True)
        found, problems = evaluator.log_probs(variables, evaluator.corpus(manifests.read(clips)))
        assert not problems
        log_probs.append(found)
    for found in log_probs[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, log_probs[0])


@pytest.mark.slow
def test_a_restored_model_may_be_trained_and_evaluated_so(clips, augmentation, trained, tmp_path):
    config = device_config(clips, augmentation)
    config.restore = str(trained)
    config.train.epochs = 1
    for mode in ("train", "eval"):
        settings.check(config, ["features.on_device", "features.transfer"], mode, str(tmp_path))
    train(config, str(tmp_path / "run"))
    assert loss_curve(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kind", "mfcc", r"config\.features\.on_device is True, but .* mfcc .*: set it to false, or choose linear or"),
        ("transfer", "int8", r"config\.features\.transfer is 'int8': choose one of float32, int16"),
    ],
)
def test_what_a_step_cannot_compute_is_refused(name, value, message):
    config = base.get_config()
    config.features.on_device = True
    config.features[name] = value
    with pytest.raises(ValueError, match=message):
        settings.check(config, [], "train", "run")


@pytest.mark.slow
def test_a_restored_model_with_other_features_is_refused(clips, augmentation, tmp_path):
    config = device_config(clips, augmentation, on_device=False)
    config.features.kind = "mfcc"
    config.train.epochs = 1
    train(config, str(tmp_path / "mfcc"))
    config.restore, config.features.on_device = str(tmp_path / "mfcc"), True
    with pytest.raises(ValueError, match="kind mfcc are computed by the host only"):
        train(config, str(tmp_path / "run"))
