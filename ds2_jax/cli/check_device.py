"""Check after installation that JAX uses the requested device: `python -m ds2_jax.cli.check_device cuda`."""

import argparse
import sys

from input_pipeline.storage import console

PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}


@console.command
def main() -> None:
    """Multiply two matrices; exit with a message if the result is not on the requested device."""
    parser = argparse.ArgumentParser(prog="python -m ds2_jax.cli.check_device", description=__doc__.partition(":")[0])
    parser.add_argument("accelerator", nargs="?", default="cpu", help=f"one of {', '.join(PLATFORMS)} (default: cpu)")
    accelerator = parser.parse_args().accelerator
    if accelerator not in PLATFORMS:
        sys.exit(f"unknown ACCELERATOR={accelerator}: choose one of {', '.join(PLATFORMS)}")
    import jax  # only here, so that help and a misspelt name start nothing
    import jax.numpy as jnp

    result = jnp.ones((128, 128)) @ jnp.ones((128, 128))
    platform = next(iter(result.devices())).platform
    if accelerator != "cpu" and platform != PLATFORMS[accelerator]:  # for cpu, JAX may have chosen an accelerator
        sys.exit(
            f"ACCELERATOR={accelerator} was requested, but JAX computes on {platform} ({jax.devices()}): check its drivers"
        )
    print(f"JAX {jax.__version__} computes on {jax.device_count()} device(s): {jax.devices()[0]}")


if __name__ == "__main__":
    main()
