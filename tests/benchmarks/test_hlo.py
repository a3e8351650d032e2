"""Counting what compiled programs compute and send, and the collectives of the training step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.hlo import Program, bytes_of
from ds2_jax.cli import settings
from ds2_jax.network.model import DeepSpeech2, init_variables
from ds2_jax.parallel import sharding
from ds2_jax.recognition.step import abstract_batch
from ds2_jax.training.optim import make_optimizer, make_schedule
from ds2_jax.training.state import init_state
from ds2_jax.training.step import make_train_step
from tests.runs import slow, small_config

FEATURES = 20
MORE_ON_CPU = 1.6  # convolutions sum their kernel gradients bin by bin, and every accumulated part is sent


def compiled_text(function, *arguments) -> str:
    return jax.jit(function).lower(*arguments).compile().as_text() or ""


def test_products_in_loops_are_counted_once_per_iteration():
    def loops(x, w):
        def outer(x, _):
            return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=5)[0], None

        return jax.lax.scan(outer, x, length=7)[0]

    x, w = jnp.ones((8, 16)), jnp.ones((16, 16))
    assert Program(compiled_text(loops, x, w)).flop() == 7 * 5 * 2 * 8 * 16 * 16


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (2, 3)])
def test_products_with_padding_are_not_counted(stride, pad):
    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (stride,), [(pad, pad)], dimension_numbers=("NWC", "WIO", "NWC"))

    batch, width, taps, inside, outside = 2, 9, 4, 3, 5
    program = Program(compiled_text(convolve, jnp.ones((batch, width, inside)), jnp.ones((taps, inside, outside))))
    outputs = (width + 2 * pad - taps) // stride + 1
    real = sum(0 <= output * stride - pad + tap < width for output in range(outputs) for tap in range(taps))
    assert program.flop() == 2 * real * batch * inside * outside


def test_batched_products_in_the_form_of_a_tpu_convolution_are_counted():
    text = """HloModule m

ENTRY %main (a: bf16[2,16,256], b: bf16[2,256,32]) -> bf16[2,16,32] {
  %a = bf16[2,16,256]{2,1,0} parameter(0)
  %b = bf16[2,256,32]{2,1,0} parameter(1)
  ROOT %c = bf16[2,16,32]{2,1,0} convolution(%a, %b), window={size=2 lhs_dilate=2}, dim_labels=0bf_0io->0bf
}
"""
    assert Program(text).flop() == 2 * 2 * 16 * 256 * 32


def test_bytes_of_a_tuple_are_the_sum_over_its_arrays():
    assert bytes_of("(f32[11,41,1,32]{3,2,1,0:T(1,128)}, bf16[29]{0}, s32[])") == 4 * 11 * 41 * 32 + 2 * 29 + 4


def train_step_program(clips, parts: int, **model) -> tuple[Program, int]:
    """Compile the training step for four devices; return the program and the bytes of the parameters."""
    config = small_config(clips)
    for name, value in model.items():
        config.model[name] = value
    recipe = settings.read_training(config)
    network = DeepSpeech2(recipe.new_model.network, 25)
    optimizer, schedule = make_optimizer(recipe.optim), make_schedule(recipe.optim, 100, 10)
    variables = jax.eval_shape(lambda: init_variables(network, FEATURES, 0))
    state = jax.eval_shape(lambda v: init_state(v, optimizer, schedule, average=True), variables)
    mesh = sharding.make_mesh()
    step = make_train_step(network, optimizer, seed=0, accumulate=parts, ema=0.9)
    replicated, rows = sharding.replicated(mesh), sharding.row_sharding(mesh)
    jitted = jax.jit(step, in_shardings=(replicated, rows), out_shardings=replicated)
    text = jitted.lower(state, abstract_batch((8 * parts, 60, 8), FEATURES)).compile().as_text()
    return Program(text or ""), sum(4 * int(np.prod(p.shape)) for p in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("parts", "model"),
    [
        slow(1, {"cell": "gru"}),
        (2, {"cell": "rnn", "share_input": True, "merge": "concat"}),
    ],
)
def test_devices_exchange_only_the_gradient_and_batch_statistics(clips, parts, model):
    assert jax.device_count() == 4
    program, parameters = train_step_program(clips, parts, rnn_layers=2, **model)
    collectives = program.collectives()
    assert {collective.kind for collective in collectives} == {"all-reduce"}
    statistics = [collective.runs for collective in collectives if "_norm_" in collective.source]
    assert statistics == [parts] * 2 * 3  # per layer, once forward and once backward
    sent = sum(collective.total for collective in collectives)
    assert parameters < sent < parts * MORE_ON_CPU * parameters


LIBRARY_CALLS = """HloModule m

ENTRY %main (x: bf16[2,9,7,3], k: bf16[5,3,3,3], y: bf16[2,9,7,5], a: f32[2,4,8], b: f32[2,8,6]) -> f32[2,4,6] {
  %x = bf16[2,9,7,3]{3,2,1,0} parameter(0)
  %k = bf16[5,3,3,3]{3,2,1,0} parameter(1)
  %y = bf16[2,9,7,5]{3,2,1,0} parameter(2)
  %a = f32[2,4,8]{2,1,0} parameter(3)
  %b = f32[2,8,6]{2,1,0} parameter(4)
  OPERATION
}
"""
CONV = 'window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$conv'
IN_WINDOW = (3 * 9 - 2) * (3 * 7 - 2)  # pairs of a position and a tap that is not padding
CONV_FLOP = 2 * 2 * IN_WINDOW * 3 * 5
GEMM = (
    'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs":["1"]}}}'
)


@pytest.mark.parametrize(
    ("operation", "flop"),
    [
        (f'%c = (bf16[2,9,7,5]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%x, %k), {CONV}Forward"', CONV_FLOP),
        (f'%c = (bf16[2,9,7,3]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%y, %k), {CONV}BackwardInput"', CONV_FLOP),
        (f'%c = (bf16[5,3,3,3]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%x, %y), {CONV}BackwardFilter"', CONV_FLOP),
        (
            '%c = (f32[2,4,6]{2,1,0}, s8[33]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", ' + GEMM,
            2 * 2 * 4 * 6 * 8,
        ),
        ('%c = f32[2,4,6]{2,1,0} custom-call(%a, %b), custom_call_target="other"', 0),
    ],
)
def test_products_of_gpu_libraries_are_counted(operation, flop):
    assert Program(LIBRARY_CALLS.replace("OPERATION", operation)).flop() == flop


def test_recurrent_kernels_of_a_tpu_state_their_products_and_take_time_for_each_tile():
    text = """HloModule m

ENTRY %main (w: bf16[2,256,128], x: f32[50,2,8,1]) -> bf16[50,2,8,128] {
  %w = bf16[2,256,128]{2,1,0} parameter(0)
  %x = f32[50,2,8,1]{3,2,1,0} parameter(1)
  ROOT %k = bf16[50,2,8,128]{3,2,1,0} custom-call(%w, %x), custom_call_target="tpu_custom_call", COST
}
"""
    program = Program(text.replace("COST", 'backend_config={"cost_estimate":{"flops":"777"}}'))
    assert program.flop() == 777
    assert program.estimated_cycles() == 17 * 50 * 2 * 2
