"""The acoustic models that the original published: addresses, digests, and the settings that it decodes them with."""

import math
from dataclasses import dataclass
from pathlib import Path

from input_pipeline.storage import download

HOST = "https://deepspeech.bj.bcebos.com"
FOLDER = "data/models"
ALL_SYMBOLS = 1_000_000  # the original ignores cutoff_top_n if cutoff_prob is 1


@dataclass(frozen=True)
class Weights:
    """Published settings of decoding: alpha for log10, beta, beam, and the share of probability that is searched."""

    alpha: float
    beta: float
    beam_size: int = 500
    cutoff_prob: float = 1.0

    def to_json(self) -> dict[str, float | int]:
        """Return the settings of a bundle's decode.json, with alpha for natural logarithms."""
        return {
            "alpha": round(self.alpha / math.log(10), 4),
            "beta": self.beta,
            "beam_size": self.beam_size,
            "cutoff_prob": self.cutoff_prob,
            "cutoff_top_n": 40 if self.cutoff_prob < 1 else ALL_SYMBOLS,
        }


@dataclass(frozen=True)
class PublishedModel:
    """An archive. md5: None if none was published. source_rate_hz: rate of the speech it was trained with; 0 for its own."""

    path: str
    md5: str | None
    weights: Weights
    language: str
    source_rate_hz: int = 0

    @property
    def name(self) -> str:
        """Return the name of the file."""
        return self.path.rpartition("/")[2]


_LIBRISPEECH, _EN8K = Weights(2.5, 0.3), Weights(1.4, 0.35)
_AISHELL, _CN1_2K = Weights(2.6, 5.0, 300, 0.99), Weights(1.15, 0.15)
MODELS = {
    "librispeech": PublishedModel(
        "eng_models/librispeech_model.tar.gz", "1f72d0c5591f453362f0caa09dd57618", _LIBRISPEECH, "en"
    ),
    "baidu_en8k": PublishedModel(
        "demo_models/baidu_en8k_model.tar.gz", "5fe7639e720d51b3c3bdf7a1470c6272", _EN8K, "en"
    ),
    "aishell": PublishedModel(
        "mandarin_models/aishell_model.tar.gz", "0ee83aa15fba421e5de8fc66c8feb350", _AISHELL, "zh"
    ),
    "baidu_cn1.2k": PublishedModel("demo_models/baidu_cn1.2k_model.tar.gz", None, _CN1_2K, "zh", 8000),
    "librispeech_fluid": PublishedModel(
        "eng_models/librispeech_model_fluid.tar.gz", "fafb11fe57c3ecd107147056453f5348", _LIBRISPEECH, "en"
    ),
    "baidu_en8k_fluid": PublishedModel(
        "demo_models/baidu_en8k_model_fluid.tar.gz", "7e58fbf64aa4ecf639b049792ddcf788", _EN8K, "en"
    ),
    "aishell_fluid": PublishedModel(
        "mandarin_models/aishell_model_fluid.tar.gz", "2bf0cc8b6d5da2a2a787b5cc36a496b5", _AISHELL, "zh"
    ),
    "baidu_cn1.2k_fluid": PublishedModel("demo_models/baidu_cn1.2k_model_fluid.tar.gz", None, _CN1_2K, "zh", 8000),
}


def fetch(name: str) -> Path:
    """Download an archive, resume an earlier attempt, verify it where a digest was published; return its path.

    Raises DownloadError.
    """
    model = MODELS[name]
    return download.fetch(f"{HOST}/{model.path}", Path(FOLDER, model.name), md5=model.md5)
