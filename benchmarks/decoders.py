"""Compare the decoding engines on a model's output for a manifest: speed, error rate and memory.

    python -m benchmarks.decoders --model=models/an4 --manifest=data/an4/dev.jsonl --lm=models/an4/lm.bin

The network runs once; then the engines decode the same probabilities in alternation for `--runs` rounds, each in its own
process, on `--threads` cores. Prints one JSON line with the medians over the rounds, and a table on standard error.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import statistics
import sys
import time

import numpy as np

from benchmarks import measure
from decoding.scoring.error_rate import summarise
from decoding.search.beam import BeamSettings, make_engine
from input_pipeline.storage import console
from input_pipeline.text import ScoringRules, Vocabulary


@dataclasses.dataclass(frozen=True)
class NetworkOutput:
    """The network's output for a manifest, with the reference transcripts."""

    log_probs: list[np.ndarray]  # [U, K] each
    references: list[str]
    symbols: tuple[str, ...]
    language: str
    frame_s: float


def run_network(model: str, manifest_path: str) -> NetworkOutput:
    """Run a model once over a manifest."""
    from ds2_jax.artifacts.load import load_model
    from ds2_jax.parallel import sharding
    from ds2_jax.recognition.evaluation import EvaluationSettings, Evaluator
    from input_pipeline import manifest as manifests

    meta, variables = load_model(model)
    manifest = manifests.read(manifest_path)
    evaluator = Evaluator(meta, sharding.make_mesh(), EvaluationSettings(), all_symbols=True)
    log_probs, _ = evaluator.log_probs(variables, evaluator.corpus(manifest))
    rows = sorted(log_probs)
    references = [meta.text.normalise(manifest.text[row]) for row in rows]
    return NetworkOutput(
        [log_probs[row] for row in rows], references, meta.vocabulary.symbols, meta.language, meta.output_frame_s
    )


def decode(output: NetworkOutput, settings: BeamSettings) -> tuple[float, float, float, list[str]]:
    """Decode everything with one engine; return seconds, seconds of set-up, peak memory in MB, and texts."""
    start = time.perf_counter()
    engine = make_engine(Vocabulary(output.symbols), settings, output.frame_s)
    set_up_s = time.perf_counter() - start
    engine.decode_batch(output.log_probs[:1])
    measure.reset_peak_memory()
    start = time.perf_counter()
    decoded = engine.decode_batch(output.log_probs)
    seconds = time.perf_counter() - start
    return seconds, set_up_s, measure.peak_memory_mb(), [hypotheses[0].text for hypotheses in decoded]


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/an4")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--lm", default="", help="KenLM model; not used by greedy")
    parser.add_argument("--engines", default="greedy,native,ctc_beam_decoder,pyctcdecode")
    parser.add_argument("--beams", default="100,500")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=3)
    a = parser.parse_args()
    output = run_network(a.model, a.manifest)
    cases = [
        BeamSettings(engine=engine, lm=a.lm, alpha=a.alpha, beta=a.beta, beam_size=beam, threads=a.threads)
        for engine in a.engines.split(",")
        for beam in ([1] if engine == "greedy" else [int(beam) for beam in a.beams.split(",")])
    ]
    measured: dict[BeamSettings, list] = {case: [] for case in cases}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-a.threads :])
    for run in range(a.runs):
        for case in cases:
            # One process each, so that memory is measured separately and no process inherits the threads of JAX.
            with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                measured[case].append(pool.submit(decode, output, case).result())
            print(f"round {run + 1} of {a.runs}: {case.engine}, beam {case.beam_size}", file=sys.stderr)
    rules = ScoringRules.for_language(output.language)
    rows = []
    for case in cases:
        rates = summarise(output.references, measured[case][-1][3], rules=rules).as_dict()
        row = {
            "engine": case.engine,
            "beam": case.beam_size,
            "utterances_per_s": round(len(output.references) / statistics.median(m[0] for m in measured[case]), 1),
            "wer": rates["wer"],
            "cer": rates["cer"],
            "memory_mb": round(statistics.median(m[2] for m in measured[case])),
            "set_up_s": round(statistics.median(m[1] for m in measured[case]), 2),
        }
        rows.append(row)
    print(json.dumps({"benchmark": "decoders", "machine": measure.machine(), "rows": rows, "options": vars(a)}))
    print("| engine | beam | utterances/s | WER % | CER % | memory MB |\n|---|---|---|---|---|---|", file=sys.stderr)
    for row in rows:
        cells = (f"{100 * row['wer']:.2f}", f"{100 * row['cer']:.2f}", row["memory_mb"])
        print(
            f"| {row['engine']} | {row['beam']} | {row['utterances_per_s']} | {' | '.join(map(str, cells))} |",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
