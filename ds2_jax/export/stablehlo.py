"""A trained network as StableHLO, which `jax.export` reads back and runs for six months on later versions of JAX."""

from typing import cast

import flatbuffers  # noqa: F401 - jax.export needs it, and would name no extra that installs it
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ds2_jax.artifacts.bundle import ModelMeta

PLATFORMS = ("cpu", "cuda", "tpu")


def build(meta: ModelMeta, variables: dict) -> bytes:
    """Serialise (spectrogram [B, T, F] f32, frames [B] i32) -> (log probabilities [B, U, K] f32, lengths [B] i32).

    Any B and T are possible; each pair is compiled when it first occurs. The parameters are part of the result.
    """
    network, constants = meta.network, jax.tree.map(np.asarray, variables)

    def forward(spectrogram: jax.Array, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = network.apply(constants, spectrogram, frames, train=False)
        logits, lengths = cast(tuple[jax.Array, jax.Array], output)
        return jax.nn.log_softmax(logits), lengths

    batch, length = export.symbolic_shape("batch, time")
    shapes = (
        jax.ShapeDtypeStruct((batch, length, meta.feature_size), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    return bytes(export.export(jax.jit(forward), platforms=PLATFORMS)(*shapes).serialize())
