"""Whether a corpus was recorded at the sample rate that a model works at."""

import logging
from collections.abc import Mapping

import numpy as np

from input_pipeline import audio
from input_pipeline.manifest.table import Manifest

HEADERS_READ = 50  # of clips spread over the manifest

_warned: set[int] = set()  # sample rates of models about which a warning was logged


def warn_about_upsampling(manifest: Manifest, sample_rate_hz: int, logger: logging.Logger) -> None:
    """Log what `describe_upsampling` returns, once in a process for each sample rate of a model."""
    if sample_rate_hz not in _warned and (warning := describe_upsampling(manifest, sample_rate_hz)):
        _warned.add(sample_rate_hz)
        logger.warning("%s", warning)


def describe_upsampling(manifest: Manifest, sample_rate_hz: int) -> str:
    """Describe the clips recorded below a model's rate, judging by the headers of up to 50; '' if there are none."""
    rows = np.unique(np.linspace(0, len(manifest) - 1, min(len(manifest), HEADERS_READ)).astype(int))
    low: dict[str, int] = {}
    for row in rows.tolist():
        try:
            rate_hz = audio.info(manifest.audio[row]).sample_rate_hz
        except (ValueError, OSError):
            continue  # reported when the clip is loaded
        if rate_hz < sample_rate_hz:
            low[manifest.where(row)] = rate_hz
    return describe_low_rates(low, len(rows), sample_rate_hz) if low else ""


def describe_low_rates(low: Mapping[str, int], checked: int, sample_rate_hz: int) -> str:
    """Describe the clips among `checked` ones that were recorded below a model's rate; low: their rates by name."""
    first, rate_hz = next(iter(low.items()))
    return (
        f"{len(low)} of {checked} clips checked were recorded below the model's {sample_rate_hz} Hz and are upsampled, "
        f"the first of them {first} at {rate_hz} Hz. Their upper frequencies stay empty, so a model trained "
        "on wider audio recognises them less well; if all your audio is like this, train a model at its own rate "
        "(config.features.sample_rate_hz)"
    )
