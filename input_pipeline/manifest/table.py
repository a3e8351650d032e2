"""Manifests: an utterance per line, as a JSON object with `audio_filepath`, `duration` (seconds) and `text`.

`python -m input_pipeline.manifest check FILE` reads every clip and reports problems (input_pipeline/manifest/doctor.py).
"""

import hashlib
import json
import logging
import math
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from input_pipeline import audio as audio_files
from input_pipeline.columns import Objects, Strings, json_list_chunks
from input_pipeline.manifest.lines import KEYS, ManifestError, numbered, parse_line, quote, raw_lines
from input_pipeline.manifest.segments import (
    ALL_CHANNELS,
    MOST_CHANNELS,
    PACKED_KEYS,
    SEGMENT_KEYS,
    Segments,
    parse_channel,
    parse_offset,
    refused_key,
)
from input_pipeline.shards.format import ORIGINAL_KEY, SUFFIX, parse_reference
from input_pipeline.storage import object_store, whole_file
from input_pipeline.text import count_invisible, describe_invisible

logger = logging.getLogger("input_pipeline")

FINEST_UNIT_S = 0.001
LONGEST_S = 1e9  # thirty years: a longer duration is an error
IGNORE_OPTION = "--ignore_keys"


@dataclass(frozen=True)
class Manifest:
    """The utterances of one or several manifest files as columns, which keeps a million utterances small.

    Row `i` is line `line[i]` (from 1) of file `sources[source[i]]`.
    """

    sources: tuple[str, ...]  # manifest files, as given
    audio: Strings  # paths, relative ones joined to the manifest's folder; '' if absent
    duration: np.ndarray  # [N] float64, seconds; nan if absent
    offset: np.ndarray  # [N] float64, seconds: where a row begins in a longer file; nan if absent: the file is the row
    channel: np.ndarray  # [N] int8, from 0; -1 if absent: the average of all
    text: Strings  # '' if absent
    source: np.ndarray  # [N] int32
    line: np.ndarray  # [N] int32
    extra: Objects  # the other keys
    weights: tuple[float, ...]  # by source: how often its utterances are used in an epoch

    def __len__(self) -> int:
        return len(self.audio)

    def where(self, row: int) -> str:
        """Describe a row for a message: `train.jsonl:17 (audio/fash/an251.flac)`."""
        line = f"{self.sources[self.source[row]]}:{self.line[row]}"
        return f"{line} ({self.name(row)})" if self.audio[row] else line

    def name(self, row: int) -> str:
        """Return the original path of a row's clip, with the segment and channel that the row is: `a.flac, 4.5 to 8.6 s`."""
        return str(self.origin(row))

    def origin(self, row: int) -> audio_files.Segment:
        """Return what a row is of its original file, before it was packed into shards."""
        offset, channel = self._origin(row)
        duration = 0.0 if math.isnan(offset) else float(np.nan_to_num(self.duration[row]))
        number = None if channel == ALL_CHANNELS else channel
        return audio_files.Segment(self.original_path(row), float(np.nan_to_num(offset)), duration, number)

    def part(self, row: int) -> str:
        """Describe the segment and channel that a row is of its original file; '' for a whole file."""
        origin = self.origin(row)
        return audio_files.describe_part(origin.offset_s, origin.duration_s, origin.channel)

    def original_path(self, row: int) -> str:
        """Return the path of a row's clip as written in the manifest, or in the one that was packed into shards."""
        packed = parse_reference(self.audio[row])
        original = self.extra[row].get(ORIGINAL_KEY) if packed else None
        return str(original or self.path_as_written(row))

    def _origin(self, row: int) -> tuple[float, int]:
        """Return offset and channel of a row in its original file, before it was packed into shards."""
        if not parse_reference(self.audio[row]):
            return float(self.offset[row]), int(self.channel[row])
        extra = self.extra[row]
        offset, channel = (extra.get(PACKED_KEYS[key]) for key in SEGMENT_KEYS)
        return (math.nan if offset is None else float(offset)), (ALL_CHANNELS if channel is None else int(channel))

    @property
    def clips(self) -> Segments:
        """The audio of the rows: paths, or segments of longer files."""
        return Segments(self.audio, self.duration, self.offset, self.channel)

    def path_as_written(self, row: int) -> str:
        """Return a row's audio path, relative to the manifest's folder if it is inside."""
        return _relative(self.audio[row], _prefixes(self.sources[self.source[row]]))

    def speaker(self, row: int) -> str:
        """Return the speaker of a row, '' if the manifest names none."""
        value = self.extra[row].get("speaker")
        return "" if value is None else str(value)

    def select(self, indices: Sequence[int] | np.ndarray) -> "Manifest":
        """Return these rows, in this order."""
        rows = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            audio=self.audio.take(rows),
            duration=self.duration[rows],
            offset=self.offset[rows],
            channel=self.channel[rows],
            text=self.text.take(rows),
            source=self.source[rows],
            line=self.line[rows],
            extra=self.extra.take(rows),
        )

    @property
    def duration_unit_s(self) -> float:
        """Return the rounding unit of the durations: 0.1, 0.01 or 0.001 s; the coarsest of the sources.

        A true duration may be longer by half a unit, for which a plan must allow.
        """
        units = [rounding_unit_s(self.duration[self.source == index]) for index in range(len(self.sources))]
        return max(units, default=FINEST_UNIT_S)

    def digest(self) -> str:
        """Return the SHA-256 of paths, segments, durations and texts, wherever the corpus is, and packed or not."""
        digest = hashlib.sha256()
        prefixes = [_prefixes(source) for source in self.sources]
        paths = (_relative(path, prefixes[source]) for path, source in zip(self.audio, self.source, strict=True))
        packed = self.audio.contains(SUFFIX + "#")
        for piece in json_list_chunks(map(self.original_path, range(len(self))) if packed else paths):
            digest.update(piece)
        digest.update(np.ascontiguousarray(self.duration, dtype="<f8").tobytes())
        for piece in json_list_chunks(self.text):
            digest.update(piece)
        offset, channel = self.offset, self.channel
        if packed:
            offset, channel = np.array([self._origin(row) for row in range(len(self))]).reshape(-1, 2).T
        if not np.isnan(offset).all() or (channel != ALL_CHANNELS).any():  # others keep the digest of paths
            digest.update(np.ascontiguousarray(offset, dtype="<f8").tobytes() + channel.astype("i1").tobytes())
        return digest.hexdigest()


