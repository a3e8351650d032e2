"""The device memory of training, reported before the first step."""

import functools
import logging

import jax
import jax.numpy as jnp
import pytest

from ds2_jax.network.model import init_variables
from ds2_jax.parallel import sharding
from ds2_jax.recognition.step import abstract_batch
from ds2_jax.training import host_memory, memory
from ds2_jax.training.compile import compile_steps
from ds2_jax.training.optim import make_optimizer, make_schedule
from ds2_jax.training.settings import OptimSettings
from ds2_jax.training.state import TrainState, make_state
from ds2_jax.training.step import make_train_step
from input_pipeline.batches.loader import LoadSettings
from tests.ds2_jax.training.test_step import F, L, make_model

SHORT, LONG, HUGE = (4, 16, L), (4, 160, L), (512, 4000, L)
SETTINGS = OptimSettings(beta2=0.99, learning_rate=0.01, schedule="constant", warmup_steps=0)
OPTIMIZER, SCHEDULE = make_optimizer(SETTINGS), make_schedule(SETTINGS, 100, 10)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def mesh():
    return sharding.make_mesh()


def new_state(average=True):
    return make_state(init_variables(make_model(0.0), F, seed=0), OPTIMIZER, SCHEDULE, mesh(), average)


def compile_for(shapes, state, load=LoadSettings()):  # noqa: B008
    step = make_train_step(make_model(0.0), OPTIMIZER, seed=0, ema=0.9)
    return compile_steps(step, state, {shape: abstract_batch(shape, F) for shape in shapes}, mesh(), load)


def test_the_table_has_every_part_and_reports_a_missing_limit(caplog):
    caplog.set_level(logging.INFO)
    state = new_state()
    (compiled,) = compile_for([SHORT], state).values()
    table = caplog.messages[-1]
    for part in (
        "parameters",
        "averaged parameters",
        "optimiser",
        "batch of 4 x 16 frames",
        "activations and gradients",
    ):
        assert part in table
    assert "reports no limit" in table
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.parameters)) * 4
    assert memory.bytes_of(state.parameters) == memory.bytes_of(state.averaged) == parameters
    assert memory.bytes_of(state.optimizer) == 2 * parameters + 8  # two moments, and two counters
    assert memory.bytes_of(state) < (memory.needed_bytes(compiled) or 0)


def test_the_rows_of_the_table_are_the_sizes_of_their_arrays_and_add_up():
    """A step that adds a batch of 3 MB to parameters of 4 MB in place."""
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        parameters=jnp.zeros(1_000_000),
        batch_stats=jnp.zeros(100_000),
        averaged=jnp.zeros(1_000_000),
        optimizer=jnp.zeros(2_000_000),
        schedule=None,
    )
    step = jax.jit(
        lambda state, batch: jax.tree.map(lambda leaf: leaf + batch.sum().astype(leaf.dtype), state), donate_argnums=0
    )
    compiled = step.lower(state, jnp.zeros(750_000)).compile()
    lines = [line.rsplit(maxsplit=1) for line in memory.format_table(state, compiled, (4, 16, L)).splitlines()]
    shown = {name.strip(): float(size) for name, size in lines[:-1]}
    total = shown.pop("total")
    activations = shown.pop("activations and gradients")
    assert shown == {
        "parameters": 4.0,
        "averaged parameters": 4.0,
        "optimiser": 8.0,
        "batch statistics": 0.4,
        "batch of 4 x 16 frames": 3.0,
        "program": 0.0,
    }
    assert total == pytest.approx(19.4 + activations, abs=0.1)  # what is returned takes the place of the state


def test_a_batch_that_does_not_fit_is_refused_with_the_largest_that_does(monkeypatch):
    state = new_state()
    needed = sorted(memory.needed_bytes(step) or 0 for step in compile_for([SHORT, LONG], state).values())[::-1]
    assert needed[0] > needed[1] > 0
    monkeypatch.setattr(memory, "limit_bytes", lambda: needed[0] - 1)
    with pytest.raises(MemoryError) as caught:
        compile_for([SHORT, LONG], state)
    assert "4 utterances of 160 frames, does not fit" in str(caught.value)
    assert "the largest that fits has 4 utterances of 16 frames" in str(caught.value)
    monkeypatch.setattr(memory, "limit_bytes", lambda: needed[1] - 1)
    with pytest.raises(MemoryError, match="no smaller one fits either"):
        compile_for([SHORT, LONG], state)


def test_a_training_that_exceeds_the_memory_of_its_machine_or_container_is_refused_with_numbers(monkeypatch):
    state, load = new_state(), LoadSettings(workers=2)
    monkeypatch.setattr(host_memory, "limit_bytes", lambda: host_memory.resident_bytes() + 300_000_000)
    with pytest.raises(
        MemoryError, match=r"needs at least [\d,]+ \(this process\) \+ 400 \(compiling\) \+ 200 \(worker proc"
    ):
        compile_for([SHORT], state, load)
    monkeypatch.setattr(host_memory, "COMPILER_BYTES", 0)
    monkeypatch.setattr(host_memory, "limit_bytes", lambda: host_memory.resident_bytes() + 210_000_000)
    with pytest.raises(MemoryError) as caught:
        compile_for([HUGE, SHORT], state, load)
    assert "the largest batch, 512 utterances of 4000 frames, does not fit into memory (it needs " in str(caught.value)
    assert "(buffers of the step) + " in str(caught.value)
    assert "the largest that fits has 4 utterances of 16 frames" in str(caught.value)


def test_batches_loaded_ahead_are_as_many_as_grain_holds():
    assert LoadSettings(workers=0, threads=2, prefetch=4).held == 4 + 1
    assert LoadSettings(workers=3, threads=8, prefetch=6).held == 3 * (8 + 2) + 1


def test_freed_memory_is_returned_to_the_system():
    before = host_memory.resident_bytes()
    block = [bytes(1000) for _ in range(300_000)]
    assert host_memory.resident_bytes() > before + 250_000_000
    del block
    host_memory.release()
    assert host_memory.resident_bytes() < before + 100_000_000


def test_other_errors_that_mention_memory_are_not_changed():
    def step(state, batch):
        raise jax.errors.JaxRuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered")

    with pytest.raises(jax.errors.JaxRuntimeError, match="illegal memory access"):
        compile_steps(step, new_state(), {SHORT: abstract_batch(SHORT, F)}, mesh(), LoadSettings())


def test_a_split_array_counts_with_its_shard():
    split = sharding.make_mesh(4)
    array = jnp.zeros((256, 128))
    placed = sharding.put(array, sharding.state_sharding(array, split))
    assert memory.bytes_of(placed) == 256 * 128
