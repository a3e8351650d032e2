"""Choose the batch shapes that a recipe compiles, for a manifest or for lengths typical of the recipe's corpus.

Typical lengths are quantiles, not a corpus: sufficient for shapes and memory. Output that is based on them says so.
"""

import importlib.util
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ds2_jax.cli import settings
from input_pipeline import manifest as manifests
from input_pipeline.augment import Augmentation
from input_pipeline.batches.corpus import choose_shapes
from input_pipeline.batches.loader import frames_of
from input_pipeline.batches.plan import Bucket

# Fractions of the utterances, the durations in seconds that they do not exceed, and the range of symbols per second.
# LibriSpeech: 960 h in 281,241 utterances, most of them 12 to 16 s. AISHELL: 178 h in 141,600, 1.2 to 14.7 s.
QUANTILES = {
    "librispeech": (
        [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1],
        [1.3, 2, 3.2, 5, 10.5, 13.9, 15.2, 15.9, 16.7, 27],
        (11.0, 18.0),
    ),
    "aishell": ([0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1], [1.2, 2.3, 3.5, 4.3, 5.3, 7.6, 9.5, 14.7], (2.0, 4.5)),
}
VOCABULARY = {"librispeech": 29, "aishell": 4334}  # symbols, including the blank
UTTERANCES = 20000


def read_config(path: str) -> ConfigDict:
    """Return the config of a recipe, given as FILE or FILE:DEVICES. Raises SystemExit."""
    file, _, devices = path.partition(":")
    spec = importlib.util.spec_from_file_location("recipe", file)
    if spec is None or spec.loader is None or not Path(file).exists():
        raise SystemExit(f"error: {file} is not a recipe; name a file such as configs/librispeech.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return recipe.get_config(devices) if devices else recipe.get_config()


def corpus_of(config: ConfigDict) -> str:
    """Return the corpus in QUANTILES that is typical of a recipe."""
    return "aishell" if config.text.language == "zh" else "librispeech"


def lengths(config: ConfigDict, manifest: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Return upper bounds of the seconds, and the symbols, of the utterances in a manifest or of QUANTILES."""
    rounding_s = 0.0
    if manifest:
        read = manifests.read(manifest)
        seconds, symbols = read.duration, np.array([len(text) for text in read.text])
        rounding_s = read.duration_unit_s / 2  # the margin that batch planning adds
    else:
        shares, values, (least, most) = QUANTILES[corpus_of(config)]
        seconds = np.interp(np.linspace(0, 1, UTTERANCES), shares, values)
        symbols = np.round(seconds * np.linspace(least, most, 7)[np.arange(UTTERANCES) % 7]).astype(np.int64)
    kept = (seconds >= config.data.min_duration_s) & (seconds <= config.data.max_duration_s)
    return seconds[kept] + rounding_s, symbols[kept]


def shapes(config: ConfigDict, seconds: np.ndarray, symbols: np.ndarray, *, training: bool) -> list[Bucket]:
    """Choose shapes as training or evaluation does; longest first."""
    recipe = settings.read_training(config)
    features, batch, augmentation = recipe.new_model.features, recipe.evaluation.batch, Augmentation()
    if training:
        batch, augmentation = recipe.batch, Augmentation.load(recipe.augmentation, features.sample_rate_hz)
    return choose_shapes(frames_of(seconds, features), symbols, features, batch, augmentation)[::-1]
