"""English read aloud, five free corpora of 13 hours together: a GRU network of 9.9 million parameters, for one accelerator.

    python -m input_pipeline.prepare librispeech --target_dir=data/mini_librispeech --parts=train-clean-5,dev-clean-2
    python -m input_pipeline.prepare common_voice --target_dir=data/common_voice --source=data/common_voice
    python -m input_pipeline.prepare speechocean762 --target_dir=data/speechocean762
    python -m input_pipeline.prepare ljspeech --target_dir=data/ljspeech
    python -m input_pipeline.prepare an4 --target_dir=data/an4
    python main.py --config=configs/english.py --workdir=runs/english

An epoch repeats each corpus, because worker processes start anew with every epoch: LibriSpeech (5 hours) and Common Voice (2.5
hours) 20 times; speechocean762 (4 hours), LJSpeech (0.5 hours of it) and AN4 (0.6 hours), whose sentences are more alike, less
often. If you have more of a corpus, lower its weight.

Measured: 9,893 steps in 400 s on one H100, with two more hours of LibriSpeech, gave a WER of 36 % on eight speakers of dev-clean,
with a language model. From there, 5,898 steps of 128 utterances in 302 s on one H200 gave models/en, with 30.6 %
(docs/low_resource.md).
"""

from ml_collections import ConfigDict

from ds2_jax.configs import mini_librispeech

CORPORA = {
    "mini_librispeech/train-clean-5": 20,
    "common_voice/train": 20,
    "speechocean762/train": 12,
    "ljspeech/train": 10,
    "an4/train": 6,
}


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = mini_librispeech.get_config()
    config.data.train = ",".join(f"data/{name}.jsonl:{weight}" for name, weight in CORPORA.items())
    config.train.epochs = 9
    config.train.eval_every = 1000
    return config
