"""AISHELL-1, 178 hours of read Mandarin, 4,300 characters: the original's network, 3 bidirectional GRU layers of 1024 units.

    python -m input_pipeline.prepare aishell --target_dir=data/aishell
    python main.py --config=configs/aishell.py --workdir=runs/aishell
    python main.py --mode=eval --config.restore=runs/aishell --config.data.test=data/aishell/test.jsonl \
        --config.decode.lm=zh_giga.no_cna_cmn.prune01244.klm --config.decode.alpha=1.129 --config.decode.beta=5.0 \
        --config.decode.beam_size=300 --config.decode.cutoff_prob=0.99 --config.decode.cutoff_top_n=40

61 million parameters, 64 utterances per step (8 on each of 8 devices), 50 epochs and a shift of 5 ms, as in the
original's recipe. The last command decodes with its character model and settings (its alpha of 2.6 is 1.129 in natural
logarithms). Published for the original: CER 8.02 % with this language model, 7.44 % with one of 70 GB. For stronger
augmentation, add `--config.augment.file=configs/augmentation.json`.

The batch for another number of devices follows the recipe's name, as in `--config=configs/aishell.py:64`: 64 utterances
per step on up to 16 devices, 128 on 64, 256 on 256. The learning rate grows with the square root of the batch, a rule of
thumb. All of these fit into TPU v5e with 16 GB (docs/scaling.md).

Not measured: the corpus was not available.
"""

from ml_collections import ConfigDict

from ds2_jax.configs import base

BATCHES = {8: (64, 1), 1: (64, 1), 4: (64, 1), 16: (64, 1), 64: (128, 1), 256: (256, 1)}  # devices: utterances, parts


def get_config(devices: str = "8") -> ConfigDict:
    """Return the settings of this recipe for a number of devices."""
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
    config.batch.eval_seconds = 3600.0
    config.augment.file = "configs/augmentation_original.json"
    config.model.cell = "gru"
    config.model.rnn_size = 1024
    config.model.merge = "concat"
    config.model.activation_clip = 24.0
    config.model.compute_dtype = "bfloat16"
    config.optim.learning_rate = 5e-4  # for 64 utterances
    base.set_batch(config, devices, BATCHES)
    config.optim.warmup_steps = 1000
    config.optim.ema = 0.999
    config.train.epochs = 50
    return config
