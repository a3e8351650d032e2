"""Augmentation: random changes to training speech, defined by a JSON file (docs/augmentation.md).

`augmentation` reads the file and applies it, `augmentors` has a class for each type, `audio_effects` and
`feature_effects` implement the formulas.
"""

from input_pipeline.augment.augmentation import Augmentation, rng_for
from input_pipeline.augment.params import AugmentationError

__all__ = ["Augmentation", "AugmentationError", "rng_for"]
