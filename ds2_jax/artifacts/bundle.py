"""Descriptions of models, and bundles: released models as a few plain files.

A bundle is a folder: `config.json` (version, model, features, text), `vocabulary.txt`, `feature_stats.npz`,
`model.safetensors` (parameters in float16, those of other programs in float32, as batch statistics are), `README.md`, the
model card, and `SHA256SUMS`, the digests of what the program reads; with a language model also `lm.bin` and `decode.json`
(ds2_jax/recognition/decode_settings.py).
"""

import dataclasses
import json
import logging
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file, save

from ds2_jax.network.model import DeepSpeech2, ModelSettings, init_variables
from input_pipeline.audio.cutting import LONGEST_PART_S, PART_S
from input_pipeline.audio.features import FeatureSettings, feature_size
from input_pipeline.audio.front_end import FeatureStats, FrontEnd
from input_pipeline.storage import digests
from input_pipeline.text import TextRules, Vocabulary

logger = logging.getLogger("ds2_jax")

VERSION = 1
CARD = "README.md"  # the model card
WEIGHTS = "model.safetensors"
STATS = "feature_stats.npz"
MODEL_FILES = ("config.json", "vocabulary.txt", STATS, WEIGHTS)
LANGUAGE_MODEL_FILES = ("lm.bin", "lm.arpa", "lm.arpa.gz", "unigrams.txt", "decode.json")  # replaced as a set
CHECKED = (*MODEL_FILES, *LANGUAGE_MODEL_FILES)  # by their digests, before they are used


class ModelFileError(ValueError):
    """A bundle or checkpoint that cannot be used; the message names the file and what to do."""


