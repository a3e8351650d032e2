"""Check that a checkpoint is as it was written, before its arrays are used.

Each checkpoint lists the digests of its files (SHA256SUMS). One without a listing is unverified: its arrays are read once
where they lie, which finds files that are missing or cut.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from input_pipeline.storage import digests

ITEMS = ("model", "meta", "optimizer", "progress")  # what a training resumes from
EVALUATED = ("model", "meta")  # what a model is loaded from
ARRAYS = ("model", "optimizer")  # items that orbax stores as OCDBT databases

logger = logging.getLogger("ds2_jax")


def write_digests(checkpoint: Any) -> None:
    """List the digests of the files of a complete checkpoint, a local or etils path. Raises OSError."""
    digests.write(checkpoint / digests.LISTING, digests.of_files(checkpoint, _files(checkpoint, ITEMS)))


def replace_digests(checkpoint: Any, item: str, *, remove: bool) -> None:
    """Remove the digests of an item's files from the listing, before they change, or add them afterwards. Raises OSError.

    Between the two, the item is unverified: a process that is killed never leaves a digest that does not fit.
    """
    listing = checkpoint / digests.LISTING
    values = digests.read(listing)
    if not values:
        return
    others = {name: value for name, value in values.items() if not name.startswith(f"{item}/")}
    added = {} if remove else digests.of_files(checkpoint, _files(checkpoint, (item,)))
    digests.write(listing, others | added)


def find_damage(checkpoint: Any, items: Sequence[str]) -> str:
    """Return in one line what is wrong with these items of a checkpoint; empty if nothing is.

    Logs if the listing lacks a file, so that it is unverified.
    """
    try:
        listed = digests.read(checkpoint / digests.LISTING)
        listed = {name: value for name, value in listed.items() if name.partition("/")[0] in items}
        digests.check(checkpoint, listed)
        unlisted = sorted({*_files(checkpoint, items)} - {*listed})
        if unlisted:
            _read_arrays(checkpoint, [item for item in items if item in ARRAYS])
            logger.info("%s is unverified: it has no digest of %s", checkpoint, _some(unlisted))
    except Exception as error:  # the libraries' own types, too
        return one_line(error)
    return ""


def require_finite(variables: Any, where: str | os.PathLike) -> None:
    """Raise ValueError naming an array, on the host or one device, that has values other than finite numbers."""
    for path, array in jax.tree_util.tree_leaves_with_path(variables):
        if not np.isfinite(np.asarray(array)).all():
            raise ValueError(f"{where}: {jax.tree_util.keystr(path)} has values that are not finite numbers")


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the specifications that TensorStore appends over pages."""
    text = str(error).partition(" [tensorstore_spec")[0].partition(" [source locations")[0].strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def _files(checkpoint: Any, items: Sequence[str]) -> list[str]:
    """List the files of these items by their paths in the checkpoint; etils has no recursive search in a store."""
    return [name for item in items if (checkpoint / item).is_dir() for name in _walk(checkpoint / item, item)]


def _walk(folder: Any, prefix: str) -> Iterator[str]:
    for path in folder.iterdir():
        name = f"{prefix}/{path.name}"
        if path.is_dir():
            yield from _walk(path, name)
        else:
            yield name


def _read_arrays(checkpoint: Any, items: Sequence[str]) -> None:
    """Read all that the databases of these items refer to. Raises ValueError where a part is missing or cut."""
    import tensorstore

    for item in items:
        base = str(checkpoint / item)
        base = base if "://" in base else f"file://{base}"
        database = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"{base}/"}).result()
        for key in database.list().result():
            database.read(key).result()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more files" if len(names) > 3 else "")
