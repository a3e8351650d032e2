"""What a training starts from: the usable utterances, and the model with its first variables."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.artifacts.load import load_model
from ds2_jax.network.model import init_variables
from ds2_jax.parallel import processes, sharding
from ds2_jax.training.checkpoint import Checkpoints
from ds2_jax.training.settings import DataSettings, NewModel, TrainingSettings
from input_pipeline import manifest as manifests
from input_pipeline.audio.features import FeatureStats
from input_pipeline.augment import Augmentation
from input_pipeline.batches.corpus import Corpus, describe_problems
from input_pipeline.batches.labels import Labels, encode_transcripts
from input_pipeline.batches.loader import RowShare, planned_frames
from input_pipeline.manifest import Manifest
from input_pipeline.manifest import stats as feature_stats
from input_pipeline.manifest.sample_rates import describe_upsampling
from input_pipeline.text import Vocabulary, normalise

logger = logging.getLogger("ds2_jax")


@dataclass(frozen=True)
class Manifests:
    """The utterances of a training, and those it is measured on; None where none are named."""

    train: Manifest
    dev: Manifest | None
    test: Manifest | None

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each manifest there is, by name."""
        return {name: found.digest() for name in ("train", "dev", "test") if (found := getattr(self, name)) is not None}


def read_manifests(settings: DataSettings) -> Manifests:
    """Read the manifests; of `train`, the utterances within the limits of duration. Raises ManifestError."""
    if not settings.train:
        raise ValueError("config.data.train is empty: name a manifest, --config.data.train=train.jsonl")
    train, dropped = manifests.filter_duration(
        manifests.read_many(settings.train), settings.min_duration_s, settings.max_duration_s
    )
    if dropped:
        logger.info("%s", dropped)
    dev, test = (manifests.read_many(named) if named else None for named in (settings.dev, settings.test))
    return Manifests(train, dev, test)


def choose_model(
    settings: TrainingSettings, manifest: Manifest, workdir: str, checkpoints: Checkpoints
) -> tuple[ModelMeta, dict]:
    """Decide what is trained: the workdir's own model, else the one to restore, else a new one.

    Returns its description and first variables. Raises ValueError where the checkpoints are of another model.
    """
    latest = checkpoints.latest()
    if latest is not None:
        meta = checkpoints.meta(latest)
        if not settings.restore:
            _refuse_differences(meta, settings.new_model, workdir)
        return meta, _new_variables(meta, settings.seed)
    if settings.restore:
        meta, variables = load_model(settings.restore)
        if settings.new_model.vocabulary:
            wanted = Vocabulary.load(settings.new_model.vocabulary)
            meta, variables = extend_vocabulary(meta, variables, wanted, settings.seed)
        return meta, variables
    meta = processes.broadcast(lambda: describe_model(settings, manifest, workdir))
    return meta, _new_variables(meta, settings.seed)


def describe_model(settings: TrainingSettings, manifest: Manifest, workdir: str) -> ModelMeta:
    """Describe a new model; its vocabulary and feature statistics are kept in the workdir.

    They are made from the manifest where no files are named.
    """
    new = settings.new_model
    if new.vocabulary:
        vocabulary = Vocabulary.load(new.vocabulary)
    else:
        vocabulary = Vocabulary.build(normalise(text, new.language) for text in manifest.text)
        shown = "".join(vocabulary.symbols[:80])
        logger.info("vocabulary: %d symbols of the training transcripts: %s", vocabulary.size - 1, shown)
    stats = None
    if new.normalisation == "corpus":
        if new.stats:
            stats = FeatureStats.load(new.stats)
        else:
            stats = feature_stats.compute(
                manifest.audio,
                new.features,
                num_samples=new.stats_samples,
                seed=settings.seed,
                max_bad_share=settings.data.max_bad_share,
            )
    vocabulary.save(Path(workdir, "vocabulary.txt"))
    if stats is not None:
        stats.save(Path(workdir, "feature_stats.npz"))
    return ModelMeta(new.network, new.features, new.normalisation, stats, vocabulary, new.language)


def _new_variables(meta: ModelMeta, seed: int) -> dict:
    return init_variables(meta.network, meta.feature_size, seed)


