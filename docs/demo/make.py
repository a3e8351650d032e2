"""Fill this folder with what the page needs, as `make demo` does: `python -m docs.demo.make models/an4 models/an4_live`.

- vendor/onnxruntime: onnxruntime-web from the npm registry, of a fixed version and digest;
- vendor/decoder: the native decoder as WebAssembly, if emscripten is installed; without it, the page decodes greedily;
- models/NAME: exported models, with float16 weights, and the language models of their bundles.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from decoding.lm import model_file
from decoding.native import browser_build
from decoding.native.build import BUILD, BuildError
from input_pipeline.storage import console, whole_file
from input_pipeline.storage.download import DownloadError, fetch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VERSION = "1.30.0"
ARCHIVE = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
ENGINE_FILES = ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm", "package.json")
# Of an exported model, what the page reads.
MODEL_FILES = ("model.float16.onnx", "metadata.json", "decode.json")
LANGUAGE_MODELS = ("lm.bin", "lm.arpa")
WORDS = "words.txt"  # that the language model knows


def vendor_engine(folder: Path) -> None:
    """Download onnxruntime-web and unpack the files that the page loads. Raises DownloadError."""
    BUILD.mkdir(exist_ok=True)
    archive = fetch(ARCHIVE, BUILD / Path(ARCHIVE).name, sha256=SHA256)
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as files:
        for name in ENGINE_FILES:
            content = files.extractfile(f"package/{name}")
            assert content is not None, f"{name} is a plain file in the archive with this digest"
            with whole_file.open_binary(folder / Path(name).name) as target:
                shutil.copyfileobj(content, target)


def export(model: str, folder: Path) -> None:
    """Export a model and keep what the page reads. Raises subprocess.CalledProcessError, after main.py has said why."""
    with tempfile.TemporaryDirectory() as exported:
        flags = ["--mode=export", "--format=onnx", f"--config.restore={model}", f"--output={exported}/model"]
        subprocess.run([sys.executable, str(ROOT / "main.py"), *flags], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        source = Path(exported, "model")
        for name in (*MODEL_FILES, *LANGUAGE_MODELS):
            if (source / name).exists():
                shutil.copy(source / name, folder)
        unigrams = str(source / "unigrams.txt") if (source / "unigrams.txt").exists() else ""
        for name in LANGUAGE_MODELS:
            if (source / name).exists():
                words = model_file.read_words(str(source / name), unigrams)
                (folder / WORDS).write_text("\n".join(words), encoding="utf-8")


@console.command
def main() -> int:
    """Run the command line, print what was done and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="+", help="bundles, checkpoints or folders of runs; the page opens with the first"
    )
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the page (default: %(default)s)")
    args = parser.parse_args()
    names = [Path(model.rstrip("/")).name for model in args.models]
    if len(set(names)) < len(names):
        print(f"two models have the same name: {', '.join(names)}", file=sys.stderr)
        return 2
    try:
        vendor_engine(args.output / "vendor" / "onnxruntime")
        for model, name in zip(args.models, names, strict=True):
            export(model, args.output / "models" / name)
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    (args.output / "models" / "index.json").write_text(json.dumps(names), encoding="utf-8")
    try:
        browser_build.build(args.output / "vendor" / "decoder")
    except BuildError as error:
        print(f"the page decodes greedily, without language models: {error}", file=sys.stderr)
    print(f"written: {args.output}; serve it: python -m http.server --directory {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
