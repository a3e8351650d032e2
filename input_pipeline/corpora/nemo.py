"""NeMo's manifests: lines of JSON with audio_filepath, duration, text, and possibly offset, channel and speaker.

--source is a manifest, or a folder of *.json and *.jsonl manifests, each of which becomes a split named after it
(train_manifest.json becomes train). Tarred data sets have to be unpacked first.
"""

import argparse
from pathlib import Path

from input_pipeline.corpora import listed
from input_pipeline.corpora.assemble import CorpusError, Prepared, Recording
from input_pipeline.manifest.segments import ALL_CHANNELS, MOST_CHANNELS, parse_channel, refused_key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    listed.add_arguments(parser, "nemo", "manifests")
    listed.add_root(parser)


def prepare(args: argparse.Namespace) -> Prepared:
    """Read the manifests; write one for each."""
    splits: dict[str, list[Recording]] = {}
    for path in listed.find_lists(Path(args.source), "*.json", "*.jsonl"):
        splits.setdefault(listed.split_name(path.name, "manifest"), []).extend(read_manifest(path, args.root))
    return listed.write(args, splits)


def read_manifest(path: Path, root: str | None) -> list[Recording]:
    """Return the utterances of a manifest. Raises CorpusError."""
    recordings = []
    for where, row in listed.read_objects(path):
        try:
            if key := refused_key(row, ()):
                raise ValueError(f"{key!r} may mean a part of the file: write 'offset', 'duration' and 'channel'")
            audio = listed.find_audio(row["audio_filepath"], root, path.parent, "")
            duration = None if row.get("duration") is None else listed.seconds_of(row["duration"])
            offset = listed.seconds_of(row.get("offset") or 0)
            channel = parse_channel(row.get("channel"))
            if channel is None:
                raise ValueError(f"{row['channel']!r} is no channel from 0 to {MOST_CHANNELS}")
            text, speaker = listed.text_of(row["text"]), str(row.get("speaker") or "")
            one = Recording(audio, text, speaker, offset, duration, None if channel == ALL_CHANNELS else channel)
            recordings.append(one)
        except (KeyError, TypeError, ValueError) as error:
            raise CorpusError(f"{where}: not a row of NeMo's manifests ({error!r}): correct it") from error
    return recordings
