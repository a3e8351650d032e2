"""What a model needs beside its numbers, and a released model as a few plain files.

A bundle is a folder: `config.json` (version, model, features, text), `vocabulary.txt`, `feature_stats.npz`,
`model.safetensors` (parameters in float16, batch statistics in float32) and `README.md`, the model card; with a language
model also `lm.bin` and `decode.json` (ds2_jax/recognition/decode_settings.py).
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file, save

from ds2_jax.network.model import DeepSpeech2, ModelSettings, init_variables
from input_pipeline.audio.features import FeatureSettings, FeatureStats, FrontEnd, feature_size
from input_pipeline.text import Vocabulary

VERSION = 1
OF_LANGUAGE_MODEL = ("lm.bin", "lm.arpa", "lm.arpa.gz", "unigrams.txt", "decode.json")  # go and come together


class ModelFileError(ValueError):
    """A bundle or checkpoint that cannot be used; the message names file and mend."""


@dataclasses.dataclass(frozen=True)
class ModelMeta:
    """The description that travels with every checkpoint and bundle: network, features, vocabulary, language."""

    model: ModelSettings
    features: FeatureSettings
    normalisation: str
    stats: FeatureStats | None
    vocabulary: Vocabulary
    language: str

    @property
    def network(self) -> DeepSpeech2:
        """The network described."""
        return DeepSpeech2(self.model, self.vocabulary.size)

    @property
    def feature_size(self) -> int:
        """Features a frame, F."""
        return feature_size(self.features)

    @property
    def front_end(self) -> FrontEnd:
        """What makes the network's input of samples."""
        return FrontEnd(self.features, self.normalisation, self.stats)

    @property
    def output_frame_s(self) -> float:
        """Seconds between two output frames."""
        return self.model.time_stride * self.features.stride_ms / 1000

    def abstract_variables(self) -> dict:
        """Shapes and types of parameters and batch statistics."""
        return jax.eval_shape(lambda: init_variables(self.network, self.feature_size, 0))

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        stats = self.stats and {"mean": self.stats.mean.tolist(), "std": self.stats.std.tolist()}
        return {
            "version": VERSION,
            "model": dataclasses.asdict(self.model),
            "features": dataclasses.asdict(self.features),
            "normalisation": self.normalisation,
            "stats": stats,
            "vocabulary": list(self.vocabulary.symbols),
            "language": self.language,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> "ModelMeta":
        """Undo `to_json`; raises ModelFileError naming the file."""
        if values.get("version") != VERSION:
            raise ModelFileError(
                f"{where} has version {values.get('version')!r}, this program reads {VERSION}; use the program it was made with"
            )
        try:
            stats = values["stats"] and FeatureStats(
                np.array(values["stats"]["mean"], np.float32), np.array(values["stats"]["std"], np.float32)
            )
            return cls(
                model=ModelSettings(**values["model"]),
                features=FeatureSettings(**values["features"]),
                normalisation=values["normalisation"],
                stats=stats or None,
                vocabulary=Vocabulary(tuple(values["vocabulary"])),
                language=values["language"],
            )
        except (KeyError, TypeError) as error:
            raise ModelFileError(f"{where} does not describe a model ({error!r}); export it anew") from error

    def differences(self, other: "ModelMeta") -> list[str]:
        """Say where two models differ in network, features or vocabulary, with both values."""
        mine, theirs = self.to_json(), other.to_json()
        found = []
        for part in ("model", "features"):
            for name in sorted({*mine[part], *theirs[part]}):
                a, b = mine[part].get(name), theirs[part].get(name)
                if a != b:
                    found.append(f"{part}.{name} is {a!r} here and {b!r} there")
        if self.normalisation != other.normalisation:
            found.append(f"features.normalisation is {self.normalisation!r} here and {other.normalisation!r} there")
        if self.vocabulary != other.vocabulary:
            a, b = (f"{v.size - 1} symbols {''.join(v.symbols[:40])!r}" for v in (self.vocabulary, other.vocabulary))
            found.append(f"vocabulary is {a} here and {b} there")
        if self.language != other.language:
            found.append(f"text.language is {self.language!r} here and {other.language!r} there")
        return found


def is_bundle(path: str | os.PathLike) -> bool:
    """Tell whether a folder is a bundle."""
    return Path(path, "model.safetensors").is_file() and Path(path, "config.json").is_file()


def save_bundle(
    path: str | os.PathLike,
    meta: ModelMeta,
    variables: dict,
    card: str,
    more: Mapping[str, str | os.PathLike | bytes] | None = None,
) -> None:
    """Write a bundle at once or not at all: into a neighbouring folder first, which then takes the name.

    more: further files by name, as bytes or as paths to copy.
    """
    target = Path(path).resolve()  # of a link, the folder is replaced, and the link stays
    if target.exists() and not is_bundle(target):
        raise ModelFileError(f"{target} exists and is no bundle; export to another folder")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    unfinished.mkdir(parents=True)
    try:
        config = meta.to_json()
        del config["vocabulary"], config["stats"]
        (unfinished / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        meta.vocabulary.save(unfinished / "vocabulary.txt")
        if meta.stats is not None:
            meta.stats.save(unfinished / "feature_stats.npz")
        arrays = {
            ".".join(name): np.ascontiguousarray(array, np.float16 if name[0] == "params" else np.float32)
            for name, array in traverse_util.flatten_dict(jax.device_get(variables)).items()
        }
        (unfinished / "model.safetensors").write_bytes(save(arrays))
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        for name, content in (more or {}).items():
            if isinstance(content, bytes):
                (unfinished / name).write_bytes(content)
            else:
                shutil.copyfile(content, unfinished / name)
        replaced = OF_LANGUAGE_MODEL if more else ()
        others = [p for p in target.iterdir() if p.name not in replaced] if target.exists() else []
        others = [p for p in others if not (unfinished / p.name).exists()]
        for other in others:  # a language model, say, that was put beside the network
            copy = shutil.copytree if other.is_dir() else shutil.copy2
            copy(other, unfinished / other.name)
        _put_in_place(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _put_in_place(new: Path, target: Path) -> None:
    """Give a folder its name; the one that had it is removed afterwards, and has it again where that fails."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def load_bundle(path: str | os.PathLike) -> tuple[ModelMeta, dict]:
    """Read a bundle: its description and its variables (float32 numpy). Raises ModelFileError."""
    folder = Path(path)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["vocabulary"] = Vocabulary.load(folder / "vocabulary.txt").symbols
        has_stats = (folder / "feature_stats.npz").exists()
        stats = FeatureStats.load(folder / "feature_stats.npz") if has_stats else None
        arrays = load_file(folder / "model.safetensors")
    except Exception as error:  # safetensors raises errors of its own kind
        raise ModelFileError(f"bundle {folder} cannot be read: {error}; export or clone it anew") from error
    meta = dataclasses.replace(ModelMeta.from_json({**config, "stats": None}, str(folder / "config.json")), stats=stats)
    flat = {tuple(name.split(".")): np.asarray(array, np.float32) for name, array in arrays.items()}
    variables = traverse_util.unflatten_dict(flat)
    _check_shapes(variables, meta, str(folder))
    return meta, variables


def _check_shapes(variables: dict, meta: ModelMeta, where: str) -> None:
    expected = traverse_util.flatten_dict(meta.abstract_variables(), sep=".")
    found = traverse_util.flatten_dict(variables, sep=".")
    for name in sorted({*expected, *found}):
        a, b = (getattr(x.get(name), "shape", "nothing") for x in (expected, found))
        if a != b:
            raise ModelFileError(f"{where}: {name} is {b}, its config.json asks for {a}; export it anew")
