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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.arpa import write_arpa

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


def make_bundle(folder: Path) -> None:
    """Write a bundle with a language model."""
    from ds2_jax.artifacts.bundle import save_bundle
    from ds2_jax.network.model import init_variables

    meta = tiny_meta()
    released = Path(__file__).parents[1] / "models" / "an4"
    extra = {name: released / name for name in ("lm.bin", "decode.json")}
    save_bundle(folder / "bundle", meta, init_variables(meta.network, meta.feature_size, 0), "# card\n", extra)


def make_foreign_bundle(folder: Path) -> None:
    """Write a bundle without digests."""
    make_bundle(folder)
    (folder / "bundle" / "SHA256SUMS").unlink()


def tiny_meta():
    import numpy as np

    from ds2_jax.artifacts.bundle import ModelMeta
    from ds2_jax.network.model import ModelSettings
    from input_pipeline.audio.features import FeatureSettings
    from input_pipeline.audio.front_end import FeatureStats
    from input_pipeline.text import Vocabulary

    stats = FeatureStats(np.linspace(-9, -5, 7, dtype=np.float32), np.linspace(1, 2, 7, dtype=np.float32))
    model = ModelSettings(conv="3x5/2x2:3", rnn_size=4, rnn_layers=1)
    vocabulary = Vocabulary(tuple(" '-abcdefghijklmnopqrstuvwxyz"))
    return ModelMeta(model, FeatureSettings(kind="fbank", mel_bins=7), "corpus", stats, vocabulary, "en")


def read_bundle(folder: Path) -> object:
    """Load the model and its decoder."""
    from ds2_jax.artifacts.load import digest_model, load_model
    from ds2_jax.recognition import decode_settings

    meta, variables = load_model(str(folder / "bundle"))
    settings = decode_settings.complete({}, str(folder / "bundle"))
    decode_settings.make_engine(settings, meta)
    return digest_model(meta, variables), repr(settings).replace(str(folder), "")


def make_checkpoint(folder: Path) -> None:
    """Write a checkpoint as a training does."""
    import jax.numpy as jnp
    import optax

    from ds2_jax.network.model import init_variables
    from ds2_jax.training.checkpoint import Checkpoints
    from ds2_jax.training.progress import Progress
    from ds2_jax.training.state import init_state

    meta = tiny_meta()
    variables = init_variables(meta.network, meta.feature_size, 0)
    state = init_state(variables, optax.sgd(0.1, momentum=0.9), None, average=False)
    with Checkpoints(str(folder / "run")) as checkpoints:
        checkpoints.save(state.replace(step=jnp.asarray(3, jnp.int32)), Progress(step=3), meta)


def make_foreign_checkpoint(folder: Path) -> None:
    """Write a checkpoint without digests."""
    make_checkpoint(folder)
    (folder / "run" / "checkpoints" / "3" / "SHA256SUMS").unlink()


def read_checkpoint(folder: Path) -> object:
    """Load the model of a checkpoint."""
    from ds2_jax.artifacts.load import digest_model, load_model

    return digest_model(*load_model(str(folder / "run")))


def resume_checkpoint(folder: Path) -> object:
    """Find the checkpoint to resume from; None if it is set aside."""
    from ds2_jax.training.checkpoint import Checkpoints

    with Checkpoints(str(folder / "run")) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise ValueError("set aside")
        return repr((checkpoints.progress(step), checkpoints.meta(step).to_json())), read_checkpoint(folder)


def make_lm(folder: Path) -> None:
    """Write a language model with its digest."""
    from input_pipeline.storage import digests

    make_foreign_lm(folder)
    digests.write_for(folder / "lm.bin")


def make_foreign_lm(folder: Path) -> None:
    """Write a language model without a digest."""
    released = Path(__file__).parents[1] / "models" / "an4"
    for name in ("lm.bin", "vocabulary.txt"):
        shutil.copyfile(released / name, folder / name)


