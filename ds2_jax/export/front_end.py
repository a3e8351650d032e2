"""The front end as part of an ONNX graph: samples in, what the network sees out, as `input_pipeline.audio.front_end`.

The Fourier transform is a product in float64, as NumPy computes it; its squared output times a matrix gives the filters. A
convolution, or a product in float32, loses weak bins beside strong ones, which a network may amplify: log probabilities then
differ by up to 0.007. Letters: B batch, N samples, W samples of a window, T frames, F features.
"""

from typing import NamedTuple

import numpy as np

from ds2_jax.export.graph import Graph
from input_pipeline.audio.features import (
    FLOOR,
    LEVEL_ATTACK_S,
    MAX_GAIN_DB,
    MAX_RUNNING_GAIN_DB,
    MFCC_FILTERS,
    PRE_EMPHASIS,
    FeatureSettings,
    bank_of,
    cosine_transform,
    density_factors,
    fourier_matrix,
    hann_window,
    mel_filters,
    mfcc_filters,
    mfcc_transform_length,
    running_level,
    transform_length,
)
from input_pipeline.audio.front_end import STD_FLOOR, FeatureStats, FrontEnd
from input_pipeline.audio.sherpa_bank import FLOOR as ENERGY_FLOOR
from input_pipeline.audio.sherpa_bank import mel_filters as bank_filters
from input_pipeline.audio.sherpa_bank import shaping_matrix


class Frames(NamedTuple):
    """Names of two values: frames [B, T, F] f32, and how many each row has [B] i32."""

    values: str
    lengths: str


def add_front_end(graph: Graph, front_end: FrontEnd, samples: str, lengths: str) -> Frames:
    """Add the front end for samples [B, N] f32 of which each row has lengths [B] i32.

    Raises ValueError for features that resample, and for those of deepspeech.pytorch.
    """
    settings = front_end.settings
    if settings.source_rate_hz:
        raise ValueError(
            f"this model resamples audio to {settings.source_rate_hz} Hz and back (config.features.source_rate_hz), which no "
            "ONNX operator does: export it with --format=stablehlo, which begins with features"
        )
    if settings.kind == "log1p" or front_end.normalisation == "clip":
        raise ValueError(
            f"the features of this model ({settings.kind}, normalisation {front_end.normalisation}) have no form in ONNX: export "
            "it with --format=stablehlo, which begins with features"
        )
    inside = graph.inside(graph.size(samples, 1), lengths)
    samples = graph.node("Where", inside, samples, graph.floats(0))
    if settings.normalise_db and not settings.level_s:
        samples = _normalise_level(graph, settings, samples, lengths)
    samples = _lengthen(graph, samples, settings.window_samples)
    frames = _count_frames(graph, settings, lengths)
    if settings.kind == "sherpa":
        features = _sherpa(graph, settings, samples, lengths)
    elif settings.kind == "mfcc":
        features = _mfcc(graph, settings, _emphasise(graph, settings, samples, lengths), frames)
    else:
        features = _spectra(graph, settings, samples)
    return Frames(_normalise(graph, front_end, features, frames), frames)


