"""The metrics of a resumed run: lines after the restored step are removed from both files."""

import json

from ds2_jax.training.metrics_log import MetricsLog


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
