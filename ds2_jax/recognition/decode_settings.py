"""How a model is decoded: what was asked for, completed by what a bundle brings along.

A bundle with a language model holds `lm.bin` (or `lm.arpa`), `unigrams.txt` where its words are named apart, and
`decode.json`, the settings that were tuned with it. These apply to that language model only, and only where a setting was
not asked for.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decoding.lm import model_file
from decoding.search import beam
from decoding.search.beam import Engine
from decoding.settings import BeamSettings
from ds2_jax.artifacts.bundle import ModelFileError, ModelMeta, is_bundle
from ds2_jax.artifacts.load import resolve_model

logger = logging.getLogger("ds2_jax")

NO_MODEL = "none"  # as `lm`: do not use the bundle's own language model
MODELS = {"binary": "lm.bin", "arpa": "lm.arpa", "gzip": "lm.arpa.gz"}
UNIGRAMS = "unigrams.txt"
SETTINGS = "decode.json"
LOCAL = ("lm", "unigrams", "hot_words", "nbest", "threads")  # not written to a bundle's decode.json


def complete(asked: Mapping[str, Any], model: str) -> BeamSettings:
    """Return the settings to decode with; engine `auto` where there is a language model, else `greedy`.

    asked: fields of BeamSettings by name; None and '' count as not asked for. model: the path that the model is loaded
    from. Raises ValueError naming field, value and mend.
    """
    chosen = {name: value for name, value in asked.items() if value is not None and value != ""}
    if chosen.get("lm") == NO_MODEL:
        del chosen["lm"]
    elif "lm" not in chosen:
        chosen = _of_bundle(model) | chosen
    chosen.setdefault("engine", "auto" if chosen.get("lm") else "greedy")
    return BeamSettings(**chosen)


def make_engine(settings: BeamSettings, meta: ModelMeta) -> Engine:
    """Build the engine that decodes a model's output. Raises ValueError for what does not fit the model."""
    engine = beam.make_engine(meta.vocabulary, settings, meta.output_frame_s)
    if engine.name != "greedy":
        logger.info("decoding: %s", describe(settings, engine.name))
    return engine


def describe(settings: BeamSettings, engine: str) -> str:
    """Say in one line how is decoded: engine, language model, weights and beam."""
    if engine == "greedy":
        return engine
    model = f"{settings.lm}, alpha {settings.alpha:g}, beta {settings.beta:g}" if settings.lm else "no language model"
    return f"{engine}, {model}, beam {settings.beam_size}"


def card_section(settings: BeamSettings) -> str:
    """Describe the language model of a bundle for its card; empty without one."""
    if not settings.lm:
        return ""
    name = MODELS[model_file.kind_of(settings.lm)]
    return f"""
## Language model

`{name}` is used by default, with `decode.json`: alpha {settings.alpha:g}, beta {settings.beta:g} (natural logarithms), lexicon
`{settings.lexicon}`, beam {settings.beam_size}. `--config.decode.engine=greedy` decodes without it.
"""


def files_for_bundle(settings: BeamSettings, meta: ModelMeta) -> dict[str, str | bytes]:
    """Return the files of a bundle that belong to its language model, none without: paths to copy, or content.

    Raises ValueError where the language model does not fit the network.
    """
    if not settings.lm:
        return {}
    words = model_file.read_words(settings.lm, settings.unigrams)
    model_file.check_words(words, meta.vocabulary, settings.lm)
    files: dict[str, str | bytes] = {MODELS[model_file.kind_of(settings.lm)]: settings.lm}
    if settings.unigrams:
        files[UNIGRAMS] = settings.unigrams
    values = {name: value for name, value in dataclasses.asdict(settings).items() if name not in LOCAL}
    return {**files, SETTINGS: (json.dumps(values, indent=1) + "\n").encode()}


def _of_bundle(model: str) -> dict[str, Any]:
    """Return what a bundle brings: its language model and settings; nothing for anything else."""
    model = resolve_model(model)
    if not model or not is_bundle(model):
        return {}
    models = [path for path in (Path(model, name) for name in MODELS.values()) if path.is_file()]
    if not models:
        return {}
    found: dict[str, Any] = {"lm": str(models[0])}
    if Path(model, UNIGRAMS).is_file():
        found["unigrams"] = str(Path(model, UNIGRAMS))
    file = Path(model, SETTINGS)
    if not file.is_file():
        return found
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(BeamSettings)})
    except (OSError, ValueError, TypeError) as error:
        raise ModelFileError(f"{file} cannot be read: {error}; export the bundle again") from error
    if unknown:
        raise ModelFileError(f"{file} has settings that do not exist: {', '.join(unknown)}; export the bundle again")
    return found | values
