"""`--mode=export`: write a checkpoint as a bundle, with a model card that describes it."""

import dataclasses
import json
import os
import shlex
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from ds2_jax.artifacts.bundle import ModelMeta, save_bundle
from ds2_jax.artifacts.load import CHECKPOINT_FOLDER, find_checkpoint, load_model
from ds2_jax.artifacts.run_record import commit
from ds2_jax.cli import settings
from ds2_jax.parallel import processes
from ds2_jax.recognition import decode_settings
from input_pipeline.storage import object_store

MAX_SYMBOLS = 80  # in the model card


def run_export(config: ConfigDict, workdir: str, output: str) -> dict:
    """Write `config.restore` (or the best checkpoint of the workdir) as a bundle to `output`; return facts to print.

    The bundle includes the language model of config.decode.lm, or of the restored bundle, and its decoding settings.
    """
    if processes.count() > 1:
        raise ValueError("--mode=export needs a single process: start it without the launcher")
    if object_store.is_remote(output):
        raise ValueError(f"--output={output} is in an object store: export to a local folder, then copy it")
    if not output:
        raise ValueError("--output is empty: give the folder of the bundle, --output=models/mine")
    source = config.restore or workdir
    meta, variables = load_model(source)
    decoding = settings.read_decoding(config)
    save_bundle(
        output,
        meta,
        variables,
        model_card(meta, variables, source, output) + decode_settings.card_section(decoding),
        decode_settings.bundle_files(decoding, meta),
    )
    size = sum(file.stat().st_size for file in Path(output).iterdir())
    return {"bundle": output, "from": source, "parameters": count_parameters(variables["params"]), "bytes": size}


def count_parameters(tree) -> int:
    """Return the number of elements in a tree of arrays."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))


def model_card(meta: ModelMeta, variables: dict, source: str, output: str) -> str:
    """Describe a model in Markdown: network, features, recorded training, commands. Results are to be added by hand."""
    model = "\n".join(f"| `{name}` | {value} |" for name, value in sorted(dataclasses.asdict(meta.model).items()))
    symbols = "".join(meta.vocabulary.symbols[:MAX_SYMBOLS])
    features = f"{meta.features.kind}, {meta.feature_size} values per frame, {meta.features.sample_rate_hz} Hz"
    return f"""# {Path(output).name}

A DeepSpeech2 network of DS2-JAX: {count_parameters(variables["params"]):,} parameters (float16 in `model.safetensors`),
language `{meta.language}`, features: {features}, {meta.vocabulary.size - 1} symbols: `{symbols}`.

    python main.py --mode=infer --config.restore={output} --audio=speech.wav
    python main.py --mode=eval --config.restore={output} --config.data.test=test.jsonl

## Network

| setting | value |
|---|---|
{model}

## Training

{_describe_training(source)}

Exported at commit {commit() or "unknown"}.
"""


def _describe_training(source: str) -> str:
    """Describe the training as recorded in the run folder."""
    try:
        run = find_checkpoint(source).parent.parent
        starts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return f"From `{os.path.basename(source.rstrip('/'))}`, which has no record of its training."
    last = starts[-1]
    manifests = "\n".join(f"- {name}: SHA-256 `{digest}`" for name, digest in last["manifests"].items())
    versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
    return f"""Command (last of {len(starts)} start{"s" if len(starts) > 1 else ""}), at commit {last["commit"] or "unknown"}:

    python {shlex.join(last["command"])}

{manifests}
- checkpoint: {find_checkpoint(source).relative_to(run / CHECKPOINT_FOLDER)}
- {versions}; {len(last["devices"])} device(s) ({last["devices"][0]})"""
