"""Which changes are made to the program, and which statement a change belongs to."""

import ast
import textwrap

import pytest
from cosmic_ray.mutating import mutate_code

from tests.mutation import RemoveCall, annotations, identify, main
from tests.reach import statement_at

CODE = textwrap.dedent("""\
    def first(a: int | None = 1, *, b: "str" = "") -> int | None:
        log(a)
        value: int | None = (
            second(a)
            + 1
        )
        a.append(b)[0]
        await third(b).done()
        if value > 2 and (
            a
        ):
            return log(b)
        try:
            pass
        except ValueError:
            raise
    """)


def test_a_call_is_left_out_where_it_is_a_statement():
    changed = [mutate_code(CODE, RemoveCall(), number) for number in range(3)]
    lines = CODE.splitlines()
    assert changed[0] is not None
    assert changed[0].splitlines() == [lines[0], "    pass", *lines[2:]]
    assert changed[1] is not None
    assert changed[1].splitlines() == [*lines[:7], "    pass", *lines[8:]]
    assert changed[2] is None


@pytest.mark.parametrize(
    ("line", "statement"),
    [(1, (1, 1)), (2, (2, 2)), (5, (3, 6)), (10, (9, 11)), (12, (12, 12)), (15, (15, 15)), (16, (16, 16))],
)
def test_a_line_belongs_to_its_innermost_statement_or_the_head_of_one(line, statement):
    assert statement_at(ast.parse(CODE), line) == statement


def test_a_decorator_belongs_to_the_head_of_its_function():
    tree = ast.parse("@a(\n    1\n)\n@b\ndef f():\n    pass\n")
    assert [statement_at(tree, line) for line in (1, 2, 4, 5, 6)] == [(1, 5)] * 4 + [(6, 6)]


def test_annotations_are_found_to_be_left_alone():
    lines = CODE.splitlines()
    parts = [lines[first[0] - 1][first[1] : last[1]] for first, last in annotations(ast.parse(CODE))]
    assert sorted(parts) == ['"str"', "int | None", "int | None", "int | None"]


def test_a_place_is_the_same_when_other_lines_of_its_module_change(tmp_path):
    module = tmp_path / "a.py"
    module.write_text("x = 1\nx = 1\ny = 2\n")
    before = identify([(str(module), (line, 4)) for line in (1, 2, 3)])
    module.write_text("import os\n\nx = 1\nx = 1\n\ny = 2\n")
    after = identify([(str(module), (line, 4)) for line in (3, 4, 6)])
    assert list(before.values()) == list(after.values())
    assert len(set(before.values())) == 3


def test_a_part_that_does_not_exist_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["", "1", "--parts", "decoding", "decodng"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--parts: decodng does not exist" in capsys.readouterr().err
