"""LibriSpeech's train-clean-100, 100 hours of read English: a GRU network of 28 million parameters, for one accelerator.

    python -m input_pipeline.prepare librispeech --target_dir=data/librispeech --parts=train-clean-100,dev-clean,test-clean
    python main.py --config=configs/librispeech_100.py --workdir=runs/librispeech_100

64 utterances per step, 446 steps per epoch. Not measured: neither its error rate nor its training time.
"""

from ml_collections import ConfigDict

from ds2_jax.configs import base


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = base.get_config()
    config.data.train = "data/librispeech/train-clean-100.jsonl"
    config.data.dev = "data/librispeech/dev-clean.jsonl"
    config.data.test = "data/librispeech/test-clean.jsonl"
    config.data.workers = 4
    config.data.max_duration_s = 20.0
    config.batch.size = 64
    config.batch.buckets = 12
    config.batch.shuffle = "batch_shuffle_clipped"
    config.batch.eval_size = 64
    config.batch.eval_seconds = 1600.0
    config.features.kind = "fbank"
    config.features.mel_bins = 80
    config.augment.file = "configs/augmentation.json"
    config.model.rnn_size = 768
    config.model.rnn_layers = 4
    config.model.dropout = 0.15
    config.model.compute_dtype = "bfloat16"
    config.optim.learning_rate = 6e-4
    config.optim.warmup_steps = 1000
    config.optim.ema = 0.999
    config.train.epochs = 60
    return config
