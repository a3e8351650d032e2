"""Settings of a training: data, model, optimiser and training loop, in frozen dataclasses that check themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ds2_jax.network.model import ModelSettings
from ds2_jax.recognition.evaluation import EvaluationSettings
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FrontEnd
from input_pipeline.augment import Augmentation
from input_pipeline.batches.inputs import make_inputs
from input_pipeline.batches.loader import LoadSettings
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.text import TextRules

OPTIMIZERS = ("adam", "adamw")
DECAY = "use a decay of at least 0 and below 1 (in float32)"
SCHEDULES = ("cosine", "exponential", "constant")


@dataclass(frozen=True)
class DataSettings:
    """Manifests for training, for evaluation during it (dev) and at its end (test), and limits on utterances of `train`."""

    train: str = ""
    dev: str = ""
    test: str = ""
    min_duration_s: float = 0.0
    max_duration_s: float = 30.0
    max_bad_share: float = 0.05
    ignore_keys: str = ""

    def __post_init__(self):
        """Refuse an invalid share."""
        valid = 0 <= self.max_bad_share <= 1
        _require("data.max_bad_share", self.max_bad_share, valid, "use a share from 0 to 1")


@dataclass(frozen=True)
class NewModel:
    """Settings of a model that is not restored, and of what a restored one gets.

    vocabulary, stats: files; '' computes them from the training manifest, stats from `stats_samples` clips. A vocabulary
    adds symbols to a restored model. replace_output: a restored model gets the outputs and the text rules of a new one.
    """

    network: ModelSettings = field(default_factory=ModelSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    normalisation: str = "corpus"
    text: TextRules = field(default_factory=TextRules)
    vocabulary: str = ""
    replace_output: bool = False
    stats: str = ""
    stats_samples: int = 2000

    def __post_init__(self):
        """Refuse an unknown normalisation."""
        FrontEnd(self.features, self.normalisation)


@dataclass(frozen=True)
class OptimSettings:
    """The section `optim` of a config (configs/base.py explains each setting).

    Raises ValueError naming the field, its value and what is allowed.
    """

    name: str = "adam"
    learning_rate: float = 5e-4
    schedule: str = "cosine"
    warmup_steps: int = 200
    final_share: float = 0.01
    decay: float = 0.83
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 10.0
    accumulate: int = 1
    ema: float = 0.0

    def __post_init__(self):
        """Refuse invalid values."""
        _require("optim.name", self.name, self.name in OPTIMIZERS, f"choose one of {', '.join(OPTIMIZERS)}")
        _require("optim.learning_rate", self.learning_rate, self.learning_rate > 0, "use a rate above 0; 5e-4 is usual")
        _require("optim.schedule", self.schedule, self.schedule in SCHEDULES, f"choose one of {', '.join(SCHEDULES)}")
        for name in ("warmup_steps", "clip_norm", "weight_decay"):
            _require(f"optim.{name}", getattr(self, name), getattr(self, name) >= 0, "use 0 for none, or more")
        _require("optim.final_share", self.final_share, 0 <= self.final_share <= 1, "use a share from 0 to 1")
        _require("optim.decay", self.decay, 0 < self.decay <= 1, "use a factor above 0 and at most 1")
        for name in ("beta1", "beta2"):
            _require(
                f"optim.{name}", getattr(self, name), _is_decay(getattr(self, name)), f"{DECAY}; 0.9 to 0.999 are usual"
            )
        _require("optim.accumulate", self.accumulate, self.accumulate >= 1, "use 1 for no accumulation")
        _require("optim.ema", self.ema, _is_decay(self.ema), f"{DECAY}; 0 for none, or 0.999")
        unused = self.name == "adam" and self.weight_decay > 0
        _require(
            "optim.weight_decay",
            self.weight_decay,
            not unused,
            "set config.optim.name=adamw, which uses it, or set it to 0",
        )


@dataclass(frozen=True)
class TrainSettings:
    """The section `train` of a config (configs/base.py explains each setting).

    Raises ValueError naming the field, its value and what is allowed.
    """

    epochs: int = 20
    max_steps: int = 0
    eval_every: int = 0
    checkpoint_every_s: float = 300
    keep: int = 2
    patience: int = 0
    nonfinite: str = "skip"
    max_nonfinite: int = 20
    log_every: int = 10
    profile_step: int = 0
    remat: bool = False
    stall_s: float = 600
    allow_changed_data: bool = False

    def __post_init__(self):
        """Refuse invalid values."""
        _require("train.nonfinite", self.nonfinite, self.nonfinite in ("skip", "stop"), "choose skip or stop")
        for name in ("epochs", "keep", "log_every"):
            _require(f"train.{name}", getattr(self, name), getattr(self, name) >= 1, "use 1 or more")
        for name in ("patience", "max_steps", "eval_every", "checkpoint_every_s", "max_nonfinite", "profile_step"):
            _require(f"train.{name}", getattr(self, name), getattr(self, name) >= 0, "use 0 or more")
        _require("train.stall_s", self.stall_s, self.stall_s >= 0, "use 0 for no limit, or a number of seconds")


@dataclass(frozen=True)
class TrainingSettings:
    """All settings of a training.

    restore: the model to start from, '' for a new one. augmentation: a file with a JSON list of augmentors, '' for none.
    fsdp: number of devices over which parameters and optimiser state are split. transfer: type of the samples of which
    compiled steps make features, '' if the host makes them. config: all values, for the run's record.
    """

    data: DataSettings
    batch: BatchSettings = field(default_factory=BatchSettings)
    load: LoadSettings = field(default_factory=LoadSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    new_model: NewModel = field(default_factory=NewModel)
    optim: OptimSettings = field(default_factory=OptimSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    augmentation: str = ""
    restore: str = ""
    seed: int = 0
    fsdp: int = 1
    transfer: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        """Refuse two limits of a batch, an invalid seed or number of devices."""
        batch = self.batch
        both = batch.size > 0 and batch.seconds > 0
        _require(
            "batch.size", batch.size, not both, f"set it to 0, or config.batch.seconds (here {batch.seconds}) to 0"
        )
        _require("seed", self.seed, self.seed >= 0, "use 0 or more")
        advice = "use 1 for no splitting, or a divisor of the number of devices"
        _require("mesh.fsdp", self.fsdp, self.fsdp >= 1, advice)
        if not self.restore:  # else, the model says which features it has
            make_inputs(FrontEnd(self.new_model.features, "none"), Augmentation(), self.transfer)


def _is_decay(value: float) -> bool:
    """Return whether a decay is below 1 in the precision in which it is computed."""
    return value >= 0 and float(np.float32(value)) < 1


def _require(name: str, value: object, valid: bool, advice: str) -> None:
    if not valid:
        raise ValueError(f"config.{name} is {value!r}: {advice}")
