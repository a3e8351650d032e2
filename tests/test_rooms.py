"""The import rules in docs/design.md: which wing may import which, and rules for single rooms."""

import ast
import functools
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from xml.etree import ElementTree

import pytest

from benchmarks import rooms_picture
from benchmarks.imports import (
    INSIDE,
    MODULES,
    ROOMS,
    files_of,
    imports_of,
    is_entry,
    module_of,
    modules_used,
    used_by,
    wing_of,
)
from tests.runs import ROOT

JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "clu"}
# Imported only inside the functions that need them: with another engine, they need not be installed.
DECODERS = {"num2words", "pybind11", "pyctcdecode", "ctc_beam_decoder", "kenlm", "matplotlib"}

# A wing may import itself, the wings listed here, and what those may import.
WINGS = {
    "ds2_jax.cli": {"ds2_jax.training", "ds2_jax.serving", "ds2_jax.export", "ds2_jax.foreign"},
    "ds2_jax.training": {"ds2_jax.recognition"},
    "ds2_jax.serving": {"ds2_jax.recognition"},
    "ds2_jax.export": {"ds2_jax.artifacts"},
    "ds2_jax.foreign": {"ds2_jax.artifacts"},
    "ds2_jax.recognition": {"ds2_jax.artifacts", "input_pipeline.batches", "decoding.scoring", "decoding.alignment"},
    "ds2_jax.artifacts": {"ds2_jax.network", "ds2_jax.parallel", "input_pipeline.audio"},
    "ds2_jax.parallel": set(),
    "ds2_jax.network": set(),
    "input_pipeline.batches": {"input_pipeline.augment", "input_pipeline.corpora"},
    "input_pipeline.augment": {"input_pipeline.manifest"},
    "input_pipeline.corpora": {"input_pipeline.manifest"},
    "input_pipeline.manifest": {"input_pipeline.audio"},
    "input_pipeline.audio": {"input_pipeline.shards", "input_pipeline.text"},
    "input_pipeline.shards": {"input_pipeline.storage"},
    "input_pipeline.text": {"input_pipeline.storage"},
    "input_pipeline.storage": {"input_pipeline.columns", "input_pipeline.cores"},
    "input_pipeline.columns": set(),
    "input_pipeline.cores": {"input_pipeline.cgroup"},
    "input_pipeline.cgroup": set(),
    "decoding.scoring": {"decoding.search"},
    "decoding.alignment": {"decoding.search"},
    "decoding.search": {"decoding.native"},
    "decoding.native": {"decoding.lm"},
    "decoding.lm": {"decoding.settings", "decoding.hypothesis"},
    "decoding.settings": {"input_pipeline.text"},
    "decoding.hypothesis": set(),
}


def top(names: set[str] | frozenset[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@functools.cache
def reachable(wing: str) -> frozenset[str]:
    return frozenset({wing}).union(*(reachable(other) for other in WINGS[wing]))


def test_every_form_of_import_is_found():
    source = "import a.b as c, d\nfrom e import f\ndef g():\n    from h.i import j\nfrom . import k\nfrom .l import m"
    source += "\nn = importlib.import_module('o.p').q"
    assert imports_of(source) == {"a.b", "d", "e.f", "h.i.j", "..k", ".l.m", "o.p"}


def test_every_module_belongs_to_a_wing():
    assert sorted({wing_of(module) for module in INSIDE} - set(WINGS)) == []


@pytest.mark.parametrize("module", INSIDE)
def test_a_wing_imports_only_wings_below_it(module):
    assert {wing_of(used) for used in modules_used(INSIDE[module])} <= reachable(wing_of(module))


def test_imports_have_no_cycle():
    graph = {module: modules_used(path) - {module} for module, path in MODULES.items()}
    for module in list(graph):  # importing a module runs its package's __init__, which may import it
        graph[module] -= {used for used in graph[module] if module.startswith(f"{used}.")}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("module", [module for module in MODULES if is_entry(module)])
def test_an_entry_module_contains_an_import_and_a_call(module):
    statements = ast.parse(MODULES[module].read_text(encoding="utf-8")).body
    kinds = [type(statement) for statement in statements]
    assert kinds == [ast.Expr, ast.Import, ast.ImportFrom, ast.If]


@pytest.mark.parametrize("module", [m for m in INSIDE if m.startswith("ds2_jax.network")])
def test_the_network_imports_only_numerical_libraries(module):
    used = top(used_by(INSIDE[module])) - set(sys.stdlib_module_names)
    assert used <= {"jax", "flax", "numpy", "ds2_jax"}


@pytest.mark.parametrize("module", [m for m in INSIDE if not m.startswith("ds2_jax")])
def test_only_ds2_jax_imports_jax(module):
    assert not top(used_by(INSIDE[module])) & JAX


def test_reading_data_and_decoding_load_neither_jax_nor_optional_packages():
    modules = [m for m in INSIDE if not m.startswith("ds2_jax")]
    code = (
        f"import importlib, sys\nfor module in {modules}: importlib.import_module(module)\n"
        f"print(sorted(set(sys.modules) & {JAX | DECODERS | {'grain', 'array_record', 'fsspec'}}))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("module", [m for m in INSIDE if m.startswith("decoding")])
def test_decoding_imports_only_three_wings_of_the_input_pipeline(module):
    used = used_by(INSIDE[module])
    assert top(used) - set(sys.stdlib_module_names) <= {"numpy", "rapidfuzz", "tqdm", *ROOMS} | DECODERS
    wings = {wing_of(name) for name in used if name.startswith("input_pipeline")}
    assert wings <= {"input_pipeline.text", "input_pipeline.cores", "input_pipeline.storage"}


@pytest.mark.parametrize("path", files_of("configs"), ids=module_of)
def test_recipes_are_data(path):
    assert {name.rpartition(".")[0] for name in used_by(path)} <= {"ml_collections", "ds2_jax.configs"}


def test_the_picture_of_the_rooms_shows_the_current_imports():
    drawn = (ROOT / "docs" / "rooms.svg").read_text(encoding="utf-8")
    assert drawn == rooms_picture.Picture().svg(), "run python -m benchmarks.rooms_picture"
    words = set(re.findall(r"\w+", " ".join(ElementTree.fromstring(drawn).itertext())))
    assert words >= {module.split(".")[:3][-1] for module in INSIDE}  # of a package in a wing, its name


def test_main_only_parses_and_dispatches():
    assert used_by(ROOT / "main.py") == {"ds2_jax.cli.main.main"}
    used = top(used_by(MODULES["ds2_jax.cli.main"]) - {"input_pipeline.storage.console"}) - set(sys.stdlib_module_names)
    assert used <= {"ds2_jax", "absl", "ml_collections"}


MAX_PARAMETERS = 6


def functions_of(module: str) -> list[tuple[str, list[ast.arg]]]:
    """Return the name and the parameters, without self, of each function in a module."""
    functions = []
    for node in ast.walk(ast.parse(INSIDE[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            functions.append((node.name, [p for p in parameters if p.arg not in ("self", "cls")]))
    return functions


@pytest.mark.parametrize("module", INSIDE)
def test_no_function_has_too_many_parameters(module):
    assert [name for name, parameters in functions_of(module) if len(parameters) > MAX_PARAMETERS] == []


@pytest.mark.parametrize("module", [m for m in INSIDE if not m.startswith("ds2_jax.cli")])
def test_only_the_command_line_uses_the_whole_config(module):
    assert "ml_collections" not in top(used_by(INSIDE[module]))
    assert [name for name, parameters in functions_of(module) if "config" in {p.arg for p in parameters}] == []
