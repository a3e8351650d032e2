"""Train, evaluate, transcribe, tune and export: `python main.py --config=configs/an4.py --workdir=runs/an4`.

--mode=train   train in --workdir, or go on there; then measure config.data.test
--mode=eval    measure config.restore (or the best of --workdir) on config.data.test
--mode=infer   transcribe --audio=a.wav,b.flac, or the manifest config.data.test
--mode=tune    find alpha and beta of config.decode.lm on config.data.dev; points and picture go to --workdir
--mode=export  write config.restore (or the best of --workdir) as a bundle to --output
"""

import errno
import json
import logging
import os
import sys

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/ds2_jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

MODES = ("train", "eval", "infer", "tune", "export")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe (configs/base.py); --config.NAME=VALUE for any setting."
)
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
    from ds2_jax import (
        config_check,
        evaluate,
        export,
        infer,
        train,
        tune,
    )  # after the flags: a misspelt one fails at once

    for name in ("ds2_jax", "input_pipeline", "decoding"):
        logging.getLogger(name).setLevel(logging.INFO)
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
    if not flags.FLAGS["verbosity"].present:  # orbax tells much, and prints what it raises as well
        absl_logging.set_verbosity(absl_logging.FATAL)
    config = _CONFIG.value
    try:
        config_check.check(config, config_flags.get_override_values(flags.FLAGS["config"]), _MODE.value, _WORKDIR.value)
        if _MODE.value == "train":
            print(json.dumps(train.train(config, _WORKDIR.value)))
        elif _MODE.value == "eval":
            print(json.dumps(evaluate.run_eval(config, _WORKDIR.value)))
        elif _MODE.value == "infer":
            infer.run_infer(config, _WORKDIR.value, _AUDIO.value, _OUTPUT.value)
        elif _MODE.value == "tune":
            print(json.dumps(tune.run_tune(config, _WORKDIR.value)))
        else:
            print(json.dumps(export.run_export(config, _WORKDIR.value, _OUTPUT.value)))
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        if absl_logging.level_debug():
            raise
        message = str(error)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of a file that any part of it writes
            where = error.filename or _WORKDIR.value or _OUTPUT.value
            message = (
                f"{where} cannot be written: the disk is full; what was saved before is whole. Free the disk, run again"
            )
        print(f"error: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)  # all that is ours is closed; writers of libraries would complain of a full disk once more


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line; a misspelt setting or a wrong value ends the program with its name."""
    if not any(argument.removeprefix("-").removeprefix("-").split("=")[0] == "config" for argument in argv[1:]):
        argv = [
            argv[0],
            f"--config={os.path.join(os.path.dirname(os.path.abspath(__file__)), 'configs', 'base.py')}",
            *argv[1:],
        ]
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:  # of ml_collections
        sys.exit(f"error: in the command line: {error.args[0] if error.args else error}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
