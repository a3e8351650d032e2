"""How a model is decoded: `config.decode`, completed by what the bundle `config.restore` brings along.

A bundle with a language model holds `lm.bin` (or `lm.arpa`), `unigrams.txt` where its words are named apart, and
`decode.json`, settings that were tuned with it. They hold for that language model, and where config.decode leaves them unset.
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

NO_MODEL = "none"  # config.decode.lm where a bundle's own language model is not wanted
MODELS = {"binary": "lm.bin", "arpa": "lm.arpa", "gzip": "lm.arpa.gz"}
UNIGRAMS = "unigrams.txt"
SETTINGS = "decode.json"
LOCAL = ("lm", "unigrams", "hot_words", "nbest", "threads")  # that do not travel with a bundle


def read_settings(config: Mapping) -> BeamSettings:
    """Return the settings to decode with; engine `auto` where there is a language model, else `greedy`.

    Raises ValueError naming field, value and mend.
    """
    asked = {name: config["decode"][name] for name in _field_names()}
    chosen = {name: value for name, value in asked.items() if value is not None and value != ""}
    if chosen.get("lm") == NO_MODEL:
        del chosen["lm"]
    elif "lm" not in chosen:
        chosen = _of_bundle(config["restore"]) | chosen
    chosen.setdefault("engine", "auto" if chosen.get("lm") else "greedy")
    return BeamSettings(**chosen)


def make_engine(config: Mapping, meta: ModelMeta) -> Engine | None:
    """Build the engine for a model; None for greedy decoding, which needs no probabilities but the best. Raises ValueError."""
    settings = read_settings(config)
    if settings.engine == "greedy":
        return None
    engine = beam.make_engine(meta.vocabulary, settings, meta.output_frame_s)
    logger.info("decoding: %s", describe(settings, engine.name))
    return engine


def describe(settings: BeamSettings, engine: str) -> str:
    """Say in one line how is decoded."""
    model = f"{settings.lm}, alpha {settings.alpha:g}, beta {settings.beta:g}" if settings.lm else "no language model"
    return f"{engine}, {model}, beam {settings.beam_size}"


def describe_of(config: Mapping, engine: Engine | None) -> str:
    """Say in one line how `make_engine`'s engine decodes, for results: a number stands beside what made it."""
    return describe(read_settings(config), engine.name) if engine else "greedy"


def card_section(config: Mapping) -> str:
    """Describe the language model of a bundle for its card; empty without one."""
    settings = read_settings(config)
    if not settings.lm:
        return ""
    name = MODELS[model_file.kind_of(settings.lm)]
    return f"""
## Language model

`{name}` is used by default, with `decode.json`: alpha {settings.alpha:g}, beta {settings.beta:g} (natural logarithms), lexicon
`{settings.lexicon}`, beam {settings.beam_size}. `--config.decode.engine=greedy` decodes without it.
"""


def files_for_bundle(config: Mapping, meta: ModelMeta) -> dict[str, str | bytes]:
    """Return the files of a bundle that belong to its language model, none without: paths to copy, or content.

    Raises ValueError where it does not fit the network.
    """
    settings = read_settings(config)
    if not settings.lm:
        return {}
    words = model_file.read_words(settings.lm, settings.unigrams)
    model_file.check_words(words, meta.vocabulary, settings.lm)
    files: dict[str, str | bytes] = {MODELS[model_file.kind_of(settings.lm)]: settings.lm}
    if settings.unigrams:
        files[UNIGRAMS] = settings.unigrams
    values = {name: value for name, value in dataclasses.asdict(settings).items() if name not in LOCAL}
    return {**files, SETTINGS: (json.dumps(values, indent=1) + "\n").encode()}


def _of_bundle(restore: str) -> dict[str, Any]:
    """Return what a bundle brings: its language model and settings; nothing for anything else."""
    restore = resolve_model(restore)
    if not restore or not is_bundle(restore):
        return {}
    models = [path for path in (Path(restore, name) for name in MODELS.values()) if path.is_file()]
    if not models:
        return {}
    found: dict[str, Any] = {"lm": str(models[0])}
    if Path(restore, UNIGRAMS).is_file():
        found["unigrams"] = str(Path(restore, UNIGRAMS))
    file = Path(restore, SETTINGS)
    if not file.is_file():
        return found
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        unknown = sorted(set(values) - set(_field_names()))
    except (OSError, ValueError, TypeError) as error:
        raise ModelFileError(f"{file} cannot be read: {error}; export the bundle anew") from error
    if unknown:
        raise ModelFileError(f"{file} has settings that do not exist: {', '.join(unknown)}; export the bundle anew")
    return found | values


def _field_names() -> list[str]:
    return [field.name for field in dataclasses.fields(BeamSettings)]