def _refuse_differences(meta: ModelMeta, new: NewModel, workdir: str) -> None:
    vocabulary = Vocabulary.load(new.vocabulary) if new.vocabulary else meta.vocabulary
    asked = ModelMeta(new.network, new.features, new.normalisation, meta.stats, vocabulary, new.language)
    found = meta.differences(asked)
    if found:
        raise ValueError(
            f"the checkpoints in {workdir} (here) are of another model than the config (there): {'; '.join(found)}. "
            "Continue with the old settings, or choose another --workdir"
        )


def extend_vocabulary(meta: ModelMeta, variables: dict, wanted: Vocabulary, seed: int) -> tuple[ModelMeta, dict]:
    """Add the symbols of `wanted` that the model lacks: it keeps its outputs, the new ones start at random."""
    vocabulary = meta.vocabulary.extended(wanted.symbols)
    new = vocabulary.symbols[meta.vocabulary.size - 1 :]
    logger.info(
        "vocabulary: %d symbols kept, %d added: %s", meta.vocabulary.size - 1, len(new), " ".join(map(repr, new))
    )
    if not new:
        return meta, variables
    output = variables["params"]["output"]
    hidden = output["kernel"].shape[0]
    columns = jax.random.normal(jax.random.key(seed), (hidden, len(new)), jnp.float32) * hidden**-0.5
    output = {
        "kernel": jnp.concatenate([output["kernel"], columns], axis=1),
        "bias": jnp.concatenate([output["bias"], jnp.zeros(len(new), jnp.float32)]),
    }
    variables = {**variables, "params": {**variables["params"], "output": output}}
    return dataclasses.replace(meta, vocabulary=vocabulary), variables


def make_corpus(settings: TrainingSettings, manifest: Manifest, meta: ModelMeta, mesh: jax.sharding.Mesh) -> Corpus:
    """Join the usable utterances to their labels; the others are named, and too many of them stop the run.

    Raises ValueError beyond `config.data.max_bad_share`.
    """
    manifest, labels = _usable(manifest, meta, settings.data.max_bad_share)
    warning = describe_upsampling(manifest, meta.features.sample_rate_hz)
    if warning and processes.rank() == 0:
        logger.warning("%s", warning)
    # Its clips were read when the settings were checked.
    augmentation = Augmentation.load(settings.augmentation, meta.features.sample_rate_hz, read_clips=False)
    logger.info("augmentation:\n%s", augmentation.describe())
    return Corpus(
        manifest,
        labels,
        meta.front_end,
        settings.batch,
        augmentation,
        settings.seed,
        settings.load,
        RowShare(*sharding.share_of_rows(mesh, settings.optim.accumulate)),
    )


def _usable(manifest: Manifest, meta: ModelMeta, max_bad_share: float) -> tuple[Manifest, Labels]:
    """Leave out the utterances that cannot be learnt from, and name them. Raises ValueError for too many."""
    labels, problems = encode_transcripts(manifest, meta.vocabulary, meta.language)
    frames = meta.model.output_frames(planned_frames(manifest, meta.features))
    needed = labels.needed_frames()
    for row in np.flatnonzero(needed > frames):
        problems[int(row)] = (
            f"the text needs {needed[row]} output frames, its {manifest.duration[row]} s give {frames[row]}"
        )
    if not problems:
        return manifest, labels
    refuse_too_many(manifest, problems, max_bad_share)
    named = describe_problems(manifest, problems)
    if len(problems) == len(manifest):
        raise ValueError(f"no training utterance can be used:\n{named}")
    if processes.rank() == 0:
        logger.warning("%d of %d utterances are left out:\n%s", len(problems), len(manifest), named)
    usable = np.array([row for row in range(len(manifest)) if row not in problems])
    return manifest.select(usable), labels.select(usable)


def refuse_too_many(manifest: Manifest, problems: Mapping[int, str], share: float) -> None:
    """Raise ValueError where more than `share` of the utterances cannot be used; problems by row."""
    if len(problems) > share * len(manifest):
        raise ValueError(
            f"{len(problems)} of {len(manifest)} training utterances cannot be used, more than "
            f"config.data.max_bad_share={share}:\n{describe_problems(manifest, problems)}\n"
            "Correct the manifest (python -m input_pipeline.manifest check), or the entry of config.augment.file where one "
            "is named, or allow a larger share"
        )
