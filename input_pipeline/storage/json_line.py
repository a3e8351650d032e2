"""One JSON value, strictly: a key with two values is an error."""

import json
from typing import Any


class RepeatedKeyError(ValueError):
    """An object with different values for one key."""


class _Repeated(dict):
    """An object that had different values for `key`."""

    key = ""


def decode(text: str) -> Any:
    """Return the value of a JSON text. Raises json.JSONDecodeError; RepeatedKeyError, but not for objects inside the value."""
    value = _DECODER.decode(text)
    if isinstance(value, _Repeated):
        raise RepeatedKeyError(f"key {value.key!r} occurs twice with different values")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict:
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    different = next((key for key, value in pairs if record[key] != value), None)
    if different is None:
        return record
    repeated = _Repeated(record)
    repeated.key = different
    return repeated


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
