"""What a network sees of audio: features (input_pipeline/audio/features.py), normalised by a corpus or by themselves.

T frames, F features.
"""

import os
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

from input_pipeline.audio.features import FeatureError, FeatureSettings, extract, feature_size
from input_pipeline.storage import whole_file

NORMALISATIONS = ("corpus", "utterance", "clip", "none")
MAX_STATS_BYTES = 1 << 20  # of an array in a file of statistics: that of a hostile archive may unpack to gigabytes
STD_FLOOR = 1e-3  # of an utterance's feature: without it, one that hardly changes would be amplified


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """Mean and standard deviation of each feature over a corpus: [F] float32 each. Raises FeatureError."""

    mean: np.ndarray
    std: np.ndarray

    def __post_init__(self):
        """Raise FeatureError for values that cannot normalise features."""
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape or not self.mean.size:
            raise FeatureError(f"mean {list(self.mean.shape)} and std {list(self.std.shape)} are not both [F]")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and (self.std > 0).all()):
            raise FeatureError("mean and std must be finite, and std above 0")

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Return (features - mean) / (std + 1e-14), [T, F] float32."""
        normalised = np.subtract(features, self.mean, dtype=np.float32)
        normalised /= self.std + np.float32(1e-14)
        return normalised

    def save(self, path: str | os.PathLike) -> None:
        """Write the original's format, an .npz archive with mean and std [F, 1]. Raises OSError."""
        with whole_file.open_binary(path) as file:
            np.savez(file, mean=self.mean[:, None], std=self.std[:, None])

    @classmethod
    def load(cls, path: str | os.PathLike) -> "FeatureStats":
        """Read statistics, also the original's `mean_std.npz`. Raises FeatureError naming the file."""
        try:
            with np.load(path) as file:
                if max(member.file_size for member in file.zip.infolist()) > MAX_STATS_BYTES:
                    raise ValueError("it would be larger than statistics can be")
                mean, std = (np.asarray(file[name], np.float32) for name in ("mean", "std"))
            return cls(*(array[:, 0] if array.shape[1:] == (1,) else array for array in (mean, std)))
        except (
            LookupError,
            OSError,
            ValueError,
            TypeError,
            EOFError,
            MemoryError,
            RuntimeError,  # of zipfile, for encryption and other compressions
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            reason = error.strerror if isinstance(error, OSError) else error.args[0] if error.args else "it is damaged"
            raise FeatureError(
                f"feature statistics {path} cannot be used: {reason}; make them: python -m input_pipeline.stats"
            ) from error


def normalise(features: np.ndarray, mode: str, stats: FeatureStats | None) -> np.ndarray:
    """Normalise features [T, F] by the statistics of the corpus, by the utterance's own over time or, 'clip', of all, or not ('none').

    An utterance's standard deviation is taken as at least 1e-3. Raises FeatureError for an unknown mode, and for corpus
    statistics that are missing or of another size.
    """
    if mode == "none":
        return features
    if mode == "utterance":
        deviations = features - features.mean(axis=0)
        deviations /= np.maximum(np.sqrt(np.square(deviations).mean(axis=0)), np.float32(STD_FLOOR))
        return deviations
    if mode == "clip":
        deviations = features - features.mean(dtype=np.float64).astype(np.float32)
        return deviations / np.maximum(deviations.std(ddof=1), np.float32(STD_FLOOR))
    if mode != "corpus":
        raise FeatureError(f"normalisation is {mode!r}: choose one of {', '.join(NORMALISATIONS)}")
    if stats is None or stats.mean.shape != features.shape[1:]:
        size = "none" if stats is None else str(len(stats.mean))
        raise FeatureError(f"statistics of {features.shape[1]} features are needed, there are {size}; make them again")
    return stats.apply(features)


@dataclass(frozen=True)
class FrontEnd:
    """Turn samples into what the network sees: features, and their normalisation (one of NORMALISATIONS).

    stats: those of the training corpus, for normalisation 'corpus'. Raises ValueError for an unknown normalisation.
    """

    settings: FeatureSettings
    normalisation: str = "corpus"
    stats: FeatureStats | None = None

    def __post_init__(self):
        """Refuse an unknown normalisation."""
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(
                f"config.features.normalisation is {self.normalisation!r}: choose one of {', '.join(NORMALISATIONS)}"
            )

    @property
    def size(self) -> int:
        """Features of one frame, F."""
        return feature_size(self.settings)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return the normalised features [T, F] float32 of samples [N] float32. Raises FeatureError."""
        return normalise(extract(samples, self.settings), self.normalisation, self.stats)
