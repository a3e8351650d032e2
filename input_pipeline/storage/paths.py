"""What is wrong with a path that leads nowhere, or to a file that would be lost."""

import os
import unicodedata
from collections.abc import Iterable, Sequence

from input_pipeline.storage.object_store import is_remote


def why_missing(path: str) -> str:
    """Say what may be wrong with a path that does not exist, and what to write instead; '' where nothing is known."""
    if "file:/" in path:
        return "it is an address: write the path without file://"
    if is_remote(path):
        return ""
    if "\\" in path:
        return "it has back slashes: write / between folders" + _instead(path.replace("\\", "/"))
    if path != path.rstrip():
        return f"it ends in {_visible(path[len(path.rstrip()) :])}, which does not belong to it" + _instead(
            path.rstrip()
        )
    if os.path.islink(path):
        return f"it is a link to {os.readlink(path)}, which does not exist"
    folder, name = os.path.split(path)
    last = True
    while folder and not os.path.isdir(folder):
        (folder, name), last = os.path.split(folder), False
        if not name:
            return ""
    try:
        others = os.listdir(folder or ".")
    except OSError:
        return ""
    return _similar(name, others, last) or ("" if last else f"there is no folder {os.path.join(folder, name)}")


def require_utf8(path: str, what: str) -> None:
    """Raise ValueError for a path with bytes that are not UTF-8, which libraries in C++ cannot open. what: named in the message."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{what}{path} is not UTF-8, and checkpoints need it: rename the folder, or, if the system is set to another "
            "encoding, set LC_ALL=C.UTF-8"
        ) from None


def refuse_inputs(outputs: Iterable[str], inputs: Iterable[str], flag: str = "--output") -> None:
    """Raise ValueError if a file that a command would write is one of those that it reads, by whatever path."""
    existing = {_identity(path): path for path in outputs if is_remote(path) or os.path.exists(path)}
    for path in inputs if existing else ():
        if (is_remote(path) or os.path.exists(path)) and (output := existing.get(_identity(path))):
            raise ValueError(f"{flag}={output} is {path}, which is read, and would be lost: choose another name")


def _identity(path: str) -> object:
    if is_remote(path):
        return path
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _similar(name: str, others: Sequence[str], is_file: bool) -> str:
    """Describe the name in a folder that differs from a missing one only in what is easily overlooked, '' for none."""
    for other in others:
        if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name):
            form = "composed (NFC)" if unicodedata.is_normalized("NFC", other) else "decomposed (NFD)"
            return f"there is {other} with accents in {form} form, another spelling that looks the same: rename one"
    for other in others:
        if other.casefold() == name.casefold():
            return f"there is {other}: upper and lower case differ"
    for other in others if is_file else ():
        if os.path.splitext(other)[0] in (name, os.path.splitext(name)[0]):
            return f"there is {other}: the ending differs"
    return ""


def _instead(path: str) -> str:
    return f"; {path} exists" if os.path.exists(path) else ""


def _visible(text: str) -> str:
    return {" ": "a space", "\r": "a carriage return (\\r)", "\t": "a tab"}.get(text, ascii(text))
