"""AISHELL-1 for live speech: a unidirectional network with a row convolution that looks 290 ms ahead; otherwise as aishell.py.

    python -m input_pipeline.prepare aishell --target_dir=data/aishell
    python main.py --config=configs/aishell_live.py --workdir=runs/aishell_live

Not measured: the corpus was not available.
"""

from ml_collections import ConfigDict

from ds2_jax.configs import aishell


def get_config(devices: str = "8") -> ConfigDict:
    """Return the settings of this recipe for a number of devices."""
    config = aishell.get_config(devices)
    config.features.normalise_db = False
    config.augment.file = "configs/augmentation_live.json"
    config.model.bidirectional = False
    config.model.merge = "sum"
    config.model.lookahead = 3  # frames of 30 ms, after the 200 ms of the convolutions
    return config
