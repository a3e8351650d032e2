"""`--mode=export`: write a checkpoint as a bundle, with a model card that describes it, or for other engines."""

import dataclasses
import json
import logging
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ds2_jax.artifacts.bundle import CARD, LANGUAGE_MODEL_FILES, ModelMeta, is_bundle, save_bundle
from ds2_jax.artifacts.front_matter import front_matter, read_results
from ds2_jax.artifacts.load import CHECKPOINT_FOLDER, find_checkpoint, load_model
from ds2_jax.artifacts.model_card import make_card, update_card
from ds2_jax.artifacts.run_record import commit
from ds2_jax.cli import output_file, settings
from ds2_jax.export import folder
from ds2_jax.parallel import processes
from ds2_jax.recognition import decode_settings
from input_pipeline.storage import object_store

logger = logging.getLogger("ds2_jax")


def run_export(config: ConfigDict, workdir: str, output: str, file_format: str, *, overwrite: bool = False) -> dict:
    """Write `config.restore` (or the best checkpoint of the workdir) to `output`; return facts to print.

    file_format: 'bundle', or one of `folder.write`. The model computes in float32, whatever type its training computed in.
    The folder includes the language model of config.decode.lm, or of the restored bundle, and its decoding settings.
    overwrite: replace a bundle, but keep what was added to its model card and to its folder. Raises ValueError.
    """
    if processes.count() > 1:
        raise ValueError("--mode=export needs a single process: start it without the launcher")
    if object_store.is_remote(output):
        raise ValueError(f"--output={output} is in an object store: export to a local folder, then copy it")
    if not output:
        raise ValueError("--output is empty: give the folder of the bundle, --output=models/mine")
    if file_format == "bundle" and is_bundle(output) and not overwrite:
        raise ValueError(
            f"--output={output} is a bundle already: choose another folder, or replace its model with --overwrite, which keeps "
            "the files added to it and the text written by hand in its README.md"
        )
    output_file.try_folder(Path(output).absolute().parent, output)
    source = config.restore or workdir
    meta, variables = load_model(source)
    meta = dataclasses.replace(meta, model=dataclasses.replace(meta.model, compute_dtype="float32"))
    if config.infer.part_s >= 0:
        meta = dataclasses.replace(meta, part_s=settings.read_recording(config).part_s)
    decoding = settings.read_decoding(config)
    extra_files = decode_settings.bundle_files(decoding, meta)
    if file_format != "bundle":
        sizes = folder.write(output, meta, variables, file_format, extra_files)
        return {"folder": output, "from": source, "bytes": sizes}
    _report_kept_model(output, extra_files)
    sections = describe_model(meta, variables, source, output) | decode_settings.card_sections(decoding)
    publication = settings.read_publication(config)
    front = front_matter(Path(output).name, meta.language, publication, read_results(publication, source))
    save_bundle(output, meta, variables, _write_card(output, sections, front), extra_files)
    size = sum(file.stat().st_size for file in Path(output).iterdir())
    return {"bundle": output, "from": source, "parameters": count_parameters(variables["params"]), "bytes": size}


def _report_kept_model(output: str, extra_files: Mapping) -> None:
    """Warn of the language model of a bundle that is replaced, if the new one brings none."""
    kept = [] if extra_files else [name for name in LANGUAGE_MODEL_FILES if Path(output, name).exists()]
    if kept:
        logger.warning(
            "%s: the language model and the decoding settings of the replaced bundle are kept (%s), although they were tuned "
            "for another network: remove them, export with config.decode.lm, or tune them again (--mode=tune)",
            output,
            ", ".join(kept),
        )


def _write_card(output: str, sections: Mapping[str, str], front: Mapping[str, Any]) -> str:
    """Return the model card with these generated parts, and with all that is written by hand in the present one."""
    card = Path(output, CARD)
    if not card.is_file():
        return make_card(Path(output).name, sections, front)
    try:
        text, by_hand = update_card(card.read_text(encoding="utf-8"), sections, front)
    except UnicodeDecodeError as error:
        raise ValueError(f"{card} is not in UTF-8 ({error}): convert it, or move it away") from error
    if by_hand:
        logger.warning(
            "%s: sections written or changed by hand are kept (%s): check whether they describe the new model",
            card,
            ", ".join(by_hand),
        )
    return text


def count_parameters(tree) -> int:
    """Return the number of elements in a tree of arrays."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))


def describe_model(meta: ModelMeta, variables: dict, source: str, output: str) -> dict[str, str]:
    """Return the generated sections of a model card, Markdown by name: model and commands, network, recorded training."""
    restore = shlex.quote(f"--config.restore={output}")
    features = f"{meta.features.kind}, {meta.feature_size} values per frame, {meta.features.sample_rate_hz} Hz"
    return {
        "model": f"""\
A DeepSpeech2 network of DS2-JAX: {count_parameters(variables["params"]):,} parameters (float16 in `model.safetensors`),
language `{meta.language}`, features: {features}, {meta.vocabulary.size - 1} symbols: `{meta.vocabulary.beginning()}`.

    python main.py --mode=infer {restore} --audio=speech.wav
    python main.py --mode=eval {restore} --config.data.test=test.jsonl
""",
        **describe_network(meta),
        "training": f"""\
## Training

{_describe_training(source)}

Exported at commit {commit() or "unknown"}.
""",
    }


def describe_network(meta: ModelMeta) -> dict[str, str]:
    """Return the section of a model card about the network, Markdown by name."""
    model = "\n".join(f"| `{name}` | {value} |" for name, value in sorted(dataclasses.asdict(meta.model).items()))
    return {
        "network": f"""\
## Network

| setting | value |
|---|---|
{model}
"""
    }


def _describe_training(source: str) -> str:
    """Describe the training as recorded in the run folder."""
    try:
        checkpoint = find_checkpoint(source)
        run = checkpoint.parent.parent
        starts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return f"From `{os.path.basename(source.rstrip('/'))}`, which has no record of its training."
    last = starts[-1]
    manifests = "\n".join(f"- {name}: SHA-256 `{digest}`" for name, digest in last["manifests"].items())
    versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
    return f"""Command (last of {len(starts)} start{"s" if len(starts) > 1 else ""}), at commit {last["commit"] or "unknown"}:

    python {shlex.join(last["command"])}

{manifests}
- checkpoint: {checkpoint.relative_to(run / CHECKPOINT_FOLDER)}
- {versions}; {len(last["devices"])} device(s) ({last["devices"][0]})"""
