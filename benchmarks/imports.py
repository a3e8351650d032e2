"""Read from the sources which module imports which, for the tests and the picture of the rooms."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("ds2_jax", "input_pipeline", "decoding")
# Run with `python -m`, as is each wing's __main__.
ENTRIES = {"input_pipeline": ("prepare", "pack", "stats", "join"), "decoding": ("compare",)}


def imports_of(source: str) -> set[str]:
    """Return the names that a source imports, also in functions and by importlib; relative ones start with a dot."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            constants = (argument.value for argument in node.args if isinstance(argument, ast.Constant))
            names |= {value for value in constants if isinstance(value, str)}
    return names


@functools.cache
def used_by(path: Path) -> frozenset[str]:
    """Return the imports of a file of the repository; they must be absolute, so that they name the room."""
    used = imports_of(path.read_text(encoding="utf-8"))
    assert not [name for name in used if name.startswith(".")], f"{path}: use absolute imports"
    return frozenset(used)


def files_of(*rooms: str) -> list[Path]:
    """Return the Python files of rooms."""
    files = [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]
    assert files, f"no file in {rooms}: if a room was renamed, rename it here too"
    return files


def module_of(path: Path) -> str:
    """Return the dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def wing_of(module: str) -> str:
    """Return the wing of a module: `decoding.search` of `decoding.search.beam`."""
    return ".".join(module.split(".")[:2])


def is_entry(module: str) -> bool:
    """Return whether a module only starts a command."""
    room, _, name = module.partition(".")
    return module.endswith(".__main__") or name in ENTRIES.get(room, ())


MODULES = {module_of(path): path for path in files_of(*ROOMS)}
INSIDE = {module: path for module, path in MODULES.items() if not is_entry(module) and module not in ROOMS}


def modules_used(path: Path) -> set[str]:
    """Return the modules of the rooms that a file imports, without the names imported from them."""
    modules = set()
    for name in used_by(path):
        if name.split(".")[0] in ROOMS:
            modules.add(name if name in MODULES else name.rpartition(".")[0])
    return modules
