"""Read from the sources which module imports which; the test of rooms and the picture of rooms use it."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("ds2_jax", "input_pipeline", "decoding")
ENTRIES = {"input_pipeline": ("prepare", "pack", "stats", "join")}  # `python -m`, besides each wing's __main__


def imports_of(source: str) -> set[str]:
    """Return what a file imports, also inside functions and by importlib; a relative import starts with a dot."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            constants = (argument.value for argument in node.args if isinstance(argument, ast.Constant))
            found |= {value for value in constants if isinstance(value, str)}
    return found


@functools.cache
def used_by(path: Path) -> frozenset[str]:
    """Return the imports of a file of the repository, which must be absolute, so that they show the room."""
    used = imports_of(path.read_text(encoding="utf-8"))
    assert not [name for name in used if name.startswith(".")], f"{path}: write the room's name, not a dot"
    return frozenset(used)


def files_of(*rooms: str) -> list[Path]:
    """Return the Python files of rooms."""
    files = [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]
    assert files, f"no file in {rooms}: a room was renamed, rename it here too"
    return files


def module_of(path: Path) -> str:
    """Return the dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def wing_of(module: str) -> str:
    """Return the wing of a module: `decoding.search` of `decoding.search.beam`."""
    return ".".join(module.split(".")[:2])


def is_entry(module: str) -> bool:
    """Tell whether a module only starts a command."""
    room, _, name = module.partition(".")
    return module.endswith(".__main__") or name in ENTRIES.get(room, ())


MODULES = {module_of(path): path for path in files_of(*ROOMS)}
INSIDE = {module: path for module, path in MODULES.items() if not is_entry(module) and module not in ROOMS}


def modules_used(path: Path) -> set[str]:
    """Return the modules of our rooms that a file imports, each by the longest name that is one."""
    found = set()
    for name in used_by(path):
        if name.split(".")[0] in ROOMS:
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return found
