"""Write the transcripts of recordings as subtitles, tables and data, by the suffix of the file's name."""

import csv
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from decoding.hypothesis import Word, as_json
from ds2_jax.recognition import cues
from ds2_jax.recognition.alignment import AlignedWord, Symbol
from ds2_jax.recognition.cues import Cue, CueSettings
from ds2_jax.recognition.recording import LEFT_AND_RIGHT, Turn
from input_pipeline.audio.segment import Segment, source_name

PASSAGES = replace(cues.SEGMENTS, pause_s=1.5)  # of the formats other than subtitles


@dataclass(frozen=True)
class NamedTranscript:
    """The turns of a recording, its file and length, and the record that describes it in JSON lines.

    origin: the file, or the part of one, in which times count from its offset. remarks: what is wrong with the recording.
    """

    origin: Segment
    duration_s: float
    turns: Sequence[Turn]
    record: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The path of the file, with the part of it."""
        return str(self.origin)

    def channel_of(self, speaker: str) -> int:
        """Return the number of a speaker's channel in the file, from 1; 1 if the channels are mixed."""
        if speaker:
            return LEFT_AND_RIGHT.index(speaker) + 1 if speaker in LEFT_AND_RIGHT else int(speaker)
        return (self.origin.channel or 0) + 1


@dataclass(frozen=True)
class Spoken:
    """A cue and its speaker."""

    speaker: str
    cue: Cue

    @property
    def line(self) -> str:
        """The text, with the speaker in front."""
        return f"{self.speaker}: {self.cue.text}" if self.speaker else self.cue.text


def speakers_of(transcript: NamedTranscript) -> list[str]:
    """Return the speakers in the order of their names; [''] for a recording whose channels are mixed."""
    return sorted({turn.speaker for turn in transcript.turns}) or [""]


def words_of(transcript: NamedTranscript, speaker: str) -> list[Word]:
    """Return the words of a speaker in order."""
    return [word for turn in transcript.turns if turn.speaker == speaker for word in turn.passage.words]


def split(transcript: NamedTranscript, settings: CueSettings) -> list[Spoken]:
    """Split the words of each speaker into cues; return them by time."""
    spoken = [
        Spoken(speaker, cue)
        for speaker in speakers_of(transcript)
        for cue in cues.split(words_of(transcript, speaker), settings)
    ]
    return sorted(spoken, key=lambda item: item.cue.start_s)


def format_transcripts(suffix: str, transcripts: Sequence[NamedTranscript], settings: CueSettings) -> str:
    """Return the content of a file with this suffix, one of FORMATS; settings: of subtitles."""
    return FORMATS[suffix](transcripts, settings)


def check_count(suffix: str, recordings: int) -> None:
    """Raise ValueError if a file with this suffix cannot hold so many recordings."""
    if suffix in SINGLE and recordings != 1:
        raise ValueError(
            f"a {suffix} file holds one recording, of {recordings} given: use .json, .jsonl, .txt, .tsv or .ctm, or "
            "transcribe them one by one"
        )


def suffix_of(path: str | os.PathLike) -> str:
    """Return the format of an output file: its suffix, in the case of FORMATS; .jsonl for a name without one.

    Raises ValueError for an unknown format.
    """
    given = Path(path).suffix or ".jsonl"
    suffix = next((name for name in FORMATS if name.lower() == given.lower()), None)
    if suffix is None:
        raise ValueError(f"--output={path}: {given} is no format of transcripts: use {', '.join(FORMATS)}")
    return suffix


def _srt(transcripts: Sequence[NamedTranscript], settings: CueSettings) -> str:
    return cues.format_srt(_subtitles(transcripts[0], settings), settings)


def _vtt(transcripts: Sequence[NamedTranscript], settings: CueSettings) -> str:
    return cues.format_vtt(_subtitles(transcripts[0], settings), settings)


def _subtitles(transcript: NamedTranscript, settings: CueSettings) -> list[Cue]:
    """Return cues by time; each begins with its speaker, if there are several."""
    shown = []
    for spoken in split(transcript, settings):
        cue = spoken.cue
        if spoken.speaker:
            first = replace(cue.words[0], text=f"{spoken.speaker}: {cue.words[0].text}")
            cue = replace(cue, text=spoken.line, words=[first, *cue.words[1:]])
        shown.append(cue)
    return shown


def _txt(transcripts: Sequence[NamedTranscript], settings: CueSettings) -> str:
    """Return a line for each passage; recordings are separated by an empty line."""
    return "\n".join(
        "".join(f"{item.line}\n" for item in split(transcript, _passages(settings))) for transcript in transcripts
    )


def _tsv(transcripts: Sequence[NamedTranscript], settings: CueSettings) -> str:
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    writer.writerow(["audio", "start_s", "end_s", "speaker", "text"])
    for transcript in transcripts:
        for speaker, cue in ((item.speaker, item.cue) for item in split(transcript, _passages(settings))):
            writer.writerow([transcript.name, f"{cue.start_s:.3f}", f"{cue.end_s:.3f}", speaker, cue.text])
    return table.getvalue()


