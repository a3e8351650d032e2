"""VoxForge by dialect group: how a trained English model copes with accents. For evaluation only.

    python -m input_pipeline.prepare voxforge --target_dir=data/voxforge
    for group in american-canadian commonwealth european indian; do
        python main.py --mode=eval --config=configs/voxforge_eval.py --config.restore=runs/librispeech \
            --config.data.test=data/voxforge/$group.jsonl --workdir=runs/voxforge/$group; done

`commonwealth` is British, Irish and Australian. Each command writes a report and also accepts a language model; the
original decoded with
`--config.decode.lm=lm.bin --config.decode.alpha=1.086 --config.decode.beta=0.3 --config.decode.beam_size=500`.
Published for its models, with its language model, WER in %:

| model | American, Canadian | Commonwealth | European | Indian |
|---|---|---|---|---|
| LibriSpeech, 960 hours | 12.12 | 19.82 | 30.15 | 53.73 |
| BaiduEN8k, 8,628 hours | 7.13 | 14.93 | 18.64 | 25.51 |

Not measured: the corpus was not available.
"""

from ml_collections import ConfigDict

from ds2_jax.configs import base


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = base.get_config()
    config.data.test = "data/voxforge/american-canadian.jsonl"
    config.batch.eval_size = 128
    config.batch.eval_buckets = 8
    return config
