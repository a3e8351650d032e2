"""Which room may import which: the last column of the table in docs/design.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT

ROOMS = {"ds2_jax", "input_pipeline", "decoding", "configs", "benchmarks", "tests", "main"}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "clu"}
DECODERS = {
    "num2words",
    "pybind11",
    "pyctcdecode",
    "ctc_beam_decoder",
    "kenlm",
    "matplotlib",
}  # imported when they are used, by name or inside
LOCK = "input_pipeline.lock"  # needs nothing else of its room
DOWNLOADS = "input_pipeline.corpora.download"  # needs nothing else of its room but the lock
OF_DECODING = {"published.py": DOWNLOADS, "lm.py": LOCK}  # who in decoding uses what, and nobody else
USES_GRAIN = {"pipeline.py", "corpus.py"}  # pipeline itself, and what builds on it


def imports_of(source: str) -> set[str]:
    """Return the modules that a file imports, also inside of functions; a relative one starts with a dot."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return found


def used_by(path: Path) -> set[str]:
    """Return the imports of a file of the repository, which are absolute so that a room shows in them."""
    used = imports_of(path.read_text(encoding="utf-8"))
    assert not [name for name in used if name.startswith(".")], f"{path}: write the room's name, not a dot"
    return used


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def files_of(room: str) -> list[Path]:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"no file in {room}: the room was renamed, rename it here too"
    return files


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_way_to_import_is_found():
    source = "import a.b as c, d\nfrom e import f\ndef g():\n    from h.i import j\nfrom . import k\nfrom .l import m"
    assert imports_of(source) == {"a.b", "d", "e.f", "h.i.j", "..k", ".l.m"}


@pytest.mark.parametrize("path", files_of("input_pipeline"), ids=module_of)
def test_the_input_pipeline_knows_neither_jax_nor_the_decoders(path):
    used = top(used_by(path))
    assert not used & JAX
    assert used & ROOMS <= {"input_pipeline"}
    assert "grain" not in used or path.name in USES_GRAIN


def test_reading_data_loads_neither_jax_nor_grain():
    modules = [module_of(path) for path in files_of("input_pipeline") if path.name not in USES_GRAIN]
    code = (
        f"import importlib, sys\nfor module in {modules}: importlib.import_module(module)\n"
        f"print(sorted(set(sys.modules) & {JAX | {'grain'}}))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("path", files_of("decoding"), ids=module_of)
def test_decoding_needs_numpy_and_the_text_rules_only(path):
    used = used_by(path)
    known = {"numpy", "rapidfuzz", "tqdm", "decoding", "input_pipeline"} | DECODERS
    assert top(used) - set(sys.stdlib_module_names) <= known
    for name in used:
        allowed = {"input_pipeline.text", OF_DECODING.get(path.name)}
        assert not name.startswith("input_pipeline") or name in allowed or name.rpartition(".")[0] in allowed, name


@pytest.mark.parametrize(("module", "needed"), [(DOWNLOADS, {"tqdm.tqdm", f"{LOCK}.alone"}), (LOCK, set())])
def test_what_decoding_takes_from_the_input_pipeline_needs_no_other_part_of_it(module, needed):
    used = used_by(ROOT / f"{module.replace('.', '/')}.py")
    assert {name for name in used if top({name}) - set(sys.stdlib_module_names)} == needed


def test_settings_load_no_decoder_library():
    code = f"import sys, decoding.beam, decoding.tune\nprint(sorted(set(sys.modules) & {JAX | DECODERS}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("path", files_of("ds2_jax"), ids=module_of)
def test_ds2_jax_builds_on_the_two_rooms_without_jax(path):
    assert top(used_by(path)) & ROOMS <= {"ds2_jax", "input_pipeline", "decoding"}


@pytest.mark.parametrize("path", files_of("configs"), ids=module_of)
def test_configs_are_data(path):
    assert top(used_by(path)) <= {"ml_collections", "configs"}


def test_main_only_parses_and_dispatches():
    used = top(used_by(ROOT / "main.py")) - set(sys.stdlib_module_names)
    assert used <= {"ds2_jax", "absl", "ml_collections"}
    assert len((ROOT / "main.py").read_text(encoding="utf-8").splitlines()) < 100
