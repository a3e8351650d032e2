"""Check after installation that JAX uses the requested device: `python -m ds2_jax.cli.check_device cuda`."""

import sys

import jax
import jax.numpy as jnp

PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}


def main(accelerator: str) -> None:
    """Multiply two matrices; exit with a message if the result is not on the requested device."""
    if accelerator not in PLATFORMS:
        sys.exit(f"unknown ACCELERATOR={accelerator}: choose one of {', '.join(PLATFORMS)}")
    result = jnp.ones((128, 128)) @ jnp.ones((128, 128))
    platform = next(iter(result.devices())).platform
    if accelerator != "cpu" and platform != PLATFORMS[accelerator]:  # for cpu, JAX may have chosen an accelerator
        sys.exit(
            f"ACCELERATOR={accelerator} was requested, but JAX computes on {platform} ({jax.devices()}): check its drivers"
        )
    print(f"JAX {jax.__version__} computes on {jax.device_count()} device(s): {jax.devices()[0]}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