def make_arpa(folder: Path) -> None:
    """Write a language model as text."""
    shutil.copyfile(Path(__file__).parents[1] / "models" / "an4" / "vocabulary.txt", folder / "vocabulary.txt")
    write_arpa(folder / "lm.arpa", ["go to the left", "stop", "turn to the right", "go right"])


def read_lm(folder: Path) -> object:
    """Decode noise with a language model."""
    import numpy as np

    from decoding.search import beam
    from decoding.settings import BeamSettings
    from input_pipeline.text import Vocabulary

    vocabulary = Vocabulary.load(folder / "vocabulary.txt")
    lm = next(folder / name for name in ("lm.bin", "lm.arpa") if (folder / name).exists())
    engine = beam.make_engine(vocabulary, BeamSettings(engine="native", lm=str(lm), threads=1), 0.02)
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (4, 150, vocabulary.size))
    log_probs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
    return repr([[hypothesis.text for hypothesis in found] for found in engine.decode_batch(list(log_probs))])


def make_stats(folder: Path) -> None:
    """Write feature statistics."""
    stats = tiny_meta().stats
    assert stats is not None
    stats.save(folder / "stats.npz")


def read_stats(folder: Path) -> object:
    """Read feature statistics."""
    from input_pipeline.audio.front_end import FeatureStats

    stats = FeatureStats.load(folder / "stats.npz")
    return repr((stats.mean.tolist(), stats.std.tolist()))


def make_audio(folder: Path) -> None:
    """Write a clip in several formats."""
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    samples = np.cumsum(rng.normal(0, 0.01, 8000)).clip(-0.9, 0.9).astype(np.float32)
    for suffix in ("wav", "flac", "ogg", "mp3", "aiff", "au"):
        soundfile.write(folder / f"clip.{suffix}", samples, 16000)


def read_audio(folder: Path) -> object:
    """Read all clips; the first that is refused ends it."""
    from input_pipeline import audio

    return [len(audio.read(str(file), 16000, longest_s=60.0)[0]) for file in sorted(folder.iterdir())]


def make_manifest(folder: Path) -> None:
    """Write a manifest and its audio."""
    make_audio(folder)
    rows = [{"audio_filepath": f"clip.{s}", "duration": 0.5, "text": f"a text {s}"} for s in ("wav", "flac", "ogg")]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_manifest(folder: Path) -> object:
    """Read a manifest and its clips."""
    from input_pipeline import audio, manifest

    rows = manifest.read(folder / "manifest.jsonl")
    return [(len(audio.read(rows.clips[i], 16000, longest_s=60.0)[0]), rows.text[i]) for i in range(len(rows))]


ATTACKS = {
    "bundle": Attack(make_bundle, "bundle/[!R]*", flip, read_bundle, digests=True),
    "bundle-foreign": Attack(make_foreign_bundle, "bundle/[!R]*", rewrite, read_bundle),
    "checkpoint": Attack(make_checkpoint, "run/checkpoints/3/*/**/*", flip, resume_checkpoint, digests=True),
    "checkpoint-cut": Attack(make_checkpoint, "run/checkpoints/3/*/**/*", cut, resume_checkpoint, digests=True),
    "checkpoint-foreign": Attack(make_foreign_checkpoint, "run/checkpoints/3/**/*", flip, read_checkpoint),
    "checkpoint-foreign-cut": Attack(make_foreign_checkpoint, "run/checkpoints/3/**/*", cut, resume_checkpoint),
    "lm": Attack(make_lm, "lm.bin", flip, read_lm, digests=True),
    "lm-foreign": Attack(make_foreign_lm, "lm.bin", flip, read_lm),
    "arpa": Attack(make_arpa, "lm.arpa", rewrite, read_lm),
    "stats": Attack(make_stats, "stats.npz", flip, read_stats),
    "audio": Attack(make_audio, "clip.*", mutate, read_audio),
    "manifest": Attack(make_manifest, "manifest.jsonl", rewrite, read_manifest),
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


def main() -> int:
    """Run the attacks and print a table; return 1 if any found a fault."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__, formatter_class=style)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(ATTACKS))
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
