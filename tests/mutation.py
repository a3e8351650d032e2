"""Change one place of the program at a time, and see whether the fast tests notice: mutation testing with cosmic-ray.

    python -m tests.mutation 60         try the next 60 places of the sample; make mutation N=60
    python -m tests.mutation --again    try again the places whose change no test noticed, with the tests as they are now, and more
    python -m tests.mutation 0          print the results

The places of ds2_jax, input_pipeline and decoding (corpora aside) are shuffled by a digest of their lines, so that the order of the
others stays when one is edited; each is changed in one way that the digest chooses. A change is made in a copy of the tree, and the
tests that reach its statement run on it in a new process. Which tests these are is measured first, once for each test file. All is
kept in build/mutation; when the program changes, it starts anew.
"""

import argparse
import ast
import compileall
import functools
import os
import py_compile
import random
import shlex
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.operators.operator import Operator
from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from parso.python.tree import Keyword

from tests.reach import Reach, digest, measure

ROOT = Path(__file__).parents[1]
PACKAGES = ("ds2_jax", "input_pipeline", "decoding")
LEFT_OUT = ("input_pipeline/corpora/", "decoding/native/third_party/", "ds2_jax/configs")
SEED = 0
Place = tuple[str, tuple[int, int]]  # module, line and column
TESTS_S, MORE_TESTS_S = 60.0, 600.0  # of the tests of one place; of one that is tried again
STARTS_S = 90.0  # of a test process, on a busy machine
SLOWER = 5  # how much longer tests may take than when they were measured

# Of cosmic-ray's operators, one for each operator of Python and a few for comparisons: others change types, which any test
# notices, or mean the same (`== None`).
BINARY = """
    Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul RShift_LShift LShift_RShift BitOr_BitAnd BitAnd_BitOr
    BitXor_BitAnd"""
COMPARISONS = "Eq_NotEq NotEq_Eq Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Is_IsNot IsNot_Is"
UNARY = "Delete_USub Delete_Not Delete_Invert"
OTHERS = """
    AddNot ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceAndWithOr ReplaceOrWithAnd ReplaceBreakWithContinue
    ReplaceContinueWithBreak ExceptionReplacer NumberReplacer RemoveDecorator ZeroIterationForLoop"""
OPERATORS = [
    *(f"ReplaceBinaryOperator_{swap}" for swap in BINARY.split()),
    *(f"ReplaceComparisonOperator_{swap}" for swap in COMPARISONS.split()),
    *(f"ReplaceUnaryOperator_{swap}" for swap in UNARY.split()),
    *OTHERS.split(),
]


class RemoveCall(Operator):
    """Leave out a statement that is a call."""

    def mutation_positions(self, node):
        """Return the place of the call, if the node is such a statement."""
        call = node.children[0] if node.type == "simple_stmt" else node
        if call is not node and call.type == "atom_expr" and call.children[-1].get_first_leaf().value == "(":
            yield call.start_pos, call.end_pos

    def mutate(self, node, index):
        """Write `pass` in place of the call."""
        node.children[0] = Keyword("pass", node.start_pos, prefix=node.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls):
        """Return no examples: these are for cosmic-ray's own tests."""
        return ()


core = cosmic_ray.plugins.OPERATOR_PROVIDERS.pop("core")
cosmic_ray.plugins.OPERATOR_PROVIDERS["core"] = {name: core[name] for name in OPERATORS}
cosmic_ray.plugins.OPERATOR_PROVIDERS["ds2"] = {"RemoveCall": RemoveCall}


def copy_tree(tree: Path) -> None:
    """Copy the checkout, as it is, without what git ignores; what is built and downloaded is linked."""
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    native = (str(file.relative_to(ROOT)) for file in (ROOT / "decoding" / "native").glob("*.so"))
    for name in sorted({*filter(None, listed.stdout.decode().split("\0")), *native}):
        if os.path.lexists(ROOT / name):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    for name in ("build", "data", ".venv"):
        if (ROOT / name).exists():
            (tree / name).symlink_to((ROOT / name).resolve())
    for package in (*PACKAGES, "tests"):  # a changed file is never taken for the compiled one
        compileall.compile_dir(tree / package, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)


def list_modules() -> list[str]:
    """Return the paths of the modules that may be changed."""
    files = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [f for f in files.split() if f.endswith(".py") and not f.startswith(LEFT_OUT)]


