"""Values as bytes that are safe to read from a network: JSON, and arrays as .npy. Nothing is unpickled."""

import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

HEADER_BYTES = 8  # length of the JSON part, which stands before the arrays


def encode(value: Any, classes: Sequence[type] = ()) -> bytes:
    """Return a value as bytes for `decode`.

    Values: None, bool, numbers, text, arrays, and lists, tuples, sets, dictionaries and dataclasses of these, the
    dataclasses among `classes`. Raises TypeError for any other value.
    """
    arrays: list[bytes] = []
    text = json.dumps(_flatten(value, classes, arrays)).encode()
    return b"".join([len(text).to_bytes(HEADER_BYTES, "big"), text, *arrays])


def decode(data: bytes, classes: Sequence[type] = ()) -> Any:
    """Return the value that `encode` was given. Raises ValueError for bytes that it did not write."""
    size = int.from_bytes(data[:HEADER_BYTES], "big")
    arrays = io.BytesIO(data[HEADER_BYTES + size :])
    by_name = {kind.__name__: kind for kind in classes}
    try:
        return _restore(json.loads(data[HEADER_BYTES : HEADER_BYTES + size]), by_name, arrays)
    except (KeyError, TypeError, ValueError, EOFError) as error:
        raise ValueError(f"another process sent {len(data)} bytes that are not a value ({error!r})") from error


def _flatten(value: Any, classes: Sequence[type], arrays: list[bytes]) -> Any:
    """Return JSON values: plain ones as they are, all others as [kind, content]."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        arrays.append(buffer.getvalue())
        return ["array"]
    if isinstance(value, list | tuple | set | frozenset):
        kind = next(kind for kind in (list, tuple, set, frozenset) if isinstance(value, kind))
        return [kind.__name__, *(_flatten(item, classes, arrays) for item in value)]
    if isinstance(value, dict):
        return ["dict", *(_flatten(part, classes, arrays) for item in value.items() for part in item)]
    if type(value) in classes:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return [type(value).__name__, _flatten(fields, classes, arrays)]
    raise TypeError(f"{type(value).__name__} cannot be sent to another process")


def _restore(value: Any, classes: dict[str, type], arrays: io.BytesIO) -> Any:
    if not isinstance(value, list):
        return value
    kind, *content = value
    if kind == "array":
        return np.load(arrays, allow_pickle=False)
    items = [_restore(item, classes, arrays) for item in content]
    if kind == "dict":
        return dict(zip(items[::2], items[1::2], strict=True))
    if kind in (builtin := {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}):
        return builtin[kind](items)
    return classes[kind](**items[0])
