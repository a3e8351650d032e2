"""Mandarin words of one speaker, 2,600 characters, joined into utterances of one to six words.

The clips are single words (139 minutes of them for training). Joined, in two copies each time in other company, they make
3,400 utterances of 6 s more, and 123 and 122 of dev and test, in which each clip comes once:

    for split in dev test; do python -m input_pipeline.join data/audio_cmn_hsk/$split.jsonl \
        --output=data_joined/audio_cmn_hsk/$split.jsonl --per=1..6 --language=zh; done
    python -m input_pipeline.join data/audio_cmn_hsk/train.jsonl \
        --output=data_joined/audio_cmn_hsk/train.jsonl --per=2..6 --language=zh --copies=2
    python main.py --config=configs/mandarin_words.py --workdir=runs/mandarin_words
    python main.py --mode=eval --config.restore=runs/mandarin_words --config.data.test=data/audio_cmn_hsk/test.jsonl

The last line evaluates the words one by one. Both are learnt, short ones first in the first epoch: from joined words
alone a network still wrote nothing after 600 steps, from single words it wrote characters after 300. 2.3 million
parameters.

Measured (jax 0.10.2, one core of an AMD EPYC of family 25): after 6 epochs in 26 minutes (`--config.train.epochs=6`)
test CER 98.3 % (95 % interval 97.3 to 99.1) joined and 101 % word by word. That is to say, nothing useful was learnt;
the 20 epochs below were not measured. Expect a high CER in any case: 12,500 characters are few for 2,600 different ones,
a tenth of those of test are in no training word, and nothing but a language model tells characters of one sound apart.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = base.get_config()
    config.data.train = "data/audio_cmn_hsk/train.jsonl,data_joined/audio_cmn_hsk/train.jsonl"
    config.data.dev = "data_joined/audio_cmn_hsk/dev.jsonl"
    config.data.test = "data_joined/audio_cmn_hsk/test.jsonl"
    config.text.language = "zh"
    config.batch.size = 0
    config.batch.seconds = 45.0
    config.batch.buckets = 10
    config.batch.shuffle = "batch_shuffle_clipped"
    config.batch.eval_size = 32
    config.features.kind = "fbank"
    config.features.mel_bins = 64
    config.augment.file = "configs/augmentation_light.json"
    config.model.conv = "11x21/3x2:16, 7x11/2x2:16"
    config.model.rnn_size = 256
    config.model.rnn_layers = 2
    config.model.dropout = 0.2
    config.optim.learning_rate = 1e-3
    config.optim.clip_norm = 20.0
    config.optim.ema = 0.998
    config.train.epochs = 20
    return config
