"""`--mode=import`: make a bundle from a model of another program, or check one."""

import json
import logging
import shlex
from pathlib import Path

from ml_collections import ConfigDict

from ds2_jax.artifacts.bundle import is_bundle, save_bundle
from ds2_jax.artifacts.front_matter import front_matter
from ds2_jax.artifacts.model_card import make_card
from ds2_jax.cli import output_file, settings
from ds2_jax.cli.export import count_parameters, describe_network
from ds2_jax.foreign import checks, published, release
from ds2_jax.parallel import processes
from ds2_jax.recognition import decode_settings
from input_pipeline.storage import object_store
from input_pipeline.text import Vocabulary
from input_pipeline.text.scripts import script_of

logger = logging.getLogger("ds2_jax")

_PROGRAMS = {
    "V2": "PaddlePaddle's DeepSpeech2, V2",
    "Fluid": "PaddlePaddle's DeepSpeech2, Fluid",
    "deepspeech.pytorch": "deepspeech.pytorch",
}


def run_import(config: ConfigDict, source: str, download: str, output: str, *, check: bool = False) -> dict:
    """Read a model of another program and write it as a bundle; return facts to print.

    source: a file or folder; download: instead of it, a key of `published.MODELS`. check: print what the file has to satisfy,
    and write nothing. Raises ValueError naming what is not satisfied.
    """
    _check_arguments(config, source, download, output, check)
    known = published.MODELS.get(download)
    source = str(published.fetch(download)) if known else source
    rate_hz = config.features.source_rate_hz or (known.source_rate_hz if known else 0)
    model = release.read(source, rate_hz, config.text.language)
    if model.meta.language == "en" and (known.language == "zh" if known else _is_chinese(model.meta.vocabulary)):
        model = release.with_language(model, "zh")
    requirements = list(checks.check_parameters(model))
    if check:
        requirements.append(checks.check_silence(model))
        for requirement in requirements:
            print(f"{'ok ' if requirement.satisfied else 'NOT'}  {requirement.text}: {requirement.found}", flush=True)
    failed = [f"{requirement.text} ({requirement.found})" for requirement in requirements if not requirement.satisfied]
    if failed:
        raise ValueError(f"{source} is no trained network of this kind; required: {'; '.join(failed)}")
    facts = {
        "from": source,
        "format": model.format,
        "network": model.network,
        "parameters": count_parameters(model.variables["params"]),
        "statistics": count_parameters(model.variables["batch_stats"]),
        "symbols": model.meta.vocabulary.size - 1,
    }
    if check:
        return facts
    _write(config, model, known, source, output)
    return {"bundle": output, **facts}


def _check_arguments(config: ConfigDict, source: str, download: str, output: str, check: bool) -> None:
    """Raise ValueError for flags that do not fit together."""
    if processes.count() > 1:
        raise ValueError("--mode=import needs a single process: start it without the launcher")
    if bool(source) == bool(download):
        raise ValueError("--mode=import needs either --source=FILE_OR_FOLDER or --download=NAME")
    if config.restore:
        raise ValueError(f"--mode=import reads --source, not config.restore={config.restore}: remove the setting")
    if check:
        return
    if not output:
        raise ValueError("--output is empty: give the folder of the bundle, --output=models/mine")
    if object_store.is_remote(output):
        raise ValueError(f"--output={output} is in an object store: import to a local folder, then copy it")
    if Path(output).exists():
        what = "is a bundle already" if is_bundle(output) else "exists"
        raise ValueError(f"--output={output} {what}: choose another folder, or move it away")
    output_file.try_folder(Path(output).absolute().parent, output)


def _is_chinese(vocabulary: Vocabulary) -> bool:
    """Return whether most letters are Chinese characters."""
    letters = [symbol for symbol in vocabulary.symbols if symbol.isalpha()]
    return sum(script_of(symbol) == "CJK" for symbol in letters) * 2 > len(letters)


def _write(
    config: ConfigDict, model: release.Imported, known: published.PublishedModel | None, source: str, output: str
) -> None:
    """Write the bundle, with the language model if one is given, and the published settings of decoding."""
    tuned = known.weights.to_json() if known else {}
    given = {name: value for name, value in config.decode.to_dict().items() if value is not None and value != ""}
    files = decode_settings.bundle_files(decode_settings.complete(tuned | given, ""), model.meta)
    if tuned and not files:  # for a language model that is copied into the bundle
        files = {decode_settings.SETTINGS: (json.dumps(tuned, indent=1) + "\n").encode()}
    sections = {"origin": _describe_origin(model, source, output)} | describe_network(model.meta)
    name = Path(output).name
    card = make_card(name, sections, front_matter(name, model.meta.language, settings.read_publication(config), []))
    save_bundle(output, model.meta, model.variables, card, files, half=False)


def _describe_origin(model: release.Imported, source: str, output: str) -> str:
    meta = model.meta
    return f"""\
Read from `{Path(source).name}`, a model of another program ({_PROGRAMS[model.format]}), by `--mode=import`:
{count_parameters(model.variables["params"]):,} parameters (float32), language `{meta.language}`, {meta.vocabulary.size - 1} symbols.
Whoever published it decides how it may be used.

    python main.py --mode=infer {shlex.quote(f"--config.restore={output}")} --audio=speech.wav
"""
