"""Help on one screen: the purpose of the program, its modes, the most used commands, where the settings are."""

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
  train     train in --workdir, or resume there (the default)
  eval      measure error rates on a manifest
  infer     transcribe files or a manifest
  align     find a text in a recording, and cut it into utterances
  suspects  find clips whose text does not fit, in a manifest
  tune      find alpha and beta, the weights of a language model
  export    write a trained model as a bundle, or for other engines (--format)
  import    make a bundle from a model of another program (--source)
  serve     serve a model: a page with a microphone, OpenAI's API and others
  client    push to talk to such a server in a terminal
Commands:
  {program} --mode=infer --config.restore=an4 --audio=a.wav,b.flac
  python -m input_pipeline.prepare an4 --target_dir=data/an4
  {program} --config=an4 --workdir=runs/an4
  {program} --mode=serve --config.restore=an4
  {program} --mode=eval --config.restore=an4 --config.data.test=test.jsonl
Recipes (--config=NAME, or a file of your own):
{recipes}
All flags: {program} --helpfull; settings (--config.NAME=VALUE):
  {settings}"""
COLUMNS = 80


def print_help(argv: Sequence[str]) -> bool:
    """Print help if a command line requests it or has no arguments; return whether it was printed."""
    arguments = set(argv[1:])
    if not arguments or arguments & SHORT:
        print(format_screen(argv[0]))
    elif arguments & FULL:
        app.define_help_flags()
        print(f"{flags.FLAGS.get_help()}\n\nSettings (--config.NAME=VALUE): {command_line.BASE}")
    else:
        return False
    return True


def format_screen(program: str) -> str:
    """Return the help text for a program started under this name."""
    return SCREEN.format(
        program=name_program(program),
        recipes=_wrap(command_line.list_recipes()),
        settings=min(str(command_line.BASE), os.path.relpath(command_line.BASE), key=len),
    )


def name_program(program: str) -> str:
    """Return what a user types to start a program that was started under this name."""
    return "python main.py" if Path(program).name == "main.py" else "ds2"


def _wrap(names: Sequence[str]) -> str:
    """Arrange names in lines that fit the screen."""
    lines = [" "]
    for name in names:
        if len(lines[-1]) + len(name) + 2 > COLUMNS:
            lines.append(" ")
        lines[-1] += f" {name}"
    return "\n".join(lines)
