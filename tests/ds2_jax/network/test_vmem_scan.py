"""The scan for TPUs, interpreted on CPUs, against jax.lax.scan: order, several devices, and the shapes that it takes."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ds2_jax.network import vmem_scan as module
from ds2_jax.network.vmem_scan import fits, vmem_scan
from ds2_jax.parallel import sharding
from tests.runs import ROOT

U, D, B, H = 5, 2, 8, 6
ROUNDING = 1e-6  # the same sums in float32


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


def frame(constants, carry, inputs):
    """Mix the rows of no utterance with those of another; depend on everything, and on the order of frames."""
    (matrix, bias), (h, c), (x, (valid,)) = constants, carry, inputs
    new = jnp.tanh(jnp.einsum("dbn,dnm->dbm", h, matrix) + x + bias)
    return (jnp.where(valid, new, h), 0.5 * c + new), {"new": new, "sum": c + x}


def arguments():
    valid = jnp.asarray(np.arange(U)[:, None, None, None] < np.arange(B)[:, None]).repeat(
        D, 1
    )  # the first row is empty
    constants, carry = (draw(D, H, H, seed=1), draw(D, 1, H, seed=2)), (draw(D, B, H, seed=3), draw(D, B, H, seed=4))
    return constants, carry, (draw(U, D, B, H, seed=5), (valid,))


def expected(reverse):
    constants, carry, inputs = arguments()
    return jax.lax.scan(functools.partial(frame, constants), carry, inputs, reverse=reverse)


def check_equal(found, wanted):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=ROUNDING), found, wanted)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_kernel_equals_a_scan(reverse):
    run = jax.jit(functools.partial(vmem_scan, frame, reverse=reverse, interpret=True))
    check_equal(run(*arguments()), expected(reverse))


def test_several_devices_compute_their_rows_without_exchange():
    mesh = sharding.make_mesh(fsdp=2)
    run = sharding.on_mesh(functools.partial(vmem_scan, frame, reverse=True, interpret=True), mesh)
    axes = mesh.axis_names
    specs = jax.sharding.PartitionSpec(), *(jax.sharding.PartitionSpec(*(None,) * n, axes) for n in (1, 2))
    places = jax.tree.map(lambda spec: jax.sharding.NamedSharding(mesh, spec), specs)
    compiled = jax.jit(run, in_shardings=places).lower(*arguments()).compile()
    assert "all-" not in (compiled.as_text() or "")
    found = compiled(*jax.device_put(arguments(), places))
    assert found[1]["new"].sharding.shard_shape(found[1]["new"].shape) == (U, D, B // 4, H)
    check_equal(found, expected(reverse=True))


def shapes(hidden=256, batch=8, frames=3, gates=3):
    def of(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    return of(2, hidden, gates * hidden), of(2, batch, hidden), (of(frames, 2, batch, hidden),) * gates


@pytest.mark.parametrize(
    ("changes", "fit"),
    [
        ({}, True),
        ({"hidden": 1024, "batch": 64}, True),
        ({"hidden": 2048, "gates": 1, "batch": 80}, True),
        ({"hidden": 2048}, False),  # 50 MB
        ({"hidden": 192}, False),  # gates do not start at a register
        ({"batch": 6}, False),  # four devices
        ({"frames": 0}, False),
    ],
)
def test_shapes_that_do_not_fit_are_left_to_xla(changes, fit):
    with jax.sharding.use_abstract_mesh(sharding.make_mesh().abstract_mesh):
        assert fits(*shapes(**changes)) == fit


def test_programs_for_an_unknown_mesh_or_shape_are_left_to_xla(monkeypatch):
    assert not fits(*shapes())  # four devices, but no mesh in view
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert fits(*shapes())
    rows, *_ = jax.export.symbolic_shape("b")
    with jax.sharding.use_abstract_mesh(sharding.make_mesh().abstract_mesh):
        assert not fits(*shapes(batch=rows))


def test_a_small_vmem_is_left_to_xla(monkeypatch):
    monkeypatch.setattr(module, "vmem_bytes", lambda: 16 << 20)  # TPU v4
    with jax.sharding.use_abstract_mesh(sharding.make_mesh().abstract_mesh):
        assert fits(*shapes())
        assert not fits(*shapes(hidden=1024))


PROGRAM = """
import json, re, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from benchmarks.accelerators import make_mesh
from ds2_jax.network import recurrence
from ds2_jax.parallel.sharding import on_mesh

def of(spec, *shape):
    return jax.ShapeDtypeStruct(shape, jnp.bool_ if shape[-1] == 1 else jnp.bfloat16, sharding=NamedSharding(mesh, spec))

mesh = make_mesh(sys.argv[1], 1)
found = {}
for name, gates, arrays in (("simple_rnn", 1, 1), ("gru", 3, 1), ("lstm", 4, 2)):
    def loss(projected, weights, bias, initial, mask):
        outputs, last = recurrence.scan_cell(getattr(recurrence, name), projected, weights, bias, initial, mask[..., 0])
        return (outputs.astype(jnp.float32) ** 2).sum() + last[0].astype(jnp.float32).sum()
    H, B, rows = 256, 8 * mesh.size, P(None, None, mesh.axis_names)
    arguments = (
        (of(rows, 5, 2, B, H),) * gates, of(P(), 2, H, gates * H), of(P(), 2, gates * H),
        (of(P(None, mesh.axis_names), 2, B, H),) * arrays, of(rows, 5, 2, B, 1),
    )
    step = jax.jit(on_mesh(jax.grad(loss, argnums=(0, 1, 2, 3)), mesh))
    text = step.lower(*arguments).compile().as_text()
    kinds = set(re.findall("all-[a-z]+|reduce-scatter|collective-[a-z]+", text))
    found[name] = [text.count('custom_call_target="tpu_custom_call"'), sorted(kinds)]
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:1x1", "v6e:1x1", "v5p:1x1x1", "v5e:2x2"])
def test_all_cells_compile_for_tpus_forward_and_backward(topology, tpu_compiler):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, topology],
        cwd=ROOT,
        env=tpu_compiler | {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    gradients = ["all-reduce"] if topology.endswith("2x2") else []  # of the matrix and the bias
    assert json.loads(result.stdout) == {name: [2, gradients] for name in ("simple_rnn", "gru", "lstm")}
