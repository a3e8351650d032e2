"""Checkpoints through orbax: written in the background, whole or not at all; the best and the last few are kept.

A checkpoint holds the items `model` (parameters, batch statistics, averaged parameters), `optimizer`, `progress` and
`meta`.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ds2_jax import distributed
from ds2_jax.bundle import ModelFileError, ModelMeta, is_bundle, load_bundle
from ds2_jax.state import TrainState
from input_pipeline import object_store

FOLDER = "checkpoints"
BESIDES_BYTES = 500_000  # of a checkpoint: some forty files, each rounded up to blocks (270 kB were seen), and locks
METRICS = "metrics"  # as orbax names the item, and the file in it
PROGRESS = "progress/metadata"  # the file of the item
_ARRAYS = ("_METADATA", "manifest.ocdbt", "d")
MODEL_PARTS = ("meta/metadata", *(f"model/{file}" for file in _ARRAYS))  # of what evaluation reads
PARTS = (*MODEL_PARTS, PROGRESS, *(f"optimizer/{file}" for file in _ARRAYS))  # of a whole checkpoint

logger = logging.getLogger("ds2_jax")


@dataclasses.dataclass
class Progress:
    """Where a training stands, besides its arrays: all that is needed to go on as if nothing had happened."""

    step: int = 0  # batches seen
    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    best_error_rate: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    data_digest: str = ""  # of the training manifest
    plan_digest: str = ""  # of the settings that decide batches and their order
    dev_digest: str = ""  # of the manifest that the best error rate is of
    optimizer: str = ""  # what decides which arrays its state has
    trained_s: float = 0.0  # wall time of training, over all starts
    interval: dict[str, float] = dataclasses.field(default_factory=dict)  # sums since the last line of metrics.jsonl
    bad_utterances: list[int] = dataclasses.field(default_factory=list)
    finished: bool = False
    evaluation_due: bool = False  # dev is to be measured with these parameters: a stop came first

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Progress":
        """Read what a checkpoint says; what other versions say besides is passed over."""
        return cls(**{field.name: found[field.name] for field in dataclasses.fields(cls) if field.name in found})


class Checkpoints:
    """The checkpoints of one run; use as a context, so that the last one is complete at the end.

    Whoever only reads says so: an unfinished checkpoint may be another process's, which is writing it.
    """

    def __init__(self, workdir: str, keep: int = 1, *, read_only: bool = False):
        self._folder = absolute(workdir) / FOLDER
        self._dev = ""  # digest of the manifest that error rates are of, as far as they say
        if not read_only and not object_store.is_remote(workdir):  # in a store, orbax finds and removes them
            _set_partial_aside(self._folder)
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(n=keep),
                preservation_policy.BestN(
                    get_metric_fn=self._rank, reverse=True, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=self._rank,  # the policy decides what is kept; without this, orbax would not write error rates down
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
        return [step for step in self._manager.all_steps() if _missing_part(self._folder / str(step)) is None]

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return max(self._steps(), default=None)

    def best(self) -> int | None:
        """Step of the checkpoint with the least dev error rate, of those on the same dev as the last; else the newest."""
        found = {step: metrics for step in self._steps() if (metrics := self._manager.metrics(step))}
        if not found:
            return self.latest()
        self._dev = found[max(found)].get("dev", "")
        return min(found, key=lambda step: self._rank(found[step]))

    def _rank(self, metrics: Mapping[str, Any]) -> tuple[bool, float, float]:
        """The least error rate is best, and of equal ones the first; those on another dev come last."""
        return metrics.get("dev", self._dev) != self._dev, metrics["error_rate"], metrics["step"]

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
        if distributed.rank() == 0:
            if not item.exists():
                unfinished = item.with_name(f".{METRICS}")
                unfinished.mkdir(exist_ok=True)
                (unfinished / METRICS).write_text(json.dumps(_metrics(progress, error_rate)))
                unfinished.rename(item)
            unfinished = checkpoint / ".progress"
            unfinished.write_text(json.dumps(dataclasses.asdict(progress)))
            unfinished.replace(checkpoint / PROGRESS)
        distributed.barrier()
        self._manager.reload()

    def progress(self, step: int) -> Progress:
        """Read where training stood at a checkpoint. Raises ModelFileError."""
        checkpoint = self._folder / str(step)
        with _readable(checkpoint):
            return Progress.from_json(json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8")))

    def restore(self, step: int, state: TrainState, shardings: Any) -> TrainState:
        """Read a checkpoint into the shapes of `state`, onto devices as the tree `shardings` says.

        Raises ModelFileError.
        """
        abstract = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state, shardings
        )
        with _readable(self._folder / str(step)):
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


def _missing_part(checkpoint: epath.Path, parts: Sequence[str] = PARTS) -> str | None:
    """Name a part that a checkpoint's folder lacks."""
    return next((part for part in parts if not (checkpoint / part).exists()), None)


