"""Training steps: any number of devices and micro-batches, rows that do not count, non-finite values."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from ds2_jax.network.ctc import ctc_loss
from ds2_jax.network.model import DeepSpeech2, ModelSettings, init_variables
from ds2_jax.parallel import sharding
from ds2_jax.recognition.step import abstract_batch, make_eval_step
from ds2_jax.training.compile import batch_shape, compile_steps
from ds2_jax.training.optim import make_optimizer, make_schedule
from ds2_jax.training.settings import OptimSettings
from ds2_jax.training.state import init_state
from ds2_jax.training.step import make_train_step
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FrontEnd
from input_pipeline.augment import Augmentation
from input_pipeline.batches.inputs import make_inputs
from input_pipeline.batches.loader import LoadSettings, RowShare
from tests.runs import slow

B, T, F, H, K, L = 8, 14, 6, 4, 5, 3
EMA, MOMENTUM = 0.9, 0.8
ORDER = 1e-5  # relative: sums over the batch in a different order, in float32
ADAM = 2e-5  # for steps of 0.01: if a gradient is small, Adam divides rounding errors by each other (1.1e-5 observed)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Disable LLVM's optimisations (not XLA's partitioning): six training steps compile in two thirds of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def make_model(dropout):
    return DeepSpeech2(
        ModelSettings(
            conv="3x3/2x2:2",
            rnn_size=H,
            rnn_layers=1,
            dropout=dropout,
            norm_momentum=MOMENTUM,
        ),
        K,
    )


SETTINGS = OptimSettings(beta2=0.99, learning_rate=0.01, schedule="constant", warmup_steps=0)
OPTIMIZER, SCHEDULE = make_optimizer(SETTINGS), make_schedule(SETTINGS, 100, 10)


def make_batch(rows=B, seed=0):
    """Return a batch of different lengths, with a padding row at its end."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(10, T + 1, rows).astype(np.int32)
    valid = np.arange(rows) < rows - 1
    spectrogram = rng.normal(size=(rows, T, F)).astype(np.float32)
    return {
        "spectrogram": np.where(np.arange(T)[:, None] < frames[:, None, None], spectrogram, 0),
        "frames": frames,
        "labels": rng.permuted(np.tile(np.arange(1, K, dtype=np.int32), (rows, 1)), axis=1)[:, :L],
        "label_lengths": rng.integers(0, L + 1, rows).astype(np.int32),
        "valid": valid,
        "utterance": np.where(valid, np.arange(rows), -1).astype(np.int32),
    }


@functools.cache
def compiled(devices=1, rows=B, accumulate=1, dropout=0.2):
    """Compile the step as train.py does, for the first `devices` devices; return mesh and function."""
    model, mesh = make_model(dropout), Mesh(np.array(jax.devices()[:devices]), ("data",))
    step = make_train_step(model, OPTIMIZER, seed=1, accumulate=accumulate, ema=EMA)
    state = jax.device_put(start(), sharding.replicated(mesh))
    shape = RowShare(devices * accumulate).padded(rows), T, L
    (function,) = compile_steps(step, state, {shape: abstract_batch(shape, F)}, mesh, LoadSettings()).values()
    return mesh, function


@functools.cache
def initial():
    variables = init_variables(make_model(0.0), F, seed=0)
    return jax.tree.map(np.asarray, init_state(variables, OPTIMIZER, SCHEDULE, average=True))


def start():
    """Return a new copy of the initial state, whose buffers the step takes over."""
    return jax.tree.map(jnp.array, initial())


def run(batches, state=None, **how):
    """Run one step per batch; return host copies of the last state and of all metrics."""
    mesh, function = compiled(**how)
    state = jax.device_put(start() if state is None else state, sharding.replicated(mesh))
    metrics = []
    for batch in batches:
        state, measured = function(state, sharding.put_batch(batch, mesh))
        metrics.append(jax.tree.map(np.asarray, measured))
    return jax.tree.map(np.array, state), metrics


