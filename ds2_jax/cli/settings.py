"""Take a config apart: each section becomes the settings of the wing that works with it, checked once, at the start.

Nothing below the command line knows the whole config.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

from ml_collections import ConfigDict

from decoding.scoring.tune import Grid
from decoding.settings import BeamSettings
from ds2_jax.network.model import ModelSettings
from ds2_jax.recognition import decode_settings
from ds2_jax.recognition.evaluation import EvaluationSettings
from ds2_jax.training.settings import DataSettings, NewModel, OptimSettings, TrainingSettings, TrainSettings
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.augment import Augmentation
from input_pipeline.batches.loader import LoadSettings
from input_pipeline.batches.plan import BatchSettings

FROM_MODEL = ("model.", "features.", "text.")  # settings that a restored model brings with it

Settings = TypeVar("Settings")


def check(config: ConfigDict, overrides: Iterable[str], mode: str, workdir: str) -> None:
    """Raise ValueError naming field, value and what to do, for what cannot work in this mode.

    overrides: names of the settings that the command line changes.
    """
    if mode != "train" and not config.restore and not workdir:
        raise ValueError(f"--mode={mode} needs a model: --config.restore=models/an4 (or a run's --workdir)")
    fixed = [name for name in overrides if name.startswith(FROM_MODEL) or (name == "vocabulary" and mode != "train")]
    if config.restore and fixed:
        raise ValueError(
            f"config.{fixed[0]} cannot be set with config.restore={config.restore}, which brings its own; leave it away"
        )
    settings = training(config)
    if mode == "train":
        Augmentation.load(settings.augmentation, settings.new_model.features.sample_rate_hz)
    decoding(config)


def training(config: ConfigDict) -> TrainingSettings:
    """Read what a training is. Raises ValueError naming field, value and what to do."""
    return TrainingSettings(
        data=read(DataSettings, config.data),
        batch=read(BatchSettings, config.batch),
        load=read(LoadSettings, config.data),
        evaluation=evaluation(config),
        new_model=NewModel(
            network=read(ModelSettings, config.model),
            features=read(FeatureSettings, config.features),
            normalisation=config.features.normalisation,
            language=config.text.language,
            vocabulary=config.vocabulary,
            stats=config.features.stats,
            stats_samples=config.features.stats_samples,
        ),
        optim=read(OptimSettings, config.optim),
        train=read(TrainSettings, config.train),
        augmentation=config.augment.file,
        restore=config.restore,
        seed=config.seed,
        fsdp=config.mesh.fsdp,
        config=config.to_dict(),
    )


def evaluation(config: ConfigDict) -> EvaluationSettings:
    """Read how a manifest is evaluated."""
    batch = BatchSettings(size=config.batch.eval_size, buckets=config.batch.eval_buckets, shuffle="none")
    return EvaluationSettings(batch, read(LoadSettings, config.data))


def decoding(config: ConfigDict) -> BeamSettings:
    """Read how is decoded, completed by what the bundle `config.restore` brings along."""
    return decode_settings.complete(config.decode.to_dict(), config.restore)


def grid(config: ConfigDict) -> Grid:
    """Read the grid of alpha and beta that a tuning searches."""
    values = config.tune
    alpha, beta = ((values[f"{n}_from"], values[f"{n}_to"], values[f"{n}_step"]) for n in ("alpha", "beta"))
    return Grid.regular(alpha, beta, values.refine)


def read(kind: type[Settings], section: ConfigDict) -> Settings:
    """Read those settings of a section that are fields of a dataclass."""
    names = [field.name for field in dataclasses.fields(kind) if field.name in section]  # type: ignore[arg-type]
    values: dict[str, Any] = {name: section[name] for name in names}
    return kind(**values)
