"""Join the clips of a manifest to a recording, change its text, align both, and compare the utterances with the clips.

    python -m benchmarks.align --model=models/an4 --manifest=data/an4/test.jsonl --minutes=10 --music

Clips are repeated to the length, with pauses of noise; --music: in each tenth pause, 4 s of chords as loud as speech. Of the text,
a share of the words is changed to others of the manifest, as many sentences are missing, and as many are added. Prints one JSON
line: the share of an utterance's ends that lie in a pause or within 0.1 s of it (pauses are those of each clip alone), of
speech that is recovered, of all clips, of those whose text is as spoken, and of phrases whose text is as spoken (what lies
between two pauses of 0.2 s, the least that can be cut), and of utterances with a wrong text.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

import ds2_jax
from benchmarks import measure
from decoding.alignment.utterances import UtteranceSettings
from ds2_jax.recognition.alignment import AlignedUtterance
from ds2_jax.recognition.recogniser import Recogniser
from input_pipeline import audio, manifest
from input_pipeline.audio.pauses import LevelMeter
from input_pipeline.storage import console

EDGE = 1600  # samples at both ends of a clip whose level its pause has
TOLERANCE_S = 0.1
SHORTEST_S = 0.1  # stretch of a clip that counts as a pause
PHRASE_S = 0.2  # one that divides phrases
MUSIC_EVERY, MUSIC_S, MUSIC_LEVEL = 10, 4.0, 0.05
CHORDS_HZ = ((262, 330, 392), (220, 262, 330), (175, 220, 262), (196, 247, 294))


@dataclass(frozen=True)
class Clip:
    """A clip, the words that are spoken in it with their middles in seconds, and its pauses."""

    samples: np.ndarray
    words: list[tuple[str, float]]
    quiet: list[tuple[float, float]]


@dataclass(frozen=True)
class Placed:
    """A clip of the recording, and what is written for each of its words; nothing if the sentence is missing."""

    clip: Clip
    start_s: float
    written: list[str]

    @property
    def as_spoken(self) -> bool:
        """Whether its text is as spoken."""
        return self.written == [word for word, _ in self.clip.words]

    def phrases(self, length_s: float) -> list[tuple[float, float]]:
        """Return start and end, in seconds of the recording, of its phrases whose text is as spoken.

        length_s: of the clip.
        """
        pauses = [pause for pause in self.clip.quiet if pause[1] - pause[0] >= PHRASE_S]
        edges = [0.0, *(at_s for pause in pauses for at_s in pause), length_s]
        found = []
        for start_s, end_s in zip(edges[::2], edges[1::2], strict=True):
            inside = [i for i, (_, at_s) in enumerate(self.clip.words) if start_s <= at_s < end_s]
            if inside and self.written and all(self.written[i] == self.clip.words[i][0] for i in inside):
                found.append((self.start_s + start_s, self.start_s + end_s))
        return found


def read_clips(model: Recogniser, path: str) -> list[Clip]:
    """Read the clips of a manifest; their words are placed by the model, with the text of each clip alone."""
    rows, clips = manifest.read_many(path), []
    for source, text in zip(rows.clips, rows.text, strict=True):
        samples = audio.read(source, model.sample_rate_hz)[0]
        meter = LevelMeter(model.sample_rate_hz)
        meter.feed(samples)
        words = model.align_exactly((samples, model.sample_rate_hz), text)
        length_s = len(samples) / model.sample_rate_hz
        quiet = meter.pauses().between(0.0, length_s, SHORTEST_S)
        clips.append(Clip(samples, [(word.text, (word.start_s + word.end_s) / 2) for word in words], quiet))
    return clips


def chords(rate_hz: int) -> np.ndarray:
    """Return MUSIC_S of chords, one a second."""
    t = np.arange(rate_hz) / rate_hz
    fades = np.minimum(1, np.minimum(t, 1 - t) * 20)
    bars = [sum(np.sin(2 * np.pi * hz * n * t) / n for hz in chord for n in (1, 2, 3)) * fades for chord in CHORDS_HZ]
    music = np.tile(np.concatenate(bars), int(MUSIC_S))[: int(MUSIC_S * rate_hz)]
    return (MUSIC_LEVEL / music.std() * music).astype(np.float32)


def change(words: list[str], known: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """Return words of which a share is replaced by others."""
    return [
        str(rng.choice([other for other in known if other != word])) if rng.random() < share else word for word in words
    ]


def compose(path: Path, clips: list[Clip], options: argparse.Namespace, rate_hz: int) -> tuple[list[Placed], str]:
    """Write the recording; return its clips and the changed text, a line for each sentence."""
    rng = np.random.default_rng(options.seed)
    known = sorted({word for clip in clips for word, _ in clip.words})
    placed: list[Placed] = []
    lines, samples = [], 0
    with soundfile.SoundFile(path, "w", rate_hz, 1) as file:
        while samples < options.minutes * 60 * rate_hz:
            clip = clips[len(placed) % len(clips)]
            spoken = [word for word, _ in clip.words]
            written = [] if rng.random() < options.share else change(spoken, known, options.share, rng)
            lines.append(" ".join(written))
            if rng.random() < options.share:
                lines.append(" ".join(word for word, _ in clips[rng.integers(len(clips))].words))
            placed.append(Placed(clip, samples / rate_hz, written))
            level = np.std(np.concatenate([clip.samples[:EDGE], clip.samples[-EDGE:]]))
            pause = level * rng.standard_normal(int(rng.uniform(options.pause / 4, options.pause) * rate_hz))
            if options.music and len(placed) % MUSIC_EVERY == 0:
                pause = np.concatenate([pause, chords(rate_hz), pause])
            file.write(np.concatenate([clip.samples, pause]))
            samples += len(clip.samples) + len(pause)
    return placed, "\n".join(lines)


def compare(utterances: list[AlignedUtterance], placed: list[Placed], rate_hz: int) -> dict[str, float]:
    """Return the shares that this module describes."""
    words = [(word, one.start_s + at_s) for one in placed for word, at_s in one.clip.words]
    times_s = np.array([at_s for _, at_s in words])
    spoken, quiet, done_s = [], [], 0.0
    for one in placed:
        length_s = len(one.clip.samples) / rate_hz
        inside = [(one.start_s + a, one.start_s + b) for a, b in one.clip.quiet]
        quiet += [(done_s, one.start_s), *inside]
        done_s = one.start_s + length_s
        first = one.start_s + (one.clip.quiet[0][1] if one.clip.quiet and one.clip.quiet[0][0] == 0 else 0.0)
        last = inside[-1][0] if inside and inside[-1][1] > done_s - 0.02 else done_s
        spoken.append((first, max(first, last)))
    quiet.append((done_s, np.inf))
    bounds = np.array(quiet)
    ends_s = np.array([end for one in utterances for end in (one.start_s, one.end_s)])
    near = ((bounds[:, 0] - TOLERANCE_S <= ends_s[:, None]) & (ends_s[:, None] <= bounds[:, 1] + TOLERANCE_S)).any(1)
    right = [
        " ".join(words[i][0] for i in np.flatnonzero((times_s > one.start_s) & (times_s < one.end_s))) == one.text
        for one in utterances
    ]
    phrases = [span for one in placed for span in one.phrases(len(one.clip.samples) / rate_hz)]

    def covered_s(spans: list[tuple[float, float]]) -> list[float]:
        return [sum(max(0.0, min(b, u.end_s) - max(a, u.start_s)) for u in utterances) for a, b in spans]

    covered = covered_s(spoken)
    lengths = [b - a for a, b in spoken]
    kept = [n for n, one in enumerate(placed) if one.as_spoken]
    return {
        "utterances": len(utterances),
        "ends_in_pauses": round(float(near.mean()), 4),
        "recovered": round(sum(covered) / sum(lengths), 4),
        "recovered_as_spoken": round(sum(covered[n] for n in kept) / sum(lengths[n] for n in kept), 4),
        "recovered_phrases": round(sum(covered_s(phrases)) / sum(b - a for a, b in phrases), 4),
        "wrong_texts": round(1 - float(np.mean(right)), 4),
    }


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/an4")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--pause", type=float, default=2.0, help="longest pause, in seconds")
    parser.add_argument("--share", type=float, default=0.05, help="of words changed, sentences missing and added")
    parser.add_argument("--seed", type=int, default=0, help="of pauses and changes")
    parser.add_argument("--music", action="store_true")
    parser.add_argument(
        "--word_limit", type=float, default=UtteranceSettings().word_limit, help="as config.align.word_limit"
    )
    options = parser.parse_args()
    model = ds2_jax.load(options.model, engine="greedy")
    clips = read_clips(model, options.manifest)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "joined.flac")
        placed, text = compose(path, clips, options, model.sample_rate_hz)
        before_mb, start = measure.peak_memory_mb(), time.perf_counter()
        found = model.align(path, text, settings=UtteranceSettings(word_limit=options.word_limit))
        seconds = time.perf_counter() - start
    result = {"benchmark": "align", **compare(found.utterances, placed, model.sample_rate_hz)}
    result |= {"audio_s_per_s": round(found.duration_s / seconds, 1)}
    result |= {"memory_mb": round(measure.peak_memory_mb() - before_mb)}
    print(json.dumps(result | {"options": vars(options)}))


if __name__ == "__main__":
    main()