def _ctm(transcripts: Sequence[NamedTranscript], settings: CueSettings) -> str:
    """Return NIST's CTM: recording, channel, start, duration, word and confidence, by recording, channel and time.

    A recording is a file: what was said in parts of one has the times of the file.
    """
    names = short_names([source_name(transcript.origin.source) for transcript in transcripts])
    words: dict[tuple[str, int], list[tuple[float, Word]]] = defaultdict(list)
    for transcript in transcripts:
        name, offset_s = names[source_name(transcript.origin.source)], transcript.origin.offset_s
        for speaker in speakers_of(transcript):
            timed = [(offset_s + word.start_s, word) for word in words_of(transcript, speaker)]
            words[name, transcript.channel_of(speaker)] += timed
    return "".join(
        f"{name} {channel} {start_s:.3f} {word.end_s - word.start_s:.3f} {word.text} {word.confidence:.4f}\n"
        for (name, channel), timed in sorted(words.items())
        for start_s, word in sorted(timed, key=lambda item: item[0])
    )


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Return a name without spaces for each path: that of the file without its suffix, with as much more as tells it from others."""
    names: dict[str, str] = {}
    missing = dict.fromkeys(paths)
    for depth in range(1, 1 + max((len(Path(path).parts) for path in missing), default=0)):
        for end in (lambda path: path.with_suffix(""), lambda path: path):
            ends = {path: "_".join(end(Path(path)).parts[-depth:]).replace(" ", "_") for path in missing}
            count = Counter([*ends.values(), *names.values()])
            names |= {path: name for path, name in ends.items() if count[name] == 1}
            missing = dict.fromkeys(path for path in missing if path not in names)
    return names | {path: f"{Path(path).name.replace(' ', '_')}_{n}" for n, path in enumerate(missing, start=1)}


def _textgrid(transcripts: Sequence[NamedTranscript], settings: CueSettings) -> str:
    """Return Praat's TextGrid in its long form: tiers without gaps, of the words of each speaker, and of their symbols."""
    transcript = transcripts[0]
    end_s = max([transcript.duration_s, *(turn.passage.end_s for turn in transcript.turns)])
    tiers = _tiers(transcript)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end_s:.3f}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, units) in enumerate(tiers, start=1):
        intervals = _intervals(units, end_s)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {end_s:.3f}", f"        intervals: size = {len(intervals)}"]
        for place, (start_s, stop_s, text) in enumerate(intervals, start=1):
            quoted = text.replace('"', '""')
            lines += [f"        intervals [{place}]:", f"            xmin = {start_s:.3f}"]
            lines += [f"            xmax = {stop_s:.3f}", f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


def _tiers(transcript: NamedTranscript) -> list[tuple[str, Sequence[Word | Symbol]]]:
    """Return the name and the content of each tier; words that were aligned have symbols."""
    tiers: list[tuple[str, Sequence[Word | Symbol]]] = []
    for speaker in speakers_of(transcript):
        words = words_of(transcript, speaker)
        tiers.append((speaker or "words", words))
        if symbols := [symbol for word in words if isinstance(word, AlignedWord) for symbol in word.symbols]:
            tiers.append((f"{speaker} symbols".strip(), symbols))
    return tiers


def _intervals(words: Sequence[Word | Symbol], end_s: float) -> list[tuple[float, float, str]]:
    """Return start, end and text of the words, and of the silences between them."""
    intervals, done_s = [], 0.0
    for word in words:
        start_s, stop_s = max(done_s, round(word.start_s, 3)), round(word.end_s, 3)
        if stop_s <= start_s:  # Praat refuses an interval without length
            continue
        if start_s > done_s:
            intervals.append((done_s, start_s, ""))
        intervals.append((start_s, stop_s, word.text))
        done_s = stop_s
    if done_s < round(end_s, 3) or not intervals:
        intervals.append((done_s, end_s, ""))
    return intervals


def _json(transcripts: Sequence[NamedTranscript], settings: CueSettings) -> str:
    """Return a list with an object for each recording: text, and segments with times, speaker and words."""
    return (
        json.dumps([_describe(item, _passages(settings)) for item in transcripts], ensure_ascii=False, indent=1) + "\n"
    )


def _describe(transcript: NamedTranscript, settings: CueSettings) -> dict[str, Any]:
    spoken = split(transcript, settings)
    segments = [
        {"start_s": round(cue.start_s, 3), "end_s": round(cue.end_s, 3)}
        | ({"speaker": speaker} if speaker else {})
        | {"text": cue.text, "words": [as_json(word) for word in cue.words]}
        for speaker, cue in ((item.speaker, item.cue) for item in spoken)
    ]
    joined = "\n".join(item.line for item in spoken) if any(item.speaker for item in spoken) else ""
    text = joined or settings.joiner.join(item.cue.text for item in spoken)
    described = {"audio": transcript.name, "duration_s": round(transcript.duration_s, 3), "text": text}
    return described | ({"remarks": list(transcript.remarks)} if transcript.remarks else {}) | {"segments": segments}


def _jsonl(transcripts: Sequence[NamedTranscript], settings: CueSettings) -> str:
    return "".join(json.dumps(transcript.record, ensure_ascii=False) + "\n" for transcript in transcripts)


def _passages(settings: CueSettings) -> CueSettings:
    return replace(PASSAGES, joiner=settings.joiner, language=settings.language)


Format = Callable[[Sequence[NamedTranscript], CueSettings], str]
FORMATS: dict[str, Format] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".txt": _txt,
    ".tsv": _tsv,
    ".srt": _srt,
    ".vtt": _vtt,
    ".ctm": _ctm,
    ".TextGrid": _textgrid,
}
SINGLE = (".srt", ".vtt", ".TextGrid")
