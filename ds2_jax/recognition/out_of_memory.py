"""Recognise that a device or the host has too little memory, and say in one line for what."""

import contextlib
from collections.abc import Callable, Iterator

import jax


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of XLA means that the device's memory is exhausted."""
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()  # not "an illegal memory access"


@contextlib.contextmanager
def explained(describe: Callable[[str], str]) -> Iterator[None]:
    """Raise MemoryError with a description of the reason if the block exhausts the memory of the device or the host."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not is_out_of_memory(error):
            raise
        raise MemoryError(describe(str(error).splitlines()[0])) from error
