"""Build the decoder for browsers: `python -m decoding.native.browser_build --output=DIR` writes decoder.mjs and decoder.wasm.

Needs emscripten (Debian: apt-get install emscripten). The module has a class `Decoder` (browser/binding.cc), and a file system in
memory for the language model.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from decoding.native.build import BUILD, HERE, KENLM, MAX_ORDER, BuildError, compile_all, run, sources
from input_pipeline.storage import console

COMPILER = "em++"
FILES = ("decoder.mjs", "decoder.wasm")
EXCEPTIONS = "-fwasm-exceptions"
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-w", EXCEPTIONS, f"-DKENLM_MAX_ORDER={MAX_ORDER}", f"-I{KENLM}", f"-I{HERE}")
LINK = (
    "-O3",
    EXCEPTIONS,
    "--bind",
    "-sMODULARIZE",
    "-sEXPORT_ES6",
    "-sENVIRONMENT=web,worker",
    "-sALLOW_MEMORY_GROWTH",
    "-sFORCE_FILESYSTEM",
    "-sEXPORTED_RUNTIME_METHODS=FS",
    "-sDYNAMIC_EXECUTION=0",  # pages need not allow eval
)
DEBIAN_NODE = "/usr/share/nodejs"  # modules that Debian's emscripten needs; Node.js from elsewhere does not look there


def available() -> bool:
    """Tell whether emscripten is installed."""
    return shutil.which(COMPILER) is not None


def build(output: Path, folder: Path = BUILD / "browser") -> list[Path]:
    """Write the module into `output`, with object files in `folder`; return its files. Raises BuildError."""
    if not available():
        raise BuildError(f"{COMPILER} was not found (Debian: apt-get install emscripten)")
    files = [file for file in sources() if file != HERE / "binding.cc"]
    objects = compile_all(folder, [COMPILER, *FLAGS], [*files, HERE / "browser" / "binding.cc"])
    output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("NODE_PATH", DEBIAN_NODE)
    run([COMPILER, *LINK, *map(str, objects), "-o", str(output / FILES[0])])
    return [output / name for name in FILES]


@console.command
def main() -> int:
    """Run the command line, print the result and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the two files")
    args = parser.parse_args()
    try:
        files = build(args.output)
    except BuildError as error:
        print(f"the decoder for browsers was not built: {error}", file=sys.stderr)
        return 1
    for file in files:
        print(f"{file}: {file.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
