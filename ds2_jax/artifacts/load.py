"""Load a model from a bundle, a checkpoint, or the best checkpoint of a run folder.

Bundles only need safetensors; orbax is imported when the arrays of a checkpoint are read.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ds2_jax.artifacts import hub, verification
from ds2_jax.artifacts.bundle import ModelFileError, ModelMeta, is_bundle, load_bundle
from ds2_jax.artifacts.ranking import Score, best_step
from ds2_jax.parallel import processes
from input_pipeline.storage import object_store
from input_pipeline.storage.paths import require_utf8

logger = logging.getLogger("ds2_jax")

RELEASED = Path(__file__).parents[1] / "models"  # models shipped with this package
CHECKPOINT_FOLDER = "checkpoints"
METRICS = "metrics"  # folder, and its only file: what was measured on dev
PROGRESS = "progress/metadata"  # file of the item
_ARRAYS = ("_METADATA", "manifest.ocdbt", "d")
MODEL_PARTS = ("meta/metadata", *(f"model/{file}" for file in _ARRAYS))  # needed for evaluation
PARTS = (*MODEL_PARTS, PROGRESS, *(f"optimizer/{file}" for file in _ARRAYS))  # of a complete checkpoint


def load_model(path: str) -> tuple[ModelMeta, dict]:
    """Load a model's description and its variables for evaluation, with averaged parameters if it has them.

    path: a bundle, a checkpoint, a run folder (its best checkpoint), or the name of a released model (`resolve_model`).
    Works on any number of devices; all processes must call it. Raises ModelFileError, and ValueError if the processes
    loaded different models.
    """
    path = resolve_model(path)
    require_utf8(path, "the model ")
    meta, variables = load_bundle(path) if is_bundle(path) else _load_checkpoint(path)
    try:
        verification.require_finite(variables, path)
    except ValueError as error:
        raise ModelFileError(f"{error}: it is damaged, or its training diverged; choose another checkpoint") from error
    processes.require_same(lambda: {f"the model {path} (digest)": digest_model(meta, variables)[:16]})
    return meta, variables


def load_meta(path: str) -> ModelMeta:
    """Load the description of a model, given as for `load_model`. Raises ModelFileError."""
    path = resolve_model(path)
    return load_bundle(path)[0] if is_bundle(path) else read_meta(find_checkpoint(path))


def resolve_model(path: str) -> str:
    """Return the folder of a model: `path`, that of the released model with this name, or of one from a hub (`hub.fetch`).

    `an4` and `models/an4` mean the released model if no folder of that name exists.
    """
    if hub.is_hub(path):
        return hub.fetch(path)
    folder, name = os.path.split(os.path.normpath(path))
    released = RELEASED / name
    if path and folder in ("", "models") and not os.path.exists(path) and is_bundle(released):
        return str(released)
    return path


def digest_model(meta: ModelMeta, variables: dict) -> str:
    """Return a digest of a model's description and variables."""
    digest = hashlib.sha256(json.dumps(meta.to_json(), sort_keys=True).encode())
    for array in jax.tree.leaves(variables):
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def find_checkpoint(path: str) -> Any:
    """Return the folder of a checkpoint: `path` itself, or the best checkpoint of a run folder. Raises ModelFileError."""
    folder = absolute(path)
    if (folder / "meta").is_dir() and (folder / "model").is_dir():
        return folder
    if folder.name == CHECKPOINT_FOLDER:
        folder = folder.parent
    if (folder / CHECKPOINT_FOLDER).is_dir():
        entries = [entry for entry in (folder / CHECKPOINT_FOLDER).iterdir() if entry.name.isdigit()]
        complete = [entry for entry in entries if missing_part(entry) is None]
        if complete:
            return (
                folder
                / CHECKPOINT_FOLDER
                / str(best_step({int(entry.name): read_metrics(entry) for entry in complete}))
            )
    kinds = "a bundle (with model.safetensors), a checkpoint, or a run folder with checkpoints/"
    state = "has no complete checkpoint" if folder.is_dir() else "does not exist"
    raise ModelFileError(f"the model {path!r} {state}: give {kinds}")


def absolute(path: str) -> Any:
    """Return the absolute Path of a local folder, or an etils path, with the same methods, in a store (gs://, s3://)."""
    if not object_store.is_remote(path):
        return Path(path).absolute()
    from etils import epath

    return epath.Path(path)


def missing_part(checkpoint: Any, parts: Sequence[str] = PARTS) -> str | None:
    """Return a part that is missing from a checkpoint's folder; None if it is complete."""
    return next((part for part in parts if not (checkpoint / part).exists()), None)


def read_metrics(checkpoint: Any) -> dict[str, Any] | None:
    """Return what was measured on dev for a checkpoint's folder; None if nothing was, or if the file is damaged."""
    file = checkpoint / METRICS / METRICS
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_text())
        Score.from_json(values)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _warn_of_metrics(str(file), str(error))
        return None
    return values


@functools.cache  # said once for each file
def _warn_of_metrics(file: str, reason: str) -> None:
    logger.warning("%s cannot be read (%s): this checkpoint counts as not evaluated on dev", file, reason)


def read_meta(checkpoint: Any) -> ModelMeta:
    """Read the description of the model in a checkpoint's folder."""
    file = checkpoint / "meta" / "metadata"
    try:
        return ModelMeta.from_json(json.loads(file.read_text(encoding="utf-8")), str(file))
    except ModelFileError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{file} cannot be read ({error}): choose another checkpoint") from error


@contextlib.contextmanager
def reading(checkpoint: str | os.PathLike) -> Iterator[None]:
    """Turn errors from reading a checkpoint into ModelFileError."""
    try:
        yield
    except Exception as error:  # the libraries' own types, too
        raise ModelFileError(describe_damage(checkpoint, verification.one_line(error))) from error


def describe_damage(checkpoint: str | os.PathLike, reason: str) -> str:
    """Return the message about a checkpoint that cannot be used."""
    return (
        f"{checkpoint} cannot be read ({reason}): if it is damaged, copy it again, or move it away to resume from the previous "
        "checkpoint"
    )


def _load_checkpoint(path: str) -> tuple[ModelMeta, dict]:
    import orbax.checkpoint as ocp  # takes a second, which bundles do not need

    checkpoint = find_checkpoint(path)
    missing = missing_part(checkpoint, MODEL_PARTS)
    if missing:
        raise ModelFileError(f"{checkpoint} is incomplete (no {missing}): choose another checkpoint, or copy it again")
    damage = processes.broadcast(lambda: verification.find_damage(checkpoint, verification.EVALUATED))
    if damage:
        raise ModelFileError(describe_damage(checkpoint, damage))
    meta = read_meta(checkpoint)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with ocp.StandardCheckpointer() as reader, reading(checkpoint):
        abstract = meta.abstract_variables()
        item = {"parameters": abstract["params"], "batch_stats": abstract["batch_stats"]}
        stored = reader.metadata(checkpoint / "model").item_metadata or {}
        if "averaged" in stored:
            item["averaged"] = abstract["params"]
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), item)
        restored = reader.restore(checkpoint / "model", target)
    parameters = restored.get("averaged", restored["parameters"])
    return meta, {"params": parameters, "batch_stats": restored["batch_stats"]}
