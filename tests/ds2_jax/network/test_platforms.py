import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from ds2_jax.network.platforms import platform_dependent
from ds2_jax.parallel.sharding import on_mesh


def by_platform(traced: list[str]):
    """Return a function that multiplies by a number of the platform, and notes which forms have been traced."""

    def form(name: str, factor: float):
        def multiply(x):
            traced.append(name)
            return factor * x

        return multiply

    forms = {"cpu": form("cpu", 2.0), "tpu": form("tpu", 3.0)}
    return lambda x: platform_dependent(x, **forms, default=form("other", 5.0))


def lowered_for(function, platform: str) -> str:
    return jax.jit(function).trace(jnp.ones(())).lower(lowering_platforms=(platform,)).as_text()


def test_on_a_mesh_only_the_form_of_its_platform_is_traced():
    traced: list[str] = []
    step = jax.jit(on_mesh(by_platform(traced), Mesh(np.array(jax.devices()), ("data",))))
    assert step(7.0) == 14.0
    assert traced == ["cpu"]


@pytest.mark.parametrize(("platform", "factor"), [("cpu", "2.0"), ("tpu", "3.0"), ("cuda", "5.0"), ("rocm", "5.0")])
def test_without_a_mesh_the_platform_is_chosen_when_the_program_is_lowered(platform, factor):
    traced: list[str] = []
    text = lowered_for(by_platform(traced), platform)
    assert sorted(traced) == ["cpu", "other", "tpu"]
    assert f"dense<{factor}" in text


def test_a_mesh_of_another_platform_than_this_machine_s_decides():
    traced: list[str] = []
    devices = jax.sharding.AbstractDevice(device_kind="NVIDIA H100", num_cores=None, platform="gpu")
    mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=devices)
    with jax.sharding.use_abstract_mesh(mesh):
        text = lowered_for(by_platform(traced), "cuda")
    assert traced == ["other"]
    assert "dense<5.0" in text
