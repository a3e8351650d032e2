"""Draw how a clip is recognised: spectrogram, CTC peaks, words with their times.

    python -m benchmarks.clip_picture --output docs/clip.png

The defaults draw the picture in the README.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

import ds2_jax
from benchmarks import pictures
from decoding.hypothesis import BLANK, Hypothesis
from decoding.search import greedy
from input_pipeline import audio
from input_pipeline.audio.features import FeatureSettings, extract
from input_pipeline.storage import console

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

ROOT = Path(__file__).parent.parent
CLIP = "cen1-msjr-b.flac"
SETTINGS = FeatureSettings()  # of the spectrogram in the picture; the model uses its own
INCHES, DPI, COLOURS = (12.0, 5.0), 100, 96
DARKEST, BRIGHTEST = 5.0, 99.8  # percentiles of the spectrogram
PEAK = 0.3  # minimum probability of a peak with a label
BLUE, GRAY = "#0072b2", "#6b6b73"


@dataclass(frozen=True)
class Recognition:
    """The output of a model for a clip."""

    log_probs: np.ndarray  # [U, K], natural logs
    symbols: tuple[str, ...]  # K symbols; the first, "", is the blank
    frame_s: float  # seconds per row of log_probs
    hypothesis: Hypothesis


def recognise(model: str, clip: Path) -> Recognition:
    """Run a model on a clip and decode greedily."""
    recogniser = ds2_jax.load(model, engine="greedy")
    log_probs = recogniser.log_probs(clip)
    symbols = ("", *recogniser.vocabulary.symbols)
    return Recognition(log_probs, symbols, recogniser.output_frame_s, recogniser.decode([log_probs])[0][0])


def draw_spectrogram(axis: Axes, samples: np.ndarray) -> None:
    """Draw the spectrogram of samples [N] at SETTINGS.sample_rate_hz."""
    features = extract(samples, SETTINGS)
    low, high = np.percentile(features, [DARKEST, BRIGHTEST])
    extent = (0, len(features) * SETTINGS.stride_ms / 1000, 0, SETTINGS.sample_rate_hz / 2000)
    axis.imshow(features.T, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="magma")
    axis.set_ylabel("kHz")
    axis.set_yticks([0, 2, 4, 6, 8])


def draw_peaks(axis: Axes, recognition: Recognition) -> None:
    """Draw the probability of each frame's most likely symbol other than the blank, with the symbol above each peak."""
    symbols = np.delete(recognition.log_probs, BLANK, axis=1).argmax(1)
    symbols = np.where(symbols >= BLANK, symbols + 1, symbols)
    probabilities = np.exp(recognition.log_probs[np.arange(len(symbols)), symbols])
    times = (np.arange(len(symbols)) + 0.5) * recognition.frame_s
    axis.fill_between(times, probabilities, color=BLUE, alpha=0.25, linewidth=0)
    axis.plot(times, probabilities, color=BLUE, linewidth=1.2)
    for symbol, first, end in greedy.collapse(np.where(probabilities >= PEAK, symbols, BLANK)):
        top = first + int(np.argmax(probabilities[first:end]))
        label, colour = ("␣", GRAY) if recognition.symbols[symbol] == " " else (recognition.symbols[symbol], BLUE)
        axis.text(times[top], probabilities[top] + 0.06, label, color=colour, ha="center", fontsize=13, weight="bold")
    axis.text(0.01, 0.85, "␣ separates words", transform=axis.transAxes, fontsize=10, color=GRAY)
    axis.set(ylim=(0, 1.45), yticks=[0, 1], ylabel="CTC peaks")


def draw_words(axis: Axes, hypothesis: Hypothesis) -> None:
    """Draw each word at its position on the time axis, with its start and end in seconds."""
    for word in hypothesis.words:
        middle = (word.start_s + word.end_s) / 2
        axis.axvspan(word.start_s, word.end_s, ymin=0.72, color=BLUE)
        axis.text(middle, 0.42, word.text, ha="center", va="center", fontsize=17, weight="bold")
        axis.text(middle, 0.1, f"{word.start_s:.2f}–{word.end_s:.2f}", ha="center", va="center", fontsize=9, color=GRAY)
    axis.set(ylim=(0, 1), yticks=[], ylabel="words")


def draw(samples: np.ndarray, recognition: Recognition, output: Path) -> None:
    """Draw three panels on one time axis and save them."""
    pyplot.rc("font", size=12)
    pyplot.rc("figure.constrained_layout", w_pad=0.12, h_pad=0.08)
    figure, (above, middle, below) = pyplot.subplots(
        3, figsize=INCHES, sharex=True, layout="constrained", gridspec_kw={"height_ratios": [2.4, 1.6, 1.1]}
    )
    draw_spectrogram(above, samples)
    draw_peaks(middle, recognition)
    draw_words(below, recognition.hypothesis)
    for axis in (middle, below):
        axis.spines[["top", "right"]].set_visible(False)
    below.set(xlim=(0, len(samples) / SETTINGS.sample_rate_hz), xlabel="seconds")
    figure.align_ylabels()
    pictures.save(figure, output, dpi=DPI, colours=COLOURS)


@console.command
def main() -> None:
    """Draw the picture and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default=str(ROOT / "models" / "an4"))
    parser.add_argument("--clip", type=Path, default=ROOT / "tests" / "clips" / CLIP)
    a = parser.parse_args()
    samples, _ = audio.read(a.clip, SETTINGS.sample_rate_hz)
    recognition = recognise(a.model, a.clip)
    draw(samples, recognition, a.output)
    result = {"benchmark": "clip_picture", "bytes": a.output.stat().st_size, "text": recognition.hypothesis.text}
    print(json.dumps(result | {"options": vars(a)}, default=str))


if __name__ == "__main__":
    main()
