"""Delays of a server under load: real WebSocket clients on this machine, at speaking pace.

    python -m benchmarks.serve --model=models/an4_live --streams=1,5,10,20,50
    python -m benchmarks.serve --model=models/an4_live --streams=10 --no_lm --gate=off
    python -m benchmarks.serve --random=librispeech --streams=1,2

The server runs on one core, the clients on another one. Each client sends clips of --manifest with pauses between them, in
pieces of 20 ms, and commits now and then. Delay of a partial result: from sending the last sample that its frames need, to
the message. Delay of a final one: from the commit to its text; of one that an endpoint ends: as of a partial one.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np

from input_pipeline import audio, manifest

ROOT = Path(__file__).parents[1]
RATE_HZ, PIECE_S, PAUSE_S, COMMIT_EVERY = 16000, 0.02, 1.0, 3  # clips from commit to commit
QUANTILES = (0.5, 0.95, 0.98)


@dataclass
class Delays:
    """Delays [s] that the clients saw."""

    partial: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    refused: int = 0


@contextlib.contextmanager
def started_server(model: str, core: int, flags: list[str]) -> Iterator[tuple[subprocess.Popen, int, dict]]:
    """Start a server on one core; yield its process, its port, and what it says to a client."""
    port = 18_086
    command = [sys.executable, "main.py", "--mode=serve", f"--config.restore={model}", f"--port={port}", *flags]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").close()
                break
            if process.poll() is not None:
                raise ValueError(f"the server ended: {' '.join(command)}")
            time.sleep(0.5)
        yield process, port, asyncio.run(_introduction(port))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


async def _introduction(port: int) -> dict:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"ws://127.0.0.1:{port}/stream") as socket:
        return await socket.receive_json()


async def speak(port: int, audio_: np.ndarray, commits: list[int], delays: Delays) -> None:
    """Send audio at speaking pace, commit after these numbers of samples, and note the delays of the answers."""
    size = int(PIECE_S * RATE_HZ)
    sent: list[float] = []  # clock of each piece
    committed: list[float] = []
    async with aiohttp.ClientSession() as http:
        try:
            socket = await http.ws_connect(f"ws://127.0.0.1:{port}/stream?rate={RATE_HZ}")
        except aiohttp.ClientError:
            delays.refused += 1
            return
        async with socket:

            async def listen() -> None:
                async for message in socket:
                    now, event = time.perf_counter(), json.loads(message.data)
                    if event["type"] == "end":
                        return
                    if event["type"] not in ("partial", "final"):
                        continue
                    if event.get("reason") == "commit":
                        if committed:
                            delays.final.append(now - committed.pop(0))
                        continue
                    piece = min(int(np.ceil(event["processed_s"] / PIECE_S)) - 1, len(sent) - 1)
                    (delays.partial if event["type"] == "partial" else delays.final).append(now - sent[max(piece, 0)])

            listening = asyncio.create_task(listen())
            start, due = time.perf_counter(), list(commits)
            for number in range(len(audio_) // size):
                await asyncio.sleep(max(0, start + (number + 1) * PIECE_S - time.perf_counter()))
                sent.append(time.perf_counter())
                await socket.send_bytes(audio_[number * size : (number + 1) * size].tobytes())
                if due and (number + 1) * size >= due[0]:
                    due.pop(0)
                    committed.append(time.perf_counter())
                    await socket.send_str('{"commit": true}')
            committed.append(time.perf_counter())
            await socket.send_str('{"end": true}')
            await asyncio.wait_for(listening, 60)


def make_speech(clips: list[np.ndarray], seconds: float, seed: int) -> tuple[np.ndarray, list[int]]:
    """Return int16 samples of clips in random order with pauses, and the positions of commits."""
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = [np.zeros(int(rng.uniform(0, 1) * RATE_HZ))]
    commits, total, spoken = [], len(parts[0]), 0
    while total < seconds * RATE_HZ:
        clip = clips[rng.integers(len(clips))]
        pause = 1e-4 * rng.standard_normal(int(PAUSE_S * RATE_HZ))
        parts += [clip, pause]
        total += len(clip) + len(pause)
        spoken += 1
        if spoken % COMMIT_EVERY == 0:
            commits.append(total - len(pause) // 2)
    samples = np.concatenate(parts)[: int(seconds * RATE_HZ)]
    return (samples * 32767).astype("<i2"), [c for c in commits if c < len(samples) - RATE_HZ]


async def load(port: int, speeches: list[tuple[np.ndarray, list[int]]]) -> Delays:
    """Let all clients speak; they start within a second."""
    delays = Delays()

    async def later(number: int, speech: np.ndarray, commits: list[int]) -> None:
        await asyncio.sleep(number / len(speeches))
        await speak(port, speech, commits, delays)

    await asyncio.gather(*(later(number, *speech) for number, speech in enumerate(speeches)))
    return delays


def cpu_s(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def make_random_bundle(recipe: str, folder: str) -> str:
    """Write a bundle with a recipe's network and random parameters."""
    import importlib

    from ds2_jax.artifacts.bundle import ModelMeta, save_bundle
    from ds2_jax.cli.settings import read_section
    from ds2_jax.network.model import ModelSettings, init_variables
    from input_pipeline.audio.features import FeatureSettings
    from input_pipeline.text import Vocabulary

    config = importlib.import_module(f"ds2_jax.configs.{recipe}").get_config()
    vocabulary = Vocabulary(tuple(" 'abcdefghijklmnopqrstuvwxyz"))
    features = read_section(FeatureSettings, config.features)
    meta = ModelMeta(read_section(ModelSettings, config.model), features, "none", None, vocabulary, "en")
    save_bundle(f"{folder}/random", meta, init_variables(meta.network, meta.feature_size, 0), "random parameters")
    return f"{folder}/random"


