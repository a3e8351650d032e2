"""Settings are checked before anything else: numbers that cannot work are refused by name."""

import contextlib
import math

import pytest

from ds2_jax.cli import settings
from ds2_jax.configs import base


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("batch", "size", 10**20, r"config\.batch\.size is 1e\+20: use at most 2,147,483,647"),
        ("train", "epochs", 2**31, r"config\.train\.epochs is 2\.15e\+09: use at most"),
        ("optim", "beta2", math.inf, r"config\.optim\.beta2 is inf: use a finite number"),
        ("optim", "beta2", 0.99999999, r"config\.optim\.beta2 is 0\.99999999: use a decay"),  # 1 in float32
        ("optim", "ema", 1.0, r"config\.optim\.ema is 1\.0: use a decay"),
        ("optim", "learning_rate", math.inf, r"config\.optim\.learning_rate is inf"),
        ("optim", "weight_decay", math.nan, r"config\.optim\.weight_decay is nan"),
        ("batch", "seconds", math.inf, r"config\.batch\.seconds is inf"),
        ("data", "max_duration_s", math.nan, r"config\.data\.max_duration_s is nan"),
    ],
)
def test_a_number_that_cannot_work_is_refused_by_name(section, name, value, message):
    config = base.get_config()
    config[section][name] = value
    with pytest.raises(ValueError, match=message):
        settings.check(config, [], "train", "run")


def test_a_limit_may_be_infinite():
    config = base.get_config()
    config.data.max_duration_s = math.inf
    config.decode.threshold = math.inf
    settings.check(config, [], "train", "run")


def test_of_settings_that_a_restored_model_defines_the_first_one_given_is_named():
    config = base.get_config()
    config.restore = "models/an4"
    given = ["batch.size", "model.rnn_size", "features.kind", "model.cell"]
    settings.check(config, ["model.compute_dtype"], "train", "run")
    with pytest.raises(
        ValueError, match=r"config\.model\.rnn_size cannot be set together with config\.restore=models/an4"
    ):
        settings.check(config, given, "eval", "")


@pytest.mark.parametrize(
    ("mode", "replace", "refused"), [("train", True, False), ("train", False, True), ("eval", True, True)]
)
def test_the_language_of_a_restored_model_may_change_in_training_with_another_output_layer(mode, replace, refused):
    config = base.get_config()
    config.restore, config.replace_output = "models/an4", replace
    with (
        pytest.raises(ValueError, match=r"config\.text\.language cannot be set")
        if refused
        else contextlib.nullcontext()
    ):
        settings.check(config, ["text.language"], mode, "run")
