"""Mandarin of everyday microphones, 4 hours: a network that has learnt English goes on with characters, for one accelerator.

python -m input_pipeline.prepare common_voice --language=zh-CN --target_dir=data/common_voice_zh --source=data/common_voice_zh
python -m input_pipeline.prepare audio_cmn --target_dir=data/audio_cmn_hsk
python main.py --config=configs/mandarin.py --workdir=runs/mandarin
"""

from ml_collections import ConfigDict

from ds2_jax.configs import mini_librispeech


def get_config() -> ConfigDict:
    """Return the settings of this recipe."""
    config = mini_librispeech.get_config()
    config.text.language = "zh"
    config.data.train = "data/common_voice_zh/train.jsonl:20,data/audio_cmn_hsk/train.jsonl:8"
    config.data.dev = "data/common_voice_zh/dev.jsonl"
    return config
