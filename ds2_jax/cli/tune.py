"""`--mode=tune`: run the network once on `config.data.dev`, then search alpha and beta (decoding/scoring/tune.py)."""

import dataclasses
import hashlib
import json
import logging
import os
import shlex
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from decoding.scoring import tune
from decoding.search import beam
from decoding.settings import BeamSettings
from ds2_jax.artifacts.load import digest_model, load_model
from ds2_jax.cli import help_screen, output_file, settings
from ds2_jax.parallel import processes, sharding
from ds2_jax.recognition import decode_settings
from ds2_jax.recognition.evaluation import Evaluator, report_problems
from input_pipeline import manifest as manifests
from input_pipeline.batches.labels import encode_transcripts
from input_pipeline.manifest import Manifest
from input_pipeline.storage import object_store, whole_file
from input_pipeline.text import ScoringRules

logger = logging.getLogger("ds2_jax")

FOLDER = "tune"  # in the workdir
LOG_PROBS = "log_probs.npz"
UNRELATED = ("nbest", "threads")  # settings of decoding that change no error rate
SAMPLES, SAMPLE_BYTES = 64, 1 << 18  # blocks of a file that its digest covers


def run_tune(config: ConfigDict, workdir: str) -> None:
    """Find the best alpha and beta for `config.decode` on `config.data.dev`; print the results and the command to use them.

    Files are written to <workdir>/tune. Raises ValueError with what to do, OSError if they cannot be written.
    """
    if not workdir:
        raise ValueError("--workdir is empty: give a folder for points and plot, --workdir=runs/tune")
    if object_store.is_remote(workdir):
        raise ValueError(f"--workdir={workdir} is in an object store: use a local folder")
    if not config.data.dev:
        raise ValueError("config.data.dev is empty: give the manifest to tune on, --config.data.dev=dev.jsonl")
    decoding = settings.read_decoding(config)
    if not decoding.lm:
        raise ValueError("no language model to tune: give one, --config.decode.lm=lm.bin")
    if decoding.engine == "greedy":
        raise ValueError(
            "config.decode.engine is 'greedy', which uses no language model: leave it empty, or choose another engine"
        )
    decoding = dataclasses.replace(decoding, engine=beam.choose_engine(decoding))
    grid = settings.read_grid(config)
    folder = Path(workdir, FOLDER)
    if config.restore:  # otherwise, the workdir is that of a model, which is read first
        _make_folder(folder)
    meta, variables = load_model(config.restore or workdir)
    decoding = decode_settings.spell_hot_words(decoding, meta)
    beam.make_engine(meta.vocabulary, decoding, meta.output_frame_s)  # fails now if the language model does not fit
    manifest = manifests.read_many(config.data.dev, ignore_keys=manifests.parse_ignored(config.data.ignore_keys))
    _make_folder(folder)
    processes.require_same(lambda: {"config.data.dev (digest)": manifest.digest()})
    inputs = _digest(digest_model(meta, variables), manifest.digest())
    evaluator = Evaluator(meta, sharding.make_mesh(), settings.read_evaluation(config), all_symbols=True)
    with processes.expect_progress(config.train.stall_s):
        rows, log_probs = _log_probs(evaluator, variables, manifest, folder / LOG_PROBS, inputs)

    def search() -> dict:
        task = tune.Task(
            symbols=meta.vocabulary.symbols,
            settings=decoding,
            frame_s=meta.output_frame_s,
            log_probs=log_probs,
            references=[meta.text.normalise(manifest.text[row]) for row in rows],
            rules=ScoringRules.for_language(meta.language),
        )
        description = decode_settings.describe(decoding, decoding.engine).split(", alpha")[0]
        logger.info("tuning on %d utterances: %s", len(rows), description)
        return tune.search(task, grid, folder, _digest(inputs, _digest_settings(decoding)))

    result = processes.broadcast(search)
    if processes.rank() == 0:
        print(json.dumps({**result, "engine": decoding.engine, "picture": str(folder / tune.PICTURE)}), flush=True)
        print(f"use these weights:\n  {_command(config, workdir, result)}", file=sys.stderr)


def _make_folder(folder: Path) -> None:
    """Create the folder of the results, and a file in it, which is removed. Raises OSError."""
    try:
        output_file.make_folder(folder)
    except OSError as error:
        raise OSError(f"--workdir: {folder} cannot be written ({error.strerror}): choose a writable folder") from error


def _command(config: ConfigDict, workdir: str, result: Mapping[str, Any]) -> str:
    """Return the command that evaluates with the weights found, and the decoding settings with which they were."""
    given = {n: v for n, v in config.decode.items() if v not in (None, "") and n not in ("alpha", "beta", *UNRELATED)}
    values = {
        "restore": config.restore or workdir,
        "data.test": config.data.test or config.data.dev,
        **{f"decode.{name}": value for name, value in given.items()},
        **{f"decode.{name}": f"{result[name]:g}" for name in ("alpha", "beta")},
    }
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    return f"{help_screen.name_program(sys.argv[0])} {shlex.join(['--mode=eval', *flags])}"


def _log_probs(
    evaluator: Evaluator, variables: dict, manifest: Manifest, path: Path, digest: str
) -> tuple[list[int], list[np.ndarray]]:
    """Return the usable rows of the manifest and their probabilities [U, K], from the file if its digest matches.

    Only process 0, which searches, returns them; the others help to compute them and return none.
    """
    stored = _read_log_probs(path, digest) if processes.rank() == 0 else None
    if processes.broadcast(lambda: stored is not None):
        logger.info("reading the network's probabilities from %s", path)
        return stored or ([], [])
    labels, _ = encode_transcripts(manifest, evaluator.meta.vocabulary, evaluator.meta.text)
    by_row, problems = evaluator.log_probs(variables, evaluator.corpus(manifest, labels), progress="network")
    if processes.rank() != 0:
        return [], []
    rows = sorted(by_row)
    report_problems(manifest, rows, problems)
    arrays = [by_row[row] for row in rows]
    with whole_file.open_binary(path) as file:
        np.savez_compressed(
            file,
            digest=digest,
            rows=rows,
            lengths=[len(array) for array in arrays],
            log_probs=np.concatenate(arrays).astype(np.float32),
        )
    return rows, arrays


def _read_log_probs(path: Path, digest: str) -> tuple[list[int], list[np.ndarray]] | None:
    try:
        with np.load(path) as file:
            if str(file["digest"]) != digest:
                return None
            arrays = np.split(file["log_probs"], np.cumsum(file["lengths"])[:-1])
            return file["rows"].tolist(), arrays
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):  # missing or truncated
        return None


def _digest_settings(settings: BeamSettings) -> str:
    """Return what else affects the errors of a point: settings other than alpha and beta, and language model contents."""
    values = dataclasses.asdict(settings)
    for name in ("alpha", "beta", *UNRELATED):
        del values[name]
    for name in ("lm", "unigrams"):
        if values[name]:
            values[name] = digest_file(values[name])
    return json.dumps(values, sort_keys=True)


def digest_file(path: str) -> str:
    """Return a digest of a file's size and of SAMPLES blocks spread over it: language models may have many gigabytes."""
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for block in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * block // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
