"""LibriSpeech, 960 hours of read English: the original's network, 3 bidirectional recurrent layers of 2048 simple units.

    python -m input_pipeline.prepare librispeech --target_dir=data/librispeech
    python main.py --config=configs/librispeech.py --workdir=runs/librispeech
    python main.py --mode=eval --config.restore=runs/librispeech --config.data.test=data/librispeech/test-other.jsonl

45 million parameters, two convolutions of 11x41 and 11x21, one input projection for both directions, 160 utterances a
step (20 on each of 8 devices) and 50 epochs, as the original's recipe. Published for its model, with its language model
(beam 500, alpha 2.5, which is 1.086 in natural logarithms, beta 0.3): WER 6.85 % on test-clean, 21.18 % on test-other.
Ours are the rate's warm-up and decay, averaged weights and the augmentation; the original's is a shift of 5 ms,
`--config.augment.file=configs/augmentation_original.json`.

Not measured: there was neither an accelerator nor a corpus of this size. What was checked: both steps compile for TPU v5e
(`python -m benchmarks.compile_for`). With fewer devices raise `config.optim.accumulate` (the batch stays, computed in so
many parts); with more, raise `config.batch.size` (the original used 512, too, 64 a device) and the learning rate with it.
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
    config.batch.size = 160
    config.batch.buckets = 12
    config.batch.shuffle = "batch_shuffle_clipped"
    config.batch.eval_size = 128
    config.augment.file = "configs/augmentation.json"
    config.model.cell = "rnn"
    config.model.rnn_size = 2048
    config.model.merge = "concat"
    config.model.share_input = True
    config.model.activation_clip = 24.0
    config.model.compute_dtype = "bfloat16"
    config.optim.learning_rate = 5e-4
    config.optim.warmup_steps = 1000
    config.optim.ema = 0.999
    config.train.epochs = 50
    return config
