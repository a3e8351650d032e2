"""Where a training starts, or goes on: what of config and data has to be as it was when the checkpoint was written."""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ds2_jax.parallel import sharding
from ds2_jax.training.checkpoint import Checkpoints, Progress
from ds2_jax.training.state import TrainState
from input_pipeline.manifest import Manifest

logger = logging.getLogger("ds2_jax")


def start(config: ConfigDict, manifest: Manifest, dev_digest: str) -> Progress:
    """Describe the start of a training on the usable utterances `manifest`."""
    return Progress(
        data_digest=manifest.digest(),
        plan_digest=_plan_digest(config, manifest),
        dev_digest=dev_digest,
        optimizer=_describe_optimizer(config),
    )


def _plan_digest(config: ConfigDict, manifest: Manifest) -> str:
    """Digest what decides batches and their order."""
    parts = {"batch": config["batch"].to_dict(), "seed": config["seed"], "weights": manifest.weights}
    parts["batch"] = {name: value for name, value in parts["batch"].items() if not name.startswith("eval")}
    file = config["augment"]["file"]
    parts["augmentation"] = Path(file).read_text(encoding="utf-8") if file else ""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _describe_optimizer(config: ConfigDict) -> str:
    """Word what decides which arrays the state has."""
    averaged = "with" if config["optim"]["ema"] > 0 else "without"
    return f"config.optim.name={config['optim']['name']}, {averaged} averaged parameters (config.optim.ema)"


def go_on(
    checkpoints: Checkpoints,
    state: TrainState,
    fresh: Progress,
    mesh: jax.sharding.Mesh,
    config: ConfigDict,
    workdir: str,
) -> tuple[TrainState, Progress]:
    """Restore the last checkpoint; `fresh` is where a training with this config and data would start.

    Raises ValueError for other data or another order of it, unless told to accept it, and for another optimiser.
    """
    latest = checkpoints.latest()
    assert latest is not None
    progress = checkpoints.progress(latest)
    if progress.optimizer not in ("", fresh.optimizer):
        raise ValueError(
            f"{workdir} was trained with {progress.optimizer}, now it is {fresh.optimizer}: its state does not fit. Go on "
            f"with the old settings, or start from its parameters in another --workdir: --config.restore={workdir}"
        )
    changed = [
        what
        for what, before, now in (
            ("the training manifest", progress.data_digest, fresh.data_digest),
            ("batches, weights of manifests, seed or augmentation", progress.plan_digest, fresh.plan_digest),
        )
        if before != now
    ]
    if changed and not config["train"]["allow_changed_data"]:
        raise ValueError(
            f"{workdir} was trained with other settings: {' and '.join(changed)} changed since step {progress.step}. Go on "
            "with the old ones, choose another --workdir, or accept it with --config.train.allow_changed_data=true"
        )
    if progress.data_digest != fresh.data_digest:
        progress.bad_utterances = []  # rows of the manifest of then
    if changed:
        progress = dataclasses.replace(progress, batch=0, data_digest=fresh.data_digest, plan_digest=fresh.plan_digest)
    if fresh.dev_digest and progress.dev_digest not in ("", fresh.dev_digest):
        logger.warning("config.data.dev is another one than before: the best checkpoint is sought anew, among new ones")
        progress = dataclasses.replace(progress, best_error_rate=None, best_step=0, evaluations_since_best=0)
    progress.dev_digest = fresh.dev_digest or progress.dev_digest
    progress.evaluation_due = progress.evaluation_due and bool(fresh.dev_digest)
    state = checkpoints.restore(latest, state, sharding.of_state(state, mesh))
    logger.info("go on from step %d (epoch %d, batch %d)", progress.step, progress.epoch, progress.batch)
    return state, progress