def assert_close(a, b, rtol=ORDER, atol=ADAM):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def test_the_values_of_the_schedule_are_no_constants_of_the_program():
    """Otherwise, a run that is continued with another learning rate or number of epochs compiles every shape again."""
    step = jax.jit(make_train_step(make_model(0.2), OPTIMIZER, seed=1, ema=EMA))
    cosine = dataclasses.replace(SETTINGS, schedule="cosine")
    programs = set()
    for settings, steps in [(cosine, 100), (cosine, 900), (dataclasses.replace(cosine, learning_rate=0.003), 100)]:
        schedule = make_schedule(settings, steps, steps // 5)
        programs.add(step.lower(start().replace(schedule=schedule), make_batch()).as_text())
    assert len(programs) == 1


@pytest.mark.parametrize("devices", [slow(2), 4])
def test_several_devices_give_the_numbers_of_one(devices):
    """Three steps, with dropout; the padding row is on the last device."""
    batches = [make_batch(seed=seed) for seed in range(3)]
    state, metrics = run(batches, devices=devices)
    expected, expected_metrics = run(batches)
    for got, want in zip(metrics, expected_metrics, strict=True):
        assert_close(got, want, atol=0)
    assert_close(state, expected)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.parameters, initial().parameters)
    assert max(jax.tree.leaves(moved)) > 1000 * ADAM  # three steps of 0.01 exceed the tolerance by far


def test_metrics_are_sums_and_counts():
    batch = make_batch()
    batch["label_lengths"][:3] = [L, L, 0]
    batch["labels"][0] = 1  # 1 1 1 needs five frames
    batch["frames"][0] = 7  # four after striding
    _, (metrics,) = run([batch], dropout=0.0)

    variables = {"params": initial().parameters, "batch_stats": initial().batch_stats}
    frames = np.where(batch["valid"], batch["frames"], 0)

    @jax.jit
    def gradient(parameters):
        def loss(parameters):
            (logits, lengths), _ = make_model(0.0).apply(
                {**variables, "params": parameters}, batch["spectrogram"], frames, train=True, mutable=["batch_stats"]
            )
            return ctc_loss(logits, lengths, batch["labels"], batch["label_lengths"], batch["valid"])[0]

        return jax.value_and_grad(loss)(parameters)

    loss, grads = gradient(initial().parameters)
    count = B - 2
    assert (int(metrics["count"]), int(metrics["infeasible"])) == (count, 1)
    assert int(metrics["frames"]) == frames.sum()
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=ORDER)
    norm = np.sqrt(sum(float((np.asarray(g) ** 2).sum()) for g in jax.tree.leaves(grads))) / count
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=10 * ORDER)
    assert not metrics["skipped"]


def test_the_content_of_padding_rows_has_no_effect():
    batch = make_batch()
    batch["valid"][-2] = False
    other = {name: array.copy() for name, array in batch.items()}
    other["spectrogram"][-2:] = 100.0
    other["frames"][-2:] = 1
    other["labels"][-2:] = 1
    other["label_lengths"][-2:] = L
    state, metrics = run([batch])
    same, same_metrics = run([other])
    jax.tree.map(np.testing.assert_array_equal, state, same)
    jax.tree.map(np.testing.assert_array_equal, metrics, same_metrics)


def test_more_padding_rows_do_not_change_the_mean_gradient():
    batch = make_batch(rows=4)
    batch["valid"][:] = True
    padded = {name: np.concatenate([array, np.zeros_like(array)]) for name, array in batch.items()}
    state, metrics = run([batch], rows=4, dropout=0.0)
    wider, wider_metrics = run([padded], rows=8, dropout=0.0)
    assert_close(wider, state)
    assert_close(wider_metrics, metrics, atol=0)


def test_two_micro_batches_equal_one_batch_if_their_statistics_agree():
    """Each takes every second row, so pairs of equal rows give both the same statistics; running ones move twice."""
    batch = {name: np.repeat(array[:2], 2, axis=0) for name, array in make_batch().items()}
    whole, (metrics,) = run([batch], rows=4, dropout=0.0)
    accumulated, (accumulated_metrics,) = run([batch], rows=4, dropout=0.0, accumulate=2)
    assert_close(accumulated_metrics, metrics, atol=0)
    assert_close(accumulated.replace(batch_stats=None), whole.replace(batch_stats=None))

    def twice(old, once):
        value = (once - MOMENTUM * old) / (1 - MOMENTUM)
        return MOMENTUM**2 * old + (1 - MOMENTUM**2) * value

    assert_close(accumulated.batch_stats, jax.tree.map(twice, initial().batch_stats, whole.batch_stats), atol=ORDER)


def test_a_non_finite_value_skips_the_step():
    """Parameters, moments, statistics and average do not change; the step counter does, and the next step works."""
    good, bad = make_batch(), make_batch(seed=1)
    bad["spectrogram"][2, 3, 1] = np.nan
    before, _ = run([good])
    after, metrics = run([good, bad])
    assert [bool(m["skipped"]) for m in metrics] == [False, True]
    assert after.step == before.step + 1 == 2
    jax.tree.map(np.testing.assert_array_equal, after.replace(step=0), before.replace(step=0))
    _, (following,) = run([good], state=after)
    assert np.isfinite(following["loss"])
    assert not following["skipped"]


