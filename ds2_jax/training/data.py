"""Prepare the data and the model of a training: usable utterances, and a model with its initial variables."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ds2_jax.artifacts.bundle import ModelFileError, ModelMeta
from ds2_jax.artifacts.load import load_meta, load_model
from ds2_jax.network.model import init_variables
from ds2_jax.parallel import processes, sharding
from ds2_jax.training.checkpoint import Checkpoints
from ds2_jax.training.settings import DataSettings, NewModel, TrainingSettings
from input_pipeline import manifest as manifests
from input_pipeline.audio.front_end import FeatureStats
from input_pipeline.augment import Augmentation
from input_pipeline.batches.corpus import Corpus, describe_problems
from input_pipeline.batches.labels import Labels, encode_transcripts
from input_pipeline.batches.loader import RowShare, planned_frames
from input_pipeline.manifest import Manifest
from input_pipeline.manifest import stats as feature_stats
from input_pipeline.manifest.sample_rates import warn_about_upsampling
from input_pipeline.manifest.vocabulary import mixed
from input_pipeline.text import Vocabulary

logger = logging.getLogger("ds2_jax")


@dataclass(frozen=True)
class Manifests:
    """Manifests of a training, and for its evaluation; None if not given."""

    train: Manifest
    dev: Manifest | None
    test: Manifest | None

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each given manifest, by name."""
        named = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: manifest.digest() for name, manifest in named.items() if manifest is not None}


def read_manifests(settings: DataSettings) -> Manifests:
    """Read the manifests; `train` only contains utterances within the duration limits. Raises ManifestError, ValueError."""
    if not settings.train:
        raise ValueError("config.data.train is empty: give a manifest, --config.data.train=train.jsonl")
    ignored = manifests.parse_ignored(settings.ignore_keys)
    train, dropped = manifests.filter_duration(
        manifests.read_many(settings.train, ignore_keys=ignored), settings.min_duration_s, settings.max_duration_s
    )
    if dropped:
        logger.info("%s", dropped)
    dev, test = (
        manifests.read_many(paths, ignore_keys=ignored) if paths else None for paths in (settings.dev, settings.test)
    )
    return Manifests(train, dev, test)


def choose_model(
    settings: TrainingSettings, manifest: Manifest, workdir: str, checkpoints: Checkpoints
) -> tuple[ModelMeta, dict]:
    """Return the description and the initial variables of the model to train.

    The model is that of the workdir's checkpoints, else the one to restore, else a new one. Raises ValueError if the
    checkpoints have a different model than the one with which these settings would start.
    """
    latest = checkpoints.latest()
    if latest is not None:
        meta = checkpoints.meta(latest)
        if settings.restore:
            _refuse_another_restored(meta, settings.restore, settings.new_model, workdir)
        else:
            _refuse_differences(meta, settings.new_model, workdir)
        return meta, _new_variables(meta, settings.seed)
    if settings.restore:
        restored, variables = load_model(settings.restore)
        meta = _adapt(restored, settings.new_model, lambda: _build_vocabulary(settings.new_model, manifest))
        return meta, adapt_outputs(variables, restored, meta, settings.seed)
    described = processes.broadcast(lambda: describe_model(settings, manifest, workdir).to_json())
    meta = ModelMeta.from_json(described, "process 0")
    return meta, _new_variables(meta, settings.seed)


def describe_model(settings: TrainingSettings, manifest: Manifest, workdir: str) -> ModelMeta:
    """Return the description of a new model, and write its vocabulary and feature statistics to the workdir.

    Both are computed from the manifest unless the settings name files.
    """
    new = settings.new_model
    if new.vocabulary:
        vocabulary = Vocabulary.load(new.vocabulary)
    else:
        vocabulary = _build_vocabulary(new, manifest)
    stats = None
    if new.normalisation == "corpus":
        if new.stats:
            stats = FeatureStats.load(new.stats)
        else:
            stats = feature_stats.compute(
                manifest.clips,
                new.features,
                num_samples=new.stats_samples,
                seed=settings.seed,
                max_bad_share=settings.data.max_bad_share,
            )
    vocabulary.save(Path(workdir, "vocabulary.txt"))
    if stats is not None:
        stats.save(Path(workdir, "feature_stats.npz"))
    return _describe(new, stats, vocabulary)


