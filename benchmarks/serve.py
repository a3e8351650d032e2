"""Delays of a server under load: real WebSocket clients on this machine, at speaking pace.

    python -m benchmarks.serve --model=models/an4_live --streams=1,5,10,20,50
    python -m benchmarks.serve --model=models/an4_live --streams=10 --no_lm --gate=off
    python -m benchmarks.serve --random=librispeech --streams=1,2

The server runs on one core, the clients on another one. Each client sends clips of --manifest with pauses between them, in
pieces of 20 ms, and commits now and then. Delay of a partial result: from sending the last sample that its frames need, to
the message. Delay of a final one with text: from the commit; of one that an endpoint ends: as of a partial one.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np

from benchmarks.measure import resident_memory_mb
from ds2_jax.serving.client import Connection, Delays, Server, ServerError, at_speaking_pace
from input_pipeline import audio, manifest
from input_pipeline.storage import console

ROOT = Path(__file__).parents[1]
RATE_HZ, PAUSE_S, COMMIT_EVERY = 16000, 1.0, 3  # clips from commit to commit
QUANTILES = (0.5, 0.95, 0.98)


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


async def speak(port: int, samples: np.ndarray, commits: list[int], delays: Delays) -> bool:
    """Send samples at speaking pace, commit after these numbers of them, and note the delays; return False if refused."""
    due, sent = list(commits), 0
    try:
        async with Connection(Server(port=port), RATE_HZ) as stream, asyncio.TaskGroup() as tasks:

            async def listen() -> None:
                async for result in stream.results():
                    delays.add(result)

            tasks.create_task(listen())
            async for piece in at_speaking_pace(samples, RATE_HZ):
                await stream.send(piece)
                sent += len(piece)
                if due and sent >= due[0]:
                    due.pop(0)
                    await stream.commit()
            await stream.end()
    except ServerError:
        return False
    return True


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


async def load(port: int, speeches: list[tuple[np.ndarray, list[int]]]) -> tuple[Delays, int]:
    """Let all clients speak, who start within a second; return the delays, and the number of clients refused."""
    delays = Delays()

    async def later(number: int, samples: np.ndarray, commits: list[int]) -> bool:
        await asyncio.sleep(number / len(speeches))
        return await speak(port, samples, commits, delays)

    served = await asyncio.gather(*(later(number, *speech) for number, speech in enumerate(speeches)))
    return delays, served.count(False)


def cpu_s(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


@console.command
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
    clips = [audio.read(rows.clips[row], RATE_HZ)[0] for row in range(len(rows))]
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
                delays, refused = asyncio.run(load(port, speeches))
                share = (cpu_s(process.pid) - before) / (time.perf_counter() - clock) / count
                print(
                    f"| {count} | {_describe(delays.partial)} | {_describe(delays.final)} | {share:.1%} | "
                    f"{resident_memory_mb(process.pid):.0f} | {refused} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
