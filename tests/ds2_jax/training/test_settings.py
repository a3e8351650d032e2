"""Values at the limits of the settings are allowed; those just beyond are refused by name."""

import math

import numpy as np
import pytest

from ds2_jax.network.model import ModelSettings
from ds2_jax.training.settings import DataSettings, NewModel, OptimSettings, TrainingSettings, TrainSettings
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.batches.loader import LoadSettings
from input_pipeline.batches.plan import BatchSettings

ABOVE, BELOW = float(np.nextafter(1, 2)), float(np.nextafter(np.float32(1), np.float32(0)))


@pytest.mark.parametrize(
    ("kind", "name", "allowed", "refused"),
    [
        (DataSettings, "max_bad_share", [0, 1], [-1e-9, ABOVE]),
        (OptimSettings, "name", ["adam", "adamw"], ["sgd", ""]),
        (OptimSettings, "learning_rate", [1e-30], [0.0]),
        (OptimSettings, "schedule", ["cosine", "exponential", "constant"], ["linear"]),
        (OptimSettings, "warmup_steps", [0], [-1]),
        (OptimSettings, "clip_norm", [0.0], [-1e-9]),
        (OptimSettings, "final_share", [0, 1], [-1e-9, ABOVE]),
        (OptimSettings, "decay", [1e-9, 1], [0.0, ABOVE]),
        (OptimSettings, "beta1", [0.0, BELOW], [-1e-9, 1.0, 0.99999999]),
        (OptimSettings, "beta2", [0.0, BELOW], [-1e-9, 1.0, 0.99999999]),
        (OptimSettings, "ema", [0.0, BELOW], [-1e-9, 1.0, 0.99999999]),
        (OptimSettings, "accumulate", [1], [0]),
        (TrainSettings, "nonfinite", ["skip", "stop"], ["ignore"]),
        *((TrainSettings, name, [1], [0]) for name in ("epochs", "keep", "log_every")),
        *((TrainSettings, name, [0], [-1]) for name in ("patience", "max_steps", "eval_every", "checkpoint_every_s")),
        *((TrainSettings, name, [0], [-1]) for name in ("max_nonfinite", "profile_step", "stall_s")),
        (LoadSettings, "workers", [0], [-1]),
        (LoadSettings, "threads", [1], [0]),
        (LoadSettings, "prefetch", [1], [0]),
        (BatchSettings, "size", [1], [-1, 0]),
        (BatchSettings, "buckets", [1], [0]),
        (BatchSettings, "shuffle", ["none", "batch_shuffle", "batch_shuffle_clipped", "instance_shuffle"], ["all"]),
        (ModelSettings, "rnn_size", [1], [0]),
        (ModelSettings, "rnn_layers", [1], [0]),
        (ModelSettings, "lookahead", [0], [-1, 1]),  # 1: of a bidirectional network
        (ModelSettings, "dropout", [0.0, BELOW], [-1e-9, 1.0]),
        (ModelSettings, "norm", ["input", "projection"], ["none"]),
        (ModelSettings, "norm_momentum", [0.0, BELOW], [-1e-9, 1.0]),
        (ModelSettings, "activation_clip", [1e-9], [0.0]),
        (FeatureSettings, "sample_rate_hz", [1000], [0]),
        (FeatureSettings, "source_rate_hz", [0, 8000, 15999], [-1, 16000]),
        (FeatureSettings, "window_ms", [10.0], [0.0, 9.99, math.inf, math.nan]),
        (FeatureSettings, "stride_ms", [0.0625, 20.0], [0.0, 0.0624, 20.01]),  # one sample; the window
        (FeatureSettings, "max_freq_hz", [0.0, 8000.0], [-1.0, 8000.1]),
        (FeatureSettings, "target_db", [0.0], [math.inf, math.nan]),
        (FeatureSettings, "level_s", [0.0, 1e-3], [-1e-9, math.inf]),
        (FeatureSettings, "mel_bins", [1], [0]),
        (FeatureSettings, "cepstra", [1, 26], [0, 27]),
    ],
)
def test_limits_are_allowed_and_what_is_beyond_them_is_refused(kind, name, allowed, refused):
    for value in allowed:
        assert getattr(kind(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(ValueError, match=name):
            kind(**{name: value})


def test_weight_decay_is_for_the_optimiser_that_uses_it():
    assert OptimSettings(name="adamw", weight_decay=0.1).weight_decay == 0.1
    assert OptimSettings(name="adamw").weight_decay == OptimSettings(name="adam", weight_decay=0.0).weight_decay == 0
    with pytest.raises(ValueError, match="name=adamw, which uses it"):
        OptimSettings(name="adam", weight_decay=1e-9)


def test_a_batch_has_one_limit():
    for batch in (BatchSettings(size=1), BatchSettings(size=0, seconds=1e-3)):
        TrainingSettings(DataSettings(), batch=batch)
    with pytest.raises(
        ValueError, match=r"batch\.size is 1: set it to 0, or config\.batch\.seconds \(here 0\.5\) to 0"
    ):
        TrainingSettings(DataSettings(), batch=BatchSettings(size=1, seconds=0.5))


def test_a_training_has_a_seed_a_number_of_devices_and_features_that_can_be_made():
    assert TrainingSettings(DataSettings(), seed=0, fsdp=1).restore == ""
    for values, message in (({"seed": -1}, r"config\.seed is -1"), ({"fsdp": 0}, r"config\.mesh\.fsdp is 0")):
        with pytest.raises(ValueError, match=message):
            TrainingSettings(DataSettings(), **values)  # type: ignore[arg-type]
    host_only = NewModel(features=FeatureSettings(kind="mfcc"))
    with pytest.raises(ValueError, match=r"on_device is True, but features of the kind mfcc"):
        TrainingSettings(DataSettings(), new_model=host_only, transfer="float32")
    TrainingSettings(DataSettings(), new_model=host_only, transfer="float32", restore="an4")