def absolute_path(path: str) -> str:
    """Return an absolute path; leave an object's address unchanged."""
    return path if object_store.is_remote(path) else os.path.abspath(path)


def _prefixes(source: str) -> list[str]:
    """Return the possible starts of paths inside a manifest's folder."""
    folder = os.path.dirname(source)
    return [os.path.join(start, "") for start in (folder, os.path.abspath(folder)) if start]


def _relative(path: str, prefixes: Sequence[str]) -> str:
    return next((path[len(prefix) :] for prefix in prefixes if path.startswith(prefix)), path)


def rounding_unit_s(duration: np.ndarray, share: float = 1.0) -> float:
    """Return the coarsest of 0.1, 0.01 and 0.001 s of which all durations [N], or at least this share, are multiples."""
    known = duration[np.isfinite(duration)]
    for per_second, unit in ((10, 0.1), (100, 0.01)):
        scaled = known * per_second
        if known.size and np.mean(np.abs(scaled - np.round(scaled)) < 1e-6) >= share:
            return unit
    return FINEST_UNIT_S


def read(
    path: str | os.PathLike,
    *,
    need_text: bool = True,
    need_audio: bool = True,
    need_duration: bool = True,
    ignore_keys: Sequence[str] = (),
    bad_lines: list[str] | None = None,
) -> Manifest:
    """Read a manifest file; unless `need_text`, `need_audio` and `need_duration` are set, these keys may be absent.

    The audio files are not looked at. ignore_keys: keys that are kept, but neither used nor refused, although they may
    change what a row is. Raises ManifestError for a file or a line that cannot be used; if `bad_lines` is given, such lines
    are skipped, and their errors appended to it.
    """
    name = os.path.expanduser(os.fspath(path))
    folder = os.path.dirname(name)
    audio, duration, text, line_numbers, extra = Strings(), array("d"), Strings(), array("i"), Objects()
    offset, channel = array("d"), array("b")
    lines = tqdm(raw_lines(name), desc=f"read {os.path.basename(name)}", unit=" lines", delay=2.0, leave=False)
    for number, raw in numbered(lines):
        where = f"{name}:{number}"
        try:
            record = parse_line(raw, where)
            audio_path = _read_audio_path(record, where, folder, need_audio)
            seconds = _read_duration(record, where, need_audio and need_duration)
            transcript = _read_text(record, where, need_text)
            begin, channel_number = _read_segment(record, where, ignore_keys)
        except ManifestError as error:
            if bad_lines is None:
                raise
            bad_lines.append(str(error))
            continue
        audio.append(audio_path)
        duration.append(seconds)
        text.append(transcript)
        offset.append(begin)
        channel.append(channel_number)
        line_numbers.append(number)
        extra.append({key: value for key, value in record.items() if key not in KEYS})
    if not audio and not bad_lines:
        raise ManifestError(f"{name} is empty; write one JSON object per line, with the keys {', '.join(KEYS)}")
    if invisible := count_invisible(text):
        logger.warning(
            "%s: invisible characters and unusual spaces are normalised: %s", name, describe_invisible(invisible)
        )
    return Manifest(
        sources=(name,),
        audio=audio,
        duration=np.array(duration, dtype=np.float64),
        offset=np.array(offset, dtype=np.float64),
        channel=np.array(channel, dtype=np.int8),
        text=text,
        source=np.zeros(len(audio), dtype=np.int32),
        line=np.array(line_numbers, dtype=np.int32),
        extra=extra,
        weights=(1.0,),
    )