def test_a_finite_loss_with_an_overflowing_gradient_skips_the_step():
    huge = start()
    huge.parameters["output"]["kernel"] *= 1e20  # the loss is near 1e20, the square of its gradient is not a float32
    before = jax.tree.map(np.asarray, huge.parameters)
    state, (metrics,) = run([make_batch()], state=huge)
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["grad_norm"])
    assert metrics["skipped"]
    jax.tree.map(np.testing.assert_array_equal, state.parameters, before)


def test_a_batch_without_valid_rows_changes_nothing_and_is_not_an_error():
    batch = make_batch()
    batch["valid"][:] = False
    state, (metrics,) = run([batch])
    assert (int(metrics["count"]), float(metrics["loss"]), bool(metrics["skipped"])) == (0, 0.0, False)
    assert int(metrics["frames"]) == 0
    jax.tree.map(np.testing.assert_array_equal, state.replace(step=0), initial().replace(step=0))
    assert state.step == 1


def test_dropout_is_a_function_of_the_step():
    batch = make_batch()
    first, again, later = (run([batch], state=start().replace(step=jnp.int32(s)))[1][0] for s in (3, 3, 4))
    assert first["loss"] == again["loss"]
    assert first["loss"] != later["loss"]


def test_the_averaged_parameters_follow_quickly_at_first_and_slowly_later():
    batch = make_batch()
    for step, decay in ((0, 0.1), (1000, EMA)):  # (1 + 0) / (10 + 0), then the maximum
        state, _ = run([batch], state=start().replace(step=jnp.int32(step)))
        expected = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, initial().averaged, state.parameters)  # noqa: B023
        assert_close(state.averaged, expected, atol=ORDER)
    assert state.evaluated is state.averaged
    assert state.replace(averaged=None).evaluated is state.parameters


def test_the_shape_of_a_batch_is_rows_frames_labels():
    front_end = FrontEnd(FeatureSettings(kind="fbank", mel_bins=F, window_ms=25.0), "none")
    labels = {"labels": np.zeros((B, L), np.int32)}
    for transfer in ("", "int16"):
        inputs = make_inputs(front_end, Augmentation(), transfer)
        arrays: dict[str, np.ndarray] = {name: np.zeros(*array) for name, array in inputs.arrays(B, T).items()}
        assert batch_shape({**arrays, **labels}, inputs) == (B, T, L)


def test_evaluation_gives_the_best_symbols_and_the_sums_of_the_loss():
    batch, model = make_batch(), make_model(0.2)  # dropout is off in evaluation
    variables = {"params": initial().parameters, "batch_stats": initial().batch_stats}
    out = jax.jit(make_eval_step(model))(variables, batch)
    frames = np.where(batch["valid"], batch["frames"], 0)
    logits, lengths = jax.jit(functools.partial(model.apply, train=False))(variables, batch["spectrogram"], frames)
    labelled = batch["valid"] & (batch["label_lengths"] > 0)
    loss, counted, _ = ctc_loss(logits, lengths, batch["labels"], batch["label_lengths"], labelled)
    np.testing.assert_array_equal(out["ids"], np.argmax(logits, axis=-1))
    np.testing.assert_allclose(out["probabilities"], jax.nn.softmax(logits).max(-1), rtol=ORDER)
    np.testing.assert_array_equal(out["lengths"], lengths)
    assert float(out["loss"]) == pytest.approx(float(loss), rel=ORDER)
    assert (int(out["count"]), int(out["infeasible"])) == (int(counted.sum()), 0)


def test_an_utterance_without_labels_has_no_loss_in_evaluation():
    """Its text is empty or has symbols outside the vocabulary, so the loss of an empty text would be meaningless."""
    model, batch = make_model(0.0), make_batch()
    variables = {"params": initial().parameters, "batch_stats": initial().batch_stats}
    step = jax.jit(make_eval_step(model))
    batch["label_lengths"][:] = [0, *[2] * (B - 1)]
    unlabelled = step(variables, batch)
    batch["valid"][0] = False
    invalid = step(variables, batch)
    assert unlabelled["count"] == invalid["count"] == B - 2
    np.testing.assert_allclose(unlabelled["loss"], invalid["loss"], rtol=1e-6)