def _build_vocabulary(new: NewModel, manifest: Manifest) -> Vocabulary:
    vocabulary = Vocabulary.build(map(new.text.normalise, manifest.text))
    for warning in mixed(manifest.text):
        logger.warning("%s", warning)
    logger.info("vocabulary: %d symbols from the training transcripts: %s", vocabulary.size - 1, vocabulary.beginning())
    return vocabulary


def _describe(new: NewModel, stats: FeatureStats | None, vocabulary: Vocabulary) -> ModelMeta:
    text = new.text
    return ModelMeta(new.network, new.features, new.normalisation, stats, vocabulary, text.language, text.spell_numbers)


def _new_variables(meta: ModelMeta, seed: int) -> dict:
    return init_variables(meta.network, meta.feature_size, seed)


def _refuse_differences(meta: ModelMeta, new: NewModel, workdir: str) -> None:
    vocabulary = Vocabulary.load(new.vocabulary) if new.vocabulary else meta.vocabulary
    differences = meta.differences(_describe(new, meta.stats, vocabulary))
    if differences:
        raise ValueError(
            f"the checkpoints in {workdir} (here) have a different model than the config (there): "
            f"{'; '.join(differences)}. Continue with the old settings, or choose another --workdir"
        )


def _refuse_another_restored(meta: ModelMeta, restore: str, new: NewModel, workdir: str) -> None:
    """Raise ValueError if the model of the checkpoints is not the restored one; warn if that cannot be read."""
    try:
        restored = load_meta(restore)
    except ModelFileError as error:  # a training must go on when the model it started from is gone
        if processes.rank() == 0:
            logger.warning(
                "config.restore is not needed any more, because %s has checkpoints, but they cannot be compared with it: %s",
                workdir,
                error,
            )
        return
    differences = meta.differences(_adapt(restored, new, lambda: meta.vocabulary))
    if differences:
        added = f" with config.vocabulary={new.vocabulary}" if new.vocabulary else ""
        raise ValueError(
            f"the checkpoints in {workdir} (here) have a different model than config.restore={restore}{added} (there): "
            f"{'; '.join(differences)}. To start from that model, choose another --workdir; to continue the training here, "
            "give the settings it was started with"
        )
    logger.info("%s has checkpoints: the training continues from these, not from config.restore=%s", workdir, restore)


def resolve_settings(given: Mapping[str, Any], meta: ModelMeta) -> dict[str, Any]:
    """Return all values of a run with those that its model defines, which a restored one brings along."""
    values = meta.to_json()
    features = {**values["features"], "normalisation": meta.normalisation}
    sections = {"model": values["model"], "features": features, "text": {"language": meta.language}}
    return {**given, **{name: {**given.get(name, {}), **defined} for name, defined in sections.items()}}


def _adapt(restored: ModelMeta, new: NewModel, make_vocabulary: Callable[[], Vocabulary]) -> ModelMeta:
    """Return the description of a restored model with the symbols that these settings add, or with other outputs.

    make_vocabulary: called for other outputs if no file names their symbols. The training has its own arithmetic.
    """
    restored = dataclasses.replace(
        restored, model=dataclasses.replace(restored.model, compute_dtype=new.network.compute_dtype)
    )
    if new.replace_output:
        vocabulary = Vocabulary.load(new.vocabulary) if new.vocabulary else make_vocabulary()
        text = new.text
        return dataclasses.replace(
            restored, vocabulary=vocabulary, language=text.language, spell_numbers=text.spell_numbers
        )
    if new.vocabulary:
        vocabulary = restored.vocabulary.extended(Vocabulary.load(new.vocabulary).symbols)
        return dataclasses.replace(restored, vocabulary=vocabulary)
    return restored


