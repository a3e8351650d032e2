"""Mini LibriSpeech: five hours of English read aloud by 28 speakers, for one accelerator.

    python -m input_pipeline.prepare librispeech --target_dir=data/mini_librispeech --parts=train-clean-5,dev-clean-2
    python main.py --config=configs/mini_librispeech.py --workdir=runs/mini_librispeech

A GRU network of 9.9 million parameters. An epoch repeats the corpus 20 times, because worker processes start anew with
every epoch.

Measured: after 1,237 steps in 68 s on one H100, which is a beginning, eight readers of dev-clean had WER 85 % greedy and 65 %
with a 4-gram; more hours and minutes do more (configs/english.py, docs/low_resource.md).
"""

from ml_collections import ConfigDict

from ds2_jax.configs import base


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = base.get_config()
    config.data.train = "data/mini_librispeech/train-clean-5.jsonl:20"
    config.data.dev = "data/mini_librispeech/dev-clean-2.jsonl"
    config.data.workers = 14
    config.data.prefetch = 14
    config.data.max_duration_s = 17.5
    config.batch.size = 64
    config.batch.buckets = 4  # each takes half a minute to compile for a GPU
    config.batch.shuffle = "batch_shuffle_clipped"
    config.batch.sortagrad = False  # with this weight, it would sort twenty passes over the data
    config.batch.eval_size = 64
    config.batch.eval_seconds = 1600.0
    config.features.kind = "fbank"
    config.features.mel_bins = 64
    config.features.on_device = True
    config.features.transfer = "int16"
    config.augment.file = "configs/augmentation_english.json"
    config.model.conv = "11x21/3x2:32, 7x11/1x2:32"
    config.model.rnn_size = 448
    config.model.rnn_layers = 4
    config.model.dropout = 0.3
    config.model.compute_dtype = "bfloat16"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 500
    config.optim.clip_norm = 20.0
    config.optim.ema = 0.999
    config.train.epochs = 5
    config.train.eval_every = 500
    return config
