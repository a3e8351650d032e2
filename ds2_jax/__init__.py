"""DeepSpeech2 speech recognition in JAX/Flax.

    import ds2_jax
    model = ds2_jax.load("models/an4")
    print(model.transcribe("speech.wav").text)

Names are imported on first use, which keeps `import ds2_jax` fast.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from input_pipeline.cores import limit_libraries

if TYPE_CHECKING:
    from decoding.hypothesis import Hypothesis, Word
    from decoding.settings import BeamSettings
    from ds2_jax.artifacts.bundle import ModelFileError
    from ds2_jax.recognition.evaluation import evaluate
    from ds2_jax.recognition.recogniser import Recogniser, Transcript, load
    from input_pipeline.audio import AudioError, Segment

_MODULES = {
    "AudioError": "input_pipeline.audio",
    "BeamSettings": "decoding.settings",
    "Hypothesis": "decoding.hypothesis",
    "ModelFileError": "ds2_jax.artifacts.bundle",
    "Recogniser": "ds2_jax.recognition.recogniser",
    "Segment": "input_pipeline.audio",
    "Transcript": "ds2_jax.recognition.recogniser",
    "Word": "decoding.hypothesis",
    "evaluate": "ds2_jax.recognition.evaluation",
    "load": "ds2_jax.recognition.recogniser",
}
__all__ = [
    "AudioError",
    "BeamSettings",
    "Hypothesis",
    "ModelFileError",
    "Recogniser",
    "Segment",
    "Transcript",
    "Word",
    "evaluate",
    "load",
]

limit_libraries()  # before anything else here imports NumPy or JAX


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _MODULES:
        raise AttributeError(f"module 'ds2_jax' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """Return the version from pyproject.toml in a checkout, else that of the installed package."""
    import importlib.metadata
    import tomllib

    file = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"] if file.is_file() else {}
    return project["version"] if project.get("name") == "ds2-jax" else importlib.metadata.version("ds2-jax")
