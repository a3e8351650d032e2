"""Settings of decoding: those that were given, completed by those of a bundle.

A bundle with a language model contains `lm.bin` (or `lm.arpa`), `unigrams.txt` if its words are listed separately, and
`decode.json`, the settings tuned with it. These apply only to that language model, and only to settings that were not
given.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decoding.lm import model_file
from decoding.search import beam
from decoding.search.beam import CheckedEngine
from decoding.settings import BeamSettings
from ds2_jax.artifacts.bundle import ModelFileError, ModelMeta, check_digests, is_bundle
from ds2_jax.artifacts.load import resolve_model
from input_pipeline.text import upper

logger = logging.getLogger("ds2_jax")

NO_MODEL = "none"  # value of `lm`: do not use the bundle's language model
MODELS = {"binary": "lm.bin", "arpa": "lm.arpa", "gzip": "lm.arpa.gz"}
UNIGRAMS = "unigrams.txt"
SETTINGS = "decode.json"
LOCAL = ("lm", "unigrams", "hot_words", "nbest", "threads")  # not written to a bundle's decode.json


def complete(given: Mapping[str, Any], model: str) -> BeamSettings:
    """Return the settings of decoding.

    The default engine is `auto` with a language model, hot words or several hypotheses, which need a beam, else `greedy`.

    given: fields of BeamSettings by name; None and '' count as not given. model: the path of the model, which may be a
    bundle. Raises ValueError naming the field, its value and what to do.
    """
    chosen = {name: value for name, value in given.items() if value is not None and value != ""}
    if chosen.get("lm") == NO_MODEL:
        del chosen["lm"]
    elif "lm" not in chosen:
        chosen = _bundle_settings(model) | chosen
    needs_beam = chosen.get("lm") or chosen.get("hot_words") or chosen.get("nbest", 1) != 1
    chosen.setdefault("engine", "auto" if needs_beam else "greedy")
    return BeamSettings(**chosen)


def make_engine(settings: BeamSettings, meta: ModelMeta) -> CheckedEngine:
    """Build the engine that decodes a model's output. Raises ValueError if the settings do not fit the model."""
    engine = beam.make_engine(meta.vocabulary, spell_hot_words(settings, meta), meta.output_frame_s)
    unused = [name for name in ("hot_words", "nbest") if getattr(settings, name) != getattr(BeamSettings, name)]
    if engine.name == "greedy" and unused:
        logger.warning(
            "config.decode.engine is 'greedy', which does not use config.decode.%s: leave the engine empty, or choose native",
            " and ".join(unused),
        )
    if engine.name != "greedy":
        logger.info("decoding: %s", describe(settings, engine.name))
    return engine


def spell_hot_words(settings: BeamSettings, meta: ModelMeta) -> BeamSettings:
    """Return settings with hot words as the network spells them. Raises ValueError if two of them become the same."""
    weights = settings.hot_word_weights()
    spelled = ",".join(f"{spell(word, meta)}:{weight!r}" for word, weight in weights.items())
    return dataclasses.replace(settings, hot_words=spelled)


def spell(word: str, meta: ModelMeta) -> str:
    """Return a word normalised as transcripts are, in the case that the network writes, if it can write it at all."""
    normal = meta.text.normalise(word)
    spellings = (normal, normal.lower(), upper(normal, meta.language))
    return next((one for one in spellings if set(one) <= set(meta.vocabulary.symbols)), normal)


def describe(settings: BeamSettings, engine: str) -> str:
    """Describe decoding in one line: engine, language model, weights and beam."""
    if engine == "greedy":
        return engine
    model = f"{settings.lm}, alpha {settings.alpha:g}, beta {settings.beta:g}" if settings.lm else "no language model"
    return f"{engine}, {model}, beam {settings.beam_size}"


def weights(settings: BeamSettings, engine: str) -> dict[str, str | float | None]:
    """Return language model, alpha and beta for a record of results; None where no language model is used."""
    used = bool(settings.lm) and engine != "greedy"
    values: dict[str, str | float | None] = {"lm": settings.lm, "alpha": settings.alpha, "beta": settings.beta}
    return values if used else dict.fromkeys(values)


def card_sections(settings: BeamSettings) -> dict[str, str]:
    """Return the section of a model card about the language model, Markdown by name; empty without one."""
    if not settings.lm:
        return {}
    name = MODELS[model_file.kind_of(settings.lm)]
    section = f"""\
## Language model

`{name}` is used by default, with `decode.json`: alpha {settings.alpha:g}, beta {settings.beta:g} (natural logarithms), lexicon
`{settings.lexicon}`, beam {settings.beam_size}. `--config.decode.engine=greedy` decodes without it.
"""
    return {"language_model": section}


def bundle_files(settings: BeamSettings, meta: ModelMeta) -> dict[str, str | bytes]:
    """Return the files of a bundle's language model by name, as paths to copy or content; empty without one.

    Raises ValueError if the language model does not fit the network.
    """
    if not settings.lm:
        return {}
    beam.require_sound(meta.vocabulary, settings)
    files: dict[str, str | bytes] = {MODELS[model_file.kind_of(settings.lm)]: settings.lm}
    if settings.unigrams:
        files[UNIGRAMS] = settings.unigrams
    values = {name: value for name, value in dataclasses.asdict(settings).items() if name not in LOCAL}
    return {**files, SETTINGS: (json.dumps(values, indent=1) + "\n").encode()}


def _bundle_settings(model: str) -> dict[str, Any]:
    """Return the language model and settings of a bundle; empty for other models."""
    model = resolve_model(model)
    if not model or not is_bundle(model):
        return {}
    models = [path for path in (Path(model, name) for name in MODELS.values()) if path.is_file()]
    if not models:
        return {}
    files: dict[str, Any] = {"lm": str(models[0])}
    if Path(model, UNIGRAMS).is_file():
        files["unigrams"] = str(Path(model, UNIGRAMS))
    file = Path(model, SETTINGS)
    if not file.is_file():
        return files
    check_digests(Path(model), [SETTINGS, UNIGRAMS])
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        unknown = sorted(set(values.keys()) - {field.name for field in dataclasses.fields(BeamSettings)})
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{file} cannot be read ({error}): export the bundle again") from error
    if unknown:
        raise ModelFileError(f"{file} has unknown settings ({', '.join(unknown)}): export the bundle again")
    if foreign := sorted(set(values) & {"lm", "unigrams"}):  # a file elsewhere is never a bundle's to name
        raise ModelFileError(
            f"{file} must not set {', '.join(foreign)}: remove these lines, and give them on the command line"
        )
    return files | values