def _read_audio_path(record: Mapping, where: str, folder: str, needed: bool) -> str:
    value = record.get("audio_filepath")
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or not value or "\0" in value:
        raise _bad_key(record, where, "audio_filepath", "a path, absolute or relative to the manifest's folder")
    return value if object_store.is_remote(value) else os.path.join(folder, os.path.expanduser(value))


def _read_duration(record: Mapping, where: str, needed: bool) -> float:
    value = record.get("duration")
    if value is None and not needed:
        return math.nan
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LONGEST_S:  # false for nan, too
        return float(value)
    raise _bad_key(record, where, "duration", f"a positive number of seconds, below {LONGEST_S:g}")


def _read_text(record: Mapping, where: str, needed: bool) -> str:
    value = record.get("text")
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise _bad_key(record, where, "text", "the transcript as a string")
    return value


def _read_segment(record: Mapping, where: str, ignore_keys: Sequence[str]) -> tuple[float, int]:
    """Return offset and channel, nan and ALL_CHANNELS where they are absent. Raises ManifestError."""
    refused = refused_key(record, ignore_keys)
    if refused:
        raise ManifestError(
            f"{where}: the key {refused!r} ({quote(record[refused])}) may mean a part of the file, and is not understood: "
            "write the part as 'offset' and 'duration' in seconds, and 'channel' from 0, or, if rows are whole files, name "
            f"the key in config.data.ignore_keys ({IGNORE_OPTION} of the other commands)"
        )
    offset = math.nan if "offset" in ignore_keys else parse_offset(record.get("offset"))
    channel = ALL_CHANNELS if "channel" in ignore_keys else parse_channel(record.get("channel"))
    if offset is None:
        raise _bad_key(record, where, "offset", "the seconds at which the row begins in its file")
    if channel is None:
        raise _bad_key(record, where, "channel", f"a number from 0 to {MOST_CHANNELS}, or in config.data.ignore_keys")
    return offset, channel


def parse_ignored(keys: str) -> tuple[str, ...]:
    """Split comma-separated keys."""
    return tuple(filter(None, (key.strip() for key in keys.split(","))))


