"""`--mode=eval`: measure a model on a manifest."""

import contextlib
import json
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


def run_eval(config: ConfigDict, workdir: str) -> None:
    """Measure `config.restore` (or the run in the workdir) on `config.data.test`; print the results, then write reports.

    Raises ValueError, and OSError if the reports cannot be written.
    """
    if not config.data.test:
        raise ValueError("config.data.test is empty: give the manifest to evaluate, --config.data.test=test.jsonl")
    path = config.restore or workdir
    meta, variables = load_model(path)
    with contextlib.ExitStack() as stack:
        writes = workdir and processes.rank() == 0
        files = stack.enter_context(Workdir(workdir)) if writes else None  # tried before the work
        manifest = manifests.read_many(config.data.test, ignore_keys=manifests.parse_ignored(config.data.ignore_keys))
        processes.require_same(lambda: {"config.data.test (digest)": manifest.digest()})
        model = Recogniser(meta, variables, settings.read_decoding(config))
        with processes.expect_progress(config.train.stall_s):
            evaluation = evaluate(model, manifest, settings.read_evaluation(config))
        decoding = decode_settings.describe(model.settings, model.engine.name)
        summary = {
            **evaluation.result.as_dict(),
            "loss": evaluation.loss if math.isfinite(evaluation.loss) else None,
            "unusable": len(evaluation.problems),
            "engine": model.engine.name,
            "decoding": decoding,
            **_describe_model(path),
            **decode_settings.weights(model.settings, model.engine.name),
            "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        }
        if processes.rank() == 0:
            print(json.dumps(summary), flush=True)
        if files is not None:
            facts = {"Model": summary["model"], "Checkpoint": summary["checkpoint"] or ""}
            facts |= {"Decoding": decoding, "Date": summary["date"]}
            title = f"{', '.join(manifest.sources)} ({model.engine.name})"
            write_reports(evaluation, manifest, files, "eval", title, facts)


def _describe_model(path: str) -> dict[str, str | None]:
    """Return the model's path and its checkpoint's step; None for a bundle, which has no steps."""
    folder = resolve_model(path)
    return {"model": path, "checkpoint": None if is_bundle(folder) else f"step {find_checkpoint(folder).name}"}
