"""What commands print reaches any terminal, and no reader that leaves is an error; home folders in their arguments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from input_pipeline.storage import console
from tests.runs import ROOT, slow


def run(body: str, *arguments: str | bytes, **options) -> subprocess.CompletedProcess:
    """Run the body of a command's main function."""
    code = f"import sys\nfrom input_pipeline.storage import console\n@console.command\ndef main():\n    {body}\nmain()"
    environment = os.environ | options.pop("environment", {})
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, timeout=60, **options)


@pytest.fixture
def gone():
    """Return the writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("~", "{home}"),
        ("~/a.wav", "{home}/a.wav"),
        ("--workdir=~/runs/a", "--workdir={home}/runs/a"),
        ("--config.data.train=~/a.jsonl,~/b.jsonl:0.5", "--config.data.train={home}/a.jsonl,{home}/b.jsonl:0.5"),
        ("--output=~", "--output={home}"),
        ("~no_such_user/a", "~no_such_user/a"),
        ("~/a.jsonl,b~c,~/d", "{home}/a.jsonl,b~c,{home}/d"),
        ("~/x,y", "{home}/x,y"),
        ("a~/b", "a~/b"),
        ("./~", "./~"),
        ("a.wav~", "a.wav~"),
        ("./~/a", "./~/a"),
    ],
)
def test_a_home_folder_is_expanded_where_a_path_begins(argument, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert console.expand_home(argument) == expected.format(home="/home/ann")


def test_a_command_gets_its_arguments_expanded():
    result = run("print(sys.argv[1:])", "--output=~/x", environment={"HOME": "/home/ann"}, stdout=subprocess.PIPE)
    assert result.stdout == b"['--output=/home/ann/x']\n"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("latin-1", b"\xe9 \\u4f60 \\U0001f600\n"), ("ascii", b"\\xe9 \\u4f60 \\U0001f600\n"), ("utf-8", None)],
)
def test_characters_that_the_terminal_lacks_are_escaped(encoding, expected):
    text = "é 你 😀"
    result = run(f"print({text!r})", environment={"PYTHONIOENCODING": encoding}, stdout=subprocess.PIPE)
    assert result.returncode == 0
    assert result.stdout == (expected or f"{text}\n".encode())


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_names_that_are_not_utf8_or_control_the_terminal_are_escaped(stream):
    name = b"\xff\x1b]0;title\x07\x9b\xc2\x9b.wav"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    result = run(f"print(sys.argv[1], '\\tand', file=sys.{stream})", name, **pipes)
    assert result.returncode == 0
    assert getattr(result, stream) == b"\\udcff\\x1b]0;title\\x07\\udc9b\\x9b.wav \tand\n"


def test_a_progress_bar_may_return_to_the_start_of_its_line():
    result = run("print('1\\r2', file=sys.stderr)", stderr=subprocess.PIPE)
    assert result.stderr == b"1\r2\n"


def test_a_progress_bar_inside_another_one_may_change_the_line():
    body = (
        "from tqdm import tqdm; outer = tqdm(total=2, desc='outer'); inner = tqdm(total=2, desc='inner', leave=False);"
        "inner.update(); inner.refresh(); inner.close(); outer.close(); print('a\\x1b[Ab', file=sys.stderr)"
    )
    bars, _, printed = run(body, stderr=subprocess.PIPE).stderr.rpartition(b"a\\x1b")
    assert b"\x1b[A" in bars
    assert b"\\x1b" not in bars
    assert printed == b"[Ab\n"


def test_a_name_is_escaped_in_one_line():
    assert console.escape("a\nb\tc\u202ed\ud800é") == "a\\nb\\tc\\u202ed\\ud800é"
    assert console.escape("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_a_reader_that_leaves_ends_the_output_and_not_the_work(gone, tmp_path):
    file = tmp_path / "result"
    body = f"[print('line', n) for n in range(10_000)]; open({str(file)!r}, 'w').write('done')"
    result = run(body, stdout=gone, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (0, b"")
    assert file.read_text() == "done"


@pytest.mark.parametrize("before", ["pass", "print('line', flush=True)"])
def test_a_command_can_tell_whether_its_reader_has_gone(before, gone, tmp_path):
    body = f"{before}; print(console.reader_has_gone(), file=sys.stderr)"
    with open(tmp_path / "file", "wb") as file:
        for stdout, expected in ((gone, "True\n"), (subprocess.PIPE, "False\n"), (file, "False\n")):
            assert run(body, stdout=stdout, stderr=subprocess.PIPE, text=True).stderr == expected


@pytest.mark.parametrize("count", [1, 10_000])
def test_a_reader_of_both_streams_may_leave(count, gone):
    body = f"[print('line', n, file=f) for n in range({count}) for f in (sys.stdout, sys.stderr)]; sys.exit(3)"
    assert run(body, stdout=gone, stderr=gone).returncode == 3


def test_arguments_of_a_caller_are_left_as_they_are():
    before = sys.stdout
    assert console.command(lambda argv: argv)(["~/x"]) == ["~/x"]
    assert sys.stdout is before


COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for room in ("ds2_jax", "input_pipeline", "decoding", "benchmarks")
    for path in Path(ROOT, room).rglob("*.py")
    if "peers" not in path.parts and '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
SLOW = [slow(name) if name.startswith("benchmarks") else name for name in COMMANDS]


def test_the_commands_are_found():
    assert {"input_pipeline.prepare", "input_pipeline.manifest", "decoding.lm", "ds2_jax.cli.run_summary"} <= {
        *COMMANDS
    }


@pytest.mark.parametrize("command", SLOW)
def test_help_ends_with_0_and_may_be_cut_off(command, gone, tmp_path):
    start = [sys.executable, "-m", command, "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shown = subprocess.run(start, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("usage: ")
    cut = subprocess.run(
        start, cwd=tmp_path, env=environment, stdout=gone, stderr=subprocess.PIPE, text=True, timeout=100
    )
    assert (cut.returncode, cut.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []  # nothing was started


def test_what_native_libraries_print_does_not_mix_with_results():
    body = "import ctypes; ctypes.CDLL(None).puts(b'native'); ctypes.CDLL(None).fflush(None); print('result')"
    result = run(body, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("result\n", "native\n")


DROPPED = """
import gc, os, signal, time
from input_pipeline.storage import console

def interrupt(*_):
    gc.callbacks.clear()
    os.kill(os.getpid(), signal.SIGINT)

class Finaliser:
    def __del__(self):
        interrupt()

@console.command
def main():
    {drop}
    time.sleep(30)

signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


@pytest.mark.parametrize("drop", ["Finaliser()", "gc.callbacks.append(interrupt); gc.collect()"])
def test_an_interruption_that_python_drops_is_repeated(drop):
    result = subprocess.run(
        [sys.executable, "-c", DROPPED.format(drop=drop)], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert result.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert "Exception ignored" not in result.stderr