def adapt_outputs(variables: dict, old: ModelMeta, new: ModelMeta, seed: int) -> dict:
    """Return variables with the outputs of the new vocabulary: those of shared symbols, and of the blank, are kept.

    Outputs of other symbols are random.
    """
    if new.vocabulary == old.vocabulary:
        return variables
    index = {symbol: place for place, symbol in enumerate(old.vocabulary.symbols, 1)}
    places = np.array([index.get(symbol, 0) for symbol in new.vocabulary.symbols])
    known = places > 0
    added = [symbol for symbol in new.vocabulary.symbols if symbol not in index]
    listed = " ".join(map(repr, added[:80])) + (" ..." if len(added) > 80 else "")
    dropped = old.vocabulary.size - 1 - known.sum()
    logger.info("vocabulary: %d symbols kept, %d dropped, %d added: %s", known.sum(), dropped, len(added), listed)
    kernel, bias = variables["params"]["output"]["kernel"], variables["params"]["output"]["bias"]
    random = jax.random.normal(jax.random.key(seed), (len(kernel), len(places)), jnp.float32) * len(kernel) ** -0.5
    output = {  # the first output is the blank
        "kernel": jnp.concatenate([kernel[:, :1], jnp.where(known, kernel[:, places], random)], axis=1),
        "bias": jnp.concatenate([bias[:1], jnp.where(known, bias[places], 0.0)]),
    }
    return {**variables, "params": {**variables["params"], "output": output}}


def make_corpus(settings: TrainingSettings, manifest: Manifest, meta: ModelMeta, mesh: jax.sharding.Mesh) -> Corpus:
    """Return the usable utterances with their labels, ready to be batched; the others are reported.

    Raises ValueError if their share exceeds `config.data.max_bad_share`.
    """
    manifest, labels = _select_usable(manifest, meta, settings.data.max_bad_share)
    if processes.rank() == 0:
        warn_about_upsampling(manifest, meta.features.sample_rate_hz, logger)
    # Its clips were checked with the settings.
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
        transfer=settings.transfer,
    )


def _select_usable(manifest: Manifest, meta: ModelMeta, max_bad_share: float) -> tuple[Manifest, Labels]:
    """Return the utterances that can be trained on, and report the others. Raises ValueError if these are too many."""
    labels, problems = encode_transcripts(manifest, meta.vocabulary, meta.text)
    frames = meta.model.output_frames(planned_frames(manifest, meta.features))
    needed = labels.needed_frames()
    for row in np.flatnonzero(needed > frames):
        problems[int(row)] = (
            f"the text needs {needed[row]} output frames, but {manifest.duration[row]} s of audio give {frames[row]}"
        )
    if not problems:
        return manifest, labels
    refuse_too_many(manifest, problems, max_bad_share)
    description = describe_problems(manifest, problems)
    if len(problems) == len(manifest):
        raise ValueError(f"no training utterance can be used:\n{description}")
    if processes.rank() == 0:
        logger.warning("%d of %d utterances are skipped:\n%s", len(problems), len(manifest), description)
    usable = np.array([row for row in range(len(manifest)) if row not in problems])
    return manifest.select(usable), labels.select(usable)


def refuse_too_many(manifest: Manifest, problems: Mapping[int, str], share: float) -> None:
    """Raise ValueError if more than `share` of the utterances have problems, given by row."""
    if len(problems) > share * len(manifest):
        raise ValueError(
            f"{len(problems)} of {len(manifest)} training utterances cannot be used, more than "
            f"config.data.max_bad_share={share}:\n{describe_problems(manifest, problems)}\n"
            "Correct the manifest (python -m input_pipeline.manifest check) or config.augment.file, or allow a larger share"
        )