def _set_partial_aside(folder: epath.Path) -> None:
    """Rename what is called a checkpoint and lacks a part, so that training goes on from the one before it.

    Copying that was interrupted leaves such, and the mount of a store that renames a folder file by file.
    """
    if distributed.rank() == 0 and folder.is_dir():
        for checkpoint in [path for path in folder.iterdir() if path.name.isdigit()]:
            missing = _missing_part(checkpoint)
            if missing:
                aside = folder / f"{checkpoint.name}.partial-{int(time.time())}"
                logger.warning("%s is no whole checkpoint (no %s): renamed to %s", checkpoint, missing, aside.name)
                checkpoint.rename(aside)
    distributed.barrier()


def _metrics(progress: Progress, error_rate: float) -> dict[str, Any]:
    return {"error_rate": error_rate, "step": progress.step, "dev": progress.dev_digest}


def _model_item(state: TrainState) -> dict:
    item = {"parameters": state.parameters, "batch_stats": state.batch_stats}
    if state.averaged is not None:
        item["averaged"] = state.averaged
    return item


@contextlib.contextmanager
def _readable(checkpoint: epath.Path) -> Iterator[None]:
    """Raise ModelFileError where what is inside cannot read a checkpoint."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition(" [tensorstore_spec")[0]  # pages of it
        raise ModelFileError(
            f"{checkpoint} cannot be read ({reason}); if damaged, copy it again, or move it away: a run goes on from the one before"
        ) from error


def _write_error(folder, error: Exception) -> OSError:
    number = error.errno if isinstance(error, OSError) else None
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    mend = "Free the disk" if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in reason else "Mend this"
    return OSError(
        f"a checkpoint cannot be written to {folder}: {reason}; what was saved before is whole. {mend}, run again"
    )


def absolute(path: str) -> epath.Path:
    """Make a path of a local folder absolute, and leave one of a store (gs://, s3://) as it is."""
    return epath.Path(path) if object_store.is_remote(path) else epath.Path(path).absolute()


def read_meta(checkpoint: epath.Path) -> ModelMeta:
    """Read the description of the model in a checkpoint's folder."""
    file = checkpoint / "meta" / "metadata"
    try:
        return ModelMeta.from_json(json.loads(file.read_text(encoding="utf-8")), str(file))
    except (OSError, json.JSONDecodeError) as error:
        raise ModelFileError(f"{file} cannot be read: {error}; name another checkpoint") from error


def find_checkpoint(path: str) -> epath.Path:
    """Find the checkpoint that is meant: a checkpoint's own folder, or the best one of a run folder.

    Raises ModelFileError.
    """
    folder = absolute(path)
    if (folder / "meta").is_dir() and (folder / "model").is_dir():
        return folder
    if folder.name == FOLDER:
        folder = folder.parent
    if (folder / FOLDER).is_dir():
        with Checkpoints(str(folder), read_only=True) as checkpoints:
            step = checkpoints.best()
        if step is not None:
            return folder / FOLDER / str(step)
    kinds = "a bundle (with model.safetensors), a checkpoint, or a run folder with checkpoints/"
    state = "has no complete checkpoint" if folder.is_dir() else "does not exist"
    raise ModelFileError(f"config.restore is {path!r}, which {state}; name {kinds}")


def load_model(path: str) -> tuple[ModelMeta, dict]:
    """Load a model's description and the variables to evaluate: averaged parameters where there are any.

    path: a bundle, a checkpoint, or a run folder (then its best). Works on any number of devices. All processes have to
    call it. Raises ModelFileError, and ValueError where they found different models.
    """
    meta, variables = load_bundle(path) if is_bundle(path) else _load_checkpoint(path)
    distributed.require_same(lambda: {f"the model {path} (digest)": digest_model(meta, variables)[:16]})
    return meta, variables


def digest_model(meta: ModelMeta, variables: dict) -> str:
    """Digest a model's description and its numbers."""
    digest = hashlib.sha256(json.dumps(meta.to_json(), sort_keys=True).encode())
    for array in jax.tree.leaves(variables):
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def _load_checkpoint(path: str) -> tuple[ModelMeta, dict]:
    checkpoint = find_checkpoint(path)
    missing = _missing_part(checkpoint, MODEL_PARTS)
    if missing:
        raise ModelFileError(f"{checkpoint} is no whole checkpoint (no {missing}): name another one, or copy it again")
    meta = read_meta(checkpoint)
    abstract = meta.abstract_variables()
    item = {"parameters": abstract["params"], "batch_stats": abstract["batch_stats"]}
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with ocp.StandardCheckpointer() as reader, _readable(checkpoint):
        stored = reader.metadata(checkpoint / "model").item_metadata or {}
        if "averaged" in stored:
            item["averaged"] = abstract["params"]
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), item)
        found = reader.restore(checkpoint / "model", target)
    return meta, {"params": found.get("averaged", found["parameters"]), "batch_stats": found["batch_stats"]}
