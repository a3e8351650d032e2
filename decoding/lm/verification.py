"""Verify a language model by its stored digest, once for each state of the file: it may have 70 GB.

What was found is remembered in $XDG_CACHE_HOME/ds2_jax/models (default ~/.cache), for the file's path, size and times.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from decoding.lm.model_file import LanguageModelError
from input_pipeline.storage import digests, whole_file


def is_verified(lm: str) -> bool:
    """Return whether a model has the digest stored for it; False without one. Raises LanguageModelError if it differs."""
    path = Path(lm)
    try:
        expected = digests.stored_for(path)
        if expected is None:
            return False
        memory = Memory(path)
        actual = memory.read("sha256")
        if actual is None:
            actual = digests.digest(path)
            memory.write("sha256", actual)
    except (OSError, digests.DamagedFileError) as error:
        raise LanguageModelError(f"{lm} cannot be verified: {error}") from error
    if actual != expected:
        raise LanguageModelError(
            f"{lm} is damaged: its SHA-256 is not the stored one; copy or train it again, or remove the stored digest "
            f"({path.name}{digests.SUFFIX}, or its line in {digests.LISTING}) if you replaced the file on purpose"
        )
    return True


class Memory:
    """What is remembered of a file in its present state."""

    def __init__(self, file: Path):
        file = file.resolve()
        status = file.stat()
        self._state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        self._entry = cache / "ds2_jax" / "models" / f"{hashlib.sha256(os.fsencode(file)).hexdigest()[:32]}.json"

    def read(self, name: str) -> str | None:
        """Return a remembered value; None if there is none for this state of the file."""
        return self._values().get(name)

    def write(self, name: str, value: str) -> None:
        """Remember a value, as far as the cache can be written."""
        values = self._values() | {name: value}
        with contextlib.suppress(OSError):
            self._entry.parent.mkdir(parents=True, exist_ok=True)
            with whole_file.open_text(self._entry) as file:
                json.dump({"state": self._state, "values": values}, file)

    def _values(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(self._entry.read_text(encoding="utf-8"))
            if stored["state"] == self._state:
                return dict(stored["values"])
        return {}
