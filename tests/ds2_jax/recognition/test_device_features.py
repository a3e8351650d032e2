"""Features made on the device equal those of the host: all settings, augmentation, padding, any number of devices."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from ds2_jax.parallel import sharding
from ds2_jax.recognition import device_features
from ds2_jax.recognition.device_features import make_front_end
from input_pipeline import manifest
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FeatureStats, FrontEnd
from input_pipeline.augment import Augmentation, feature_effects, rng_for
from input_pipeline.batches.corpus import Corpus
from input_pipeline.batches.inputs import FeatureInput, SampleInput
from input_pipeline.batches.loader import RowShare
from input_pipeline.batches.plan import BatchSettings

EQUAL = 1e-4  # of logarithms of power, and of what normalisation makes of them


def augmentation_of(tmp_path, *entries: tuple[str, dict]) -> Augmentation:
    path = tmp_path / "augment.json"
    path.write_text(json.dumps([{"type": kind, "params": params, "prob": 0.9} for kind, params in entries]))
    return Augmentation.load(path, 16000)


MASKS = {"n_freq_masks": 2, "F": 6, "n_time_masks": 2, "T": 30, "p": 0.3}
SPEC_AUGMENT = {
    "masks": MASKS,
    "warp": MASKS | {"W": 20},
    "mean": MASKS | {"replace_with_zero": False, "W": 5},
    "adaptive": MASKS | {"adaptive_number_ratio": 0.04, "adaptive_size_ratio": 0.05, "max_n_time_masks": 7},
}


def corpus_of(clips, front_end, augmentation=None, transfer="float32", share=None) -> Corpus:
    batch = BatchSettings(size=6, buckets=2, sortagrad=False)
    return Corpus(
        manifest.read(clips),
        None,
        front_end,
        batch,
        augmentation or Augmentation(),
        seed=3,
        share=share or RowShare(),
        transfer=transfer,
    )


def batches_of(*arguments, **settings) -> list[dict]:
    corpus = corpus_of(*arguments, **settings)
    return list(corpus.batches(corpus.plan_epoch(1)))


def on_device(batch: dict, inputs: SampleInput) -> np.ndarray:
    arrays = {name: array for name, array in batch.items() if name != "problem"}
    return np.asarray(jax.jit(make_front_end(inputs))(arrays))


def assert_equal(clips, front_end, augmentation=None, transfer="float32", tolerance=EQUAL) -> None:
    host = batches_of(clips, front_end, augmentation, transfer="")
    sent = batches_of(clips, front_end, augmentation, transfer=transfer)
    inputs = SampleInput(front_end, augmentation or Augmentation(), transfer)
    for features, samples in zip(host, sent, strict=True):
        assert not set(samples["problem"]) - {""}
        np.testing.assert_array_equal(features["frames"], samples["frames"])
        np.testing.assert_allclose(on_device(samples, inputs), features["spectrogram"], rtol=0, atol=tolerance)


SETTINGS = {
    "linear": {},
    "fbank": {"kind": "fbank"},
    "narrow filters": {"kind": "fbank", "mel_bins": 120},
    "window of 2.5 strides": {"kind": "fbank", "window_ms": 25.0},
    "windows without overlap": {"window_ms": 10.0},
    "odd window": {"window_ms": 15.0625, "stride_ms": 6.25},
    "highest frequency": {"max_freq_hz": 4000.0},
    "highest frequency of filters": {"kind": "fbank", "max_freq_hz": 5000.0, "mel_bins": 40},
    "no level": {"normalise_db": False},
    "level": {"target_db": -35.0},
    "running level": {"level_s": 2.0},
    "running level of filters": {"kind": "fbank", "level_s": 0.05},
    "narrow band": {"source_rate_hz": 8000},
    "rate": {"sample_rate_hz": 8000},
    "high rate": {"sample_rate_hz": 44100, "kind": "fbank", "mel_bins": 40},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_features_are_those_of_the_host(clips, settings):
    assert_equal(clips, FrontEnd(FeatureSettings(**settings), "none"))


@pytest.mark.parametrize("normalisation", ["corpus", "utterance", "clip"])
@pytest.mark.parametrize("kind", ["linear", "fbank"])
def test_normalised_features_are_those_of_the_host(clips, kind, normalisation):
    settings = FeatureSettings(kind=kind, mel_bins=30)
    size = FrontEnd(settings, "none").size
    rng = np.random.default_rng(0)
    stats = FeatureStats(rng.uniform(-20, -10, size).astype(np.float32), rng.uniform(1, 4, size).astype(np.float32))
    assert_equal(clips, FrontEnd(settings, normalisation, stats))


@pytest.mark.parametrize("entry", SPEC_AUGMENT.values(), ids=SPEC_AUGMENT)
def test_masks_and_warp_are_those_of_the_host(clips, tmp_path, entry):
    front_end = FrontEnd(FeatureSettings(kind="fbank", mel_bins=30), "utterance")
    assert_equal(clips, front_end, augmentation_of(tmp_path, ("specaugment", entry)))


def test_all_augmentation_together_is_that_of_the_host(clips, tmp_path):
    clip = {"noise_manifest_path": str(clips), "min_snr_dB": 5, "max_snr_dB": 20}
    augmentation = augmentation_of(
        tmp_path,
        ("specaugment", SPEC_AUGMENT["mean"]),
        ("speed", {"min_speed_rate": 0.9, "max_speed_rate": 1.1}),
        ("impulse", {"impulse_manifest_path": str(clips)}),
        ("noise", clip),
        ("specaug", SPEC_AUGMENT["adaptive"]),
        ("shift", {"min_shift_ms": -5, "max_shift_ms": 5}),
    )
    assert_equal(clips, FrontEnd(FeatureSettings(), "clip"), augmentation)


def test_samples_of_16_bits_are_sent_without_loss(clips):
    front_end = FrontEnd(FeatureSettings(), "none")
    assert_equal(clips, front_end, transfer="int16")
    half, whole = (batches_of(clips, front_end, transfer=transfer)[0] for transfer in ("int16", "float32"))
    assert half["samples"].nbytes == whole["samples"].nbytes / 2
    np.testing.assert_array_equal(half["samples"] * np.float32(1 / 32768), whole["samples"])


def test_other_samples_are_rounded_to_their_peak(clips, tmp_path):
    """The noise of rounding is 90 dB below the peak, as in a recording; features of audible bins hardly change."""
    speed = augmentation_of(tmp_path, ("speed", {"min_speed_rate": 0.9, "max_speed_rate": 0.9}))
    front_end = FrontEnd(FeatureSettings(), "none")
    inputs = SampleInput(front_end, speed, "int16")
    (host, sent) = (batches_of(clips, front_end, speed, transfer=transfer)[0] for transfer in ("", "int16"))
    error = np.abs(on_device(sent, inputs) - host["spectrogram"])
    loud = host["spectrogram"] > -20
    assert loud.mean() > 0.1
    assert error[loud].max() < 0.02
    assert np.abs(sent["samples"]).max() == 32767


def quiet_beside_loud() -> dict[str, np.ndarray]:
    """Return signals whose quiet bins a float32 transform changes by a per cent and more."""
    n = np.arange(16000)
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 437.3 * n / 16000)
    return {
        "tone and faint noise": 0.5 * tone + 1e-5 * rng.normal(size=len(n)),
        "full-scale square": np.sign(tone) * 0.999,
        "a click in silence": np.where(n == 8000, 0.9, 0.0) + 3e-6 * rng.normal(size=len(n)),
        "offset": 0.3 + 1e-4 * rng.normal(size=len(n)),
        "faint": 1e-9 * rng.normal(size=len(n)),
        "silence first": np.where(n < 9000, 0.0, rng.normal(size=len(n)) * 0.1),
    }


@pytest.mark.parametrize("name", quiet_beside_loud())
@pytest.mark.parametrize("level", [True, False])
def test_quiet_bins_beside_loud_ones_are_exact(name, level):
    samples = quiet_beside_loud()[name].astype(np.float32)
    front_end = FrontEnd(FeatureSettings(normalise_db=level), "none")
    expected, row = (kind(front_end).make_row(samples, rng_for(0, 0, 0)) for kind in (FeatureInput, SampleInput))
    inputs = SampleInput(front_end)
    batch: dict[str, np.ndarray] = {n: np.zeros(*array) for n, array in inputs.arrays(1, row.frames).items()}
    batch["samples"][0, : len(row.arrays["samples"])] = row.arrays["samples"]
    batch |= {"gain": row.arrays["gain"][None], "frames": np.array([row.frames]), "valid": np.array([True])}
    np.testing.assert_allclose(on_device(batch, inputs)[0], expected.arrays["spectrogram"], rtol=0, atol=EQUAL)


def test_rows_that_do_not_count_and_padding_are_zero(clips):
    front_end = FrontEnd(FeatureSettings(kind="fbank", mel_bins=20), "utterance")
    batch = batches_of(clips, front_end, share=RowShare(multiple=5))[0]
    batch["valid"][1] = False
    features = on_device(batch, SampleInput(front_end))
    assert np.isfinite(features).all()
    for row, frames in enumerate(np.where(batch["valid"], batch["frames"], 0)):
        assert not features[row, frames:].any()
        assert features[row, :frames].any() == (frames > 0)


def test_several_devices_exchange_nothing_and_give_the_numbers_of_one(clips, tmp_path):
    front_end = FrontEnd(FeatureSettings(kind="fbank", mel_bins=30), "utterance")
    augmentation = augmentation_of(tmp_path, ("specaugment", SPEC_AUGMENT["mean"]))
    batch = batches_of(clips, front_end, augmentation, share=RowShare(multiple=4))[0]
    batch.pop("problem")
    inputs = SampleInput(front_end, augmentation)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = sharding.row_sharding(mesh)
    step = jax.jit(make_front_end(inputs), in_shardings=(rows,), out_shardings=rows)
    arrays = sharding.put_batch(batch, mesh)
    program = step.lower(arrays).compile().as_text() or ""
    assert "bf16" in program
    assert not re.findall(r"all-gather|all-reduce|all-to-all|collective|reduce-scatter", program)
    np.testing.assert_allclose(step(arrays), on_device(batch, inputs), rtol=0, atol=1e-5)


def test_the_transform_lowers_for_accelerators_as_exact_products():
    """With other types than bfloat16 operands and float32 sums, some accelerators would round."""
    inputs = SampleInput(FrontEnd(FeatureSettings(), "none"))
    shapes = {name: jax.ShapeDtypeStruct(*array) for name, array in inputs.arrays(2, 16).items()}
    shapes |= {"frames": jax.ShapeDtypeStruct((2,), np.int32), "valid": jax.ShapeDtypeStruct((2,), np.bool_)}
    exported = jax.export.export(jax.jit(make_front_end(inputs)), platforms=("cuda", "rocm", "tpu"))(shapes)
    products = [line for line in exported.mlir_module().splitlines() if "= stablehlo.dot_general" in line]
    types = re.compile(r"\(tensor<2x16x(\d+)xbf16>, tensor<\d+x322xbf16>\) -> tensor<2x16x322xf32>")
    assert {match and match[1] for match in map(types.search, products)} == {"320", "640", "960", "1280"}
    assert "custom_call" not in exported.mlir_module()  # nothing that only one platform has, and no call of the host


@pytest.mark.parametrize("kind", ["mfcc", "log1p"])
def test_other_kinds_are_refused(kind):
    with pytest.raises(ValueError, match=f"kind {kind} are computed by the host only.*linear or fbank"):
        SampleInput(FrontEnd(FeatureSettings(kind=kind), "none"))


def test_every_warp_of_a_short_clip_is_that_of_the_host():
    frames = 7
    features = np.random.default_rng(0).standard_normal((frames, 3), np.float32)
    warps = [(0, 0), *((centre, moved) for centre in range(1, frames) for moved in range(1, frames))]
    batch = jnp.array(np.repeat(features[None], len(warps), axis=0))
    ours = device_features._warp_time(batch, jnp.array(warps), jnp.full(len(warps), frames))
    for warp, warped in zip(warps, ours, strict=True):
        np.testing.assert_allclose(warped, feature_effects.warp_time(features, *warp), atol=1e-6, err_msg=str(warp))


def test_a_warp_of_many_frames_is_refused(tmp_path):
    augmentation = augmentation_of(tmp_path, ("specaugment", SPEC_AUGMENT["warp"]))
    inputs = SampleInput(FrontEnd(FeatureSettings(), "none"), augmentation)
    shapes = {name: jax.ShapeDtypeStruct(*array) for name, array in inputs.arrays(1, 1 << 16).items()}
    shapes |= {"frames": jax.ShapeDtypeStruct((1,), np.int32), "valid": jax.ShapeDtypeStruct((1,), np.bool_)}
    with pytest.raises(ValueError, match="warp of 65536 frames"):
        jax.eval_shape(make_front_end(inputs), shapes)
