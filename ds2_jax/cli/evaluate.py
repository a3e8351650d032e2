"""`--mode=eval`: measure a model on a manifest."""

import math
from collections.abc import Mapping
from pathlib import Path

from ds2_jax.artifacts.load import load_model
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
            write_reports(evaluation, Path(files.local), "eval", title)
    return summary


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
