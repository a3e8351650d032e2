"""Checkpoints through orbax: written in the background, completely or not at all; the best and the latest are kept.

A checkpoint consists of the items `model` (parameters, batch statistics, averaged parameters), `optimizer`, `progress`
and `meta`.
"""

import dataclasses
import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ds2_jax.artifacts import verification
from ds2_jax.artifacts.bundle import ModelFileError, ModelMeta
from ds2_jax.artifacts.load import (
    CHECKPOINT_FOLDER,
    METRICS,
    PROGRESS,
    absolute,
    describe_damage,
    missing_part,
    read_meta,
    read_metrics,
    reading,
)
from ds2_jax.artifacts.ranking import Score, best_step
from ds2_jax.parallel import processes
from ds2_jax.training.progress import Progress
from ds2_jax.training.state import TrainState
from input_pipeline.storage import object_store, whole_file

OVERHEAD_BYTES = 500_000  # per checkpoint: about forty files, each rounded up to blocks (270 kB measured), and locks

logger = logging.getLogger("ds2_jax")


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without metrics, which this module stores: a damaged file must not prevent resuming."""

    def metrics(self, step: int) -> None:
        """Read nothing."""


class _Preservation(preservation_policy.PreservationPolicy):
    """What orbax keeps after each checkpoint."""

    def __init__(self, checkpoints: "Checkpoints"):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints, *, context):
        """Return for each checkpoint whether it is kept."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = self._checkpoints.kept(steps)
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of one run; a context, on exit of which the last one is complete.

    keep: number of latest checkpoints kept. read_only: leave incomplete checkpoints alone; another process may be writing
    them.
    """

    def __init__(self, workdir: str, keep: int = 1, *, read_only: bool = False):
        self._folder = epath.Path(absolute(workdir)) / CHECKPOINT_FOLDER
        self._keep = keep
        self._saving: int | None = None  # step that is being written
        if not read_only and not object_store.is_remote(workdir):  # in a store, orbax removes them
            _set_aside(self._folder)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preservation(self),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_digests),
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
        self._manager = _Manager(self._folder, options=options, handler_registry=registry)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_):
        try:
            self.wait()
        except OSError:
            if kind is None:  # otherwise another error is being reported
                raise
        finally:
            self._manager.close()

    def _steps(self) -> list[int]:
        """Return the steps of the complete checkpoints."""
        return [step for step in self._manager.all_steps() if missing_part(self._folder / str(step)) is None]

    def latest(self) -> int | None:
        """Return the step of the latest complete checkpoint; None without any."""
        return max(self._steps(), default=None)

    def best(self) -> int | None:
        """Return the step with the best score on the latest dev set; the latest step if none was measured."""
        return self._best(self._steps())

    def _best(self, steps: Sequence[int]) -> int | None:
        return best_step({step: read_metrics(self._folder / str(step)) for step in steps}) if steps else None

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Return which of these steps are kept: the latest ones and the best."""
        latest = sorted(steps)[-self._keep :]
        return {*latest, *(step for step in [self._best(steps)] if step is not None)}

    def save(self, state: TrainState, progress: Progress, meta: ModelMeta) -> None:
        """Start writing a checkpoint in the background. Raises OSError, also if writing the previous one failed."""
        self.wait()  # orbax waits too, but the free space must be checked after waiting
        self._require_space(state)
        self._saving = progress.step
        try:
            self._manager.save(
                progress.step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(_model_item(state)),
                    optimizer=ocp.args.StandardSave({"optimizer": state.optimizer, "step": state.step}),
                    progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
                    meta=ocp.args.JsonSave(meta.to_json()),
                ),
            )
        except (OSError, ValueError) as error:
            raise _write_error(self._folder, error) from error

    def _require_space(self, state: TrainState) -> None:
        """Raise OSError if the disk has too little space: orbax's error during a write is hard to read."""
        if "://" in str(self._folder):
            return
        if not self._folder.is_dir():
            raise _write_error(self._folder, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
        needed = int(1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(state))) + OVERHEAD_BYTES
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            reason = f"it needs up to {needed / 1e6:.1f} MB, but only {free / 1e6:.1f} MB are free"
            raise _write_error(self._folder, OSError(errno.ENOSPC, reason))

    def _write_digests(self) -> None:
        """List the digests of a checkpoint before it gets its name, in the thread that writes it."""
        if processes.rank() == 0:
            name = str(self._saving)
            unfinished = [path for path in self._folder.iterdir() if path.name.startswith(f"{name}.orbax")]
            verification.write_digests(unfinished[0] if unfinished else self._folder / name)  # stores cannot rename

    def wait(self) -> None:
        """Wait until the last checkpoint is complete. Raises OSError if it cannot be written."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise _write_error(self._folder, error) from error

    def add_score(self, progress: Progress, score: Score) -> None:
        """Add what was measured on dev, and the progress it changed, to the checkpoint of this step; wait for it first.

        Checkpoints that are kept no longer, because a new one is the best, are removed. Raises OSError.
        """
        self.wait()
        checkpoint = self._folder / str(progress.step)
        if processes.rank() == 0:
            try:
                _write_score(checkpoint, progress, score)
            except OSError as error:
                raise _write_error(self._folder, error) from error
        processes.barrier()
        for step in processes.broadcast(self._surplus):
            self._manager.delete(step)

    def _surplus(self) -> list[int]:
        """Return the steps of the checkpoints that are kept no longer."""
        steps = self._steps()
        return sorted({*steps} - self.kept(steps))

    def progress(self, step: int) -> Progress:
        """Read the progress of a checkpoint. Raises ModelFileError."""
        checkpoint = self._folder / str(step)
        with reading(checkpoint):
            return Progress.from_json(json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8")))

    def restore(self, step: int, state: TrainState, shardings: Any) -> TrainState:
        """Read a checkpoint with the shapes of `state`, placed by the tree `shardings`. Raises ModelFileError."""
        abstract = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state, shardings
        )
        checkpoint = self._folder / str(step)
        with reading(checkpoint):
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardRestore(_model_item(abstract)),
                    optimizer=ocp.args.StandardRestore({"optimizer": abstract.optimizer, "step": abstract.step}),
                ),
            )
        state = state.replace(
            **{name: restored["model"][name] for name in ("parameters", "batch_stats")},
            averaged=restored["model"].get("averaged"),
            **restored["optimizer"],
        )
        if not _is_finite([state.parameters, state.batch_stats, state.averaged]):
            raise ModelFileError(describe_damage(checkpoint, "it has parameters that are not finite numbers"))
        return state

    def meta(self, step: int) -> ModelMeta:
        """Read the description of a checkpoint's model."""
        return read_meta(self._folder / str(step))


