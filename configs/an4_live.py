"""AN4 for live speech: a unidirectional GRU network of 4.9 million parameters that looks 290 ms ahead; otherwise as an4.py.

    python -m input_pipeline.prepare an4 --target_dir=data/an4
    python main.py --config=configs/an4_live.py --workdir=runs/an4_live

The look-ahead is that of the convolutions: 5 frames of 10 ms, and 3 + 5 of 30 ms.

Measured (1 core of an AMD EPYC of family 26, shared with other work, jax 0.10.2), trained on train alone: dev WER 11.05 %
greedy, 8.67 % with a language model, after 75 of 100 epochs, the best on dev; 93 minutes in all. Official test set: WER
9.57 % (95 % interval 7.3 to 12.1) greedy, 6.21 % (4.2 to 8.2) with the language model. models/an4_live was first trained on 15
hours of other English: dev 8.50 % and 3.74 % on train alone; on train and dev, test 5.95 % (4.2 to 7.9) and 3.88 %
(2.4 to 5.5). A network with two convolutions and `config.model.lookahead=5`, which looks as far ahead, was not better at equal
steps.
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
