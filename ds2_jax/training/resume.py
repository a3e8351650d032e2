"""Start or resume a training, and check that its settings and data are those of the checkpoint."""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import jax

from ds2_jax.parallel import sharding
from ds2_jax.training.checkpoint import Checkpoints
from ds2_jax.training.progress import Progress
from ds2_jax.training.settings import OptimSettings, TrainingSettings
from ds2_jax.training.state import TrainState
from input_pipeline.batches.corpus import Corpus

logger = logging.getLogger("ds2_jax")


def new_progress(settings: TrainingSettings, corpus: Corpus, dev_digest: str) -> Progress:
    """Return the progress of a training that has not started; corpus: its usable utterances."""
    return Progress(
        data_digest=corpus.manifest.digest(),
        plan_digest=_plan_digest(settings, corpus),
        dev_digest=dev_digest,
        optimizer=_describe_optimizer(settings.optim),
    )


def _plan_digest(settings: TrainingSettings, corpus: Corpus) -> str:
    """Return a digest of all that determines batches and their order, apart from the utterances."""
    file = settings.augmentation
    outliers = [[bucket.frames, bucket.rows] for bucket in corpus.buckets if bucket.outliers]
    parts = {
        "batch": dataclasses.asdict(settings.batch),
        "seed": settings.seed,
        "weights": corpus.manifest.weights,
        "augmentation": Path(file).read_text(encoding="utf-8") if file else "",
    }
    parts |= {"outliers": outliers} if outliers else {}  # checkpoints without them stay valid
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _describe_optimizer(settings: OptimSettings) -> str:
    """Describe the settings that determine which arrays the optimiser state has."""
    averaged = "with" if settings.ema > 0 else "without"
    return f"config.optim.name={settings.name}, {averaged} averaged parameters (config.optim.ema)"


def restore(
    checkpoints: Checkpoints,
    state: TrainState,
    fresh: Progress,
    mesh: jax.sharding.Mesh,
    workdir: str,
    *,
    allow_changed_data: bool,
) -> tuple[TrainState, Progress]:
    """Restore the latest checkpoint; fresh: the initial progress for the current settings and data.

    Raises ValueError if the optimiser has changed, or, unless `allow_changed_data`, the data or their order.
    """
    latest = checkpoints.latest()
    assert latest is not None
    progress = checkpoints.progress(latest)
    if progress.optimizer not in ("", fresh.optimizer):
        raise ValueError(
            f"{workdir} was trained with {progress.optimizer}, but the settings are {fresh.optimizer}, whose state differs: "
            f"continue with the old settings, or start from its parameters in another --workdir, --config.restore={workdir}"
        )
    changed = [
        what
        for what, before, now in (
            ("the training manifest", progress.data_digest, fresh.data_digest),
            ("batches, weights of manifests, seed or augmentation", progress.plan_digest, fresh.plan_digest),
        )
        if before != now
    ]
    if changed and not allow_changed_data:
        raise ValueError(
            f"{workdir} was trained with other settings: {' and '.join(changed)} changed since step {progress.step}. Continue "
            "with the old ones, choose another --workdir, or accept the change with --config.train.allow_changed_data=true"
        )
    if fresh.dev_digest and progress.dev_digest not in ("", fresh.dev_digest):
        logger.warning("config.data.dev has changed: earlier checkpoints are no longer candidates for the best")
    progress = progress.resumed(fresh)
    state = checkpoints.restore(latest, state, sharding.state_sharding(state, mesh))
    logger.info("resuming at step %d (epoch %d, batch %d)", progress.step, progress.epoch, progress.batch)
    return state, progress
