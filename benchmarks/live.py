"""Error rates of streams: by chunk and right context, by endpoints in joined clips, and how often partial results change.

    python -m benchmarks.live --model=models/an4 --manifest=data/an4/dev.jsonl --chunks=200:200,400:400,800:800
    python -m benchmarks.live --model=models/an4_live --manifest=data/an4/dev.jsonl --joined

--chunks: milliseconds of chunk and right context; only the chunk matters to a unidirectional network. --joined: all clips
of a speaker in one stream, with pauses of two seconds between them, cut by the endpoints.
"""

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np

import ds2_jax
from decoding.scoring.error_rate import count_utterance
from ds2_jax.recognition.recogniser import Recogniser
from ds2_jax.recognition.stream import join_texts
from ds2_jax.recognition.stream_settings import EndpointSettings, StreamSettings
from input_pipeline import audio, manifest
from input_pipeline.storage import console
from input_pipeline.text import ScoringRules

NO_ENDPOINTS = EndpointSettings(silence_s=0, after_text_s=0, longest_s=0, early_s=0)
PIECE_S, PAUSE_S = 0.02, 2.0


@dataclasses.dataclass
class Revisions:
    """Words of partial results that the next one changed, counted at each change."""

    partials: int = 0
    words: int = 0
    beyond_two: int = 0

    def add(self, before: Sequence[str], after: Sequence[str]) -> None:
        """Count a partial result that replaces another one."""
        shared = 0
        while shared < min(len(before), len(after)) and before[shared] == after[shared]:
            shared += 1
        self.partials += 1
        self.words += len(before) - shared
        self.beyond_two += len(before) - shared > 2


def recognise(model: Recogniser, samples: np.ndarray, settings: StreamSettings, revisions: Revisions) -> str:
    """Return the text of all segments of a stream."""
    stream = model.stream(model.sample_rate_hz, settings)
    size = int(PIECE_S * model.sample_rate_hz)
    texts: list[str] = []
    shown: list[str] = []
    for start in range(0, len(samples), size):
        stream.feed(samples[start : start + size])
        if finals := stream.finals():
            texts += [segment.text for segment in finals]
            shown = []
        words = [word.text for word in stream.partial().words]
        if words != shown:
            revisions.add(shown, words)
            shown = words
    return join_texts([*texts, *(segment.text for segment in stream.finish())])


def measure(model: Recogniser, clips: Sequence[tuple[str, np.ndarray]], settings: StreamSettings) -> str:
    """Return error rates and revisions as a row."""
    revisions, rules = Revisions(), ScoringRules.for_language(model.meta.language)
    words = characters = 0
    totals = np.zeros(2, int)
    for text, samples in clips:
        by_word, by_character = count_utterance(text, recognise(model, samples, settings, revisions), rules)
        words, characters = words + by_word.errors, characters + by_character.errors
        totals += by_word.reference, by_character.reference
    step = model.stream_step(settings)
    return (
        f"| {step.chunk_ms:.0f} | {step.lookahead_ms:.0f} | {words / totals[0]:.2%} | {characters / totals[1]:.2%} | "
        f"{revisions.words / max(revisions.partials, 1):.2f} | {revisions.beyond_two / max(revisions.partials, 1):.1%} |"
    )


def load_clips(path: str, rate_hz: int, *, joined: bool) -> list[tuple[str, np.ndarray]]:
    """Return text and samples of each clip, or of all clips of each speaker, with pauses of soft noise."""
    rows = manifest.read_many(path)
    clips = [(rows.text[row], audio.read(rows.clips[row], rate_hz)[0]) for row in range(len(rows))]
    if not joined:
        return clips
    speakers: dict[str, list[tuple[str, np.ndarray]]] = {}
    for row, clip in enumerate(clips):
        speakers.setdefault(rows.speaker(row), []).append(clip)
    pause = 1e-4 * np.random.default_rng(0).standard_normal(int(PAUSE_S * rate_hz)).astype(np.float32)
    return [
        (" ".join(text for text, _ in group), np.concatenate([part for _, s in group for part in (s, pause)]))
        for group in speakers.values()
    ]


@console.command
def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--chunks", default="0:400")
    parser.add_argument("--joined", action="store_true")
    parser.add_argument("--engine", default="")
    parser.add_argument("--gate", default="off", choices=("on", "off"))
    arguments = parser.parse_args()
    model = ds2_jax.load(arguments.model, **({"engine": arguments.engine} if arguments.engine else {}))
    clips = load_clips(arguments.manifest, model.sample_rate_hz, joined=arguments.joined)
    print(
        "| chunk, ms | look-ahead, ms | WER | CER | words changed by a partial | partials that change more than two |"
    )
    print("|---|---|---|---|---|---|")
    for pair in arguments.chunks.split(","):
        chunk_ms, right_ms = map(float, pair.split(":"))
        endpoint = EndpointSettings() if arguments.joined else NO_ENDPOINTS
        print(
            measure(model, clips, StreamSettings(chunk_ms, right_ms, voice_gate=arguments.gate, endpoint=endpoint)),
            flush=True,
        )


if __name__ == "__main__":
    main()
