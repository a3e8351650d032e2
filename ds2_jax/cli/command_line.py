"""Read the command line: a mistake in it ends the program within a second, with one line and exit code 2."""

import re
import sys
from pathlib import Path

from absl import flags

RECIPES = Path(__file__).parents[1] / "configs"  # the recipes of this package, and the files they name
BASE = RECIPES / "base.py"  # the recipe if none is named
WRONG = 2  # exit code


def parse(argv: list[str]) -> list[str]:
    """Parse all flags, `config` among them; return what is left of `argv`, the program's name."""
    try:
        rest = flags.FLAGS(_with_recipe(argv))
        if len(rest) > 1:
            raise flags.Error(f"{rest[1]!r} belongs to no flag; settings are written --config.NAME=VALUE")
        config = flags.FLAGS.config
        config.lock()  # fails if the recipe could not be read
        config.augment.file = find_file(config.augment.file)
    except Exception as error:  # recipes are programs
        print(f"error: in the command line: {_reason(error)}", file=sys.stderr)
        sys.exit(WRONG)
    return rest


def recipes() -> list[str]:
    """List the names of the recipes of this package."""
    return sorted(path.stem for path in RECIPES.glob("*.py") if path.stem not in ("__init__", "base"))


def find_file(path: str) -> str:
    """Return the path of a recipe or of a file that one names, which may be written `configs/NAME` or `NAME`.

    A file of the current folder comes first, then one of this package; any other path is returned as it is.
    """
    folder, name = Path(path).parent.as_posix(), Path(path).name
    if path and not Path(path).exists() and folder in (".", RECIPES.name) and (RECIPES / name).is_file():
        return str(RECIPES / name)
    return path


def _with_recipe(argv: list[str]) -> list[str]:
    """Put the file of the recipe into a command line that names the recipe, or none. Raises flags.Error."""
    argv = list(argv)
    for place, argument in enumerate(argv[1:], start=1):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            if equals:
                argv[place] = f"{flag}={_recipe(value)}"
            elif place + 1 < len(argv):
                argv[place + 1] = _recipe(argv[place + 1])
            return argv
    return [argv[0], f"--config={BASE}", *argv[1:]]


def _recipe(value: str) -> str:
    """Return FILE:VARIANT of a recipe given as NAME, FILE, NAME:VARIANT or FILE:VARIANT. Raises flags.Error."""
    name, colon, variant = value.partition(":")
    if not re.fullmatch(r"\w+", name):
        return f"{find_file(name)}{colon}{variant}"
    if not (RECIPES / f"{name}.py").is_file():
        raise flags.Error(f"there is no recipe {name!r}: choose one of {', '.join(recipes())}, or name a file")
    return f"{RECIPES / name}.py{colon}{variant}"


def _reason(error: Exception) -> str:
    """Put what absl and ml_collections say of a wrong flag into one line; of a recipe's traceback, its last error."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    message = str(error)
    if isinstance(error, KeyError):
        name, _, hint = str(error.args[0]).partition("\n")
        return f"there is no setting {name}. {hint or f'{BASE} has all of them'}"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    places = re.findall(r'File "(.+)", line (\d+)', message)
    if "get_config() takes 0 positional arguments" in message:
        return f"{message.split(': Error')[0]}: this recipe has no variants; leave away what follows its name"
    if places:
        kind, _, said = lines[-1].partition(": ")
        return said if kind == "ValueError" else f"{places[-1][0]}, line {places[-1][1]}: {lines[-1]}"
    return lines[-1] if "Failed loading config file" in message else " ".join(lines)
