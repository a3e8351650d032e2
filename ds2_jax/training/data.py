"""From a config to what a training starts from.

The usable utterances, and the description of the model with its first variables.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.artifacts.load import load_model
from ds2_jax.network.model import ModelSettings, init_variables
from ds2_jax.parallel import processes
from ds2_jax.recognition.evaluation import loading
from input_pipeline import manifest as manifests
from input_pipeline.audio.features import NORMALISATIONS, FeatureSettings, FeatureStats
from input_pipeline.augment import Augmentation
from input_pipeline.batches.corpus import Corpus, describe_upsampling, name_problems
from input_pipeline.batches.labels import encode_transcripts
from input_pipeline.batches.loader import planned_frames
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.manifest import Manifest
from input_pipeline.manifest import stats as feature_stats
from input_pipeline.text import Vocabulary, normalise

if TYPE_CHECKING:
    from ds2_jax.training.checkpoint import Checkpoints

logger = logging.getLogger("ds2_jax")


def read_training_manifest(config: Mapping) -> Manifest:
    """Read `config.data.train` within the limits of duration."""
    data = config["data"]
    if not data["train"]:
        raise ValueError("config.data.train is empty: name a manifest, --config.data.train=train.jsonl")
    manifest, dropped = manifests.filter_duration(
        manifests.read_many(data["train"]), data["min_duration_s"], data["max_duration_s"]
    )
    if dropped:
        logger.info("%s", dropped)
    return manifest


def describe_model(config: Mapping, manifest: Manifest, workdir: str) -> ModelMeta:
    """Describe a new model.

    Vocabulary and feature statistics are made from the manifest where none are named, and kept.
    """
    language = config["text"]["language"]
    features, normalisation = feature_settings(config)
    if config["vocabulary"]:
        vocabulary = Vocabulary.load(config["vocabulary"])
    else:
        vocabulary = Vocabulary.build(normalise(text, language) for text in manifest.text)
        logger.info(
            "vocabulary: %d symbols of the training transcripts: %s",
            vocabulary.size - 1,
            "".join(vocabulary.symbols[:80]),
        )
    stats = None
    if normalisation == "corpus":
        if config["features"]["stats"]:
            stats = FeatureStats.load(config["features"]["stats"])
        else:
            stats = feature_stats.compute(
                manifest.audio,
                features,
                num_samples=config["features"]["stats_samples"],
                seed=config["seed"],
                max_bad_share=config["data"]["max_bad_share"],
                warn_upsampled=False,  # make_corpus does
            )
    vocabulary.save(Path(workdir, "vocabulary.txt"))
    if stats is not None:
        stats.save(Path(workdir, "feature_stats.npz"))
    return ModelMeta(config["model"].to_dict(), features, normalisation, stats, vocabulary, language)


def feature_settings(config: Mapping) -> tuple[FeatureSettings, str]:
    """Read `config.features`: settings and the kind of normalisation."""
    values = config["features"]
    normalisation = values["normalisation"]
    if normalisation not in NORMALISATIONS:
        raise ValueError(
            f"config.features.normalisation is {normalisation!r}: choose one of {', '.join(NORMALISATIONS)}"
        )
    names = [field.name for field in dataclasses.fields(FeatureSettings)]
    return FeatureSettings(**{name: values[name] for name in names}), normalisation


def start_model(
    config: Mapping, manifest: Manifest, workdir: str, checkpoints: "Checkpoints"
) -> tuple[ModelMeta, dict]:
    """Decide what is trained: the workdir's own model, else `config.restore`, else a new one.

    Returns first variables, too.
    """
    latest = checkpoints.latest()
    if latest is not None:
        meta = checkpoints.meta(latest)
        if not config["restore"]:
            _refuse_differences(meta, config, workdir)
        return meta, _new_variables(meta, config["seed"])
    if config["restore"]:
        meta, variables = load_model(config["restore"])
        if config["vocabulary"]:
            meta, variables = extend_vocabulary(meta, variables, Vocabulary.load(config["vocabulary"]), config["seed"])
        return meta, variables
    meta = processes.from_first(lambda: describe_model(config, manifest, workdir))
    return meta, _new_variables(meta, config["seed"])


def _new_variables(meta: ModelMeta, seed: int) -> dict:
    return init_variables(meta.network, meta.feature_size, seed)


def _refuse_differences(meta: ModelMeta, config: Mapping, workdir: str) -> None:
    features, normalisation = feature_settings(config)
    vocabulary = Vocabulary.load(config["vocabulary"]) if config["vocabulary"] else meta.vocabulary
    asked = ModelMeta(
        config["model"].to_dict(), features, normalisation, meta.stats, vocabulary, config["text"]["language"]
    )
    found = meta.differences(asked)
    if found:
        raise ValueError(
            f"the checkpoints in {workdir} (here) are of another model than the config (there): {'; '.join(found)}. "
            "Go on with the old settings, or choose another --workdir"
        )


def extend_vocabulary(meta: ModelMeta, variables: dict, wanted: Vocabulary, seed: int) -> tuple[ModelMeta, dict]:
    """Add the symbols of `wanted` that the model lacks.

    Its old outputs are kept, new ones started at random, and named.
    """
    vocabulary = meta.vocabulary.extended(wanted.symbols)
    new = vocabulary.symbols[meta.vocabulary.size - 1 :]
    logger.info(
        "vocabulary: %d symbols kept, %d started: %s", meta.vocabulary.size - 1, len(new), " ".join(map(repr, new))
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


def make_corpus(config: Mapping, manifest: Manifest, meta: ModelMeta, mesh: jax.sharding.Mesh) -> Corpus:
    """Join the usable utterances to their labels; the others are named, and too many of them stop the run.

    Raises ValueError beyond `config.data.max_bad_share`.
    """
    labels, problems = encode_transcripts(manifest, meta.vocabulary, meta.language)
    frames = ModelSettings.from_config(meta.model).output_frames(planned_frames(manifest, meta.features))
    needed = labels.needed_frames()
    for row in np.flatnonzero(needed > frames):
        problems[int(row)] = (
            f"the text needs {needed[row]} output frames, its {manifest.duration[row]} s give {frames[row]}"
        )
    if problems:
        refuse_too_many(
            len(problems), len(manifest), config["data"]["max_bad_share"], name_problems(manifest, problems)
        )
        if len(problems) == len(manifest):
            raise ValueError(f"no training utterance can be used:\n{name_problems(manifest, problems)}")
        if processes.rank() == 0:
            named = name_problems(manifest, problems)
            logger.warning("%d of %d utterances are left out:\n%s", len(problems), len(manifest), named)
        usable = np.array([row for row in range(len(manifest)) if row not in problems])
        manifest = manifest.select(usable)
        labels = labels.select(usable)
    warning = describe_upsampling(manifest, meta.features.sample_rate_hz)
    if warning and processes.rank() == 0:
        logger.warning("%s", warning)
    batch = config["batch"]
    # Its clips were read when the config was checked.
    augmentation = Augmentation.load(config["augment"]["file"], meta.features.sample_rate_hz, read_clips=False)
    logger.info("augmentation:\n%s", augmentation.describe())
    return Corpus(
        manifest,
        labels,
        meta.features,
        meta.normalisation,
        meta.stats,
        BatchSettings(batch["size"], batch["seconds"], batch["buckets"], batch["shuffle"], batch["sortagrad"]),
        augmentation,
        config["seed"],
        loading(config, mesh, config["optim"]["accumulate"]),
    )


def refuse_too_many(bad: int, total: int, share: float, named: str) -> None:
    """Raise ValueError where more than `share` of the utterances cannot be used."""
    if bad > share * total:
        raise ValueError(
            f"{bad} of {total} training utterances cannot be used, more than config.data.max_bad_share={share}:\n{named}\n"
            "Mend the manifest (python -m input_pipeline.manifest check), or the entry of config.augment.file where one "
            "is named, or allow a larger share"
        )
