"""Load a model: from a bundle, a checkpoint, or the best checkpoint of a run folder.

A bundle is read with safetensors alone; orbax is imported where a checkpoint's arrays are read.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ds2_jax.artifacts.bundle import ModelFileError, ModelMeta, is_bundle, load_bundle
from ds2_jax.parallel import processes
from input_pipeline.storage import object_store

RELEASED = Path(__file__).parents[1] / "models"  # that come with this package
FOLDER = "checkpoints"
METRICS = "metrics"  # as orbax names the item, and the file in it
PROGRESS = "progress/metadata"  # the file of the item
_ARRAYS = ("_METADATA", "manifest.ocdbt", "d")
MODEL_PARTS = ("meta/metadata", *(f"model/{file}" for file in _ARRAYS))  # of what evaluation reads
PARTS = (*MODEL_PARTS, PROGRESS, *(f"optimizer/{file}" for file in _ARRAYS))  # of a whole checkpoint


def load_model(path: str) -> tuple[ModelMeta, dict]:
    """Load a model's description and the variables to evaluate: averaged parameters where there are any.

    path: a bundle, a checkpoint, or a run folder (then its best), or the name of a released model (`resolve_model`). Works
    on any number of devices. All processes have to call it. Raises ModelFileError, and ValueError where they found different models.
    """
    path = resolve_model(path)
    meta, variables = load_bundle(path) if is_bundle(path) else _load_checkpoint(path)
    processes.require_same(lambda: {f"the model {path} (digest)": digest_model(meta, variables)[:16]})
    return meta, variables


def resolve_model(path: str) -> str:
    """Return the folder of a model: `path` itself, or the released model of this package that it names.

    `an4` and `models/an4` are the released model wherever no folder of that name exists.
    """
    folder, name = os.path.split(os.path.normpath(path))
    released = RELEASED / name
    if path and folder in ("", "models") and not os.path.exists(path) and is_bundle(released):
        return str(released)
    return path


def digest_model(meta: ModelMeta, variables: dict) -> str:
    """Digest a model's description and its numbers."""
    digest = hashlib.sha256(json.dumps(meta.to_json(), sort_keys=True).encode())
    for array in jax.tree.leaves(variables):
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def find_checkpoint(path: str) -> Any:
    """Find the checkpoint that is meant: a checkpoint's own folder, or the best one of a run folder.

    Raises ModelFileError.
    """
    folder = absolute(path)
    if (folder / "meta").is_dir() and (folder / "model").is_dir():
        return folder
    if folder.name == FOLDER:
        folder = folder.parent
    if (folder / FOLDER).is_dir():
        whole = [entry for entry in (folder / FOLDER).iterdir() if entry.name.isdigit() and missing_part(entry) is None]
        if whole:
            return folder / FOLDER / str(best_step({int(entry.name): _read_metrics(entry) for entry in whole}))
    kinds = "a bundle (with model.safetensors), a checkpoint, or a run folder with checkpoints/"
    state = "has no complete checkpoint" if folder.is_dir() else "does not exist"
    raise ModelFileError(f"the model {path!r} {state}; name {kinds}")


def absolute(path: str) -> Any:
    """Make the path of a local folder absolute; return an etils path, alike in use, for one in a store (gs://, s3://)."""
    if not object_store.is_remote(path):
        return Path(path).absolute()
    from etils import epath

    return epath.Path(path)


def missing_part(checkpoint: Any, parts: Sequence[str] = PARTS) -> str | None:
    """Name a part that a checkpoint's folder lacks."""
    return next((part for part in parts if not (checkpoint / part).exists()), None)


def best_step(metrics: Mapping[int, Mapping[str, Any] | None]) -> int:
    """Return the step with the least dev error rate, of those on the same dev set as the last; without any, the newest.

    metrics: what `Checkpoints.save` wrote beside each checkpoint, by step; None where nothing was measured.
    """
    measured = {step: found for step, found in metrics.items() if found}
    if not measured:
        return max(metrics)
    dev = measured[max(measured)].get("dev", "")
    return min(measured, key=lambda step: rank(measured[step], dev))


def rank(metrics: Mapping[str, Any], dev: str) -> tuple[bool, float, float]:
    """Order checkpoints: the least error rate is best, and of equal ones the first; those on another dev set come last."""
    return metrics.get("dev", dev) != dev, metrics["error_rate"], metrics["step"]


def _read_metrics(checkpoint: Any) -> dict[str, Any] | None:
    file = checkpoint / METRICS / METRICS
    if not file.exists():
        return None
    with readable(checkpoint):
        return json.loads(file.read_text())


def read_meta(checkpoint: Any) -> ModelMeta:
    """Read the description of the model in a checkpoint's folder."""
    file = checkpoint / "meta" / "metadata"
    try:
        return ModelMeta.from_json(json.loads(file.read_text(encoding="utf-8")), str(file))
    except (OSError, json.JSONDecodeError) as error:
        raise ModelFileError(f"{file} cannot be read: {error}; name another checkpoint") from error


@contextlib.contextmanager
def readable(checkpoint: str | os.PathLike) -> Iterator[None]:
    """Raise ModelFileError where what is inside cannot read a checkpoint."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition(" [tensorstore_spec")[0]  # pages of it
        raise ModelFileError(
            f"{checkpoint} cannot be read ({reason}); if damaged, copy it again, or move it away: a run goes on from the one before"
        ) from error


def _load_checkpoint(path: str) -> tuple[ModelMeta, dict]:
    import orbax.checkpoint as ocp  # a second, which who reads a bundle does not pay

    checkpoint = find_checkpoint(path)
    missing = missing_part(checkpoint, MODEL_PARTS)
    if missing:
        raise ModelFileError(f"{checkpoint} is no whole checkpoint (no {missing}): name another one, or copy it again")
    meta = read_meta(checkpoint)
    abstract = meta.abstract_variables()
    item = {"parameters": abstract["params"], "batch_stats": abstract["batch_stats"]}
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with ocp.StandardCheckpointer() as reader, readable(checkpoint):
        stored = reader.metadata(checkpoint / "model").item_metadata or {}
        if "averaged" in stored:
            item["averaged"] = abstract["params"]
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), item)
        found = reader.restore(checkpoint / "model", target)
    return meta, {"params": found.get("averaged", found["parameters"]), "batch_stats": found["batch_stats"]}