def annotations(tree: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where the annotations of types begin and end: changes there mean nothing."""
    found = []
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            part = getattr(node, name, None)
            if isinstance(part, ast.expr):
                found.append(((part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0)))
    return found


def make_session(folder: Path, modules: list[str]) -> WorkDB:
    """Open cosmic-ray's session of all changes; make it if the modules are others than last time, and forget what was measured."""
    stamp, current = folder / "modules", digest(modules)
    path = folder / "session.sqlite"
    if not stamp.exists() or stamp.read_text() != current:
        for file in folder.iterdir():
            if file.is_file():
                file.unlink()
        session = WorkDB(path, WorkDB.Mode.create)
        init(map(Path, modules), session, {})
        stamp.write_text(current)
        return session
    return WorkDB(path, WorkDB.Mode.open)


def sample(session: WorkDB) -> list[WorkItem]:
    """Return one change for each place, in the order of the sample."""
    places = defaultdict(list)
    skipped = {}
    for item in session.work_items:
        (mutation,) = item.mutations
        module = str(mutation.module_path)
        if module not in skipped:
            skipped[module] = annotations(ast.parse(mutation.module_path.read_text(encoding="utf-8")))
        place = tuple(mutation.start_pos)
        if not any(start <= place < end for start, end in skipped[module]):
            places[module, place].append(item)
    drawn = {place: random.Random(f"{SEED} {mark}") for place, mark in identify(sorted(places)).items()}
    order = sorted(places, key=lambda place: drawn[place].random())
    return [
        drawn[place].choice(
            sorted(places[place], key=lambda item: (item.mutations[0].operator_name, item.mutations[0].occurrence))
        )
        for place in order
    ]


def identify(places: Iterable[Place]) -> dict[Place, str]:
    """Return for each place, in the order of lines, a text that stays when other lines of its module change."""
    texts = functools.cache(lambda module: Path(module).read_text(encoding="utf-8").splitlines())
    found, counts = {}, Counter[str]()
    for module, (line, column) in places:
        mark = f"{module} {column} {texts(module)[line - 1]}"
        found[module, (line, column)] = f"{counts[mark]} {mark}"
        counts[mark] += 1
    return found


def attempt(mutation: MutationSpec, reach: Reach, seconds: dict[str, float]) -> WorkResult:
    """Make a change, run the tests that reach it, and take it back."""
    tests = reach.tests(str(mutation.module_path), mutation.start_pos[0])
    if not tests:
        return WorkResult(WorkerOutcome.NO_TEST)
    pytest = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "--tb=line", "--durations=0", *tests]
    limit_s = STARTS_S + SLOWER * sum(seconds[name] for name in tests)
    result = mutate_and_test([mutation], shlex.join(pytest), limit_s)
    output = result.output or ""
    if result.worker_outcome != WorkerOutcome.NORMAL or "no tests ran" in output:
        raise RuntimeError(f"{mutation}: the tests could not be run:\n{output}")
    return WorkResult(result.worker_outcome, output[-2000:], result.test_outcome, result.diff)


def outcome(result: WorkResult) -> str:
    """Return in a word what became of a change."""
    if result.worker_outcome == WorkerOutcome.NO_TEST:
        return "not reached"
    if result.test_outcome == TestOutcome.SURVIVED:
        return "survived"
    return "time limit" if result.output == "timeout" else "noticed"


def report(items: dict[str, WorkItem], results: dict[str, WorkResult]) -> None:
    """Print the survivors, then the outcomes by wing."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for job in items.keys() & results.keys():
        (mutation,), result = items[job].mutations, results[job]
        what = outcome(result)
        for name in (str(mutation.module_path.parent), "all"):
            counts[name][what] += 1
        if what in ("survived", "time limit"):
            print(f"{mutation.module_path}:{mutation.start_pos[0]}: {what}: {mutation.operator_name}")
            lines = (result.diff or "").splitlines()[3:]  # behind the names of the files
            print("\n".join(line for line in lines if line[:1] in ("+", "-")))
    for name in sorted(counts):
        print(f"{name:32}", ", ".join(f"{n} {what}" for what, n in counts[name].most_common()))


def main() -> None:
    """Go on with the sample, and print what was found."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__, formatter_class=style)
    parser.add_argument("count", nargs="?", type=int, default=0, help="number of places to try")
    parser.add_argument("--again", action="store_true", help="try again what survived")
    parser.add_argument("--parts", nargs="+", default=PACKAGES, help="folders to whose places and tests it is limited")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mutation")
    args = parser.parse_args()
    missing = [part for part in args.parts if not (ROOT / part).exists()]
    if missing:
        parser.error(f"--parts: {missing[0]} does not exist; give folders or files such as decoding/search")
    folder = args.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    modules = list_modules()
    copy_tree(folder / "tree")
    os.chdir(folder / "tree")
    session = make_session(folder, modules)
    chosen = [item for item in sample(session) if str(item.mutations[0].module_path).startswith(tuple(args.parts))]
    results = dict(session.results)
    todo = [item for item in chosen if item.job_id not in results][: args.count]
    if args.again:
        todo += [item for item in chosen if item.job_id in results and outcome(results[item.job_id]) != "noticed"]
    seconds = measure(folder, args.parts) if todo else {}
    reach = Reach(folder, seconds, args.parts, MORE_TESTS_S if args.again else TESTS_S) if todo else None
    for number, item in enumerate(todo, 1):
        assert reach is not None
        (mutation,) = item.mutations
        results[item.job_id] = attempt(mutation, reach, seconds)
        session.set_result(item.job_id, results[item.job_id])
        print(
            f"{number}/{len(todo)} {mutation.module_path}:{mutation.start_pos[0]}: {outcome(results[item.job_id])}",
            flush=True,
        )
    report({item.job_id: item for item in chosen}, results)


if __name__ == "__main__":
    main()
