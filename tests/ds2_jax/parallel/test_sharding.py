"""Parameters split over devices, and the messages between devices; on four simulated devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ds2_jax.network.model import DeepSpeech2, ModelSettings, init_variables
from ds2_jax.parallel import sharding
from ds2_jax.recognition.step import abstract_batch
from ds2_jax.training import memory
from ds2_jax.training.compile import compile_steps
from ds2_jax.training.optim import make_optimizer, make_schedule
from ds2_jax.training.settings import OptimSettings
from ds2_jax.training.state import make_state
from ds2_jax.training.step import make_train_step
from input_pipeline.batches.loader import LoadSettings
from tests.runs import slow

B, T, F, H, K, L = 8, 24, 6, 64, 7, 3
ORDER = 1e-5  # relative: sums in a different order, in float32
ADAM = 1e-5  # for steps of 0.01: if a gradient is small, Adam divides rounding errors by each other
COLLECTIVE = re.compile(r"= .*? (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
SETTINGS = OptimSettings(beta2=0.99, clip_norm=1.0, learning_rate=0.01, schedule="constant", warmup_steps=0)
OPTIMIZER, SCHEDULE = make_optimizer(SETTINGS), make_schedule(SETTINGS, 100, 10)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Disable LLVM's optimisations, but not XLA's partitioning."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def make_model(remat: bool = False) -> DeepSpeech2:
    settings = ModelSettings(
        conv="3x3/2x2:2",
        rnn_size=H,
        rnn_layers=2,
        dropout=0.2,
    )
    return DeepSpeech2(settings, K, remat)


def make_batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "spectrogram": rng.normal(size=(B, T, F)).astype(np.float32),
        "frames": rng.integers(T - 6, T + 1, B).astype(np.int32),
        "labels": rng.permuted(np.tile(np.arange(1, K, dtype=np.int32), (B, 1)), axis=1)[:, :L],
        "label_lengths": rng.integers(1, L + 1, B).astype(np.int32),
        "valid": np.arange(B) < B - 1,
        "utterance": np.arange(B, dtype=np.int32),
    }


def run(fsdp: int, accumulate: int = 1):
    """Train three steps on four devices; return the state, the metrics and the compiled program as text."""
    mesh = sharding.make_mesh(fsdp)
    step = make_train_step(
        make_model(), OPTIMIZER, seed=1, accumulate=accumulate, ema=0.9, gather=sharding.make_gather(mesh)
    )
    state = make_state(init_variables(make_model(), F, seed=0), OPTIMIZER, SCHEDULE, mesh, average=True)
    compiled = compile_steps(step, state, {(B, T, L): abstract_batch((B, T, L), F)}, mesh, LoadSettings())
    metrics = []
    for seed in range(3):
        arrays = sharding.put_batch(make_batch(seed), mesh)
        state, measured = compiled[B, T, L](state, arrays)
        metrics.append(jax.tree.map(np.asarray, measured))
    (program,) = (function.as_text() for function in compiled.values())  # type: ignore[attr-defined]
    return state, metrics, program


def assert_close(a, b, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=ORDER, atol=atol), a, b)


@pytest.fixture(scope="module")
def whole():
    return run(fsdp=1)


@pytest.mark.parametrize("fsdp", [slow(2), 4])
def test_split_parameters_give_the_same_numbers_as_whole_ones(fsdp, whole):
    state, metrics, program = run(fsdp)
    for got, want in zip(metrics, whole[1], strict=True):
        assert_close(got, want, atol=0)
    assert_close(jax.tree.map(np.asarray, state), jax.tree.map(np.asarray, whole[0]), atol=ADAM)
    kernel = state.parameters["rnn_1"]["recurrent_kernel"]
    assert kernel.shape == (2, H, 3 * H)
    assert kernel.sharding.shard_shape(kernel.shape) == (2, H, 3 * H // fsdp)  # the longest axis that can be split
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.shape == kernel.shape]
    assert len(moments) == 4  # two of each layer
    assert {leaf.sharding for leaf in moments} == {kernel.sharding}
    assert memory.bytes_of(state) < 1.3 * memory.bytes_of(whole[0]) / fsdp
    collectives = COLLECTIVE.findall(program)
    assert set(collectives) == {"all-reduce", "all-gather"}
    split = [leaf for leaf in jax.tree.leaves(state.parameters) if not leaf.is_fully_replicated]
    assert collectives.count("all-gather") == len(split) == 3  # one for each split array, none for others


def test_small_and_indivisible_arrays_are_replicated():
    mesh = sharding.make_mesh(4)
    shapes = [(128, 128), (2, 127, 129), (64, 64), (4, 5, 4096), ()]
    shardings = sharding.state_sharding([jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes], mesh)
    assert [s.spec for s in shardings] == [
        PartitionSpec("fsdp", None),
        PartitionSpec(),
        PartitionSpec(),
        PartitionSpec(None, None, "fsdp"),
        PartitionSpec(),
    ]


def test_a_split_that_does_not_divide_the_devices_is_refused():
    with pytest.raises(ValueError, match="fsdp is 3: use a divisor of the 4 devices"):
        sharding.make_mesh(3)


def test_whole_parameters_only_need_sums_over_the_devices(whole):
    """No row of a batch is sent to another device; with micro-batches neither, because each takes rows of every device."""
    for program in (whole[2], run(fsdp=1, accumulate=2)[2]):
        assert set(COLLECTIVE.findall(program)) == {"all-reduce"}


def test_rematerialised_recurrent_layers_give_the_same_gradients():
    """Memory is saved only on accelerators (docs/distributed.md): XLA's CPU compiler recomputes immediately."""
    batch, variables = make_batch(0), init_variables(make_model(), F, seed=0)

    def loss(parameters, remat: bool):
        (logits, _), _ = make_model(remat).apply(
            {**variables, "params": parameters},
            jnp.tile(batch["spectrogram"], (1, 10, 1)),
            batch["frames"] * 10,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        return jnp.square(logits).sum()

    kept, again = (
        jax.jit(jax.grad(loss), static_argnums=1).lower(variables["params"], remat).compile() for remat in (False, True)
    )
    assert_close(again(variables["params"]), kept(variables["params"]), atol=0)
    scans = [len(re.findall(r"rnn_\d[^\"]*/while\"", program.as_text() or "")) for program in (kept, again)]
    assert scans[1] - scans[0] >= 2  # both layers are computed again


def test_rows_return_to_the_host_in_order():
    mesh = sharding.make_mesh(2)
    rows = np.arange(24).reshape(8, 3)
    array = sharding.put_batch({"rows": rows}, mesh)["rows"]
    assert len({shard.device for shard in array.addressable_shards}) == 4
    np.testing.assert_array_equal(sharding.local_rows(array), rows)
