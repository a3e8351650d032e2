"""Augmentation: change speech at random before it is learnt from, as a JSON file says (docs/augmentation.md).

`augmentation` reads the file and applies it, `augmentors` holds one class for each type, `audio_effects` and
`feature_effects` the formulas.
"""

from input_pipeline.augment.augmentation import Augmentation, rng_for
from input_pipeline.augment.params import AugmentationError

__all__ = ["Augmentation", "AugmentationError", "rng_for"]
