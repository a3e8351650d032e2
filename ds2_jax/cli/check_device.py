"""Check that the device asked for at installation is the one that computes: `python -m ds2_jax.cli.check_device cuda`."""

import sys

import jax
import jax.numpy as jnp

PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}


def main(accelerator: str) -> None:
    """Multiply two matrices and look where the result lies.

    Exit with a message where that is not the device asked for.
    """
    if accelerator not in PLATFORMS:
        sys.exit(f"ACCELERATOR={accelerator} is not known: choose one of {', '.join(PLATFORMS)}")
    result = jnp.ones((128, 128)) @ jnp.ones((128, 128))
    platform = next(iter(result.devices())).platform
    if accelerator != "cpu" and platform != PLATFORMS[accelerator]:  # a CPU is always there, and may be outdone
        sys.exit(
            f"ACCELERATOR={accelerator} was asked for, but JAX computes on {platform}: {jax.devices()}; check its drivers"
        )
    print(f"JAX {jax.__version__} computes on {jax.device_count()} device(s): {jax.devices()[0]}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
