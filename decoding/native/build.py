"""Build the native decoder: `python -m decoding.native.build [--optional] [--sanitize]`.

Compiles KenLM's query sources and those of this folder into one extension module beside this file, in parallel; only
what has changed is compiled again. --optional: succeed without a compiler. --sanitize: build with ASan and UBSan, into
another folder.
"""

import argparse
import concurrent.futures
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from decoding.lm import kenlm_source
from input_pipeline.cores import usable_cores
from input_pipeline.storage import whole_file

HERE = Path(__file__).resolve().parent
EXTENSION = "_native" + (sysconfig.get_config_var("EXT_SUFFIX") or ".so")
MAX_ORDER = 6  # of language models, as in the original
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-w", f"-DKENLM_MAX_ORDER={MAX_ORDER}")
SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer")
COMPRESSION = {
    "zlib.h": ("-DHAVE_ZLIB", "-lz"),
    "bzlib.h": ("-DHAVE_BZLIB", "-lbz2"),
    "lzma.h": ("-DHAVE_XZLIB", "-llzma"),
}


class BuildError(RuntimeError):
    """The extension cannot be built; the message has the compiler's output."""


def find_compiler() -> str | None:
    """Return the path of the C++ compiler: $CXX, else the first one found; None if there is none."""
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def sources(kenlm: Path) -> list[Path]:
    """Return the files to compile: KenLM's without tests and programs, and those of this folder."""
    folders = (kenlm / "lm", kenlm / "util", kenlm / "util" / "double-conversion")
    files = [file for folder in folders for file in sorted(folder.glob("*.cc"))]
    return [file for file in files if not file.stem.endswith(("_test", "_main"))] + sorted(HERE.glob("*.cc"))


def build(folder: Path, output: Path, compiler: str, *, sanitize: bool = False) -> bool:
    """Compile into `folder` and link `output`; return False if it was up to date. Raises BuildError, SourceError."""
    import pybind11
    from tqdm import tqdm

    kenlm = kenlm_source.fetch()
    folder.mkdir(parents=True, exist_ok=True)
    includes = [f"-I{path}" for path in (kenlm, HERE, pybind11.get_include(), sysconfig.get_paths()["include"])]
    present = [flags for header, flags in COMPRESSION.items() if _has_header(compiler, header)]
    flags = [*FLAGS, *(SANITIZE if sanitize else ()), *(define for define, _ in present), *includes]
    headers = b"".join(file.read_bytes() for file in sorted(HERE.glob("*.hh")))

    def compile_one(source: Path) -> tuple[Path, bool]:
        key = hashlib.sha256(repr((compiler, flags)).encode() + headers + source.read_bytes()).hexdigest()[:16]
        target = folder / f"{source.stem}-{key}.o"
        if target.is_file():
            return target, False
        with whole_file.temporary_path(target) as path:
            _run([compiler, *flags, "-c", str(source), "-o", str(path)])
        return target, True

    files = sources(kenlm)
    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        bar = tqdm(pool.map(compile_one, files), total=len(files), desc="native decoder", unit=" files", delay=1)
        objects = list(bar)
    linked = folder / "linked"  # lists the object files of the output
    names = "\n".join(target.name for target, _ in objects)
    if output.is_file() and linked.is_file() and linked.read_text() == names:
        return False
    link = ["-shared", "-pthread", *(library for _, library in present)]
    if sys.platform == "darwin":
        link += ["-undefined", "dynamic_lookup"]
    elif sys.platform.startswith("linux"):
        link.append("-lrt")
    sanitizers = SANITIZE if sanitize else ()
    with whole_file.temporary_path(output) as path:
        _run([compiler, *sanitizers, *(str(target) for target, _ in objects), *link, "-o", str(path)])
        linked.unlink(missing_ok=True)
    linked.write_text(names)
    return True


def _has_header(compiler: str, header: str) -> bool:
    command = [compiler, "-E", "-x", "c++", "-"]
    return subprocess.run(command, input=f"#include <{header}>", capture_output=True, text=True).returncode == 0


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"{' '.join(command)}\n{result.stderr[-4000:]}")


def main() -> int:
    """Run the command line, print the result and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optional", action="store_true", help="succeed if compiler or source are missing")
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan, into build/native-sanitized")
    args = parser.parse_args()
    folder = kenlm_source.BUILD / ("native-sanitized" if args.sanitize else "native")
    output = folder / EXTENSION if args.sanitize else HERE / EXTENSION
    compiler = find_compiler()
    try:
        if compiler is None:
            raise BuildError("no C++ compiler was found (Debian: apt-get install g++; macOS: xcode-select --install)")
        built = build(folder, output, compiler, sanitize=args.sanitize)
    except (BuildError, kenlm_source.SourceError) as error:
        print(f"the native decoder was not built; decoding falls back to ctc_beam_decoder: {error}", file=sys.stderr)
        return 0 if args.optional else 1
    print(f"native decoder: {output}" + ("" if built else " (up to date)"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
