"""What the parameters of a trained network satisfy, whatever file they were read from."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from ds2_jax.foreign.release import Imported

SILENCE_S, SILENCE_DB = 3.0, -70.0  # noise as in a quiet room, not brought to the level of speech
BLANK_SHARE, POSITIVE_SHARE = 0.9, 0.9


class Requirement(NamedTuple):
    """What is required, what was found, and whether it satisfies."""

    text: str
    found: str
    satisfied: bool


def check_parameters(model: Imported) -> Iterator[Requirement]:
    """Yield the requirements that the numbers in the file have to satisfy."""
    arrays, names = model.arrays, model.names
    infinite = [names[role] for role, array in arrays.items() if not np.isfinite(array).all()]
    yield Requirement("all values are finite", _list(infinite), not infinite)
    negative = [names[role] for role, array in arrays.items() if role.endswith(".var") and (array < 0).any()]
    yield Requirement("variances of batch normalisation are at least 0", _list(negative), not negative)
    scales = np.concatenate([array for role, array in arrays.items() if role.endswith(".scale")])
    share = float((scales > 0).mean())
    text = f"at least {POSITIVE_SHARE:.0%} of the scales of batch normalisation are above 0"
    yield Requirement(text, f"{share:.0%}", share >= POSITIVE_SHARE)


def check_silence(model: Imported) -> Requirement:
    """Run the network on the noise of a quiet room, in which it has to find nothing."""
    meta = model.meta
    front_end = dataclasses.replace(meta.front_end, settings=dataclasses.replace(meta.features, normalise_db=False))
    noise = np.random.default_rng(0).normal(0, 10 ** (SILENCE_DB / 20), int(SILENCE_S * meta.features.sample_rate_hz))
    features = front_end(noise.astype(np.float32))[None]
    run = jax.jit(lambda variables, x, frames: meta.network.apply(variables, x, frames, train=False))
    logits, lengths = run(model.variables, features, np.array([features.shape[1]]))
    share = float((np.asarray(logits)[0, : int(lengths[0])].argmax(-1) == 0).mean())
    text = f"the blank has the highest score in at least {BLANK_SHARE:.0%} of the frames of silence"
    return Requirement(text, f"{share:.0%}", share >= BLANK_SHARE)


def _list(names: list[str]) -> str:
    return f"not in {', '.join(names[:3])}{' ...' * (len(names) > 3)}" if names else "in all"
