"""Draw the effect of each augmentor on a spectrogram: the picture in docs/augmentation.md.

    python -m benchmarks.augmentation_pictures --output docs/augmentation.png \
        --noise data/noise_blanket/audio/coffee-shop/coffee-shop.ogg --room data/rir/audio/speechbrain/speechbrain_rir1.flac

Without --noise and --room, the noise and the impulse response are synthetic.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks import pictures
from input_pipeline import audio
from input_pipeline.audio.features import FeatureSettings, extract
from input_pipeline.augment import rng_for
from input_pipeline.augment.audio_effects import (
    ImpulseResponse,
    NoiseClip,
    add_noise,
    change_speed,
    limit_band,
    normalise_online,
    reverberate,
    shift,
)
from input_pipeline.augment.feature_effects import draw_spans, draw_warp, mask, warp_time
from input_pipeline.storage import console

matplotlib.use("Agg")
from matplotlib import pyplot

CLIP = Path(__file__).parent.parent / "tests" / "clips" / "cen1-fmjc-b.flac"
SETTINGS = FeatureSettings()
RATE_HZ, FRAME_S = SETTINGS.sample_rate_hz, SETTINGS.stride_ms / 1000
COLUMNS, COLOURS, INCHES, DPI = 3, 48, (10.5, 7.0), 72
DARKEST, BRIGHTEST = 2.0, 99.8  # percentiles of the unchanged spectrogram


def synthetic_noise(seconds: float) -> np.ndarray:
    """Return white noise and a tone of wandering frequency [N]."""
    walk = np.cumsum(np.random.default_rng(0).standard_normal(int(seconds * RATE_HZ)))
    return np.diff(walk, prepend=0.0, n=1).astype(np.float32) * 0.05 + np.sin(walk / 40).astype(np.float32) * 0.05


def synthetic_response(seconds: float = 0.5) -> np.ndarray:
    """Return an impulse response [M] that decays by 60 dB over its length."""
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    tail = 0.3 * np.random.default_rng(1).standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail[0] = 1.0
    return tail.astype(np.float32)


def make_panels(samples: np.ndarray, noise: NoiseClip, room: ImpulseResponse) -> dict[str, np.ndarray]:
    """Return the features [T, F] of each panel by its title."""

    def on_audio(effect: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return extract(effect(samples), SETTINGS)

    features = extract(samples, SETTINGS)
    mean = float(features.mean())
    frames, bins = features.shape
    bands, times = draw_spans(rng_for(0, 0, 6), 2, 27, bins), draw_spans(rng_for(0, 0, 3), 2, 20, frames)
    return {
        "original": features,
        "speed: rate 0.8": on_audio(lambda x: change_speed(x, 0.8)),
        "shift: 250 ms": on_audio(lambda x: shift(x, RATE_HZ // 4)),
        "noise: 5 dB": on_audio(lambda x: add_noise(x, noise, 5.0, 0.3)),
        "impulse": on_audio(lambda x: reverberate(x, room)),
        "resample: 8000 Hz": on_audio(lambda x: limit_band(x, RATE_HZ, 8000)),
        "bayesian_normal: prior -60 dB": on_audio(lambda x: normalise_online(x, -20.0, -60.0, 800)),
        "specaugment: 2 x F 27, 2 x T 20": mask(features, bands, times, mean),
        "specaugment: W 40": warp_time(features, *draw_warp(rng_for(0, 0, 5), frames, 40)),
    }


def draw(panels: dict[str, np.ndarray], output: Path) -> None:
    """Draw all panels on one time axis and save them as a small PNG."""
    longest_s = max(map(len, panels.values())) * FRAME_S
    low, high = np.percentile(next(iter(panels.values())), [DARKEST, BRIGHTEST])
    figure, axes = pyplot.subplots(
        -(-len(panels) // COLUMNS), COLUMNS, figsize=INCHES, sharex=True, sharey=True, layout="constrained"
    )
    for axis, (title, features) in zip(axes.flat, panels.items(), strict=True):
        extent = (0, len(features) * FRAME_S, 0, RATE_HZ / 2000)
        axis.imshow(features.T, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="magma")
        axis.set(title=title, xlim=(0, longest_s))
    figure.supxlabel("seconds")
    figure.supylabel("kHz")
    pictures.save(figure, output, dpi=DPI, colours=COLOURS)


@console.command
def main() -> None:
    """Draw the picture and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--clip", default=str(CLIP), help="speech file (default: a test clip)")
    parser.add_argument("--noise", help="noise file")
    parser.add_argument("--room", help="impulse response file")
    a = parser.parse_args()
    samples, _ = audio.read(a.clip, RATE_HZ)
    noise = audio.read(a.noise, RATE_HZ)[0] if a.noise else synthetic_noise(5.0)
    room = audio.read(audio.Segment(a.room, channel=0), RATE_HZ)[0] if a.room else synthetic_response()
    draw(make_panels(samples, NoiseClip.from_samples(noise), ImpulseResponse.from_samples(room)), a.output)
    print(
        json.dumps(
            {"benchmark": "augmentation_pictures", "bytes": a.output.stat().st_size, "options": vars(a)}, default=str
        )
    )


if __name__ == "__main__":
    main()
