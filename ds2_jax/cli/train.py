"""`--mode=train`: train in the workdir, or resume there, then measure on the test manifest."""

from ml_collections import ConfigDict

from ds2_jax.cli import settings
from ds2_jax.training.train import train


def run_train(config: ConfigDict, workdir: str) -> dict:
    """Run the training that a config describes; return the results to print."""
    return train(settings.read_training(config), workdir)
