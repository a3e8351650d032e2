"""Speed of files sent over HTTP, compared with the same files given to `model.transcribe` at once.

    python -m benchmarks.serve_files --model=models/an4 --clients=16 --rounds=5

Both run on one core, in turn; the clients, each of which sends one file after the other, run on another one. Prints seconds of
audio per second of processor time of each, and their ratio: medians of the rounds.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp

from benchmarks.serve import cpu_s, started_server
from ds2_jax.recognition.recogniser import Audio
from input_pipeline import manifest
from input_pipeline.storage import console


def transcribe_on_request(requests: Connection, model: str, paths: list[Audio], core: int) -> None:
    """Transcribe all files at each request; answer with the processor time."""
    os.sched_setaffinity(0, {core})
    import ds2_jax

    recogniser = ds2_jax.load(model)
    while requests.recv():
        begun = time.process_time()
        recogniser.transcribe(paths)
        requests.send(time.process_time() - begun)


async def send_all(port: int, files: Sequence[bytes], clients: int) -> None:
    """Send all files, from as many clients at a time. Raises aiohttp.ClientResponseError for a file that is refused."""
    waiting = iter(files)

    async def client(http: aiohttp.ClientSession) -> None:
        for content in waiting:
            form = aiohttp.FormData()
            form.add_field("file", content, filename="clip.flac")
            async with http.post(f"http://127.0.0.1:{port}/v1/audio/transcriptions", data=form) as response:
                response.raise_for_status()

    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client(http))


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
    speeds: dict[str, list[float]] = {"at once": [], "over HTTP": []}
    with started_server(arguments.model, cores[-1], [f"--config.serve.sessions={arguments.clients}"]) as (
        server,
        port,
        _,
    ):
        for measured in (False, False, *[True] * arguments.rounds):
            here.send(True)
            at_once = here.recv()
            before = cpu_s(server.pid)
            asyncio.run(send_all(port, files, arguments.clients))
            over_http = cpu_s(server.pid) - before
            if measured:  # the first rounds compile
                speeds["at once"].append(audio_s / at_once)
                speeds["over HTTP"].append(audio_s / over_http)
    here.send(False)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, median in medians.items():
        print(
            f"{name}: {median:.0f} s of audio per processor second ({', '.join(f'{value:.0f}' for value in speeds[name])})"
        )
    print(f"ratio: {medians['over HTTP'] / medians['at once']:.2f}")


if __name__ == "__main__":
    main()
