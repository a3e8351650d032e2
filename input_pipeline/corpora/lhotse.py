"""Lhotse's manifests: cuts (cuts*.jsonl.gz), or supervisions with recordings (*supervisions*, *recordings*), JSONL.

--source is a folder with them, or one file of cuts. What follows the kind in a name is the split: cuts_dev.jsonl.gz
becomes dev. Each supervision becomes an utterance, with an offset if it does not begin its recording. Left out, with the
reason: cuts that mix or pad others, recordings that are not in files, and those with changes of speed, tempo or volume.
"""

import argparse
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from input_pipeline.corpora import assemble, listed
from input_pipeline.corpora.assemble import CorpusError, Prepared, Recording

HARMLESS = ("Resample",)  # changes of a recording that leave its times as they are
CUTS, SUPERVISIONS, RECORDINGS = "cuts", "supervisions", "recordings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    listed.add_arguments(parser, "lhotse", "cuts*.jsonl.gz, or supervisions*.jsonl.gz and recordings*.jsonl.gz")
    listed.add_root(parser)


def prepare(args: argparse.Namespace) -> Prepared:
    """Read the lists; write a manifest for each split."""
    source = Path(args.source)
    lists = listed.find_lists(source, *(f"*{kind}*.jsonl{end}" for kind in (CUTS, SUPERVISIONS) for end in ("", ".gz")))
    splits: dict[str, list[Recording]] = {}
    for path in lists:
        kind = SUPERVISIONS if SUPERVISIONS in path.name else CUTS
        read = read_supervisions if kind == SUPERVISIONS else read_cuts
        splits.setdefault(_split(path.name, kind), []).extend(read(path, args.root))
    return listed.write(args, splits)


def _split(name: str, kind: str) -> str:
    return listed.split_name(name.rpartition(kind)[2].lstrip("_-") or name, kind)


def read_cuts(path: Path, root: str | None) -> list[Recording]:
    """Return the supervisions of the cuts."""
    recordings, left_out = [], []
    for where, cut in read_objects(path):
        try:
            if cut.get("type") != "MonoCut":
                raise _LeftOut(f"of the type {cut.get('type')}")
            for supervision in cut.get("supervisions", []):
                start = cut["start"] + supervision["start"]
                recordings.append(_make(supervision, cut["recording"], start, (root, path.parent)))
        except _LeftOut as error:
            left_out.append(f"{cut.get('id')}, {error}")
        except (KeyError, TypeError) as error:
            raise CorpusError(f"{where}: not a cut of Lhotse ({error!r}): check the file") from error
    assemble.report_skipped(f"cuts of {path.name}", left_out)
    return recordings


def read_supervisions(path: Path, root: str | None) -> list[Recording]:
    """Return the supervisions of a list whose recordings are in the list of the same name."""
    pair = path.with_name(path.name.replace(SUPERVISIONS, RECORDINGS))
    if not pair.is_file():
        raise CorpusError(f"{path}: its recordings, {pair.name}, are missing: add the file")
    by_id = {recording.get("id"): recording for _, recording in read_objects(pair)}
    recordings, left_out = [], []
    for where, supervision in read_objects(path):
        try:
            if supervision["recording_id"] not in by_id:
                raise _LeftOut(f"whose recording {supervision['recording_id']} is not in {pair.name}")
            recording = by_id[supervision["recording_id"]]
            recordings.append(_make(supervision, recording, supervision["start"], (root, path.parent)))
        except _LeftOut as error:
            left_out.append(f"{supervision.get('id')}, {error}")
        except (KeyError, TypeError) as error:
            raise CorpusError(f"{where}: not a supervision of Lhotse ({error!r}): check the file") from error
    assemble.report_skipped(f"supervisions of {path.name}", left_out)
    return recordings


class _LeftOut(Exception):
    """A cut or supervision that cannot be used, and why."""


def _make(supervision: Mapping, recording: Mapping, start: float, folders: tuple[str | Path | None, ...]) -> Recording:
    """Return a supervision as an utterance. folders: those that relative paths may start from. Raises _LeftOut."""
    changes = [change.get("name") for change in recording.get("transforms") or []]
    if not set(changes) <= set(HARMLESS):
        raise _LeftOut(f"whose recording is changed ({', '.join(map(str, changes))})")
    channel = supervision.get("channel", 0)
    channel = channel[0] if isinstance(channel, list) else channel
    for source in recording["sources"]:
        if source["type"] != "file":
            raise _LeftOut(f"whose recording is not a file but a {source['type']}")
        if channel in source["channels"]:
            path = listed.find_audio(source["source"], *folders, "")
            position = source["channels"].index(channel)
            text, speaker = supervision.get("text") or "", supervision.get("speaker") or ""
            return Recording(path, text, speaker, start, supervision["duration"], position)
    raise _LeftOut(f"whose recording has no channel {channel}")


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSONL file, which may be compressed with gzip, with their places. Raises CorpusError."""
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        lines = io.StringIO(content.decode())
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read ({error}): fetch it again") from error
    for where, line in listed.numbered(path, lines):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{where}: not JSON ({error}): check the file") from error
        if not isinstance(value, dict):
            raise CorpusError(f"{where}: not a JSON object: check the file")
        yield where, value
