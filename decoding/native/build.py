"""Build the native decoder: `python -m decoding.native.build [--optional] [--sanitize]`.

Compiles KenLM's query sources (third_party/kenlm) and ours into one extension module beside this file, in parallel; a
source is compiled again only if it or a header has changed. --optional exits with 0 if there is no compiler. --sanitize
builds with ASan and UBSan into a folder of its own.

setup.py runs this file without its package, so it imports nothing that the build of a wheel does not install.
"""

import argparse
import concurrent.futures
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from input_pipeline.cores import usable_cores
from input_pipeline.storage import console, whole_file

HERE = Path(__file__).resolve().parent
KENLM = HERE / "third_party" / "kenlm"
BUILD = HERE.parents[1] / "build"
EXTENSION = "_native" + (sysconfig.get_config_var("EXT_SUFFIX") or ".so")
MAX_ORDER = 6  # of language models, as in the original
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-w", f"-DKENLM_MAX_ORDER={MAX_ORDER}")
SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer")
COMPRESSION = {
    "zlib.h": ("-DHAVE_ZLIB", "-lz"),
    "bzlib.h": ("-DHAVE_BZLIB", "-lbz2"),
    "lzma.h": ("-DHAVE_XZLIB", "-llzma"),
}

Compiled = tuple[Path, bool]  # object file, and whether it was compiled now


class BuildError(RuntimeError):
    """The extension cannot be built; the message says what is missing or holds the compiler's output."""


def find_compiler() -> list[str]:
    """Return the command of the C++ compiler: $CXX if it is set, else the first one found. Raises BuildError."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else (["g++"], ["clang++"], ["c++"]):
        if shutil.which(command[0]):
            return command
    where = f"CXX={shlex.join(named)}" if named else "Debian: apt-get install g++; macOS: xcode-select --install"
    raise BuildError(f"no C++ compiler was found ({where})")


def sources() -> list[Path]:
    """List the files to compile: KenLM's and ours. Raises BuildError if they are not here."""
    kenlm = sorted(KENLM.rglob("*.cc"))
    if not kenlm:
        raise BuildError(f"{KENLM} has no sources: a wheel does not hold them; install from the source distribution")
    return kenlm + sorted(HERE.glob("*.cc"))


def build(
    folder: Path,
    output: Path,
    compiler: list[str],
    *,
    sanitize: bool = False,
    watch: Callable[[Iterator[Compiled]], Iterable[Compiled]] = iter,
) -> bool:
    """Compile into `folder` and link to `output`; return whether there was anything to do. Raises BuildError.

    watch: sees each object as it is compiled, to show the progress.
    """
    import pybind11

    includes = [f"-I{path}" for path in (KENLM, HERE, pybind11.get_include(), sysconfig.get_paths()["include"])]
    present = [flags for header, flags in COMPRESSION.items() if _has_header(compiler, header)]
    flags = [*FLAGS, *(SANITIZE if sanitize else ()), *(define for define, _ in present), *includes]
    objects = compile_all(folder, [*compiler, *flags], sources(), watch)
    linked = folder / "linked"  # lists the object files of the output
    names = "\n".join(target.name for target in objects)
    if output.is_file() and linked.is_file() and linked.read_text() == names:
        return False
    link = ["-shared", "-pthread", *(library for _, library in present)]
    if sys.platform == "darwin":
        link += ["-undefined", "dynamic_lookup"]
    elif sys.platform.startswith("linux"):
        link.append("-lrt")
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file.temporary_path(output) as path:
        run([*compiler, *(SANITIZE if sanitize else ()), *map(str, objects), *link, "-o", str(path)])
        linked.unlink(missing_ok=True)
    linked.write_text(names)
    return True


def compile_all(
    folder: Path,
    command: list[str],
    files: list[Path],
    watch: Callable[[Iterator[Compiled]], Iterable[Compiled]] = iter,
) -> list[Path]:
    """Compile sources, in parallel, with a compiler and its flags; return the object files in `folder`. Raises BuildError."""
    folder.mkdir(parents=True, exist_ok=True)
    headers = b"".join(file.read_bytes() for file in sorted(HERE.rglob("*.h*")))

    def compile_one(source: Path) -> Compiled:
        key = hashlib.sha256(repr(command).encode() + headers + source.read_bytes()).hexdigest()[:16]
        target = folder / f"{source.stem}-{key}.o"
        if target.is_file():
            return target, False
        with whole_file.temporary_path(target) as path:
            run([*command, "-c", str(source), "-o", str(path)])
        return target, True

    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        return [target for target, _ in watch(pool.map(compile_one, files))]


def _has_header(compiler: list[str], header: str) -> bool:
    command = [*compiler, "-E", "-x", "c++", "-"]
    return subprocess.run(command, input=f"#include <{header}>", capture_output=True, text=True).returncode == 0


def run(command: list[str]) -> None:
    """Run a compiler. Raises BuildError with what it says."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"{shlex.join(command)}\n{result.stderr[-4000:]}")


@console.command
def main() -> int:
    """Run the command line, print the result and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--optional", action="store_true", help="exit with 0 if there is no compiler or the build fails"
    )
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan, into build/native-sanitized")
    args = parser.parse_args()
    folder = BUILD / ("native-sanitized" if args.sanitize else "native")
    output = folder / EXTENSION if args.sanitize else HERE / EXTENSION
    try:
        from tqdm import tqdm

        watch = functools.partial(tqdm, total=len(sources()), desc="native decoder", unit=" files", delay=1)
        built = build(folder, output, find_compiler(), sanitize=args.sanitize, watch=watch)
    except BuildError as error:
        print(f"the native decoder was not built; decoding falls back to ctc_beam_decoder: {error}", file=sys.stderr)
        return 0 if args.optional else 1
    print(f"native decoder: {output}" + ("" if built else " (up to date)"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