def _describe(values: list[float]) -> str:
    if not values:
        return "- | - | -"
    return " | ".join(f"{1000 * q:.0f}" for q in np.quantile(values, QUANTILES))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/an4_live")
    parser.add_argument("--random", default="", help="recipe whose network gets random parameters")
    parser.add_argument("--manifest", default="data/an4/dev.jsonl")
    parser.add_argument("--streams", default="1,5,10,20,50")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--gate", default="auto", choices=("auto", "on", "off"))
    parser.add_argument("--no_lm", action="store_true")
    arguments = parser.parse_args()
    rows = manifest.read_many(arguments.manifest)
    clips = [audio.read(rows.audio[row], RATE_HZ)[0] for row in range(len(rows))]
    counts = [int(count) for count in arguments.streams.split(",")]
    flags = [f"--config.serve.sessions={max(counts)}", f"--config.stream.voice_gate={arguments.gate}"]
    flags += ["--config.decode.lm=none"] if arguments.no_lm else []
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    with tempfile.TemporaryDirectory() as folder:
        model = make_random_bundle(arguments.random, folder) if arguments.random else arguments.model
        with started_server(model, cores[-1], flags) as (process, port, ready):
            print(
                f"chunk {ready['chunk_ms']:.0f} ms, look-ahead {ready['lookahead_ms']:.0f} ms, delays in ms (p50, p95, p98)"
            )
            print(
                "| streams | partial p50 | p95 | p98 | final p50 | p95 | p98 | core per stream | resident MB | refused |"
            )
            print("|---|---|---|---|---|---|---|---|---|---|")
            for count in counts:
                speeches = [make_speech(clips, arguments.seconds, seed) for seed in range(count)]
                before, clock = cpu_s(process.pid), time.perf_counter()
                delays = asyncio.run(load(port, speeches))
                share = (cpu_s(process.pid) - before) / (time.perf_counter() - clock) / count
                print(
                    f"| {count} | {_describe(delays.partial)} | {_describe(delays.final)} | {share:.1%} | "
                    f"{resident_mb(process.pid):.0f} | {delays.refused} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
