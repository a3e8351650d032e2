"""DeepSpeech2 speech recognition in JAX/Flax."""

from pathlib import Path


def __getattr__(name: str) -> str:
    """Return the version when it is asked for: importing what reads it takes a tenth of a second."""
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    """Return the version that pyproject.toml names: beside this package in a checkout, else as it was installed."""
    import importlib.metadata
    import tomllib

    file = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"] if file.is_file() else {}
    return project["version"] if project.get("name") == "ds2-jax" else importlib.metadata.version("ds2-jax")
