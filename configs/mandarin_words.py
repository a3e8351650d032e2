"""Mandarin words of one speaker, 2,600 characters, joined into utterances of one to six words.

The clips are single words (139 minutes of them for training). Joined, they make another 2,200 training utterances of 4 s,
and 123 and 122 utterances of dev and test; each clip is used once:

    for split in dev test; do python -m input_pipeline.join data/audio_cmn_hsk/$split.jsonl \
        --output=data_joined/audio_cmn_hsk/$split.jsonl --per=1..6 --language=zh; done
    python -m input_pipeline.join data/audio_cmn_hsk/train.jsonl \
        --output=data_joined/audio_cmn_hsk/train.jsonl --per=2..4 --language=zh
    python main.py --config=configs/mandarin_words.py --workdir=runs/mandarin_words
    python main.py --mode=eval --config.restore=runs/mandarin_words --config.data.test=data/audio_cmn_hsk/test.jsonl

The last command evaluates single words. An epoch contains each word six times and each joined utterance twice, augmented
afresh each time. The first epoch goes from short to long, so the first 1,100 steps are single words: trained on joined
utterances only, a network still wrote nothing after 1,300 steps. 2.3 million parameters.

Measured (jax 0.10.2, one core of an AMD EPYC of family 25, beside other work, 67 minutes), greedy: test CER 59.4 % (95 %
interval 55.9 to 62.7) joined, 61.0 % (57.8 to 64.2) word by word. A high CER is to be expected: 12,500 characters are few
for 2,600 different ones, a tenth of the test characters are in no training word, and only a language model can
distinguish characters that sound the same.
"""

from ml_collections import ConfigDict

from ds2_jax.configs import base


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = base.get_config()
    config.data.train = "data/audio_cmn_hsk/train.jsonl:6,data_joined/audio_cmn_hsk/train.jsonl:2"
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
    config.model.conv = "11x21/4x2:16, 7x11/1x2:16"
    config.model.rnn_size = 256
    config.model.rnn_layers = 2
    config.model.dropout = 0.15
    config.optim.learning_rate = 2e-3
    config.optim.clip_norm = 20.0
    config.optim.ema = 0.998
    config.train.epochs = 5
    config.train.eval_every = 1000
    return config
