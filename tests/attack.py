"""Attack the program with damaged and hostile files, and count what happens.

    python -m tests.attack                      all attacks, as in docs/reliability.md
    python -m tests.attack bundle --tries=500   one of them

Each try damages one file at random (reproducible with --seed) and reads it in a child process under limits of memory and
time. Outcomes: `refused` (one line that names the fault), `same` (what was read is as without damage), `changed` (it is not),
`traceback`, `crash`, `hang`. The last three are faults of the program; `changed` is one where a digest is stored.
"""

import argparse
import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from tests import attack_targets as targets

MEMORY_BYTES = 2 << 30
TIME_LIMIT_S = 120.0  # of one try, on a busy machine
STARTS_S = 600.0  # of the child process, until its first outcome
FAULTS = ("traceback", "crash", "hang")
SHOWN = 300  # characters of a message

Read = Callable[[Path], object]  # reads a folder of files; what it returns tells damaged from undamaged content


@dataclass(frozen=True)
class Attack:
    """Files made by `make` in a folder, of which `files` are damaged by `damage`, and read by `read`.

    digests: whether the digests of all these files are stored, so that no changed content may be used.
    """

    make: Callable[[Path], None]
    files: str
    damage: Callable[[random.Random, Path], None]
    read: Read
    digests: bool = False


def flip(rng: random.Random, file: Path) -> None:
    """Flip one bit."""
    content = bytearray(file.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)


def cut(rng: random.Random, file: Path) -> None:
    """Remove a file, or its end."""
    if rng.random() < 0.5:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: rng.randrange(max(1, file.stat().st_size))])


def mutate(rng: random.Random, file: Path) -> None:
    """Change a file in one of the ways of a failing disk, a bad copy or an attacker."""
    content = bytearray(file.read_bytes())
    place = rng.randrange(len(content))
    length = rng.randrange(1, 200)
    way = rng.randrange(6)
    if way == 0:
        for _ in range(rng.randrange(1, 20)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif way == 1:
        del content[place:]
    elif way == 2:
        content[place : place + length] = b"\0" * length
    elif way == 3:
        del content[place : place + length]
    elif way == 4:
        content[place:place] = content[: length * 20]
    else:  # numbers in headers
        place = rng.randrange(min(len(content), 100))
        content[place : place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"9999"))
    file.write_bytes(content)


NESTED, LONG = "[" * 5000, "9" * 400
VALUES = (
    "null",
    "-1",
    "1e308",
    "1e999",
    "NaN",
    '""',
    "[]",
    "{}",
    r'"\ud800"',
    r'"\u0000"',
    "true",
    '"../../x"',
    LONG,
    NESTED,
)


def rewrite(rng: random.Random, file: Path) -> None:
    """Replace a value of JSON or another word of a text by another one, or mutate the bytes."""
    if rng.random() < 0.4:
        return mutate(rng, file)
    words = file.read_text(encoding="utf-8", errors="surrogateescape").split(" ")
    for _ in range(rng.randrange(1, 3)):
        place = rng.randrange(len(words))
        words[place] = rng.choice(VALUES) + ("," if words[place].endswith(",") else "")
    file.write_text(" ".join(words), encoding="utf-8", errors="surrogateescape")
    return None


ATTACKS = {
    "bundle": Attack(targets.make_bundle, "bundle/[!R]*", flip, targets.read_bundle, digests=True),
    "bundle-foreign": Attack(targets.make_foreign_bundle, "bundle/[!R]*", rewrite, targets.read_bundle),
    "checkpoint": Attack(
        targets.make_checkpoint, "run/checkpoints/3/*/**/*", flip, targets.resume_checkpoint, digests=True
    ),
    "checkpoint-cut": Attack(
        targets.make_checkpoint, "run/checkpoints/3/*/**/*", cut, targets.resume_checkpoint, digests=True
    ),
    "checkpoint-foreign": Attack(
        targets.make_foreign_checkpoint, "run/checkpoints/3/**/*", flip, targets.read_checkpoint
    ),
    "checkpoint-foreign-cut": Attack(
        targets.make_foreign_checkpoint, "run/checkpoints/3/**/*", cut, targets.resume_checkpoint
    ),
    "lm": Attack(targets.make_lm, "lm.bin", flip, targets.read_lm, digests=True),
    "lm-foreign": Attack(targets.make_foreign_lm, "lm.bin", flip, targets.read_lm),
    "arpa": Attack(targets.make_arpa, "lm.arpa", rewrite, targets.read_lm),
    "stats": Attack(targets.make_stats, "stats.npz", flip, targets.read_stats),
    "audio": Attack(targets.make_audio, "clip.*", mutate, targets.read_audio),
    "manifest": Attack(targets.make_manifest, "manifest.jsonl", rewrite, targets.read_manifest),
    "shards": Attack(targets.make_shards, "packed/*.array_record", flip, targets.read_shards, digests=True),
}


