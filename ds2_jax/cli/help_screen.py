"""The help on one screen: what the program is, its modes, the commands people type, where the settings are."""

import os
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from ds2_jax.cli import command_line

SHORT = {"-h", "--help", "-help", "--helpshort", "-helpshort", "-?"}
FULL = {"--helpfull", "-helpfull"}
SCREEN = """\
DS2-JAX: DeepSpeech2 speech recognition in JAX/Flax

Modes ({program} --mode=MODE ...):
  train   train in --workdir, or resume there (the default)
  eval    measure error rates on a manifest
  infer   transcribe files or a manifest
  tune    find alpha and beta, the weights of a language model
  export  write a trained model as a bundle

Commands:
  {program} --mode=infer --config.restore=an4 --audio=a.wav,b.flac
  python -m input_pipeline.prepare an4 --target_dir=data/an4
  {program} --config=an4 --workdir=runs/an4
  {program} --mode=eval --config.restore=an4 --config.data.test=test.jsonl
  {program} --mode=export --config.restore=runs/an4 --output=models/mine

Recipes (--config=NAME, or a file of your own):
{recipes}
Settings: --config.NAME=VALUE changes any of those listed with their meaning in
  {settings}
All flags: {program} --helpfull"""
COLUMNS = 80


def shown(argv: Sequence[str]) -> bool:
    """Print the help that a command line asks for; return whether it asks for any. Without arguments it does."""
    arguments = set(argv[1:])
    if not arguments or arguments & SHORT:
        print(screen(argv[0]))
    elif arguments & FULL:
        app.define_help_flags()
        print(f"{flags.FLAGS.get_help()}\n\nSettings (--config.NAME=VALUE): {command_line.BASE}")
    else:
        return False
    return True


def screen(program: str) -> str:
    """Lay out the help for a program that was started by this name."""
    return SCREEN.format(
        program="python main.py" if Path(program).name == "main.py" else "ds2",
        recipes=_wrapped(command_line.recipes()),
        settings=min(str(command_line.BASE), os.path.relpath(command_line.BASE), key=len),
    )


def _wrapped(names: Sequence[str]) -> str:
    """Lay out names in lines that fit the screen."""
    lines = [" "]
    for name in names:
        if len(lines[-1]) + len(name) + 2 > COLUMNS:
            lines.append(" ")
        lines[-1] += f" {name}"
    return "\n".join(lines)
