"""Speed of files sent over HTTP, compared with the same files given to `model.transcribe` at once.

    python -m benchmarks.serve_files --model=models/an4 --clients=16 --rounds=5

Both run on one core, in turn; the clients, each of which sends one file after the other, run on another one. Prints seconds of
audio per second of processor time (user and system, of all threads of the process) and per second of the wall clock, medians
of the rounds; the ratios are medians of those within a round. Other programs on the machine change the wall clock's figures.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp

from benchmarks.serve import cpu_s, started_server
from ds2_jax.recognition.clips import Audio
from input_pipeline import manifest
from input_pipeline.storage import console


@dataclass(frozen=True)
class Round:
    """Texts of all files, and the seconds of processor and wall clock that they took."""

    texts: list[str]
    processor_s: float
    wall_s: float


def timed(transcribe: Callable[[], list[str]], processor_s: Callable[[], float]) -> Round:
    """Measure a call."""
    processor, wall = processor_s(), time.perf_counter()
    texts = transcribe()
    return Round(texts, processor_s() - processor, time.perf_counter() - wall)


def transcribe_on_request(requests: Connection, model: str, paths: list[Audio], core: int) -> None:
    """Transcribe all files at each request, and answer with the round."""
    os.sched_setaffinity(0, {core})
    import ds2_jax

    recogniser = ds2_jax.load(model)
    while requests.recv():
        requests.send(timed(lambda: [clip.text for clip in recogniser.transcribe(paths)], time.process_time))


async def send_all(port: int, files: Sequence[bytes], clients: int) -> list[str]:
    """Send all files, from as many clients at a time; return their texts.

    Raises aiohttp.ClientResponseError for a file that is refused.
    """
    waiting, texts = iter(enumerate(files)), [""] * len(files)

    async def client(http: aiohttp.ClientSession) -> None:
        for number, content in waiting:
            form = aiohttp.FormData()
            form.add_field("file", content, filename="clip.flac")
            async with http.post(f"http://127.0.0.1:{port}/v1/audio/transcriptions", data=form) as response:
                response.raise_for_status()
                texts[number] = (await response.json())["text"]

    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client(http))
    return texts


@console.command
def main() -> None:
    """Print the speeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/an4")
    parser.add_argument("--manifest", default="data/an4/dev.jsonl")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows = manifest.read_many(arguments.manifest)
    paths: list[Audio] = [rows.audio[row] for row in range(len(rows))]
    files = [Path(rows.audio[row]).read_bytes() for row in range(len(rows))]
    audio_s = float(sum(rows.duration))
    cores = sorted(os.sched_getaffinity(0))
    here, there = multiprocessing.get_context("spawn").Pipe()
    offline = multiprocessing.get_context("spawn").Process(
        target=transcribe_on_request, args=(there, arguments.model, paths, cores[-1]), daemon=True
    )
    offline.start()
    there.close()
    os.sched_setaffinity(0, {cores[0]})
    at_once: list[Round] = []
    over_http: list[Round] = []
    flags = [f"--config.serve.sessions={arguments.clients}"]
    with started_server(arguments.model, cores[-1], flags) as (server, port, _):

        def measure(clients: int) -> tuple[Round, Round]:
            here.send(True)
            offline_round = here.recv()
            return offline_round, timed(lambda: asyncio.run(send_all(port, files, clients)), lambda: cpu_s(server.pid))

        for clients in (1, arguments.clients):  # compiles all shapes
            measure(clients)
        for _ in range(arguments.rounds):
            for results, result in zip((at_once, over_http), measure(arguments.clients), strict=True):
                results.append(result)
    here.send(False)
    for name, results in (("at once", at_once), ("over HTTP", over_http)):
        processor = statistics.median(audio_s / result.processor_s for result in results)
        wall = statistics.median(audio_s / result.wall_s for result in results)
        print(f"{name}: {processor:.0f} s of audio per processor second, {wall:.0f} per second of the wall clock")
    pairs = list(zip(at_once, over_http, strict=True))
    ratios = [one.processor_s / other.processor_s for one, other in pairs]
    wall = statistics.median(one.wall_s / other.wall_s for one, other in pairs)
    different = max(sum(a != b for a, b in zip(one.texts, other.texts, strict=True)) for one, other in pairs)
    print(
        f"ratio: {statistics.median(ratios):.2f} of processor time ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"{wall:.2f} of the wall clock; {different} of {len(files)} texts differ"
    )


if __name__ == "__main__":
    main()