def _bad_key(record: Mapping, where: str, key: str, expected: str) -> ManifestError:
    if key not in record:
        return ManifestError(f"{where}: key {key!r} is missing; add {expected}")
    return ManifestError(f"{where}: {key!r} is {quote(record[key])}; it must be {expected}")


def paths_of(spec: str) -> list[str]:
    """Return the paths of manifests that `read_many` takes, without their weights."""
    return [parse_weight(os.path.expanduser(part.strip()))[0] for part in spec.split(",")]


def read_many(
    spec: str,
    *,
    need_text: bool = True,
    need_audio: bool = True,
    need_duration: bool = True,
    ignore_keys: Sequence[str] = (),
) -> Manifest:
    """Read comma-separated manifests, each with an optional weight: `a.jsonl,b.jsonl:0.5`. Raises ManifestError.

    The other parameters are those of `read`.
    """
    named: dict[str, float] = {}
    for part in spec.split(","):
        path, weight = parse_weight(os.path.expanduser(part.strip()))
        if not path:
            raise ManifestError(f"{spec!r} has an empty path; write path or path:weight, separated by commas")
        if path in named:
            raise ManifestError(f"{path} is named twice in {spec!r}; name it once, with a weight: {path}:2")
        named[path] = weight
    parts = [
        read(path, need_text=need_text, need_audio=need_audio, need_duration=need_duration, ignore_keys=ignore_keys)
        for path in named
    ]
    return Manifest(
        sources=tuple(named),
        audio=Strings.concatenate([part.audio for part in parts]),
        duration=np.concatenate([part.duration for part in parts]),
        offset=np.concatenate([part.offset for part in parts]),
        channel=np.concatenate([part.channel for part in parts]),
        text=Strings.concatenate([part.text for part in parts]),
        source=np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts]),
        line=np.concatenate([part.line for part in parts]),
        extra=Objects.concatenate([part.extra for part in parts]),
        weights=tuple(named.values()),
    )


def parse_weight(part: str) -> tuple[str, float]:
    """Split `path:2` into path and weight; a colon that no number follows is part of the path. Raises ManifestError."""
    path, colon, suffix = part.rpartition(":")
    try:
        weight = float(suffix) if colon else math.nan
    except ValueError:
        return part, 1.0
    if not colon:
        return part, 1.0
    if not 0 < weight < math.inf:
        raise ManifestError(f"the weight {suffix} of {path} must be a positive number; leave it out for 1")
    return path, weight


def write(path: str | os.PathLike, records: Iterable[Mapping]) -> None:
    """Write records as JSON lines, all or none of them; the folder is created if necessary. Raises OSError."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file.open_binary(target) as file:
        file.writelines(map(_line, records))


def _line(record: Mapping) -> bytes:
    """Encode a record as UTF-8; if it contains a single surrogate, which UTF-8 cannot encode, with escapes."""
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record).encode() + b"\n"


def filter_duration(manifest: Manifest, min_s: float = 0.0, max_s: float = math.inf) -> tuple[Manifest, str]:
    """Keep utterances of min_s to max_s seconds, both included; also return a sentence on those dropped ('' for none).

    Raises ManifestError if none is left.
    """
    if not 0 <= min_s <= max_s:
        raise ManifestError(f"durations from {min_s} to {max_s} s: the limits must satisfy 0 <= shortest <= longest")
    too_short = manifest.duration < min_s
    too_long = manifest.duration > max_s
    dropped = too_short | too_long
    if not dropped.any():
        return manifest, ""
    reasons = [f"{too_short.sum()} shorter than {min_s:g} s"] if too_short.any() else []
    reasons += [f"{too_long.sum()} longer than {max_s:g} s"] if too_long.any() else []
    lost_s, all_s = np.nansum(manifest.duration[dropped]), np.nansum(manifest.duration)
    sentence = (
        f"{', '.join(manifest.sources)}: dropped {dropped.sum()} of {len(manifest)} utterances "
        f"({lost_s / 60:.1f} of {all_s / 60:.1f} min): {', '.join(reasons)}"
    )
    if dropped.all():
        raise ManifestError(f"{sentence}; none is left: widen the limits")
    return manifest.select(np.flatnonzero(~dropped)), sentence
