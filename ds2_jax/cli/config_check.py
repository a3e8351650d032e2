"""Check a config once, at the start: what is wrong fails in seconds, not in hour three."""

import functools
import operator
from collections.abc import Iterable, Mapping

from ds2_jax.network.model import ModelSettings
from ds2_jax.recognition import decode_settings
from ds2_jax.training.data import feature_settings
from input_pipeline.augment import Augmentation
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.text import normalise

FROM_MODEL = ("model.", "features.", "text.")  # settings that a restored model brings with it


def check(config: Mapping, overrides: Iterable[str], mode: str, workdir: str) -> None:
    """Raise ValueError naming field, value and mend for what cannot work in this mode."""
    _check_restore(config, overrides, mode, workdir)
    features, _ = feature_settings(config)
    if mode == "train":
        from ds2_jax.training.optim import make_optimizer, make_schedule  # needs packages that others do without

        make_optimizer(config["optim"], make_schedule(config["optim"], 2, 1))
        Augmentation.load(config["augment"]["file"], features.sample_rate_hz)
    normalise("", config["text"]["language"])
    ModelSettings.from_config(config["model"])
    batch = config["batch"]
    BatchSettings(batch["size"], batch["seconds"], batch["buckets"], batch["shuffle"], batch["sortagrad"])
    BatchSettings(batch["eval_size"], 0.0, batch["eval_buckets"])
    decode_settings.read_settings(config)
    _require(config["seed"] >= 0, "seed", config, "use 0 or more")
    _require(config["train"]["nonfinite"] in ("skip", "stop"), "train.nonfinite", config, "choose skip or stop")
    for name in ("patience", "max_steps", "eval_every", "checkpoint_every_s", "max_nonfinite", "profile_step"):
        _require(config["train"][name] >= 0, f"train.{name}", config, "use 0 or more")
    for name in ("warmup_steps", "clip_norm", "weight_decay"):
        _require(config["optim"][name] >= 0, f"optim.{name}", config, "use 0 for none, or more")
    _require(config["optim"]["learning_rate"] > 0, "optim.learning_rate", config, "use a rate above 0; 5e-4 is usual")
    _require(0 <= config["optim"]["final_share"] <= 1, "optim.final_share", config, "use a share from 0 to 1")
    _require(0 < config["optim"]["decay"] <= 1, "optim.decay", config, "use a factor above 0, at most 1")
    _require(config["train"]["keep"] >= 1, "train.keep", config, "keep at least 1")
    _require(config["train"]["epochs"] >= 1, "train.epochs", config, "train for at least 1")
    _require(config["train"]["log_every"] >= 1, "train.log_every", config, "use 1 or more")
    _require(config["optim"]["accumulate"] >= 1, "optim.accumulate", config, "use 1 for no accumulation")
    _require(config["mesh"]["fsdp"] >= 1, "mesh.fsdp", config, "use 1 for none, or a divisor of the number of devices")
    _require(config["train"]["stall_s"] >= 0, "train.stall_s", config, "use 0 for never, or seconds")
    _require(0 <= config["optim"]["ema"] < 1, "optim.ema", config, "use 0 for none, or a decay such as 0.999")
    _require(0 <= config["data"]["max_bad_share"] <= 1, "data.max_bad_share", config, "use a share from 0 to 1")
    _require(config["data"]["threads"] >= 1, "data.threads", config, "use 1 or more")
    _require(config["data"]["workers"] >= 0, "data.workers", config, "use 0 for threads only")


def _check_restore(config: Mapping, overrides: Iterable[str], mode: str, workdir: str) -> None:
    if mode != "train" and not config["restore"] and not workdir:
        raise ValueError(f"--mode={mode} needs a model: --config.restore=models/an4 (or a run's --workdir)")
    if not config["restore"]:
        return
    fixed = [name for name in overrides if name.startswith(FROM_MODEL) or (name == "vocabulary" and mode != "train")]
    if fixed:
        raise ValueError(
            f"config.{fixed[0]} cannot be set with config.restore={config['restore']}, which brings its own; leave it away"
        )


def _require(holds: bool, name: str, config: Mapping, mend: str) -> None:
    if not holds:
        value = functools.reduce(operator.getitem, name.split("."), config)
        raise ValueError(f"config.{name} is {value!r}: {mend}")
