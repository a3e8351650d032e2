"""`--mode=eval`: measure a model on a manifest."""

import math
import time
from collections.abc import Mapping

from ds2_jax.artifacts.bundle import is_bundle
from ds2_jax.artifacts.load import find_checkpoint, load_model
from ds2_jax.artifacts.workdir import Workdir
from ds2_jax.parallel import processes, sharding
from ds2_jax.recognition import decode_settings
from ds2_jax.recognition.evaluation import Evaluator, evaluate, write_reports
from input_pipeline import manifest as manifests


def run_eval(config: Mapping, workdir: str) -> dict:
    """`--mode=eval`: measure `config.restore` (or the run in the workdir) on `config.data.test`.

    Return what is printed.
    """
    if not config["data"]["test"]:
        raise ValueError("config.data.test is empty: name the manifest to evaluate, --config.data.test=test.jsonl")
    meta, variables = load_model(config["restore"] or workdir)
    manifest = manifests.read_many(config["data"]["test"])
    processes.require_same(lambda: {"config.data.test (digest)": manifest.digest()})
    engine = decode_settings.make_engine(config, meta)
    evaluator = Evaluator(meta, sharding.make_mesh(), engine)
    with processes.moving(config["train"]["stall_s"]):
        evaluation = evaluate(evaluator, meta, variables, manifest, config, progress="evaluate")
    summary = {
        **evaluation.result.as_dict(),
        "loss": _finite(evaluation.loss),
        "unusable": len(evaluation.problems),
        "engine": engine.name if engine else "greedy",
        "decoding": decode_settings.describe_of(config, engine),
    }
    if workdir and processes.rank() == 0:
        with Workdir(workdir) as files:
            title = f"{', '.join(manifest.sources)} ({summary['engine']})"
            facts = _describe_model(config["restore"] or workdir) | {
                "Decoding": summary["decoding"],
                "Date": time.strftime("%Y-%m-%d %H:%M %Z"),
            }
            write_reports(evaluation, manifest, files, "eval", title, facts)
    return summary


def _describe_model(path: str) -> dict[str, str]:
    """Name the model for a report: its path, and the step of the checkpoint that a run folder's path stands for."""
    return {"Model": path, "Checkpoint": "" if is_bundle(path) else f"step {find_checkpoint(path).name}"}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
