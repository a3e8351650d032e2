"""LibriSpeech, 960 hours of read English: the original's network, 3 bidirectional recurrent layers of 2048 simple units.

    python main.py --config=configs/librispeech.py --workdir=runs/librispeech

45 million parameters, two convolutions of 11x41 and 11x21, one input projection for both directions, as the original's
released model (WER 6.85 % on test-clean with its language model). Not trained here: no accelerator, and no corpus of
this size. What was checked: both steps compile for TPU v5e (`python -m benchmarks.tpu_program`).

512 utterances a step: 64 on each of 8 devices, as the original had them. On fewer devices raise
`config.optim.accumulate` (the batch stays 512, computed in so many parts); on more, 64 a device is 512 on 8 and 1024 on
16: raise `config.batch.size` and, with it, the learning rate.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = base.get_config()
    config.data.train = ",".join(
        f"data/librispeech/{part}.jsonl" for part in ("train-clean-100", "train-clean-360", "train-other-500")
    )
    config.data.dev = "data/librispeech/dev-clean.jsonl"
    config.data.test = "data/librispeech/test-clean.jsonl"
    config.data.workers = 8
    config.data.max_duration_s = 27.0
    config.batch.size = 512
    config.batch.buckets = 12
    config.batch.shuffle = "batch_shuffle_clipped"
    config.batch.eval_size = 128
    config.augment.file = "configs/augmentation.json"
    config.model.cell = "rnn"
    config.model.rnn_size = 2048
    config.model.share_input = True
    config.model.activation_clip = 24.0
    config.model.compute_dtype = "bfloat16"
    config.optim.learning_rate = 5e-4
    config.optim.warmup_steps = 1000
    config.optim.ema = 0.999
    config.train.epochs = 50
    return config
