"""Which test reaches which line, also in child processes: measured by coverage with this module as a plugin of pytest.

Each test is a context of the coverage data. The file that REACH_TESTS names gets one line of JSON for each part of a test: its
name, whether it passed, and its seconds.
"""

import ast
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import coverage
import pytest

TESTS = "REACH_TESTS"
ALWAYS = ("configs",)  # tests of the recipes, which compare the defaults of all settings


def pytest_configure(config: pytest.Config) -> None:
    """Let child processes read the settings of coverage anew, whose context is the test that starts them."""
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    os.environ["COVERAGE_PROCESS_START"] = str(config.rootpath / "pyproject.toml")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Assign what is executed from here on to the test."""
    measured = coverage.Coverage.current()
    assert measured is not None, "run this as `coverage run -m pytest -p tests.reach`"
    measured.switch_context(item.nodeid)
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the outcome of a test's set-up, call or end."""
    with open(os.environ[TESTS], "a", encoding="utf-8") as file:
        print(json.dumps([report.nodeid, report.passed, round(report.duration, 3)]), file=file)


def digest(files: Iterable[str]) -> str:
    """Return a digest of files of the copy."""
    return hashlib.sha256(b"\0".join(Path(file).read_bytes() for file in files)).hexdigest()


def measure(folder: Path, parts: Sequence[str]) -> dict[str, float]:
    """Measure which lines the test files of these parts of the program reach, if they are new or have changed.

    Returns all tests that passed, and their seconds.
    """
    record = folder / "measured.json"
    measured: dict[str, list] = json.loads(record.read_text()) if record.exists() else {}
    todo = defaultdict(list)
    for part in (*parts, *ALWAYS):
        for path in sorted(map(str, Path("tests", part).rglob("test_*.py"))):
            if measured.get(path, [""])[0] != digest([path]):
                todo[os.path.dirname(path)].append(path)
    for directory, paths in todo.items():
        print(f"measuring {len(paths)} test files of {directory}", flush=True)
        for path, tests in _measure(folder, paths).items():
            measured[path] = [digest([path]), tests]
        record.write_text(json.dumps(measured, indent=1))
    return {name: seconds for _, tests in measured.values() for name, seconds in tests.items()}


def _measure(folder: Path, paths: list[str]) -> dict[str, dict[str, float]]:
    found = folder / "tests"
    found.write_text("")
    environment = os.environ | {"COVERAGE_FILE": str(folder / "coverage"), TESTS: str(found)}
    command = [sys.executable, "-m", "coverage"]
    options = ["-m", "pytest", "-p", "tests.reach", "-p", "no:cacheprovider", "-q", "--tb=line"]
    subprocess.run([*command, "run", *options, *paths], env=environment)
    subprocess.run([*command, "combine", "--append", "--quiet"], env=environment, stderr=subprocess.DEVNULL)
    for unfinished in folder.glob("coverage.*"):  # of child processes that were killed
        unfinished.unlink()
    tests: dict[str, dict[str, float]] = {path: {} for path in paths}
    failed = set()
    for name, passed, seconds in map(json.loads, found.read_text().splitlines()):
        name = _without_values(name)
        file = tests[name.partition("::")[0]]
        file[name] = file.get(name, 0.0) + seconds
        failed |= set() if passed else {name}
    if failed:
        print("not used, because they fail or are skipped here:", *sorted(failed), sep="\n  ", flush=True)
    return {path: {n: round(s, 3) for n, s in file.items() if n not in failed} for path, file in tests.items()}


def _without_values(name: str) -> str:
    """Return the name of a test without the values of its parameters, and without the part of it that a child was started in."""
    return name.partition("[")[0].partition(" (")[0]


class Reach:
    """Tests that reach a statement, from the data of coverage; limit_s: how long those of one statement may take."""

    def __init__(self, folder: Path, seconds: dict[str, float], parts: Sequence[str], limit_s: float):
        self._within = tuple(f"tests/{part}/" for part in (*parts, *ALWAYS))
        self._data = coverage.CoverageData(str(folder / "coverage"))
        self._data.read()
        self._seconds, self._limit_s = seconds, limit_s
        self._files = defaultdict(list)
        for name in seconds:
            self._files[name.partition("::")[0]].append(name)

    @functools.cache  # noqa: B019
    def _lines(self, module: str) -> dict[int, set[str]]:
        contexts = self._data.contexts_by_lineno(os.path.abspath(module))
        return {line: {_without_values(name) for name in names} for line, names in contexts.items()}

    def tests(self, module: str, line: int) -> list[str]:
        """Return tests for a change in this line, at most as many as the limit allows; none if no test comes there."""
        lines = self._lines(module)
        first, last = statement_at(ast.parse(Path(module).read_text(encoding="utf-8")), line)
        names = set().union(*(lines.get(i, set()) for i in range(first, last + 1)))
        reached = names & self._seconds.keys()
        if not reached and "" in names:  # executed by an import: the tests that use the module
            reached = set().union(*lines.values()) & self._seconds.keys()
        reached = {name for name in reached if name.startswith(self._within)} or reached
        # A test that finds a compiled function does not come to its lines, so the others of the same files follow.
        files = {name.partition("::")[0] for name in reached}
        others = {name for file in files for name in self._files[file]} - reached
        return self._within_limit(module, reached) + self._within_limit(module, others) if reached else []

    def _within_limit(self, module: str, names: set[str]) -> list[str]:
        """Return the nearest tests first, then the fastest."""

        def order(name: str) -> tuple[bool, bool, float]:
            file, test = Path(module), Path(name.partition("::")[0])
            return test.name != f"test_{file.name}", test.parent != Path("tests") / file.parent, self._seconds[name]

        chosen: list[str] = []
        total = 0.0
        for name in sorted(names, key=order):
            total += self._seconds[name]
            if chosen and total > self._limit_s:
                break
            chosen.append(name)
        return chosen


def statement_at(tree: ast.Module, line: int) -> tuple[int, int]:
    """Return the first and last line of the statement in a line; of one with a body, those of its head."""
    found = (line, line)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
            body = getattr(node, "body", None)
            last = max(first, body[0].lineno - 1) if body else node.end_lineno or first
            if first <= line <= last and (found == (line, line) or last - first < found[1] - found[0]):
                found = (first, last)
    return found
