"""Checkpoints through orbax: written in the background, whole or not at all; the best and the last few are kept.

A checkpoint holds the items `model` (parameters, batch statistics, averaged parameters), `optimizer`, `progress` and
`meta`.
"""

import dataclasses
import errno
import json
import logging
import shutil
import time
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.artifacts.load import (
    CHECKPOINT_FOLDER,
    METRICS,
    PROGRESS,
    absolute,
    best_step,
    missing_part,
    ranking_key,
    read_meta,
    reading,
)
from ds2_jax.parallel import processes
from ds2_jax.training.progress import Progress
from ds2_jax.training.state import TrainState
from input_pipeline.storage import object_store

BESIDES_BYTES = 500_000  # of a checkpoint: some forty files, each rounded up to blocks (270 kB were seen), and locks

logger = logging.getLogger("ds2_jax")


class Checkpoints:
    """The checkpoints of one run; use as a context, so that the last one is complete at the end.

    Whoever only reads says so: an unfinished checkpoint may be another process's, which is writing it.
    """

    def __init__(self, workdir: str, keep: int = 1, *, read_only: bool = False):
        self._folder = epath.Path(absolute(workdir)) / CHECKPOINT_FOLDER
        self._dev = ""  # digest of the manifest that error rates are of, as far as they say
        if not read_only and not object_store.is_remote(workdir):  # in a store, orbax finds and removes them
            _set_partial_aside(self._folder)
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(n=keep),
                preservation_policy.BestN(
                    get_metric_fn=self._ranking_key, reverse=True, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=self._ranking_key,  # the policy decides what is kept; without this, orbax would not write error rates down
            best_mode="min",
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
        )
        handlers = {
            "model": ocp.StandardCheckpointHandler(),
            "optimizer": ocp.StandardCheckpointHandler(),
            "progress": ocp.JsonCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        }
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        arguments = {
            "model": (ocp.args.StandardSave, ocp.args.StandardRestore),
            "optimizer": (ocp.args.StandardSave, ocp.args.StandardRestore),
            "progress": (ocp.args.JsonSave, ocp.args.JsonRestore),
            "meta": (ocp.args.JsonSave, ocp.args.JsonRestore),
        }
        for name, (save, restore) in arguments.items():
            registry.add(name, save, handlers[name])
            registry.add(name, restore, handlers[name])
        self._manager = ocp.CheckpointManager(self._folder, options=options, handler_registry=registry)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_):
        try:
            self.wait()
        except OSError:
            if kind is None:  # else what ends the program is told already
                raise
        finally:
            self._manager.close()

    def _steps(self) -> list[int]:
        """Steps of the complete checkpoints."""
        return [step for step in self._manager.all_steps() if missing_part(self._folder / str(step)) is None]

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return max(self._steps(), default=None)

    def best(self) -> int | None:
        """Step of the checkpoint with the least dev error rate, of those on the same dev as the last; else the newest."""
        steps = self._steps()
        return best_step({step: self._manager.metrics(step) for step in steps}) if steps else None

    def _ranking_key(self, metrics: Mapping[str, Any]) -> tuple[bool, float, float]:
        return ranking_key(metrics, self._dev)

    def save(self, state: TrainState, progress: Progress, meta: ModelMeta, error_rate: float | None = None) -> None:
        """Start writing a checkpoint; errors of the one before (a full disk) are raised here, as OSError."""
        self.wait()  # orbax would, too; before it, the free space is not known
        self._refuse_full_disk(state)
        self._dev = progress.dev_digest
        try:
            self._manager.save(
                progress.step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(_model_item(state)),
                    optimizer=ocp.args.StandardSave({"optimizer": state.optimizer, "step": state.step}),
                    progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
                    meta=ocp.args.JsonSave(meta.to_json()),
                ),
                metrics=None if error_rate is None else _metrics(progress, error_rate),
            )
        except (OSError, ValueError) as error:
            raise _write_error(self._folder, error) from error

    def _refuse_full_disk(self, state: TrainState) -> None:
        """Raise before a write that cannot succeed: what orbax says in the middle of one is hard to read."""
        if "://" in str(self._folder):
            return
        needed = int(1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(state))) + BESIDES_BYTES
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            reason = f"it takes up to {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free"
            raise _write_error(self._folder, OSError(errno.ENOSPC, reason))

    def wait(self) -> None:
        """Wait until the last checkpoint is complete."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise _write_error(self._folder, error) from error

    def add_error_rate(self, progress: Progress, error_rate: float) -> None:
        """Give a complete checkpoint the dev error rate that was measured after it was written, and what it changed."""
        checkpoint = self._folder / str(progress.step)
        item = checkpoint / METRICS
        if processes.rank() == 0:
            if not item.exists():
                unfinished = item.with_name(f".{METRICS}")
                unfinished.mkdir(exist_ok=True)
                (unfinished / METRICS).write_text(json.dumps(_metrics(progress, error_rate)))
                unfinished.rename(item)
            unfinished = checkpoint / ".progress"
            unfinished.write_text(json.dumps(dataclasses.asdict(progress)))
            unfinished.replace(checkpoint / PROGRESS)
        processes.barrier()
        self._manager.reload()

    def progress(self, step: int) -> Progress:
        """Read where training stood at a checkpoint. Raises ModelFileError."""
        checkpoint = self._folder / str(step)
        with reading(checkpoint):
            return Progress.from_json(json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8")))

    def restore(self, step: int, state: TrainState, shardings: Any) -> TrainState:
        """Read a checkpoint into the shapes of `state`, onto devices as the tree `shardings` says.

        Raises ModelFileError.
        """
        abstract = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state, shardings
        )
        with reading(self._folder / str(step)):
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardRestore(_model_item(abstract)),
                    optimizer=ocp.args.StandardRestore({"optimizer": abstract.optimizer, "step": abstract.step}),
                ),
            )
        return state.replace(
            **{name: found["model"][name] for name in ("parameters", "batch_stats")},
            averaged=found["model"].get("averaged"),
            **found["optimizer"],
        )

    def meta(self, step: int) -> ModelMeta:
        """Read the description of a checkpoint's model."""
        return read_meta(self._folder / str(step))


def _set_partial_aside(folder: epath.Path) -> None:
    """Rename what is called a checkpoint and lacks a part, so that training goes on from the one before it.

    Copying that was interrupted leaves such, and the mount of a store that renames a folder file by file.
    """
    if processes.rank() == 0 and folder.is_dir():
        for checkpoint in [path for path in folder.iterdir() if path.name.isdigit()]:
            missing = missing_part(checkpoint)
            if missing:
                aside = folder / f"{checkpoint.name}.partial-{int(time.time())}"
                logger.warning("%s is no whole checkpoint (no %s): renamed to %s", checkpoint, missing, aside.name)
                checkpoint.rename(aside)
    processes.barrier()


def _metrics(progress: Progress, error_rate: float) -> dict[str, Any]:
    return {"error_rate": error_rate, "step": progress.step, "dev": progress.dev_digest}


def _model_item(state: TrainState) -> dict:
    item = {"parameters": state.parameters, "batch_stats": state.batch_stats}
    if state.averaged is not None:
        item["averaged"] = state.averaged
    return item


def _write_error(folder, error: Exception) -> OSError:
    number = error.errno if isinstance(error, OSError) else None
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    mend = "Free the disk" if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in reason else "Mend this"
    return OSError(
        f"a checkpoint cannot be written to {folder}: {reason}; what was saved before is whole. {mend}, run again"
    )
