"""`--mode=train`: train in the workdir, or resume there, then measure the test manifest."""

from ml_collections import ConfigDict

from ds2_jax.cli import settings
from ds2_jax.training.train import train


def run_train(config: ConfigDict, workdir: str) -> dict:
    """Train what the config describes; return what is printed."""
    return train(settings.training(config), workdir)
