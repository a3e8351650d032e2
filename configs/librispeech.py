"""LibriSpeech, 960 hours of read English: the original's network, 3 bidirectional recurrent layers of 2048 simple units.

    python -m input_pipeline.prepare librispeech --target_dir=data/librispeech
    python main.py --config=configs/librispeech.py --workdir=runs/librispeech
    python main.py --mode=eval --config.restore=runs/librispeech --config.data.test=data/librispeech/test-other.jsonl

45 million parameters, two convolutions of 11x41 and 11x21, one input projection for both directions, 160 utterances per
step (20 on each of 8 devices) and 50 epochs, as in the original's recipe. Published for the original, with its language
model (beam 500, alpha 2.5, which is 1.086 in natural logarithms, beta 0.3): WER 6.85 % on test-clean, 21.18 % on
test-other. Unlike the original, this recipe warms up and decays the learning rate, averages the parameters, and augments
with speed and SpecAugment; the original's augmentation is a shift of 5 ms,
`--config.augment.file=configs/augmentation_original.json`.

The batch for another number of devices follows the recipe's name, as in `--config=configs/librispeech.py:16`:

    devices               1    4    8   16   64   256
    utterances per step 160  160  160  320  640  1024
    parts                 4    1    1    1    1     1

(4 parts: computed 40 at a time, with one gradient.) The learning rate grows with the square root of the batch, a rule of
thumb. All of these fit into TPU v5e with 16 GB, with utterances of 27 s stretched by 1.1 (docs/scaling.md).

Not measured: no corpus of this size was available. Both steps were compiled for TPU v5e
(`python -m benchmarks.compile_for`).
"""

from ml_collections import ConfigDict

from ds2_jax.configs import base

BATCHES = {
    8: (160, 1),
    1: (160, 4),
    4: (160, 1),
    16: (320, 1),
    64: (640, 1),
    256: (1024, 1),
}  # devices: utterances, parts


def get_config(devices: str = "8") -> ConfigDict:
    """Return the settings of this recipe for a number of devices."""
    config = base.get_config()
    config.data.train = ",".join(
        f"data/librispeech/{part}.jsonl" for part in ("train-clean-100", "train-clean-360", "train-other-500")
    )
    config.data.dev = "data/librispeech/dev-clean.jsonl"
    config.data.test = "data/librispeech/test-clean.jsonl"
    config.data.workers = 8
    config.data.max_duration_s = 27.0
    config.batch.buckets = 12
    config.batch.shuffle = "batch_shuffle_clipped"
    config.batch.eval_size = 128
    config.batch.eval_seconds = 3600.0
    config.augment.file = "configs/augmentation.json"
    config.model.cell = "rnn"
    config.model.rnn_size = 2048
    config.model.merge = "concat"
    config.model.share_input = True
    config.model.activation_clip = 24.0
    config.model.compute_dtype = "bfloat16"
    config.optim.learning_rate = 5e-4  # for 160 utterances
    base.set_batch(config, devices, BATCHES)
    config.optim.warmup_steps = 1000
    config.optim.ema = 0.999
    config.train.epochs = 50
    return config
