"""AN4 for live speech: a unidirectional GRU network of 4.8 million parameters that looks 290 ms ahead; otherwise as an4.py.

    python -m input_pipeline.prepare an4 --target_dir=data/an4
    python main.py --config=configs/an4_live.py --workdir=runs/an4_live

The look-ahead is that of the convolutions: 5 frames of 10 ms, and 3 + 5 of 30 ms.

Not measured yet.
"""

from ml_collections import ConfigDict

from ds2_jax.configs import an4


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = an4.get_config()
    config.features.normalise_db = False
    config.augment.file = "configs/augmentation_an4_live.json"
    config.model.bidirectional = False
    config.model.conv = "11x21/3x2:32, 7x11/1x2:32, 11x5/1x1:32"
    config.model.rnn_size = 512
    config.train.epochs = 100
    return config
