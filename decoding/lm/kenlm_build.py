"""Build KenLM's `lmplz` and `build_binary` into build/kenlm/bin of a checkout, as `make kenlm` does. Takes a minute or two.

They are needed to train language models, not to use them.
"""

import argparse
import collections
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from decoding.lm import kenlm_source
from input_pipeline.cores import usable_cores
from input_pipeline.storage import console

BIN = kenlm_source.BUILD / "kenlm" / "bin"
PROGRAMS = ("lmplz", "build_binary")
HEADERS = ("boost/program_options.hpp", "boost/thread.hpp", "zlib.h", "bzlib.h", "lzma.h")
BOOST = " ".join(f"libboost-{part}-dev" for part in ("program-options", "system", "thread", "test"))
DEBIAN = f"g++ cmake {BOOST} zlib1g-dev libbz2-dev liblzma-dev"
BREW = "cmake boost xz"
PROGRESS = re.compile(r"\[ *(\d+)%\]")  # in cmake's output
LINES_SHOWN = 40  # of the output of a failed build


class KenlmError(RuntimeError):
    """KenLM's programs cannot be built or run; the message says what to do."""


def program(name: str) -> str:
    """Return the path of a program: the one built here, else one on the PATH. Raises KenlmError."""
    path = str(BIN / name) if (BIN / name).is_file() else shutil.which(name)
    if not path:
        raise KenlmError(f"KenLM's {name} is not built: run make kenlm, or python -m decoding.lm.kenlm_build")
    return path


def missing() -> list[str]:
    """Return the missing tools and headers that the build needs."""
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    absent = [name for name in ("cmake",) if not shutil.which(name)]
    if compiler is None:
        return [*absent, "a C++ compiler"]
    for header in HEADERS:
        check = subprocess.run(
            [compiler, "-E", "-x", "c++", "-"], input=f"#include <{header}>", capture_output=True, text=True
        )
        if check.returncode:
            absent.append(header)
    return absent


def build() -> None:
    """Build the programs unless they exist. Raises KenlmError with what is missing, or cmake's output."""
    if all((BIN / name).is_file() for name in PROGRAMS):
        return
    if names := missing():
        raise KenlmError(
            f"{', '.join(names)} not found. Debian: apt-get install {DEBIAN}. macOS: xcode-select --install; brew install {BREW}"
        )
    try:
        source = kenlm_source.fetch()
    except kenlm_source.SourceError as error:
        raise KenlmError(str(error)) from error
    folder = BIN.parent
    jobs = str(usable_cores())
    # The archive's CMake files are written for versions before 3.5.
    configure = [
        "cmake",
        "-S",
        str(source),
        "-B",
        str(folder),
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_POLICY_VERSION_MINIMUM=3.5",
    ]
    for command in (configure, ["cmake", "--build", str(folder), "--parallel", jobs, "--target", *PROGRAMS]):
        _run(command)


def _run(command: list[str]) -> None:
    """Run cmake with a progress bar. Raises KenlmError with the end of its output."""
    print(" ".join(command), flush=True)
    last: collections.deque[str] = collections.deque(maxlen=LINES_SHOWN)
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
        tqdm(total=100, desc="KenLM", unit="%", delay=2, leave=False) as bar,
    ):
        for line in process.stdout or ():
            last.append(line)
            if progress := PROGRESS.match(line):
                bar.update(int(progress[1]) - bar.n)
    if process.returncode:
        raise KenlmError(f"{' '.join(command)} failed:\n{''.join(last)}")


@console.command
def main() -> int:
    """Build the programs and print where they are; return the exit code."""
    argparse.ArgumentParser(prog="python -m decoding.lm.kenlm_build", description=__doc__).parse_args()
    try:
        build()
    except KenlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"KenLM's programs: {', '.join(str(Path(BIN, name)) for name in PROGRAMS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