def _count_frames(graph: Graph, settings: FeatureSettings, lengths: str) -> str:
    """Return T of each row [B] i32, as `features.frame_count`."""
    stride = settings.stride_samples
    if settings.kind == "sherpa":
        count = graph.node("Div", graph.node("Add", lengths, graph.int32(stride // 2)), graph.int32(stride))
        short = graph.node("Less", lengths, graph.int32(settings.window_samples))
        return graph.node("Where", short, graph.int32(0), count)
    extra = stride - 1 if settings.kind == "mfcc" else 0  # the last window may extend beyond the end
    beyond = graph.node("Sub", lengths, graph.int32(settings.window_samples))
    count = graph.node("Div", graph.node("Add", beyond, graph.int32(extra + stride)), graph.int32(stride))
    return graph.node("Where", graph.node("Less", beyond, graph.int32(0)), graph.int32(0), count)


def _normalise_level(graph: Graph, settings: FeatureSettings, samples: str, lengths: str) -> str:
    """Scale each row to the target level; digital silence, which has none, stays as it is."""
    energy = graph.node("ReduceSumSquare", graph.cast(samples, np.float64), axes=[1], keepdims=1)  # [B, 1]
    count = graph.cast(graph.reshape(lengths, -1, 1), np.float64)
    power = graph.node("Div", energy, graph.node("Max", count, graph.doubles(1)))
    target = 10 ** (settings.target_db / 10)
    least = graph.doubles(target / 10 ** (MAX_GAIN_DB / 10))
    gain = graph.node("Sqrt", graph.node("Div", graph.doubles(target), graph.node("Max", power, least)))
    return graph.node("Mul", samples, graph.cast(gain, np.float32))


def _lengthen(graph: Graph, samples: str, window: int) -> str:
    """Add zeros to samples [B, N] up to one window, which a convolution needs at least."""
    missing = graph.node("Sub", graph.int32(window), graph.size(samples, 1))
    missing = graph.node("Where", graph.node("Less", missing, graph.int32(0)), graph.int32(0), missing)
    missing = graph.reshape(graph.cast(missing, np.int64), 1)
    return graph.node("Pad", samples, graph.node("Concat", graph.ints(0, 0, 0), missing, axis=0))


def _filtered_power(
    graph: Graph, settings: FeatureSettings, samples: str, window: np.ndarray, fft: int, filters: np.ndarray
) -> str:
    """Return the power spectra of windows [W] of samples [B, N], times filters [fft / 2 + 1, F]: [B, T, F]."""
    stride, fourier = settings.stride_samples, fourier_matrix(len(window), fft)
    beyond = graph.node("Sub", graph.size(samples, 1), graph.int32(len(window) - stride))
    starts = graph.positions(graph.node("Div", beyond, graph.int32(stride)))
    starts = graph.reshape(graph.node("Mul", starts, graph.int32(stride)), -1, 1)
    index = graph.node("Add", starts, graph.constant(np.arange(len(window), dtype=np.int32)))  # [T, W]
    frames = graph.node("Mul", graph.node("Gather", samples, index, axis=1), graph.floats(window))  # [B, T, W]
    spectrum = graph.node("MatMul", graph.cast(frames, np.float64), graph.constant(fourier))
    power = graph.cast(graph.node("Mul", spectrum, spectrum), np.float32)
    return graph.node("MatMul", power, graph.floats(np.concatenate([filters, filters])))


def _spectra(graph: Graph, settings: FeatureSettings, samples: str) -> str:
    """Return the log power density of samples [B, N], of its bins (linear) or after mel filters (fbank): [B, T, F]."""
    fft = transform_length(settings)
    if settings.kind == "fbank":
        filters = mel_filters(settings, fft)
    else:
        filters = np.eye(fft // 2 + 1, FrontEnd(settings, "none").size)
    filters = filters * density_factors(settings, fft)[:, None]
    power = _filtered_power(graph, settings, samples, hann_window(settings), fft, filters)
    if running_level(settings):
        power = graph.node("Mul", power, _running_gains(graph, settings, samples))
    return graph.node("Log", graph.node("Add", power, graph.floats(FLOOR)))


def _running_gains(graph: Graph, settings: FeatureSettings, samples: str) -> str:
    """Return the power gain of each frame [B, T, 1], as `features.running_gains`, by a recurrent layer of two units.

    With the level d above its least one, and the power q above it, the next level is the greater of two lines, but not below
    0: d + rise * (q - d) and d + fall * (q - d). That is the sum of two rectified units, one for the second line and one for
    what the first is above it; if `rise` is below `fall`, the second unit is subtracted.
    """
    target = 10 ** (settings.target_db / 10)
    least = target / 10 ** (MAX_RUNNING_GAIN_DB / 10)
    rise, fall = (min(1.0, settings.stride_ms / 1000 / seconds) for seconds in (LEVEL_ATTACK_S, settings.level_s))
    window = settings.window_samples
    power = _mean_power(graph, samples, window, settings.stride_samples)  # [B, T, 1]
    above = graph.transpose(graph.node("Sub", power, graph.floats(least)), 1, 0, 2)  # time first
    steep, sign = abs(rise - fall), 1.0 if rise >= fall else -1.0
    inputs = np.array([[[fall], [steep]]])  # [1, 2, 1]
    carried = np.array([[1 - fall], [-steep]]) * np.array([1.0, sign])  # d is the first unit plus or minus the second
    units, _ = graph.node_of(
        2, "RNN", above, graph.floats(inputs), graph.floats(carried[None]), hidden_size=2, activations=["Relu"]
    )  # [T, 1, B, 2]
    units = graph.transpose(graph.reshape(graph.transpose(units, 0, 2, 1, 3), 0, 0, -1), 1, 0, 2)  # [B, T, 2]
    level = graph.node("Add", graph.node("MatMul", units, graph.floats([[1.0], [sign]])), graph.floats(least))
    return graph.node("Div", graph.floats(target), level)


def _mean_power(graph: Graph, samples: str, window: int, stride: int) -> str:
    """Return the mean square of each window of samples [B, N]: [B, T, 1]."""
    squares = graph.reshape(graph.node("Mul", samples, samples), 0, 1, -1)
    mean = graph.node("Conv", squares, graph.floats(np.full((1, 1, window), 1 / window)), strides=[stride])
    return graph.transpose(mean, 0, 2, 1)


def _emphasise(graph: Graph, settings: FeatureSettings, samples: str, lengths: str) -> str:
    """Subtract a share of the sample before from each of samples [B, N], and add zeros for the last, incomplete window."""
    before = graph.slice(graph.node("Pad", samples, graph.ints(0, 1, 0, 0)), 1, 0, -1)
    emphasised = graph.node("Sub", samples, graph.node("Mul", before, graph.floats(PRE_EMPHASIS)))
    inside = graph.inside(graph.size(samples, 1), lengths)
    emphasised = graph.node("Where", inside, emphasised, graph.floats(0))
    return graph.node("Pad", emphasised, graph.ints(0, 0, 0, settings.stride_samples - 1))


def _mfcc(graph: Graph, settings: FeatureSettings, emphasised: str, frames: str) -> str:
    """Return cepstra with first and second deltas of emphasised samples [B, N]: [B, T, 3 * cepstra]."""
    fft = mfcc_transform_length(settings)
    energy = np.ones((fft // 2 + 1, 1))
    filters = np.concatenate([mfcc_filters(settings, fft), energy], axis=1) / fft
    power = _filtered_power(graph, settings, emphasised, np.ones(settings.window_samples), fft, filters)
    logarithms = graph.node("Log", graph.node("Max", power, graph.floats(np.finfo(float).eps)))
    transform = np.zeros((MFCC_FILTERS + 1, settings.cepstra))
    transform[:-1, 1:] = cosine_transform(settings.cepstra)[:, 1:]
    transform[-1, 0] = 1  # the first cepstrum is the energy
    cepstra = _hold_last(graph, graph.node("MatMul", logarithms, graph.floats(transform)), frames)
    first = _hold_last(graph, _deltas(graph, cepstra), frames)
    return graph.node("Concat", cepstra, first, _deltas(graph, first), axis=2)


def _sherpa(graph: Graph, settings: FeatureSettings, samples: str, lengths: str) -> str:
    """Return `sherpa_bank.log_energies` of samples [B, N]: [B, T, F]. All but the logarithm of a window is one product."""
    bank = bank_of(settings)
    frames = graph.node("Add", graph.size(samples, 1), graph.int32(bank.stride // 2))
    starts = graph.positions(graph.node("Div", frames, graph.int32(bank.stride)))
    starts = graph.reshape(graph.node("Mul", starts, graph.int32(bank.stride)), -1, 1)
    index = graph.node("Add", starts, graph.constant(np.arange(bank.window, dtype=np.int32) + np.int32(bank.first)))
    index = graph.node("Where", graph.node("Less", index, graph.int32(0)), _reflect(graph, 0, index), index)  # [T, W]
    ends = graph.reshape(lengths, -1, 1, 1)
    mirrored = _reflect(graph, graph.node("Mul", ends, graph.int32(2)), index)
    index = graph.node("Where", graph.node("Less", index, ends), index, mirrored)  # [B, T, W]
    index = graph.node(
        "Where", graph.node("Less", index, graph.int32(0)), graph.int32(0), index
    )  # beyond a row's frames
    windows = graph.node("GatherElements", samples, graph.reshape(index, 0, -1), axis=1)
    windows = graph.cast(graph.reshape(windows, 0, -1, bank.window), np.float64)
    spectrum = graph.node(
        "MatMul", windows, graph.constant(shaping_matrix(bank.window) @ fourier_matrix(bank.window, bank.fft))
    )
    power = graph.cast(graph.node("Mul", spectrum, spectrum), np.float32)
    energies = graph.node("MatMul", power, graph.floats(np.concatenate([bank_filters(bank)] * 2)))
    return graph.node("Log", graph.node("Max", energies, graph.floats(ENERGY_FLOOR)))


def _reflect(graph: Graph, twice_the_end: str | int, index: str) -> str:
    """Return the positions on the other side of an end of the audio, which has the distance from its last sample."""
    end = graph.int32(twice_the_end) if isinstance(twice_the_end, int) else twice_the_end
    return graph.node("Sub", graph.node("Sub", end, graph.int32(1)), index)


def _hold_last(graph: Graph, values: str, frames: str) -> str:
    """Repeat the last frame of each row of values [B, T, F] up to the end."""
    last = graph.reshape(graph.node("Sub", frames, graph.int32(1)), -1, 1)
    last = graph.node("Where", graph.node("Less", last, graph.int32(0)), graph.int32(0), last)
    positions = graph.positions(graph.size(values, 1))
    index = graph.node("Where", graph.node("Less", positions, last), positions, last)  # [B, T]
    index = graph.node("Expand", graph.reshape(index, 0, 0, 1), graph.node("Shape", values))
    return graph.node("GatherElements", values, index, axis=1)


def _deltas(graph: Graph, values: str) -> str:
    """Return slopes over five frames of values [B, T, F], as `features._deltas`."""
    padded = graph.node("Pad", values, graph.ints(0, 2, 0, 0, 2, 0), mode="edge")
    near = graph.node("Sub", graph.slice(padded, 1, 3, -1), graph.slice(padded, 1, 1, -3))
    far = graph.node("Sub", graph.slice(padded, 1, 4), graph.slice(padded, 1, 0, -4))
    sum_ = graph.node("Add", near, graph.node("Mul", far, graph.floats(2)))
    return graph.node("Div", sum_, graph.floats(10))


def _normalise(graph: Graph, front_end: FrontEnd, features: str, frames: str) -> str:
    """Normalise features [B, T, F] by the corpus or by each row, as the NumPy front end, and zero what is beyond a row."""
    inside = graph.inside(graph.size(features, 1), frames)
    mask = graph.cast(graph.reshape(inside, 0, 0, 1), np.float32)
    if front_end.normalisation == "corpus":
        assert isinstance(front_end.stats, FeatureStats)
        features = graph.node("Sub", features, graph.floats(front_end.stats.mean))
        features = graph.node("Div", features, graph.floats(front_end.stats.std + np.float32(1e-14)))
    elif front_end.normalisation == "utterance":
        count = graph.node("Max", graph.cast(graph.reshape(frames, -1, 1, 1), np.float32), graph.floats(1))
        features = graph.node("Sub", features, _mean(graph, features, mask, count))
        variance = _mean(graph, graph.node("Mul", features, features), mask, count)
        deviation = graph.node("Max", graph.node("Sqrt", variance), graph.floats(STD_FLOOR))
        features = graph.node("Div", features, deviation)
    return graph.node("Mul", features, mask)


def _mean(graph: Graph, values: str, mask: str, count: str) -> str:
    """Return the mean over the frames of each row: [B, T, F] -> [B, 1, F]."""
    share = graph.node("Div", mask, count)  # [B, T, 1]
    return graph.node("MatMul", graph.transpose(share, 0, 2, 1), values)
