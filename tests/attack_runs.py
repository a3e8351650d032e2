"""Attack running programs: kill them, interrupt them, fill their disk, let them work for long; count what happens.

    python -m tests.attack_runs                    all of these attacks, as in docs/reliability.md
    python -m tests.attack_runs kill --tries=50    one of them

`kill`, `SIGTERM` and `SIGINT` hit a small training at random moments (reproducible with --seed, as far as a machine's speed is);
the same command then goes on with it. `disk` trains on disks of random sizes that are too small, then makes room and goes on.
What is left at the end is compared with a training that nothing disturbed: the losses of all steps and all parameters, bit by bit.
`files` transcribes 3,000 files, and `evaluations` evaluates a manifest again and again, each in one process, and measure memory.
"""

import argparse
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.attack import one_of
from tests.runs import OWN_MOUNTS, ROOT, small_flags

CLIPS = Path(__file__).parent / "clips" / "manifest.jsonl"
LIMIT_S = 600.0  # of one run, on a busy machine
FAULTS = ("hang", "traceback", "crash", "changed", "grows")
FLAT_BYTES = 16 << 20  # by which memory may change after a third of the work
TRAINING = [
    *small_flags(CLIPS),
    f"--config.data.dev={CLIPS}",
    "--config.model.dropout=0.1",
    "--config.optim.ema=0.9",
    "--config.train.epochs=12",
    "--config.train.checkpoint_every_s=0",  # one at each step: most moments are in the writing of one
]


def command(workdir: Path) -> list[str]:
    """Return the command of the training."""
    return [sys.executable, str(ROOT / "main.py"), *TRAINING, f"--workdir={workdir}"]


def environment() -> dict[str, str]:
    """Return the environment of a training on one CPU device."""
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}


def result_of(workdir: Path) -> tuple[list[dict], str]:
    """Return the losses of all steps, all results on dev and a digest of the last model."""
    from ds2_jax.artifacts.load import digest_model, load_model

    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    measured = ("step", "loss", "grad_norm", "dev_wer", "dev_loss")
    return [{k: line[k] for k in measured if k in line} for line in lines], digest_model(*load_model(str(workdir)))


class Undisturbed:
    """A whole training, its result and how long it took."""

    def __init__(self, folder: Path):
        for name in ("first", "whole"):  # the first one fills the cache of compiled programs
            start = time.monotonic()
            subprocess.run(command(folder / name), env=environment(), check=True, capture_output=True)
            self.seconds = time.monotonic() - start
        self._result = result_of(folder / "whole")

    def compare(self, workdir: Path) -> str:
        """Return whether a training that was disturbed has the same result, bit by bit."""
        lines, model = result_of(workdir)
        if (lines, model) == self._result:
            return "bit-equal at the end"
        differing = [line for line in lines if line not in self._result[0]]
        print(f"{len(lines)} lines instead of {len(self._result[0])}, others are {differing[:5]}", file=sys.stderr)
        return "changed"


def end_of(process: subprocess.Popen, expected: tuple[int, ...], errors: Path) -> str:
    """Wait for a run that has to end with one of the expected codes; return the fault, or an empty text."""
    try:
        code = process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return "hang"
    if "Traceback" in errors.read_text():
        return "traceback"
    return "" if code in expected else "crash"


