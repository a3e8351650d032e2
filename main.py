"""Train, evaluate, transcribe and export: `python main.py --config=configs/librispeech.py --workdir=runs/mine`.

--mode=train   train in --workdir, or go on there; then measure config.data.test
--mode=eval    measure config.restore (or the best of --workdir) on config.data.test
--mode=infer   transcribe --audio=a.wav,b.flac, or the manifest config.data.test
--mode=export  write config.restore (or the best of --workdir) as a bundle to --output
"""

import json
import logging
import os
import sys

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/ds2_jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

MODES = ("train", "eval", "infer", "export")

_CONFIG = config_flags.DEFINE_config_file("config", "configs/base.py", "Recipe; any setting: --config.NAME=VALUE.")
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run: checkpoints, curves, reports.")
_AUDIO = flags.DEFINE_list("audio", [], "Files to transcribe (--mode=infer).")
_OUTPUT = flags.DEFINE_string(
    "output", "", "JSON lines to write (--mode=infer), or folder of the bundle (--mode=export)."
)


def main(argv: list[str]) -> None:
    """Check the flags and hand over to the mode."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    from ds2_jax import config_check, evaluate, export, infer, train  # after the flags: a misspelt one fails at once

    logging.getLogger("ds2_jax").setLevel(logging.INFO)
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
    config = _CONFIG.value
    try:
        config_check.check(config, config_flags.get_override_values(flags.FLAGS["config"]), _MODE.value, _WORKDIR.value)
        if _MODE.value == "train":
            print(json.dumps(train.train(config, _WORKDIR.value)))
        elif _MODE.value == "eval":
            print(json.dumps(evaluate.run_eval(config, _WORKDIR.value)))
        elif _MODE.value == "infer":
            infer.run_infer(config, _WORKDIR.value, _AUDIO.value, _OUTPUT.value)
        else:
            print(json.dumps(export.run_export(config, _WORKDIR.value, _OUTPUT.value)))
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        if absl_logging.level_debug():
            raise
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main)
