"""Read the command line: what is wrong with it ends the program in a second, with one line and exit code 2."""

import re
import sys
from pathlib import Path

from absl import flags

BASE = Path(__file__).parents[2] / "configs" / "base.py"  # the recipe where none is named
WRONG = 2  # exit code


def parse(argv: list[str]) -> list[str]:
    """Parse all flags, `config` among them; return what is left of `argv`, the program's name."""
    if not any(argument.removeprefix("-").removeprefix("-").split("=")[0] == "config" for argument in argv[1:]):
        argv = [argv[0], f"--config={BASE}", *argv[1:]]
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise flags.Error(f"{rest[1]!r} belongs to no flag; settings are written --config.NAME=VALUE")
        flags.FLAGS.config.lock()  # fails where the recipe could not be read
    except Exception as error:  # recipes are programs
        print(f"error: in the command line: {_reason(error)}", file=sys.stderr)
        sys.exit(WRONG)
    return rest


def _reason(error: Exception) -> str:
    """Put what absl and ml_collections say of a wrong flag into one line; of a recipe's traceback, its last error."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    message = str(error)
    if isinstance(error, KeyError):
        name, _, hint = str(error.args[0]).partition("\n")
        return f"there is no setting {name}. {hint or 'configs/base.py has all of them'}"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    places = re.findall(r'File "(.+)", line (\d+)', message)
    if "get_config() takes 0 positional arguments" in message:
        return f"{message.split(': Error')[0]}: this recipe has no variants; leave away what follows its name"
    if places:
        kind, _, said = lines[-1].partition(": ")
        return said if kind == "ValueError" else f"{places[-1][0]}, line {places[-1][1]}: {lines[-1]}"
    return lines[-1] if "Failed loading config file" in message else " ".join(lines)
