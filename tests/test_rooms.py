"""Which room may import which: the last column of the table in docs/design.md."""

import ast
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT

ROOMS = ("ds2_jax", "input_pipeline", "decoding", "configs", "benchmarks", "tests")
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "clu"}
GRAIN_ALLOWED = {"pipeline.py"}


def imports_of(path: Path) -> set[str]:
    """Return the modules that a file imports, also inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def files_of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", files_of("input_pipeline"), ids=lambda p: p.name)
def test_the_input_pipeline_knows_neither_jax_nor_the_decoders(path):
    used = top(imports_of(path))
    assert not used & (JAX | {"ds2_jax", "decoding", "configs"})
    assert "grain" not in used or path.name in GRAIN_ALLOWED


@pytest.mark.parametrize("path", files_of("decoding"), ids=lambda p: p.name)
def test_decoding_needs_numpy_and_the_text_rules_only(path):
    used = imports_of(path)
    assert top(used) - set(sys.stdlib_module_names) <= {"numpy", "rapidfuzz", "decoding", "input_pipeline"}
    assert all(name.startswith("input_pipeline.text") for name in used if name.startswith("input_pipeline"))


@pytest.mark.parametrize("path", files_of("configs"), ids=lambda p: p.name)
def test_configs_are_data(path):
    assert top(imports_of(path)) <= {"ml_collections", "configs"}


def test_main_only_parses_and_dispatches():
    used = top(imports_of(ROOT / "main.py")) & set(ROOMS)
    assert used == {"ds2_jax"}
    assert len((ROOT / "main.py").read_text().splitlines()) < 100


@pytest.mark.parametrize("room", ["ds2_jax", "input_pipeline", "decoding", "configs"])
def test_the_product_does_not_import_tests_or_benchmarks(room):
    for path in files_of(room):
        assert not top(imports_of(path)) & {"tests", "benchmarks"}, path
