"""speechocean762: English sentences read by Mandarin speakers, half of them children; 4 hours of training speech.

    python -m input_pipeline.prepare speechocean762 --target_dir=data/speechocean762
    python main.py --config=configs/speechocean762.py --workdir=runs/speechocean762

A bidirectional GRU network of 1.4 million parameters, small enough to train in about an hour on one core of an AMD EPYC
(family 25). The transcripts are the prompts, even where a speaker said something else, so error rates are high.
Measured on 20 speakers, trained on 180 others (`prepare` makes the official split, with less training speech; jax 0.10.2),
greedy: WER 73.7 % (95 % interval 71.5 to 76.2), CER 38.0 %; without augmentation WER 76.9 % (74.5 to 79.1). Results with a
language model are in docs/augmentation.md.
"""

from ml_collections import ConfigDict

from ds2_jax.configs import base


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = base.get_config()
    config.data.train = "data/speechocean762/train.jsonl"
    config.data.dev = "data/speechocean762/dev.jsonl"
    config.data.test = "data/speechocean762/test.jsonl"
    config.data.max_duration_s = 16.0
    config.batch.size = 16
    config.batch.buckets = 10
    config.batch.shuffle = "batch_shuffle_clipped"
    config.batch.eval_size = 32
    config.features.kind = "fbank"
    config.features.mel_bins = 64
    config.augment.file = "configs/augmentation_light.json"
    config.model.conv = "11x21/4x2:16, 7x11/1x2:16"
    config.model.rnn_size = 192
    config.model.dropout = 0.15
    config.optim.learning_rate = 1e-3
    config.optim.clip_norm = 20.0
    config.optim.ema = 0.998
    config.train.epochs = 28
    config.train.eval_every = 450  # two epochs: evaluating dev takes long
    return config