def run_child(attack: Attack, seed: int, first: int, tries: int) -> None:
    """Make the files, then print the outcome of each try as a line of JSON."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        whole, damaged = Path(name, "whole"), Path(name, "damaged")
        whole.mkdir()
        attack.make(whole)
        shutil.copytree(whole, damaged)
        expected = attack.read(damaged)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        files = sorted(path.relative_to(whole) for path in whole.glob(attack.files) if path.is_file())
        for number in range(first, tries):
            rng = random.Random(f"{seed} {number}")
            shutil.rmtree(damaged)
            shutil.copytree(whole, damaged)
            file = rng.choice(files)
            attack.damage(rng, damaged / file)
            outcome, message = _outcome(attack.read, damaged, expected)
            print(json.dumps([number, outcome, str(file), message]), file=output, flush=True)


def _outcome(read: Read, folder: Path, expected: object) -> tuple[str, str]:
    try:
        return ("same", "") if read(folder) == expected else ("changed", "")
    except (ValueError, OSError, MemoryError) as error:  # what commands report in one line
        message = str(error)
        return ("refused" if message and "\n" not in message else "traceback"), message[:SHOWN]
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error}"[:SHOWN]


def run_attack(name: str, tries: int, seed: int) -> Counter:
    """Run an attack; return how often each outcome was seen, and print faults."""
    outcomes: Counter = Counter()
    number = 0
    while number < tries:
        command = [
            sys.executable,
            "-m",
            "tests.attack",
            name,
            f"--tries={tries}",
            f"--seed={seed}",
            f"--first={number}",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            limit_s = STARTS_S
            begun = number
            while number < tries:
                ready, _, _ = select.select([child.stdout], [], [], limit_s)
                line = child.stdout.readline() if ready else b""
                if not line:
                    outcome = ["hang" if not ready else "crash", "", ""]
                    if not ready:
                        child.kill()
                    if child.wait() > 0 and number == begun:
                        raise RuntimeError(f"{name}: the attack itself failed with code {child.returncode}")
                else:
                    _, *outcome = json.loads(line)
                outcomes[outcome[0]] += 1
                if outcome[0] in FAULTS or (outcome[0] == "changed" and ATTACKS[name].digests):
                    print(f"{name} {number}: {outcome}", file=sys.stderr, flush=True)
                number += 1
                if not line:
                    break
                limit_s = TIME_LIMIT_S
    return outcomes


def one_of(attacks: Collection[str]) -> Callable[[str], str]:
    """Return what refuses another name than these on the command line; unlike `choices`, it allows none."""

    def check(name: str) -> str:
        if name not in attacks:
            raise argparse.ArgumentTypeError(f"{name!r} is no attack: choose from {', '.join(attacks)}")
        return name

    return check


def main() -> int:
    """Run the attacks and print a table; return 1 if any found a fault."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__, formatter_class=style)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", type=one_of(ATTACKS), help=", ".join(ATTACKS))
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.first is not None:
        run_child(ATTACKS[args.attacks[0]], args.seed, args.first, args.tries)
        return 0
    faults = 0
    for name in args.attacks or ATTACKS:
        outcomes = run_attack(name, args.tries, args.seed)
        faults += sum(outcomes[fault] for fault in FAULTS) + (outcomes["changed"] if ATTACKS[name].digests else 0)
        print(f"{name:24}{args.tries:6}  {', '.join(f'{n} {what}' for what, n in outcomes.most_common())}", flush=True)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
