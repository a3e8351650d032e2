"""`--mode=eval`: measure a model on a manifest."""

import math
import time

from ml_collections import ConfigDict

from ds2_jax.artifacts.bundle import is_bundle
from ds2_jax.artifacts.load import find_checkpoint, load_model, resolve_model
from ds2_jax.artifacts.workdir import Workdir
from ds2_jax.cli import settings
from ds2_jax.parallel import processes
from ds2_jax.recognition import decode_settings
from ds2_jax.recognition.evaluation import evaluate
from ds2_jax.recognition.recogniser import Recogniser
from ds2_jax.recognition.reports import write_reports
from input_pipeline import manifest as manifests


def run_eval(config: ConfigDict, workdir: str) -> dict:
    """Measure `config.restore` (or the run in the workdir) on `config.data.test`; return the results to print."""
    if not config.data.test:
        raise ValueError("config.data.test is empty: give the manifest to evaluate, --config.data.test=test.jsonl")
    meta, variables = load_model(config.restore or workdir)
    manifest = manifests.read_many(config.data.test, ignore_keys=manifests.parse_ignored(config.data.ignore_keys))
    processes.require_same(lambda: {"config.data.test (digest)": manifest.digest()})
    model = Recogniser(meta, variables, settings.read_decoding(config))
    with processes.expect_progress(config.train.stall_s):
        evaluation = evaluate(model, manifest, settings.read_evaluation(config))
    summary = {
        **evaluation.result.as_dict(),
        "loss": evaluation.loss if math.isfinite(evaluation.loss) else None,
        "unusable": len(evaluation.problems),
        "engine": model.engine.name,
        "decoding": decode_settings.describe(model.settings, model.engine.name),
    }
    if workdir and processes.rank() == 0:
        with Workdir(workdir) as files:
            title = f"{', '.join(manifest.sources)} ({summary['engine']})"
            facts = _describe_model(config.restore or workdir) | {
                "Decoding": summary["decoding"],
                "Date": time.strftime("%Y-%m-%d %H:%M %Z"),
            }
            write_reports(evaluation, manifest, files, "eval", title, facts)
    return summary


def _describe_model(path: str) -> dict[str, str]:
    """Return the model's path and, unless it is a bundle, its checkpoint's step, for a report."""
    folder = resolve_model(path)
    return {"Model": path, "Checkpoint": "" if is_bundle(folder) else f"step {find_checkpoint(folder).name}"}