def _set_aside(folder: epath.Path) -> None:
    """Rename incomplete checkpoints, and damaged ones that are the latest, so that training resumes from the one before.

    They are left by interrupted copying, by mounted stores that rename a folder file by file, and by failing disks.
    """
    if processes.rank() == 0 and folder.is_dir():
        checkpoints = sorted(
            (path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)
        )
        for checkpoint in [path for path in checkpoints if missing_part(path)]:
            checkpoints.remove(checkpoint)
            _rename(checkpoint, f"incomplete (no {missing_part(checkpoint)})", "partial")
        while checkpoints and (damage := verification.find_damage(checkpoints[-1], verification.ITEMS)):
            _rename(checkpoints.pop(), f"damaged ({damage})", "damaged")
    processes.barrier()


def _rename(checkpoint: epath.Path, state: str, suffix: str) -> None:
    renamed = f"{checkpoint.name}.{suffix}-{int(time.time())}"
    logger.warning("%s is %s: renamed to %s", checkpoint, state, renamed)
    checkpoint.rename(checkpoint.parent / renamed)


@jax.jit
def _is_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(array).all() for array in jax.tree.leaves(tree)]))


def _write_score(checkpoint: Any, progress: Progress, score: Score) -> None:
    verification.replace_digests(checkpoint, "progress", remove=True)
    item = checkpoint / METRICS
    item.mkdir(exist_ok=True)
    metrics = {**score.to_json(), "step": progress.step, "dev": progress.dev_digest}
    for file, values in ((item / METRICS, metrics), (checkpoint / PROGRESS, dataclasses.asdict(progress))):
        whole_file.write_text(file, json.dumps(values))
    verification.replace_digests(checkpoint, "progress", remove=False)


def _model_item(state: TrainState) -> dict:
    item = {"parameters": state.parameters, "batch_stats": state.batch_stats}
    if state.averaged is not None:
        item["averaged"] = state.averaged
    return item


def _write_error(folder, error: Exception) -> OSError:
    number = error.errno if isinstance(error, OSError) else None
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if number == errno.ENOENT:  # orbax makes the folder again, so its presence says nothing
        return OSError(
            f"a checkpoint cannot be written to {folder}, because that folder or a part of it has been removed or renamed "
            "during the training: put it back, with its checkpoints, and run the same command again"
        )
    is_full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in reason
    return OSError(
        f"a checkpoint cannot be written to {folder} ({reason}); earlier checkpoints are intact: "
        f"{'free disk space' if is_full else 'fix this'} and run the same command again"
    )
