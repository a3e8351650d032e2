"""The whole network: padding, lengths, the initial loss, and invalid settings."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ds2_jax.network.ctc import ctc_loss
from ds2_jax.network.model import ConvLayer, DeepSpeech2, ModelSettings, init_variables, parse_conv

F, H, K = 11, 6, 7
FRAMES = np.array([20, 9, 13, 0])  # the last row is a padding row
PADDED = 24
SAME = 1e-4  # float32 rounding of logits of about 1
SETTINGS = ModelSettings(
    conv="5x5/3x2:4, 3x3/1x2:3",
    rnn_size=H,
    rnn_layers=2,
)


def change(**values):
    return dataclasses.replace(SETTINGS, **values)


def make_variables(model):
    """Return perturbed initial variables: no bias or running mean is zero, which would hide an effect of padding."""

    def perturb(path, x):
        perturbed = x + 0.3 * np.random.default_rng(len(str(path)) + x.size).normal(size=x.shape).astype(np.float32)
        return jnp.abs(perturbed) + 0.5 if "'var'" in jax.tree_util.keystr(path) else jnp.asarray(perturbed)

    return jax.tree.map_with_path(perturb, init_variables(model, F, seed=0))


def make_spectrogram():
    """Return [B, T, F], zero in padding as in the input pipeline."""
    spectrogram = np.random.default_rng(0).normal(size=(len(FRAMES), PADDED, F)).astype(np.float32)
    return np.where(np.arange(PADDED)[:, None] < FRAMES[:, None, None], spectrogram, 0)


def make_apply(model, train=False):
    return jax.jit(functools.partial(model.apply, train=train))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_padding_does_not_change_logits(cell):
    """Each utterance alone, without padding, against a batch of several lengths."""
    model = DeepSpeech2(change(cell=cell, merge="concat" if cell == "lstm" else "sum"), K)
    variables, apply, spectrogram = make_variables(model), make_apply(model), make_spectrogram()
    logits, lengths = apply(variables, spectrogram, FRAMES)
    for b, n in enumerate(FRAMES[:2]):
        alone, length = apply(variables, spectrogram[b : b + 1, :n], FRAMES[b : b + 1])
        assert length[0] == lengths[b] == alone.shape[1]
        np.testing.assert_allclose(logits[b, : lengths[b]], alone[0], atol=SAME)


def test_the_rest_of_the_batch_does_not_change_logits():
    model = DeepSpeech2(SETTINGS, K)
    variables, apply, spectrogram = make_variables(model), make_apply(model), make_spectrogram()
    logits, lengths = apply(variables, spectrogram, FRAMES)
    others = spectrogram.copy()
    others[1:] *= 100
    changed, _ = apply(variables, others, FRAMES)
    np.testing.assert_array_equal(changed[0, : lengths[0]], logits[0, : lengths[0]])


def test_a_padding_row_changes_neither_statistics_nor_logits_in_training():
    model = DeepSpeech2(SETTINGS, K)
    variables, spectrogram = make_variables(model), make_spectrogram()
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    (logits, lengths), stats = apply(variables, spectrogram, FRAMES)
    spectrogram[3] = 100.0
    (same, _), same_stats = apply(variables, spectrogram, FRAMES)
    jax.tree.map(np.testing.assert_array_equal, stats, same_stats)
    for b in range(3):
        np.testing.assert_array_equal(same[b, : lengths[b]], logits[b, : lengths[b]])


def test_dropout_leaves_the_same_units_out_in_all_frames_of_an_utterance_and_others_in_each_other():
    model = DeepSpeech2(change(conv="3x3/2x2:4", cell="gru", dropout=0.4, rnn_size=30, rnn_layers=1), K)
    spectrogram = make_spectrogram()

    @jax.jit
    def outputs(variables, key):
        return model.apply(
            variables,
            spectrogram,
            FRAMES,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
        )[1]["intermediates"]

    found = outputs(init_variables(model, F, seed=0), jax.random.key(1))
    layers = [np.asarray(found[f"Dropout_{i}"]["__call__"][0]) for i in range(2)]  # [U, B, units]
    for values in layers:
        left_out = (
            values[: FRAMES.min(where=FRAMES > 0, initial=99) // 2, :3] == 0
        )  # frames of the first three utterances
        np.testing.assert_array_equal(left_out, np.broadcast_to(left_out[:1], left_out.shape))
        assert not np.array_equal(left_out[0, 0], left_out[0, 1])
        assert 0.2 < left_out[0].mean() < 0.6


def test_output_frames_returns_the_real_lengths():
    settings = change(conv="5x5/3x2:2, 3x3/2x2:2", rnn_layers=1)
    model = DeepSpeech2(settings, K)
    for n in (1, 6, 7, 23):
        logits, lengths = jax.eval_shape(
            functools.partial(model.init_with_output, train=False),
            jax.random.key(0),
            jnp.zeros((1, n, F)),
            jnp.array([n]),
        )[0]
        assert logits.shape == (1, settings.output_frames(n), K)
        assert lengths.shape == (1,)
    frames = np.arange(0, 30)
    ends = [len(range(0, len(range(0, n, 3)), 2)) for n in frames]
    np.testing.assert_array_equal(settings.output_frames(frames), ends)
    assert settings.time_stride == 6


def test_returned_lengths_equal_output_frames():
    model = DeepSpeech2(SETTINGS, K)
    _, lengths = make_apply(model)(make_variables(model), make_spectrogram(), FRAMES)
    np.testing.assert_array_equal(lengths, SETTINGS.output_frames(FRAMES))
    assert lengths[3] == 0


def test_the_initial_loss_is_about_that_of_guessing():
    """Equal scores give U ln K minus the logarithm of the number of alignments; more means a biased initialisation."""
    model = DeepSpeech2(SETTINGS, K)
    logits, lengths = make_apply(model)(init_variables(model, F, seed=0), make_spectrogram(), FRAMES)
    labels, label_lengths = jnp.array([[1, 2], [3, 3], [4, 0], [0, 0]]), jnp.array([2, 2, 1, 0])
    loss, counted, _ = ctc_loss(logits, lengths, labels, label_lengths, jnp.asarray(FRAMES > 0))
    assert int(counted.sum()) == 3
    guessing = float(lengths.sum()) * np.log(K)
    assert 0.3 * guessing < float(loss) < 1.3 * guessing


def test_bfloat16_gives_float32_logits_near_those_of_float32():
    wide, narrow = DeepSpeech2(SETTINGS, K), DeepSpeech2(change(compute_dtype="bfloat16"), K)
    variables, spectrogram = make_variables(wide), make_spectrogram()
    logits, lengths = make_apply(wide)(variables, spectrogram, FRAMES)
    rounded, _ = make_apply(narrow)(variables, spectrogram, FRAMES)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded[0, : lengths[0]], logits[0, : lengths[0]], atol=0.1)  # 8 bits, six layers


def test_initial_variables_depend_only_on_the_seed():
    model = DeepSpeech2(SETTINGS, K)
    first, again, other = (init_variables(model, F, seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first["params"]["conv_0"], other["params"]["conv_0"])


def test_a_convolution_is_parsed_as_time_by_frequency():
    layers = parse_conv("11x41/3x2:32, 7x21/1x4:96")
    assert layers == (ConvLayer((11, 41), (3, 2), 32), ConvLayer((7, 21), (1, 4), 96))


@pytest.mark.parametrize(
    "part", ["", "11x41/3x2", "11/3x2:32", "11x41x3/3x2:32", "11x41:32", "axb/3x2:32", "3x3/1x1:1.5"]
)
def test_the_error_quotes_an_unreadable_convolution(part):
    with pytest.raises(ValueError, match=r"config\.model\.conv is .*kernel/stride:channels") as error:
        parse_conv(f"11x41/3x2:32, {part}")
    assert repr(part) in str(error.value)


@pytest.mark.parametrize("text", ["4x5/1x1:2", "5x4/1x1:2", "5x5/0x1:2", "5x5/1x-2:2", "5x5/1x1:0", "-1x5/1x1:2"])
def test_an_impossible_convolution_is_refused(text):
    with pytest.raises(ValueError, match=r"config\.model\.conv.*odd kernels"):
        change(conv=text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("conv", ""),
        ("cell", "elman"),
        ("merge", "mean"),
        ("rnn_size", 0),
        ("rnn_layers", 0),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("norm_momentum", 1.0),
        ("activation_clip", 0.0),
        ("compute_dtype", "float16"),
    ],
)
def test_the_error_names_an_impossible_setting_and_its_value(field, value):
    with pytest.raises(ValueError) as error:
        change(**{field: value})
    assert f"config.model.{field} is {value!r}" in str(error.value)
