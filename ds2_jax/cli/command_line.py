"""Parse the command line; a mistake ends the program within a second, with a one-line message and exit code 2."""

import re
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from input_pipeline.storage import console

RECIPES = Path(__file__).parents[1] / "configs"  # recipes of this package, and the files they refer to
BASE = RECIPES / "base.py"  # the default recipe
USAGE_ERROR = 2  # exit code
FILES = ("vocabulary", "features.stats", "augment.file", "decode.lm", "decode.unigrams")  # may lie beside the recipe
PLACES = ("restore", "data.train", "data.dev", "data.test", *FILES)  # settings that are paths


def parse(argv: list[str]) -> list[str]:
    """Parse all flags, including `config`; return the rest of `argv`, which is the program's name."""
    try:
        rest = flags.FLAGS(_insert_recipe(argv))
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument {rest[1]!r}: write settings as --config.NAME=VALUE")
        config = flags.FLAGS.config
        config.lock()  # fails if the recipe could not be read
        _complete_paths(config, Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]).parent)
    except Exception as error:  # recipes are programs
        print(f"error: invalid command line: {_describe(error)}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    return rest


def list_recipes() -> list[str]:
    """Return the names of this package's recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.py") if path.stem not in ("__init__", "base"))


def find_file(path: str, beside: Path | None = None) -> str:
    """Return the path of a recipe, or of a file that one refers to, given as a path, `configs/NAME` or `NAME`.

    An existing path takes precedence over a file in the folder `beside`, and this over a file of this package. Other paths
    are returned unchanged.
    """
    folder, name = Path(path).parent.as_posix(), Path(path).name
    if not path or Path(path).exists():
        return path
    if beside is not None and (beside / path).is_file():
        return str(beside / path)
    return str(RECIPES / name) if folder in (".", RECIPES.name) and (RECIPES / name).is_file() else path


def _complete_paths(config: ConfigDict, recipe_folder: Path) -> None:
    """Expand home folders in the settings that are paths, and find the files that the recipe names."""
    for name in PLACES:
        section = config[name.rpartition(".")[0]] if "." in name else config
        key = name.rpartition(".")[2]
        section[key] = console.expand_home(section[key])
        if name in FILES:
            section[key] = find_file(section[key], recipe_folder)


def _insert_recipe(argv: list[str]) -> list[str]:
    """Replace the recipe's name by its file, or insert the default recipe. Raises flags.Error."""
    argv = list(argv)
    for index, argument in enumerate(argv[1:], start=1):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            if equals:
                argv[index] = f"{flag}={_resolve_recipe(value)}"
            elif index + 1 < len(argv):
                argv[index + 1] = _resolve_recipe(argv[index + 1])
            return argv
    return [argv[0], f"--config={BASE}", *argv[1:]]


def _resolve_recipe(value: str) -> str:
    """Return FILE:VARIANT of a recipe given as NAME, FILE, NAME:VARIANT or FILE:VARIANT. Raises flags.Error."""
    name, colon, variant = value.partition(":")
    if not re.fullmatch(r"\w+", name):
        return f"{find_file(name)}{colon}{variant}"
    if not (RECIPES / f"{name}.py").is_file():
        raise flags.Error(f"unknown recipe {name!r}: choose one of {', '.join(list_recipes())}, or give a file")
    return f"{RECIPES / name}.py{colon}{variant}"


def _describe(error: Exception) -> str:
    """Return the messages of absl and ml_collections in one line; of a recipe's traceback, the last error."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    message = str(error)
    if isinstance(error, KeyError):
        name, _, hint = str(error.args[0]).partition("\n")
        return f"unknown setting {name}. {hint or f'{BASE} lists all settings'}"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    locations = re.findall(r'File "(.+)", line (\d+)', message)
    if "get_config() takes 0 positional arguments" in message:
        return f"{message.split(': Error')[0]}: this recipe has no variants: remove the part after its name"
    if locations:
        kind, _, text = lines[-1].partition(": ")
        file, number = locations[-1]
        return text if kind == "ValueError" else f"{file}, line {number}: {lines[-1]}"
    return lines[-1] if "Failed loading config file" in message else " ".join(lines)
