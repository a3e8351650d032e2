"""Convert the sections of a config into settings of the modules that use them, checked once at the start.

Modules outside the command line do not use the whole config.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from decoding.alignment.utterances import UtteranceSettings
from decoding.scoring.tune import Grid
from decoding.settings import BeamSettings
from ds2_jax.artifacts.front_matter import Publication
from ds2_jax.network.model import ModelSettings
from ds2_jax.recognition import decode_settings
from ds2_jax.recognition.cues import CueSettings
from ds2_jax.recognition.evaluation import EvaluationSettings
from ds2_jax.recognition.recording import RecordingSettings
from ds2_jax.recognition.stream_settings import EndpointSettings, StreamSettings
from ds2_jax.training.settings import DataSettings, NewModel, OptimSettings, TrainingSettings, TrainSettings
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.augment import Augmentation
from input_pipeline.batches.inputs import TRANSFERS
from input_pipeline.batches.loader import LoadSettings
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.text import TextRules

FROM_MODEL = ("model.", "features.", "text.")  # settings defined by a restored model
OF_RUN = ("features.on_device", "features.transfer")  # of these sections, which no model defines

LARGEST = 2**31 - 1  # whole number: those of compiled programs have 32 bits
LIMITS = (
    "max_",
    "longest_",
    "threshold",
    "checkpoint_every_s",
    "stall_s",
    "clip_norm",
)  # settings that may be infinite

Settings = TypeVar("Settings")


def check(config: ConfigDict, overrides: Iterable[str], mode: str, workdir: str) -> None:
    """Raise ValueError naming field, value and what to do if the settings cannot work in this mode.

    overrides: names of the settings that the command line sets.
    """
    if mode not in ("train", "import") and not config.restore and not workdir:
        raise ValueError(f"--mode={mode} needs a model: --config.restore=models/an4 (or a run's --workdir)")
    allowed = ("model.compute_dtype", *(["text."] if config.replace_output else ())) if mode == "train" else ()
    fixed = [
        name
        for name in overrides
        if (name.startswith(FROM_MODEL) and name not in OF_RUN and not name.startswith(allowed))
        or (name == "vocabulary" and mode != "train")
    ]
    if config.restore and fixed:
        raise ValueError(
            f"config.{fixed[0]} cannot be set together with config.restore={config.restore}, which defines it: remove the "
            "setting"
        )
    _check_numbers(config)
    settings = read_training(config)
    if mode == "train":
        Augmentation.load(settings.augmentation, settings.new_model.features.sample_rate_hz)
    read_decoding(config)
    read_streams(config)
    read_recording(config)
    read_subtitles(config)
    read_publication(config)
    read_utterances(config)


def _check_numbers(values: ConfigDict, path: str = "config") -> None:
    """Raise ValueError naming a whole number that is too large to be computed with, or a number that is not one.

    Infinity is allowed where it is a limit that nothing reaches.
    """
    for name, value in values.items():
        where = f"{path}.{name}"
        if isinstance(value, ConfigDict):
            _check_numbers(value, where)
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"{where} is {value:.3g}: use at most {LARGEST:,}")
        elif isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and not name.startswith(LIMITS))):
            raise ValueError(f"{where} is {value}: use a finite number")


def read_training(config: ConfigDict) -> TrainingSettings:
    """Read the settings of a training. Raises ValueError naming field, value and what to do."""
    return TrainingSettings(
        data=read_section(DataSettings, config.data),
        batch=read_section(BatchSettings, config.batch),
        load=read_section(LoadSettings, config.data),
        evaluation=read_evaluation(config),
        new_model=NewModel(
            network=read_section(ModelSettings, config.model),
            features=read_section(FeatureSettings, config.features),
            normalisation=config.features.normalisation,
            text=read_section(TextRules, config.text),
            vocabulary=config.vocabulary,
            replace_output=config.replace_output,
            stats=config.features.stats,
            stats_samples=config.features.stats_samples,
        ),
        optim=read_section(OptimSettings, config.optim),
        train=read_section(TrainSettings, config.train),
        augmentation=config.augment.file,
        restore=config.restore,
        seed=config.seed,
        fsdp=config.mesh.fsdp,
        transfer=read_transfer(config),
        config=config.to_dict(),
    )


def read_evaluation(config: ConfigDict) -> EvaluationSettings:
    """Read the settings of an evaluation."""
    limits = config.batch
    for name in ("eval_size", "eval_seconds"):
        if not limits[name] > 0:
            raise ValueError(f"config.batch.{name} is {limits[name]!r}: use a number above 0")
    batch = BatchSettings(limits.eval_size, limits.eval_seconds, limits.eval_buckets, shuffle="none")
    return EvaluationSettings(batch, read_section(LoadSettings, config.data), read_transfer(config))


def read_transfer(config: ConfigDict) -> str:
    """Return the type of the samples of which compiled steps make features, '' if the host makes them."""
    transfer = config.features.transfer
    if transfer not in TRANSFERS:
        raise ValueError(f"config.features.transfer is {transfer!r}: choose one of {', '.join(TRANSFERS)}")
    return transfer if config.features.on_device else ""


def read_decoding(config: ConfigDict) -> BeamSettings:
    """Read the settings of decoding, completed by those of the bundle `config.restore`."""
    return decode_settings.complete(config.decode.to_dict(), config.restore)


def read_streams(config: ConfigDict) -> StreamSettings:
    """Read the settings of streams."""
    values = read_section(StreamSettings, {k: v for k, v in config.stream.items() if k != "endpoint"})
    return dataclasses.replace(values, endpoint=read_section(EndpointSettings, config.stream.endpoint))


def read_recording(config: ConfigDict) -> RecordingSettings:
    """Read the settings of long recordings."""
    return read_section(RecordingSettings, config.infer)


def read_subtitles(config: ConfigDict) -> CueSettings:
    """Read the settings of subtitles."""
    return read_section(CueSettings, config.infer.subtitles)


def read_publication(config: ConfigDict) -> Publication:
    """Return what the author says about a model. Raises ValueError."""
    return read_section(Publication, config.export)


def read_utterances(config: ConfigDict) -> UtteranceSettings:
    """Read the limits of utterances that are cut from a recording."""
    return read_section(UtteranceSettings, config.align)


def read_grid(config: ConfigDict) -> Grid:
    """Read the grid of alpha and beta to search when tuning."""
    values = config.tune
    alpha, beta = ((values[f"{n}_from"], values[f"{n}_to"], values[f"{n}_step"]) for n in ("alpha", "beta"))
    return Grid.regular(alpha, beta, values.refine)


def read_section(kind: type[Settings], section: Mapping[str, Any]) -> Settings:
    """Build a settings dataclass from the values of a section that are its fields."""
    names = [field.name for field in dataclasses.fields(kind) if field.name in section]  # type: ignore[arg-type]
    values: dict[str, Any] = {name: section[name] for name in names}
    return kind(**values)
