"""AISHELL-1, 178 hours of read Mandarin, 4,300 characters: the original's network, 3 bidirectional GRU layers of 1024.

    python -m input_pipeline.prepare aishell --target_dir=data/aishell
    python main.py --config=configs/aishell.py --workdir=runs/aishell
    python main.py --mode=eval --config.restore=runs/aishell --config.data.test=data/aishell/test.jsonl \
        --config.decode.lm=zh_giga.no_cna_cmn.prune01244.klm --config.decode.alpha=1.129 --config.decode.beta=5.0 \
        --config.decode.beam_size=300 --config.decode.cutoff_prob=0.99 --config.decode.cutoff_top_n=40

61 million parameters, 64 utterances a step (8 on each of 8 devices), 50 epochs and a shift of 5 ms, as the original's
recipe; the last line decodes as it did, with a character model (its alpha of 2.6 is 1.129 in natural logarithms).
Published for its model: CER 8.02 % with this language model, 7.44 % with one of 70 GB. A stronger augmentation is one
flag away: `--config.augment.file=configs/augmentation.json`.

The batch of other numbers of devices is chosen after the recipe's name, `--config=configs/aishell.py:64`: 64 utterances a
step up to 16 devices, 128 on 64 and 256 on 256, the learning rate growing with the square root of it, a rule of thumb.
Every one of them fits into TPU v5e, 16 GB (docs/scaling.md).

Not measured: there was neither an accelerator nor the corpus.
"""

from ml_collections import ConfigDict

from ds2_jax.configs import base

BATCHES = {8: (64, 1), 1: (64, 1), 4: (64, 1), 16: (64, 1), 64: (128, 1), 256: (256, 1)}  # devices: size, parts


def get_config(devices: str = "8") -> ConfigDict:
    """Return the settings of this recipe for so many devices."""
    config = base.get_config()
    config.data.train = "data/aishell/train.jsonl"
    config.data.dev = "data/aishell/dev.jsonl"
    config.data.test = "data/aishell/test.jsonl"
    config.data.workers = 8
    config.data.max_duration_s = 27.0
    config.text.language = "zh"
    config.batch.buckets = 12
    config.batch.shuffle = "batch_shuffle_clipped"
    config.batch.eval_size = 128
    config.augment.file = "configs/augmentation_original.json"
    config.model.cell = "gru"
    config.model.rnn_size = 1024
    config.model.merge = "concat"
    config.model.activation_clip = 24.0
    config.model.compute_dtype = "bfloat16"
    config.optim.learning_rate = 5e-4  # of 64 utterances
    base.set_batch(config, devices, BATCHES)
    config.optim.warmup_steps = 1000
    config.optim.ema = 0.999
    config.train.epochs = 50
    return config
