"""Train, evaluate, transcribe, tune and export: `python main.py --config=configs/an4.py --workdir=runs/an4`.

--mode=train   train in --workdir, or go on there; then measure config.data.test
--mode=eval    measure config.restore (or the best of --workdir) on config.data.test
--mode=infer   transcribe --audio=a.wav,b.flac, or the manifest config.data.test (to --output: all of it)
--mode=tune    find alpha and beta of config.decode.lm on config.data.dev; points and picture go to --workdir
--mode=export  write config.restore (or the best of --workdir) as a bundle to --output

On several machines the launcher starts one process each (docs/distributed.md). Exit codes: 0 done, or stopped by Ctrl-C
after a checkpoint; 1 an error, said in the last line; 2 a wrong command line; 75 run the same line again: stopped by SIGTERM
after a checkpoint, another process was lost, stood still or did not come, or another run is still using the workdir; 130 and
143 stopped by Ctrl-C and SIGTERM with nothing new saved.
"""

import json
import logging
import os

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/ds2_jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from ds2_jax.cli import command_line

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
CLUSTER = {  # what no launcher tells, or DS2_COORDINATOR and so on
    "coordinator": "HOST:PORT where process 0 listens.",
    "num_processes": "Number of processes.",
    "process_id": "Which of them this one is, from 0.",
    "expect_processes": "Refuse to start with any other number of processes.",
    "expect_devices": "Refuse to start with any other number of devices.",
}
for _name, _help in CLUSTER.items():
    flags.DEFINE_string(_name, "", _help)


def main(argv: list[str]) -> None:
    """Join the other processes if there are any, and hand over to the mode."""
    del argv
    from ds2_jax.cli import exit_codes  # after the flags: a misspelt one fails at once
    from ds2_jax.parallel import processes  # after the flags: a misspelt one fails at once

    with exit_codes.report_errors(_WORKDIR.value or _OUTPUT.value):
        if not flags.FLAGS["verbosity"].present:  # libraries tell much, and print what they raise as well
            absl_logging.set_verbosity(absl_logging.FATAL)
        processes.join({name: str(flags.FLAGS[name].value) for name in CLUSTER})
        first = processes.rank() == 0
        for name in ("ds2_jax", "input_pipeline", "decoding"):
            logging.getLogger(name).setLevel(logging.INFO if first else logging.WARNING)
        absl_logging.get_absl_handler().setFormatter(logging.Formatter(f"{processes.prefix()}%(message)s"))
        results = run()
        if results is not None and first:
            print(json.dumps(results))


def run() -> dict | None:
    """Check the config and do what --mode says; return what is printed."""
    from ds2_jax.cli import evaluate, export, infer, settings, train, tune
    from ds2_jax.parallel import processes

    config, mode, workdir = _CONFIG.value, _MODE.value, _WORKDIR.value
    processes.require_same_start(
        {"config": config.to_dict(), "--mode": mode, "--workdir": workdir, "--output": _OUTPUT.value}
    )
    settings.check(config, config_flags.get_override_values(flags.FLAGS["config"]), mode, workdir)
    if mode == "infer":
        infer.run_infer(config, workdir, _AUDIO.value, _OUTPUT.value)
        return None
    if mode == "export":
        return export.run_export(config, workdir, _OUTPUT.value)
    return {"train": train.run_train, "eval": evaluate.run_eval, "tune": tune.run_tune}[mode](config, workdir)


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
