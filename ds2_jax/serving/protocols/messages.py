"""JSON that clients send."""

import json
from typing import Any


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the object in a JSON text. Raises ValueError saying what is wrong."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("the message is not JSON: nested too deeply") from error
    except ValueError as error:  # also for wrong UTF-8, and numbers with too many digits
        raise ValueError(f"the message is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("the message is not a JSON object")
    return value


def whole_number(values: dict[str, Any], name: str, least: int, most: int) -> int:
    """Return the whole number with this name; 16000.0 and "16000" count as one. Raises ValueError for another value."""
    value = values[name]
    try:
        number = float("nan" if isinstance(value, bool) else value)
        if least <= number <= most:
            return round(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} is {str(value)[:40]!r}: use {least} to {most}")
