"""Folders of exported models: the model for several engines, its symbols, language model, description and README."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.artifacts.load import digest_model
from ds2_jax.export import readme, sherpa
from input_pipeline.storage import whole_file

METADATA, README = "metadata.json", "README.md"
VERSION = 1
ONNX_FILES = {"float32": "model.onnx", "float16": "model.float16.onnx", "int8": "model.int8.onnx"}
SHERPA_FILE = "model.sherpa.onnx"
STABLEHLO_FILE = "model.stablehlo"
BLANK = "<blk>"  # as sherpa-onnx calls it

Content = str | os.PathLike | bytes  # of a file: the path of another one to copy, or bytes


def write(
    folder: str, meta: ModelMeta, variables: dict, file_format: str, extra_files: Mapping[str, Content]
) -> dict[str, int]:
    """Write a model as 'onnx' or 'stablehlo', with all that engines need; return the bytes of each file.

    extra_files: those of a language model. An export of the same model in the other format stays in the folder, one of
    another model is removed. Each file is written whole or not at all, metadata.json last. Raises ValueError if the folder has
    other contents.
    """
    target = Path(folder)
    old = _read_metadata(target)
    files = _onnx_files(meta, variables) if file_format == "onnx" else _stablehlo_files(meta, variables)
    tokens = [BLANK, *meta.vocabulary.symbols]
    files["tokens.txt"] = "".join(f"{symbol} {column}\n" for column, symbol in enumerate(tokens)).encode()
    files["vocabulary.txt"] = "".join(f"{symbol}\n" for symbol in meta.vocabulary.symbols).encode()
    for name, content in extra_files.items():
        files[name] = content if isinstance(content, bytes) else Path(content).read_bytes()
    metadata = _describe(meta) | {"digest": digest_model(meta, variables)}
    before: dict[str, Any] = old.get("files", {})
    kept = (
        {name: before[name] for name in before if name not in files} if old.get("digest") == metadata["digest"] else {}
    )
    names = [*files, *(name for name in kept if name != README), METADATA]
    files[README] = readme.describe(target.resolve().name, meta, names).encode()
    metadata["files"] = {name: values for name, values in kept.items() if name != README} | {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }
    files[METADATA] = (json.dumps(metadata, ensure_ascii=False, indent=1) + "\n").encode()
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with whole_file.open_binary(target / name) as file:
            file.write(content)
    for name in set(before) - set(metadata["files"]):
        (target / name).unlink(missing_ok=True)
    return {name: len(content) for name, content in files.items()}


def _onnx_files(meta: ModelMeta, variables: dict) -> dict[str, bytes]:
    from ds2_jax.export import onnx_model, streaming  # need the extra onnx

    files = {name: onnx_model.build(meta, variables, kind).SerializeToString() for kind, name in ONNX_FILES.items()}
    if not sherpa.obstacle_to(meta):
        files[SHERPA_FILE] = onnx_model.build_sherpa(meta, variables, "float32").SerializeToString()
    if not sherpa.obstacle_to_stream(meta):
        files[readme.STREAMING_FILE] = streaming.build_streaming(meta, variables).SerializeToString()
    return files


def _stablehlo_files(meta: ModelMeta, variables: dict) -> dict[str, bytes]:
    from ds2_jax.export import stablehlo

    return {STABLEHLO_FILE: stablehlo.build(meta, variables)}


def _read_metadata(target: Path) -> dict[str, Any]:
    """Return the description of an earlier export; {} of a new or empty folder. Raises ValueError for any other one."""
    if target.exists() and not target.is_dir():
        raise ValueError(f"--output={target} is a file: give a folder")
    if not target.exists() or not any(target.iterdir()):
        return {}
    try:
        values = json.loads((target / METADATA).read_text(encoding="utf-8"))
        if values["version"] == VERSION and all(Path(name).name == name for name in values["files"]):
            return values
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"--output={target} has other contents (no {METADATA} of an export): export to another folder")


def _describe(meta: ModelMeta) -> dict[str, Any]:
    stats = meta.stats if meta.normalisation == "corpus" else None
    return {
        "version": VERSION,
        "language": meta.language,
        "sample_rate_hz": meta.features.sample_rate_hz,
        "output_frame_s": meta.output_frame_s,
        "symbols": ["", *meta.vocabulary.symbols],
        "features": dataclasses.asdict(meta.features),
        "normalisation": meta.normalisation,
        "feature_stats": stats and {"mean": stats.mean.tolist(), "std": stats.std.tolist()},
        "model": dataclasses.asdict(meta.model),
    }
