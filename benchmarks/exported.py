"""Time and error rate of an exported model in onnxruntime, on one core, beside the model in JAX.

    python main.py --mode=export --format=onnx --config.restore=models/an4 --output=build/an4_onnx
    python -m benchmarks.exported --folder=build/an4_onnx --model=models/an4 --manifest=data/an4/test.jsonl

Clips are recognised one at a time: reading, features, network and greedy decoding. Prints one JSON line for each file: its size,
seconds of audio per second of the processor, the word error rate, and the largest difference of log probabilities from JAX.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import measure
from decoding.scoring.error_rate import summarise
from decoding.search import greedy
from ds2_jax.export.folder import ONNX_FILES
from ds2_jax.recognition.recogniser import load
from input_pipeline import audio
from input_pipeline import manifest as manifests
from input_pipeline.storage import console
from input_pipeline.text import ScoringRules


def onnx_model(path: Path, rate_hz: int) -> Callable[[audio.Source], np.ndarray]:
    """Return a function from a clip to natural-log probabilities [U, K], computed by onnxruntime in one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def log_probs(clip: audio.Source) -> np.ndarray:
        samples = audio.read(clip, rate_hz)[0][None]
        inputs = {"samples": samples, "lengths": np.array([samples.shape[1]], np.int32)}
        return session.run(["log_probs"], inputs)[0][0]

    return log_probs


def run(
    log_probs: Callable[[audio.Source], np.ndarray], clips: Sequence[audio.Source]
) -> tuple[list[np.ndarray], float]:
    """Return the log probabilities of each clip, and the seconds of the processor of the second of two passes."""
    for clip in clips:
        log_probs(clip)  # compiles, fills caches
    start = time.process_time()
    results = [log_probs(clip) for clip in clips]
    return results, time.process_time() - start


@console.command
def main() -> None:
    """Run the benchmark and print its JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model", default="models/an4")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--limit", type=int, default=0, help="number of utterances; 0: all")
    a = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # before JAX starts its threads
    manifest = manifests.read(a.manifest)
    manifest = manifest.select(np.arange(min(a.limit or len(manifest), len(manifest))))
    clips, texts = list(manifest.clips), list(manifest.text)
    model = load(a.model, engine="greedy")
    models = {"jax": model.log_probs} | {
        name: onnx_model(a.folder / name, model.sample_rate_hz) for name in ONNX_FILES.values()
    }
    expected: list[np.ndarray] = []
    for name, log_probs in models.items():
        results, seconds = run(log_probs, clips)
        expected = expected or results
        hypotheses = [greedy.decode_log_probs(r, model.vocabulary, model.output_frame_s).text for r in results]
        rates = summarise(texts, hypotheses, rules=ScoringRules.for_language(model.meta.language)).as_dict()
        line = {
            "benchmark": "exported",
            "model": name,
            "machine": measure.machine(),
            "bytes": (a.folder / name).stat().st_size if name != "jax" else None,
            "audio_s_per_s": round(float(manifest.duration.sum()) / seconds, 1),
            "wer": rates["wer"],
            "difference": float(max(np.abs(r - e).max() for r, e in zip(results, expected, strict=True))),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
