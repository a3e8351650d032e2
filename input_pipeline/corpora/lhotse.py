"""Lhotse's manifests: cuts (cuts*.jsonl.gz), or supervisions with recordings (*supervisions*, *recordings*), JSONL.

--source is a folder with them, or one file of cuts. What follows the kind in a name is the split: cuts_dev.jsonl.gz
becomes dev. Each supervision becomes an utterance, with an offset if it does not begin its recording. Left out, with the
reason: cuts without a supervision, or that mix or pad others, recordings that are not in files, and those with changes of
speed, tempo or volume.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

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

    def utterances(cut: Mapping) -> Iterator[Recording]:
        if cut.get("type") != "MonoCut":
            raise _LeftOut(f"of the type {cut.get('type')}")
        if not cut.get("supervisions"):
            raise _LeftOut("without supervisions")
        for supervision in cut["supervisions"]:
            start = cut["start"] + supervision["start"]
            yield _make(supervision, cut["recording"], start, (root, path.parent))

    return _collect(path, "cut", utterances)


def read_supervisions(path: Path, root: str | None) -> list[Recording]:
    """Return the supervisions of a list whose recordings are in the list of the same name."""
    pair = path.with_name(path.name.replace(SUPERVISIONS, RECORDINGS))
    if not pair.is_file():
        raise CorpusError(f"{path}: its recordings, {pair.name}, are missing: add the file")
    by_id = {recording.get("id"): recording for _, recording in listed.read_objects(pair)}

    def utterances(supervision: Mapping) -> Iterator[Recording]:
        if supervision["recording_id"] not in by_id:
            raise _LeftOut(f"whose recording {supervision['recording_id']} is not in {pair.name}")
        yield _make(supervision, by_id[supervision["recording_id"]], supervision["start"], (root, path.parent))

    return _collect(path, "supervision", utterances)


def _collect(path: Path, what: str, utterances: Callable[[Mapping], Iterator[Recording]]) -> list[Recording]:
    """Return the utterances of the objects of a list; report those that are left out."""
    recordings, left_out = [], []
    for where, item in listed.read_objects(path):
        try:
            for one in utterances(item):
                recordings.append(one)
        except _LeftOut as error:
            left_out.append(f"{item.get('id')}, {error}")
        except (KeyError, TypeError) as error:
            raise CorpusError(f"{where}: not a {what} of Lhotse ({error!r}): check the file") from error
    assemble.report_skipped(f"{what}s of {path.name}", left_out)
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
            text, speaker = listed.text_of(supervision.get("text")), supervision.get("speaker") or ""
            return Recording(path, text, speaker, start, supervision["duration"], position)
    raise _LeftOut(f"whose recording has no channel {channel}")
