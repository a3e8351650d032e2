"""AN4: spelled words, numbers and commands, 0.6 hours; a GRU network of 5.7 million parameters.

    python -m input_pipeline.prepare an4 --target_dir=data/an4
    python main.py --config=configs/an4.py --workdir=runs/an4

The settings were chosen on dev. The released model, `models/an4`, was then trained once on train and dev together:

    python main.py --config=configs/an4.py --workdir=runs/an4 --config.data.dev= \
        --config.data.train=data/an4/train.jsonl,data/an4/dev.jsonl

Measured (2 cores of an AMD EPYC of family 26, shared with other work, jax 0.10.2), greedy, without a language model:
official test set WER 4.66 % (95 % interval 3.2 to 6.1), CER 1.79 %, after 160 epochs in 70 minutes, 2.8 GB resident.
On train alone, with 60 epochs (`--config.train.epochs=60`): dev WER 8.84 %, CER 3.89 %.
Published for DeepSpeech2 on AN4: WER 10.52 %, CER 4.78 % (deepspeech.pytorch, 948 training utterances).
"""

from ml_collections import ConfigDict

from ds2_jax.configs import base


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = base.get_config()
    config.data.train = "data/an4/train.jsonl"
    config.data.dev = "data/an4/dev.jsonl"
    config.data.test = "data/an4/test.jsonl"
    config.batch.size = 16
    config.batch.buckets = 12
    config.batch.shuffle = "batch_shuffle_clipped"
    config.batch.eval_size = 8  # a CPU is faster with small batches of nearly equal lengths
    config.batch.eval_buckets = 8
    config.features.kind = "fbank"
    config.features.mel_bins = 64
    config.augment.file = "configs/augmentation_an4.json"
    config.model.conv = "11x21/3x2:32, 7x11/1x2:32"
    config.model.rnn_size = 384
    config.model.dropout = 0.2
    config.optim.learning_rate = 8e-4
    config.optim.clip_norm = 20.0
    config.optim.ema = 0.995
    config.train.epochs = 160
    config.train.eval_every = 225
    return config
