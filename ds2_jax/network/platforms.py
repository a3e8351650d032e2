"""Choose the form of a computation that suits the platform it is compiled for."""

from collections.abc import Callable
from typing import Any

import jax


def platform_dependent(*arguments: Any, default: Callable, **forms: Callable) -> Any:
    """Call the form of the platform (`cpu`, `tpu`), or else `default`, as `jax.lax.platform_dependent` does.

    If the mesh in view (`parallel.sharding.on_mesh`) names its platform, only that form is traced: tracing all forms of all
    layers takes a quarter of the time of a start whose programs are cached. Otherwise JAX chooses when it lowers the program.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return jax.lax.platform_dependent(*arguments, default=default, **forms)
    return forms.get(device.platform, default)(*arguments)