@dataclasses.dataclass(frozen=True)
class ModelMeta:
    """Description of a model, stored in every checkpoint and bundle: network, features, vocabulary, language.

    part_s: long recordings are cut at the first pause after so many seconds, unless the user says otherwise.
    """

    model: ModelSettings
    features: FeatureSettings
    normalisation: str
    stats: FeatureStats | None
    vocabulary: Vocabulary
    language: str
    spell_numbers: bool = False
    part_s: float = PART_S

    @property
    def text(self) -> TextRules:
        """The normalisation of transcripts."""
        return TextRules(self.language, self.spell_numbers)

    @property
    def network(self) -> DeepSpeech2:
        """The network, without parameters."""
        return DeepSpeech2(self.model, self.vocabulary.size)

    @property
    def feature_size(self) -> int:
        """Number of features per frame, F."""
        return feature_size(self.features)

    @property
    def front_end(self) -> FrontEnd:
        """The transform from samples to the network's input."""
        return FrontEnd(self.features, self.normalisation, self.stats)

    @property
    def output_frame_s(self) -> float:
        """Seconds between two output frames."""
        return self.model.time_stride * self.features.stride_ms / 1000

    def abstract_variables(self) -> dict:
        """Return shapes and types of parameters and batch statistics."""
        return jax.eval_shape(lambda: init_variables(self.network, self.feature_size, 0))

    def to_json(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        stats = self.stats and {"mean": self.stats.mean.tolist(), "std": self.stats.std.tolist()}
        return {
            "version": VERSION,
            "model": dataclasses.asdict(self.model),
            "features": dataclasses.asdict(self.features),
            "normalisation": self.normalisation,
            "stats": stats,
            "vocabulary": list(self.vocabulary.symbols),
            "language": self.language,
            "spell_numbers": self.spell_numbers,
            "part_s": self.part_s,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> "ModelMeta":
        """Build a description from the values of `to_json`. Raises ModelFileError naming the file, `where`."""
        if not isinstance(values, Mapping):
            raise ModelFileError(
                f"{where} does not describe a model (it is a {type(values).__name__}): export it again"
            )
        if values.get("version") != VERSION:
            raise ModelFileError(
                f"{where} has version {values.get('version')!r}, but this program reads version {VERSION}: use the program "
                "that wrote it"
            )
        try:
            stats = values["stats"] and FeatureStats(
                np.array(values["stats"]["mean"], np.float32), np.array(values["stats"]["std"], np.float32)
            )
            return cls(
                model=_read_settings(ModelSettings, values["model"]),
                features=_read_settings(FeatureSettings, values["features"]),
                normalisation=_typed(str, "normalisation", values["normalisation"]),
                stats=stats or None,
                vocabulary=Vocabulary(tuple(values["vocabulary"])),
                language=_typed(str, "language", values["language"]),
                spell_numbers=_typed(
                    bool, "spell_numbers", values.get("spell_numbers", False)
                ),  # missing in old models
                part_s=_read_part_s(values.get("part_s", PART_S)),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelFileError(f"{where} does not describe a model ({error!r}): export it again") from error

    def differences(self, other: "ModelMeta") -> list[str]:
        """Describe each difference from another model in network, features, statistics, vocabulary or language."""
        own, theirs = self.to_json(), other.to_json()
        values: dict[str, tuple[Any, Any]] = {}
        for section in ("model", "features"):
            for name in sorted({*own[section], *theirs[section]}):
                values[f"{section}.{name}"] = own[section].get(name), theirs[section].get(name)
        values["features.normalisation"] = self.normalisation, other.normalisation
        values["text.language"] = self.language, other.language
        values["text.spell_numbers"] = self.spell_numbers, other.spell_numbers
        found = [f"{name} is {a!r} here and {b!r} there" for name, (a, b) in values.items() if a != b]
        if self.vocabulary != other.vocabulary:
            a, b = (f"{v.size - 1} symbols {''.join(v.symbols[:40])!r}" for v in (self.vocabulary, other.vocabulary))
            found.append(f"vocabulary is {a} here and {b} there")
        if own["stats"] != theirs["stats"]:
            found.append("the feature statistics are others here than there")
        return found


Settings = TypeVar("Settings", ModelSettings, FeatureSettings)


def _read_settings(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Build settings from JSON values. Raises TypeError naming a value of another type, or for unknown names."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{kind.__name__} from a {type(values).__name__}")
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    return kind(**{name: _typed(types.get(name, object), name, value) for name, value in values.items()})


def _typed(kind: Any, name: str, value: Any) -> Any:
    """Return a JSON value. Raises TypeError if it is not of this type; a whole number counts as a float, too."""
    if kind is float and type(value) is int:
        return value
    if kind is not object and type(value) is not kind:
        raise TypeError(f"{name} is {value!r}, not of type {kind.__name__}")
    return value


def _read_part_s(value: Any) -> float:
    """Return the seconds after which a part may end. Raises TypeError, ValueError."""
    seconds = float(_typed(float, "part_s", value))
    if not 0 <= seconds < LONGEST_PART_S:
        raise ValueError(f"part_s is {seconds}, not from 0 to {LONGEST_PART_S:g}")
    return seconds


def is_bundle(path: str | os.PathLike) -> bool:
    """Return whether a folder is a bundle."""
    return Path(path, WEIGHTS).is_file() and Path(path, "config.json").is_file()


def save_bundle(
    path: str | os.PathLike,
    meta: ModelMeta,
    variables: dict,
    card: str,
    extra_files: Mapping[str, str | os.PathLike | bytes] | None = None,
    *,
    half: bool = True,
) -> None:
    """Write a bundle completely or not at all: into a temporary folder beside it, which is then renamed.

    extra_files: more files by name, as bytes or as paths to copy. half: store parameters in float16.
    Raises ModelFileError if another kind of folder exists.
    """
    target = Path(path).resolve()  # behind a link, the folder is replaced and the link kept
    if target.exists() and not is_bundle(target):
        raise ModelFileError(f"{target} exists and is not a bundle: export to another folder")
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    unfinished.mkdir(parents=True)
    try:
        config = meta.to_json()
        del config["vocabulary"], config["stats"]
        (unfinished / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        meta.vocabulary.save(unfinished / "vocabulary.txt")
        if meta.stats is not None:
            meta.stats.save(unfinished / STATS)
        arrays = {
            ".".join(name): np.ascontiguousarray(array, np.float16 if half and name[0] == "params" else np.float32)
            for name, array in traverse_util.flatten_dict(jax.device_get(variables)).items()
        }
        (unfinished / WEIGHTS).write_bytes(save(arrays))
        (unfinished / CARD).write_text(card, encoding="utf-8")
        for name, content in (extra_files or {}).items():
            if isinstance(content, bytes):
                (unfinished / name).write_bytes(content)
            else:
                shutil.copyfile(content, unfinished / name)
        listed = digests.of_files(unfinished, [name for name in CHECKED if (unfinished / name).exists()])
        replaced = LANGUAGE_MODEL_FILES if extra_files else ()
        others = [p for p in target.iterdir() if p.name not in replaced] if target.exists() else []
        others = [p for p in others if not (unfinished / p.name).exists() and p.name != digests.LISTING]
        kept = _listed(target)  # a file keeps the digest that it had, so that damage to it is not made valid
        for other in others:  # files that were added to the bundle, such as a language model
            copy = shutil.copytree if other.is_dir() else shutil.copy2
            copy(other, unfinished / other.name)
            listed |= {name: value for name, value in kept.items() if name == other.name}
        digests.write(unfinished / digests.LISTING, listed)
        _replace_folder(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _replace_folder(new: Path, target: Path) -> None:
    """Rename a folder to `target` and remove the old one, which gets its name back if renaming fails."""
    aside = new.with_name(f"{new.name}.old")
    if target.exists():
        target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def check_digests(folder: Path, names: Sequence[str]) -> None:
    """Compare these files of a bundle, as far as they exist, with their digests; log which have none.

    Raises ModelFileError naming a file that is damaged.
    """
    listed = _listed(folder)
    try:
        digests.check(folder, {name: value for name, value in listed.items() if name in names})
    except digests.DamagedFileError as error:
        raise ModelFileError(
            f"{error}; export or copy the bundle again, or remove the file's line from {folder / digests.LISTING} if you "
            "changed the file on purpose"
        ) from error
    unlisted = [name for name in names if name not in listed and (folder / name).exists()]
    if unlisted:
        logger.info("%s is unverified: it has no digest of %s", folder, ", ".join(unlisted))


def _listed(folder: Path) -> dict[str, str]:
    try:
        return digests.read(folder / digests.LISTING)
    except digests.DamagedFileError as error:
        raise ModelFileError(str(error)) from error


def load_bundle(path: str | os.PathLike) -> tuple[ModelMeta, dict]:
    """Read the description and the variables (float32 numpy) of a bundle. Raises ModelFileError."""
    folder = Path(path)
    check_digests(folder, MODEL_FILES)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["vocabulary"] = Vocabulary.load(folder / "vocabulary.txt").symbols
        has_stats = (folder / STATS).exists()
        stats = FeatureStats.load(folder / STATS) if has_stats else None
        arrays = load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors has its own error types
        raise ModelFileError(f"bundle {folder} cannot be read ({error}): export or clone it again") from error
    meta = dataclasses.replace(ModelMeta.from_json({**config, "stats": None}, str(folder / "config.json")), stats=stats)
    flat = {tuple(name.split(".")): np.asarray(array, np.float32) for name, array in arrays.items()}
    variables = traverse_util.unflatten_dict(flat)
    _check_shapes(variables, meta, str(folder))
    return meta, variables


def _check_shapes(variables: dict, meta: ModelMeta, where: str) -> None:
    actual = traverse_util.flatten_dict(variables, sep=".")
    try:
        if meta.model.rnn_layers > len(actual):  # building a million layers would take for ever
            raise ValueError(f"{meta.model.rnn_layers} layers from {len(actual)} arrays")
        expected = traverse_util.flatten_dict(meta.abstract_variables(), sep=".")
    except Exception as error:  # what JAX raises for impossible sizes has many types
        raise ModelFileError(
            f"{where}: its config.json describes no possible network ({error}): export it again"
        ) from error
    for name in sorted({*expected, *actual}):
        a, b = (getattr(arrays.get(name), "shape", "missing") for arrays in (expected, actual))
        if a != b:
            raise ModelFileError(
                f"{where}: the shape of {name} is {b}, but its config.json requires {a}: export it again"
            )
