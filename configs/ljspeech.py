"""LJ Speech, 24 hours of audiobooks by one speaker, 22.05 kHz: a GRU network of 10 million parameters.

    python -m input_pipeline.prepare ljspeech --target_dir=data/ljspeech
    python main.py --config=configs/ljspeech.py --workdir=runs/ljspeech

For one accelerator. With one speaker and one microphone, it is good for experiments, but useless for other speakers. Not
measured: neither its error rate nor its training time.
"""

from ml_collections import ConfigDict

from ds2_jax.configs import base


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = base.get_config()
    config.data.train = "data/ljspeech/train.jsonl"
    config.data.dev = "data/ljspeech/dev.jsonl"
    config.data.test = "data/ljspeech/test.jsonl"
    config.data.workers = 2
    config.batch.size = 32
    config.batch.buckets = 10
    config.batch.shuffle = "batch_shuffle_clipped"
    config.batch.eval_size = 32
    config.features.kind = "fbank"
    config.features.mel_bins = 80
    config.augment.file = "configs/augmentation.json"
    config.model.rnn_size = 512
    config.model.dropout = 0.2
    config.optim.learning_rate = 8e-4
    config.optim.warmup_steps = 500
    config.optim.ema = 0.999
    config.train.epochs = 40
    return config
