"""The metrics of a resumed run: lines after the restored step are removed from both files."""

import json
import subprocess
import sys
import threading

import pytest

from ds2_jax.training.metrics_log import MetricsLog
from tests.runs import OWN_MOUNTS, ROOT


def steps_in(workdir) -> list[int]:
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events_in(workdir) -> int:
    """Count the scalars in TensorBoard's files, each of which contains its tag once."""
    files = list((workdir / "tensorboard").glob("events*"))
    assert len(files) == 1
    return files[0].read_bytes().count(b"loss")


def write_steps(workdir, resume_step: int, steps: range) -> None:
    with MetricsLog(str(workdir), resume_step) as log:
        for step in steps:
            log.write(step, loss=1.0 / step, epoch=0)


def test_lines_after_the_restored_step_are_removed(tmp_path):
    write_steps(tmp_path, 0, range(1, 8))
    write_steps(tmp_path, 5, range(6, 9))
    assert steps_in(tmp_path) == list(range(1, 9))
    assert events_in(tmp_path) == 8


@pytest.mark.parametrize(("due", "kept"), [(False, [2, 2, 4, 4]), (True, [2, 2, 4])])
def test_the_result_of_an_evaluation_that_is_made_again_is_removed(due, kept, tmp_path):
    with MetricsLog(str(tmp_path), 0) as log:
        for step in (2, 4):
            log.write(step, loss=1.0)
            log.write(step, dev_wer=0.5, dev_loss=2.0)
    with MetricsLog(str(tmp_path), 4, evaluation_due=due):
        assert steps_in(tmp_path) == kept


def test_a_line_truncated_by_a_crash_is_removed(tmp_path):
    write_steps(tmp_path, 0, range(1, 4))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    write_steps(tmp_path, 10, range(11, 12))
    assert steps_in(tmp_path) == [1, 2, 3, 11]


def test_only_process_0_writes(tmp_path):
    with MetricsLog(str(tmp_path), 0, active=False) as log:
        log.write(1, loss=1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [b"\xff", b"\x00" * 40, b"[]", b'{"loss": 1.0}', b'{"step": 2, "loss"'],
    ids=["a stray byte", "zeros", "no object", "no step", "half a line"],
)
def test_a_damaged_line_is_named_and_removed_and_the_others_stay(damage, tmp_path, caplog):
    write_steps(tmp_path, 0, range(1, 5))
    lines = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
    write_steps(tmp_path, 4, range(5, 6))
    assert steps_in(tmp_path) == [1, 3, 4, 5]
    assert f"{tmp_path / 'metrics.jsonl'}: 1 line(s) cannot be read and are removed, the first is line 2" in caplog.text


def test_nothing_is_written_by_a_thread(tmp_path):
    """A thread that dies, of a full disk or a clock set back, would leave a queue that fills and blocks the training."""
    before = threading.active_count()
    with MetricsLog(str(tmp_path), 0) as log:
        log.write(1, loss=1.0)
        assert threading.active_count() == before
        assert events_in(tmp_path) == 1


FULL_BOARD = """
import sys
from ds2_jax.training.metrics_log import MetricsLog
with MetricsLog(sys.argv[1], 0) as log:
    for step in range(1, 401):
        log.write(step, **{f"value_{name}": 1.0 / step for name in range(20)})
"""


@pytest.mark.skipif(not OWN_MOUNTS, reason="needs a mount of its own (unshare)")
@pytest.mark.parametrize("options", ["size=16k", "size=16k,ro"])
def test_a_full_disk_ends_tensorboard_with_one_warning_and_nothing_else(options, tmp_path):
    board = tmp_path / "tensorboard"
    board.mkdir()
    mount = f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, str(board), sys.executable, "-c", FULL_BOARD, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert steps_in(tmp_path) == list(range(1, 401))
    [line] = result.stderr.splitlines()
    assert line.startswith(f"{board} cannot be written (")
    assert line.endswith("; the training continues without it")


def test_a_folder_for_tensorboard_that_cannot_be_made_is_given_up_with_one_warning(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file")
    write_steps(tmp_path, 0, range(1, 4))
    assert steps_in(tmp_path) == [1, 2, 3]
    [line] = [record.getMessage() for record in caplog.records if record.name == "ds2_jax"]
    assert line == f"{tmp_path / 'tensorboard'} cannot be written (File exists); the training continues without it"