def interrupt(number: signal.Signals, folder: Path, tries: int, rng: random.Random) -> Counter:
    """Send a signal at random moments to a training, each time to the one that goes on; a new one begins where it ends."""
    undisturbed, outcomes = Undisturbed(folder), Counter[str]()
    workdir, errors, hits = folder / "hit", folder / "errors", 0
    codes = {signal.SIGKILL: (-9,), signal.SIGTERM: (75, -15), signal.SIGINT: (0, 130, -2)}[number]
    while hits < tries:
        with open(errors, "w") as file:
            process = subprocess.Popen(command(workdir), env=environment(), stdout=subprocess.DEVNULL, stderr=file)
            ended = True
            try:
                process.wait(rng.uniform(0.2, 1.0) * undisturbed.seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                ended = False
            fault = end_of(process, (0,) if ended else codes, errors)
        hits += not ended
        outcomes["ended by it"] += not ended and not fault
        outcomes[fault] += bool(fault)
        if fault:
            print(f"{number.name} {hits}: {fault}:\n{errors.read_text()[-2000:]}", file=sys.stderr, flush=True)
        if ended:
            outcomes[undisturbed.compare(workdir)] += 1
            shutil.rmtree(workdir)
    subprocess.run(command(workdir), env=environment(), check=True, capture_output=True)
    outcomes[undisturbed.compare(workdir)] += 1
    return outcomes


def fill_disk(folder: Path, tries: int, rng: random.Random) -> Counter:
    """Train on a disk of a random size; then make it larger, and go on."""
    undisturbed, outcomes = Undisturbed(folder), Counter[str]()
    needed = sum(file.stat().st_size for file in (folder / "whole").rglob("*") if file.is_file())
    disk = folder / "disk"
    disk.mkdir()
    script = """
        mount -t tmpfs -o size=$1 none "$2" || exit 99
        folder=$2 result=$3; shift 3
        timeout -k 1 600 "$@" > /dev/null 2> "$result.errors"; echo $? > "$result.code"
        mount -o remount,size=1g "$folder" && "$@" > /dev/null 2> "$result.again" && cp -r "$folder/run" "$result"
    """
    for number in range(tries):
        size, result = int(needed * rng.uniform(0.02, 1.0)), folder / f"result{number}"
        run = ["unshare", "-rm", "sh", "-c", script, "sh", str(size), str(disk), str(result), *command(disk / "run")]
        subprocess.run(run, env=environment(), timeout=3 * LIMIT_S)
        code, errors = int((folder / f"{result.name}.code").read_text()), (folder / f"{result.name}.errors").read_text()
        fault = "hang" if code in (124, 137) else "traceback" if "Traceback" in errors else "crash" if code < 0 else ""
        outcomes[fault or ("did not fill" if code == 0 else "refused")] += 1
        if fault or not result.exists():
            print(f"disk of {size} bytes: code {code}:\n{errors[-2000:]}", file=sys.stderr, flush=True)
        outcomes[undisturbed.compare(result) if result.exists() else "crash"] += 1
        shutil.rmtree(result, ignore_errors=True)
    return outcomes


REPEAT = """
import gc, sys
import ds2_jax

def resident():
    gc.collect()
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

model = ds2_jax.load("models/an4")
for number in range({times}):
    {work}
    if (number + 1) % {every} == 0:
        print(resident(), flush=True)
"""


def repeat(work: str, times: int, every: int) -> Counter:
    """Do the same again and again in one process; memory has to stay what it was after a third of the work."""
    code = REPEAT.format(work=work, times=times, every=every)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment())
    if run.returncode:
        print(run.stderr[-2000:], file=sys.stderr, flush=True)
        return Counter({"crash": 1})
    sizes = [int(line) << 10 for line in run.stdout.splitlines() if line.isdigit()]
    print("resident MB:", *(f"{size / 1e6:.0f}" for size in sizes), file=sys.stderr, flush=True)
    rest = sizes[len(sizes) // 3 :]
    return Counter({"flat" if max(rest) - rest[0] <= FLAT_BYTES else "grows": times})


def transcribe_files(folder: Path, tries: int, rng: random.Random) -> Counter:
    """Transcribe the clips again and again."""
    del folder, rng
    clips = sorted(str(path) for path in CLIPS.parent.glob("*.flac"))
    return repeat(f"model.transcribe({clips!r}[number % {len(clips)}])", tries, max(1, tries // 12))


def evaluate(folder: Path, tries: int, rng: random.Random) -> Counter:
    """Evaluate the clips again and again, each time as a new call."""
    del folder, rng
    return repeat(f"ds2_jax.evaluate(model, {str(CLIPS)!r})", tries, 1)


Attack = Callable[[Path, int, random.Random], Counter]
ATTACKS: dict[str, tuple[Attack, int]] = {  # with the usual number of tries
    "kill": (functools.partial(interrupt, signal.SIGKILL), 20),
    "SIGTERM": (functools.partial(interrupt, signal.SIGTERM), 10),
    "SIGINT": (functools.partial(interrupt, signal.SIGINT), 10),
    "disk": (fill_disk, 6),
    "files": (transcribe_files, 3000),
    "evaluations": (evaluate, 30),
}


def run_attack(name: str, tries: int, seed: int) -> Counter:
    """Run an attack; return how often each outcome was seen, and print faults."""
    attack, usual = ATTACKS[name]
    with tempfile.TemporaryDirectory() as folder:
        return +attack(Path(folder), tries or usual, random.Random(f"{seed} {name}"))


def main() -> int:
    """Run the attacks and print a table; return 1 if any found a fault."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.attack_runs", description=__doc__, formatter_class=style)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", type=one_of(ATTACKS), help=", ".join(ATTACKS))
    parser.add_argument("--tries", type=int, default=0, help="default: that of each attack")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    faults = 0
    for name in args.attacks or ATTACKS:
        if name == "disk" and not OWN_MOUNTS:
            print(f"{name:16} needs unshare and user namespaces", flush=True)
            continue
        outcomes = run_attack(name, args.tries, args.seed)
        faults += sum(outcomes[fault] for fault in FAULTS)
        print(f"{name:16}{', '.join(f'{n} {what}' for what, n in outcomes.most_common())}", flush=True)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
