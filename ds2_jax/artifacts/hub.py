"""Bundles on the Hugging Face Hub: `hf://organisation/name`, at a revision `hf://organisation/name@revision`."""

import functools

from ds2_jax.artifacts.bundle import ModelFileError

PREFIX = "hf://"


def is_hub(path: str) -> bool:
    """Return whether a path means a bundle on the hub."""
    return path.startswith(PREFIX)


@functools.cache
def fetch(address: str) -> str:
    """Download a bundle, or what has changed since the last time, into the hub's cache; return its folder.

    Raises ModelFileError naming the address.
    """
    name, _, revision = address.removeprefix(PREFIX).partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise ModelFileError(f"{address} does not name a model: write {PREFIX}organisation/name")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise ModelFileError(f"{address} needs the package huggingface_hub: pip install 'ds2-jax[hub]'") from error
    try:
        return snapshot_download(name, revision=revision or None)
    except (OSError, ValueError, RuntimeError) as error:  # the hub's own errors are subclasses of these
        reason = str(error).strip().splitlines()[0]
        raise ModelFileError(
            f"{address} cannot be downloaded ({reason}): check the name, the network, and for a private model the token "
            "(HF_TOKEN)"
        ) from error
