"""AN4 for live speech in sherpa-onnx: a small unidirectional GRU network on the filter bank that sherpa-onnx computes itself.

    python -m input_pipeline.prepare an4 --target_dir=data/an4
    python main.py --config=configs/an4_sherpa.py --workdir=runs/an4_sherpa
    python main.py --mode=export --format=onnx --config.restore=runs/an4_sherpa --output=exported/an4_sherpa

Output frames of 40 ms are what the engine takes for granted. The network looks 250 ms ahead: 5 frames of 10 ms, and 5 of 40 ms. For
an experiment, without augmentation; an4_live.py is a better network.

Measured (2 cores of an AMD EPYC of family 25, with ten times as much other work, jax 0.10.2), greedy: official test set WER 24.8 %
(95 % interval 20.8 to 28.2), in DS2-JAX and in sherpa-onnx 2.0.1, of the checkpoint that was best on dev (30.8 %, step 675 of 900);
58 minutes in all.
"""

from ml_collections import ConfigDict

from ds2_jax.configs import an4


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = an4.get_config()
    config.batch.buckets = 3
    config.batch.eval_buckets = 1
    config.features.kind = "sherpa"
    config.features.window_ms = 25.0
    config.features.mel_bins = 80
    config.features.normalise_db = False
    config.augment.file = ""
    config.model.bidirectional = False
    config.model.conv = "11x21/4x4:16"
    config.model.rnn_size = 224
    config.model.rnn_layers = 2
    config.model.lookahead = 5
    config.model.dropout = 0.1
    config.optim.learning_rate = 1.5e-3
    config.train.epochs = 20
    return config
