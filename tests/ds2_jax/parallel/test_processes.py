"""Several processes as one: the same numbers as one process, a common end, and messages about missing or different ones."""

import json
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from ds2_jax.parallel import processes
from ds2_jax.parallel.discovery import ProcessInfo
from tests.arpa import write_arpa
from tests.runs import ROOT, Cluster, run_main, small_flags

LOSS = 1e-5  # relative: sums over a batch in a different order, in float32, over 20 steps (1e-7 was observed)
EXIT_LIMIT_S = 120  # within which the others exit after one process is lost
RETRY = 75  # exit code
ENDLESS = "--config.train.epochs=100000"


def flags_for(clips) -> list[str]:
    return [
        *small_flags(clips),
        f"--config.data.dev={clips}",
        f"--config.data.test={clips}",
        "--config.batch.buckets=1",
        "--config.model.dropout=0.1",
        "--config.optim.ema=0.9",
        "--config.optim.schedule=constant",  # independent of the length of the run
        "--config.train.epochs=7",
        "--config.train.log_every=1",
    ]


def records(workdir: Path) -> list[dict]:
    file = workdir / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def losses(workdir: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in records(workdir) if "loss" in record}


def assert_same_run(workdir: Path, reference: Path) -> None:
    """Compare the losses of all steps and the error rates of all evaluations."""
    assert losses(workdir) == pytest.approx(losses(reference), rel=LOSS)
    rates = [
        [(r["step"], r["dev_wer"], r["dev_cer"]) for r in records(d) if "dev_wer" in r] for d in (workdir, reference)
    ]
    assert rates[0] == rates[1]


@pytest.fixture(scope="module")
def alone(clips, tmp_path_factory) -> tuple[Path, dict]:
    """Return an uninterrupted run of one process, and the results it printed."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    result = run_main(*flags_for(clips), f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    assert len(losses(workdir)) >= 20
    return workdir, json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(clips, alone, tmp_path):
    """Training, its evaluations, and the final test, whose 12 utterances do not fill the batches."""
    workdir = tmp_path / "run"
    with Cluster(2, *flags_for(clips), f"--workdir={workdir}", "--config.batch.eval_size=5") as cluster:
        assert cluster.finish() == [0, 0], cluster.stderr(0)
        results = json.loads(cluster.stdout(0).splitlines()[-1])
        assert "wer" not in cluster.stdout(1)
        marked = ("[1/2] ", "[Gloo] Rank 1 ")  # the second by Gloo itself
        assert [line for line in cluster.stderr(1).splitlines() if line and not line.startswith(marked)] == []
        assert "2 processes on 1 machine(s), 2 devices" in cluster.stderr(0)
    assert_same_run(workdir, alone[0])
    assert results | {"workdir": ""} == alone[1] | {"workdir": ""}


@pytest.mark.slow
def test_distributed_evaluation_and_transcription_process_each_utterance_once(clips, alone, tmp_path):
    """Each host runs a beam search; one utterance cannot be read, and the batches are not full."""
    rows = [json.loads(line) for line in clips.read_text().splitlines()][:7]
    for row in rows:
        row["audio_filepath"] = str(clips.parent / row["audio_filepath"])
    rows[2]["audio_filepath"] = str(tmp_path / "missing.flac")
    manifest = tmp_path / "some.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [f"--config.restore={alone[0]}", f"--config.data.test={manifest}", "--config.batch.eval_size=4"]
    beam = "--config.decode.engine=ctc_beam_decoder"
    expected = json.loads(run_main("--mode=eval", *flags, beam).stdout.splitlines()[-1])
    with Cluster(2, "--mode=eval", *flags, beam) as cluster:
        assert cluster.finish() == [0, 0], cluster.stderr(0)
        result = json.loads(cluster.stdout(0).splitlines()[-1])
        assert "missing.flac" in cluster.stderr(0)
    assert result.pop("loss") == pytest.approx(expected.pop("loss"), rel=LOSS)
    assert result | {"date": ""} == expected | {"date": ""}
    assert (result["utterances"], result["unusable"]) == (6, 1)
    run_main("--mode=infer", *flags, f"--output={tmp_path / 'one.jsonl'}")
    with Cluster(2, "--mode=infer", *flags, f"--output={tmp_path / 'two.jsonl'}") as cluster:
        assert cluster.finish() == [0, 0], cluster.stderr(0)
    lines = [
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in ("one.jsonl", "two.jsonl")
    ]
    assert [r["audio_filepath"] for r in lines[1]] == [row["audio_filepath"] for row in rows]
    assert [r.get("text") for r in lines[0]] == [r.get("text") for r in lines[1]]


REPORTING_MAIN = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
from ds2_jax.cli import tune
load_or_compute = tune._log_probs
def report(*arguments):
    rows, log_probs = load_or_compute(*arguments)
    print("holds", len(rows), len(log_probs), flush=True)
    return rows, log_probs
tune._log_probs = report
runpy.run_path({str(ROOT / "main.py")!r}, run_name="__main__")
"""


@pytest.mark.slow
def test_two_processes_tune_like_one_and_only_process_0_holds_the_probabilities(clips, tmp_path):
    """The second run reads the probabilities from a file, which only process 0 opens."""
    (tmp_path / "main.py").write_text(REPORTING_MAIN)
    lm = write_arpa(tmp_path / "lm.arpa", [json.loads(line)["text"] for line in clips.read_text().splitlines()])
    model = [f"--config.restore={ROOT / 'models' / 'an4'}", f"--config.data.dev={clips}", f"--config.decode.lm={lm}"]
    grid = ["--config.decode.engine=ctc_beam_decoder", "--config.tune.alpha_to=0.25", "--config.tune.beta_to=0"]
    flags = ["--mode=tune", *model, *grid, "--config.batch.eval_size=5"]
    result = run_main(*flags, f"--workdir={tmp_path / 'one'}")
    assert result.returncode == 0, result.stderr
    expected = json.loads(result.stdout.splitlines()[-1])
    for log in ("", "reading the network's probabilities from"):
        with Cluster(2, *flags, f"--workdir={tmp_path / 'two'}", roots=dict.fromkeys(range(2), tmp_path)) as cluster:
            assert cluster.finish() == [0, 0], cluster.stderr(0)
            assert log in cluster.stderr(0)
            held = [re.findall(r"holds .*", cluster.stdout(rank)) for rank in range(2)]
            assert held == [["holds 12 12"], ["holds 0 0"]]
            result = json.loads(cluster.stdout(0).splitlines()[-1])
        assert [result[name] for name in ("wer", "cer", "points")] == [expected[n] for n in ("wer", "cer", "points")]


GATHERING_MAIN = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from ds2_jax.parallel import processes
processes.join({{}})
own = chr(97 + processes.rank()) * (1 + 5_000_000 * processes.rank())
for everywhere in (True, False):
    print("gathered", [(text[0], len(text)) for text in processes.gather(own, everywhere=everywhere)])
"""


def test_gathered_values_of_any_size_are_kept_by_all_processes_or_by_process_0(tmp_path):
    (tmp_path / "main.py").write_text(GATHERING_MAIN)
    with Cluster(2, roots=dict.fromkeys(range(2), tmp_path)) as cluster:
        assert cluster.finish(EXIT_LIMIT_S) == [0, 0], cluster.stderr(0)
        values = "[('a', 1), ('b', 5000001)]"
        kept = [re.findall("gathered (.*)", cluster.stdout(rank)) for rank in range(2)]
        assert kept == [[values, values], [values, "[]"]]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_other_exits_and_the_same_command_resumes(victim, clips, alone, tmp_path):
    workdir = tmp_path / "run"
    flags = [*flags_for(clips), f"--workdir={workdir}"]
    with Cluster(2, *flags, ENDLESS) as cluster:
        cluster.wait_until(lambda: len(list(workdir.glob("checkpoints/[0-9]*/_CHECKPOINT_METADATA"))) > 1)
        cluster.processes[victim].kill()
        start = time.monotonic()
        assert cluster.processes[1 - victim].wait(EXIT_LIMIT_S) == RETRY
        assert time.monotonic() - start < EXIT_LIMIT_S
        last = cluster.stderr(1 - victim).splitlines()[-1]
        assert f"error: {'no heartbeat from ' if victim else ''}process {victim} (" in last
        assert last.endswith("run the same command again to resume from the last checkpoint")
    shorten(workdir, alone[0])
    with Cluster(2, *flags) as cluster:
        assert cluster.finish() == [0, 0], cluster.stderr(0)
        assert "resuming at step" in cluster.stderr(0)
    assert_same_run(workdir, alone[0])


def shorten(workdir: Path, reference: Path) -> None:
    """Remove checkpoints beyond the reference run, so that the resumed run has steps left."""
    kept = sorted(losses(reference))[-3]
    for path in (workdir / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > kept:
            shutil.rmtree(path)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(clips, alone, tmp_path):
    workdir = tmp_path / "run"
    flags = [*flags_for(clips), f"--workdir={workdir}"]
    stopped: list[int] = []
    for number, ranks, code in ((signal.SIGTERM, [1], RETRY), (signal.SIGINT, [0, 1], 0)):  # from a scheduler; Ctrl-C
        with Cluster(2, *flags, ENDLESS if stopped else "--config.train.epochs=7") as cluster:
            cluster.wait_until(lambda: len(losses(workdir)) >= max(stopped, default=0) + 4)
            for rank in ranks:
                cluster.processes[rank].send_signal(number)
            assert cluster.finish() == [code, code], cluster.stderr(0)
            stopped.append(json.loads(cluster.stdout(0).splitlines()[-1])["stopped_at_step"])
        assert (workdir / "checkpoints" / str(stopped[-1])).is_dir()
    shorten(workdir, alone[0])
    with Cluster(2, *flags) as cluster:
        assert cluster.finish() == [0, 0], cluster.stderr(0)
    assert_same_run(workdir, alone[0])


@pytest.mark.slow
def test_checkpoints_of_four_processes_are_resumed_by_one_and_then_by_two(clips, alone, tmp_path):
    """The last two have two devices each, and split the parameters over two."""
    workdir = tmp_path / "run"
    flags = [*flags_for(clips), f"--workdir={workdir}"]
    with Cluster(4, *flags, "--config.train.max_steps=6") as cluster:  # in the middle of an epoch
        assert cluster.finish() == [0, 0, 0, 0], cluster.stderr(0)
    result = run_main(*flags, "--config.train.max_steps=13")
    assert result.returncode == 0, result.stderr
    with Cluster(2, *flags, "--config.mesh.fsdp=2", devices=2) as cluster:
        assert cluster.finish() == [0, 0], cluster.stderr(0)
        assert "resuming at step 13 (epoch 3, batch" in cluster.stderr(0)
    assert losses(workdir) == pytest.approx(losses(alone[0]), rel=LOSS)


@pytest.mark.slow
def test_a_process_that_hangs_is_reported_by_the_others(clips, alone, tmp_path):
    """One row is a pipe without data: its reader waits forever, and the other process waits for its part of the batch."""
    rows = [json.loads(line) for line in clips.read_text().splitlines()] * 10  # both processes read the first headers
    for row in rows:
        row["audio_filepath"] = str(clips.parent / row["audio_filepath"])
    pipe = tmp_path / "pipe.flac"
    os.mkfifo(pipe)
    rows[1] = rows[1] | {"audio_filepath": str(pipe), "duration": 8.0}  # the longest: last row of the last batch
    manifest = tmp_path / "hanging.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--mode=eval", f"--config.restore={alone[0]}", f"--config.data.test={manifest}"]
    with Cluster(2, *flags, "--config.batch.eval_size=4", "--config.train.stall_s=15") as cluster:
        assert cluster.finish(EXIT_LIMIT_S) == [RETRY, RETRY]
        last = cluster.stderr(0).splitlines()[-1]
        assert "the others wait for process 1 (" in last, last
        assert "evaluate: waiting for the data of batch 30" in last, last


@pytest.mark.slow
def test_a_suspended_process_is_reported_by_the_others(clips, tmp_path):
    workdir = tmp_path / "run"
    with Cluster(2, *flags_for(clips), ENDLESS, f"--workdir={workdir}") as cluster:
        cluster.wait_until(lambda: len(losses(workdir)) >= 4)
        cluster.processes[1].send_signal(signal.SIGSTOP)
        assert cluster.processes[0].wait(EXIT_LIMIT_S) == RETRY
        assert "no heartbeat from process 1 (" in cluster.stderr(0).splitlines()[-1]


def test_different_settings_are_refused_and_reported(clips, tmp_path):
    own = {2: ["--config.model.rnn_size=13", f"--workdir={tmp_path / 'other'}"]}
    with Cluster(3, *flags_for(clips), f"--workdir={tmp_path / 'run'}", own=own) as cluster:
        assert cluster.finish(EXIT_LIMIT_S) == [1, 1, 1]
        for rank in range(3):
            last = cluster.stderr(rank).splitlines()[-1]
            assert last.startswith(
                f"[{rank}/3] error: the processes have different values: --workdir is '{tmp_path}/other' in"
            )
            assert re.search(r"model.rnn_size is 13 in process 2 \(.*\), but 12 in the others", last)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("decoding/search/greedy.py", "Greedy CTC", "greedy CTC", r"source files \(digest\) is \w+ in process 1 "),
        ("configs/augmentation_light.json", '"F": 10', '"F": 11', r"augment.file \(digest\) is \w+ in process 1 "),
        ("tests/clips/manifest.jsonl", "a m y", "a m i", r"config.data.train \(digest\) is \w+ in process 1 "),
    ],
)
def test_a_different_version_of_the_program_or_of_the_data_is_refused(file, old, new, expected, clips, tmp_path):
    (tmp_path / "copy").mkdir()
    for name in ("main.py", "ds2_jax", "input_pipeline", "decoding", "configs", "tests/clips"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / "copy" / name)
        else:
            shutil.copy(ROOT / name, tmp_path / "copy")
    (tmp_path / "copy" / file).write_text((ROOT / file).read_text().replace(old, new))
    flags = [*flags_for(clips.relative_to(ROOT)), "--config.augment.file=configs/augmentation_light.json"]
    with Cluster(2, *flags, f"--workdir={tmp_path / 'run'}", roots={1: tmp_path / "copy"}) as cluster:
        assert cluster.finish(EXIT_LIMIT_S) == [1, 1]
        assert re.search(expected, cluster.stderr(0).splitlines()[-1])


@pytest.mark.slow
def test_clips_that_one_process_cannot_read_are_counted_by_all(clips, tmp_path):
    rows = [json.loads(line) for line in clips.read_text().splitlines()]
    for row in rows:
        row["audio_filepath"] = str(clips.parent / row["audio_filepath"])
    rows[3]["audio_filepath"] = str(tmp_path / "missing.flac")
    manifest = tmp_path / "some.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [
        *flags_for(clips),
        f"--config.data.train={manifest}",
        f"--workdir={tmp_path / 'run'}",
        "--config.train.epochs=1",
    ]
    with Cluster(2, *flags, "--config.data.max_bad_share=0.1") as cluster:
        assert cluster.finish() == [0, 0], cluster.stderr(0)
        assert sum(f"skipped {manifest}:4" in cluster.stderr(rank) for rank in range(2)) == 1
    (last,) = (tmp_path / "run" / "checkpoints").glob("*/progress/metadata")
    assert json.loads(last.read_text())["bad_utterances"] == [3]
    shutil.rmtree(tmp_path / "run")
    with Cluster(2, *flags, "--config.data.max_bad_share=0.05", "--config.features.normalisation=utterance") as cluster:
        assert cluster.finish(EXIT_LIMIT_S) == [1, 1], cluster.stderr(1)
        for rank in range(2):
            assert "1 of 12 training utterances cannot be used" in cluster.stderr(rank)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [("--mode=export", "--config.restore=models/an4"), ("--mode=import", "--source=model.pth")]
)
def test_models_are_exported_and_imported_by_a_single_process(flags, tmp_path):
    with Cluster(2, *flags, f"--output={tmp_path / 'mine'}") as cluster:
        assert cluster.finish(EXIT_LIMIT_S) == [1, 1]
        assert any(f"{flags[0]} needs a single process" in cluster.stderr(rank) for rank in range(2))
    assert not (tmp_path / "mine").exists()


def test_an_error_of_one_process_ends_all_with_its_message(clips, tmp_path):
    with Cluster(
        2, *flags_for(clips), f"--workdir={tmp_path / 'run'}", "--expect_processes=2", own={1: ["--expect_devices=5"]}
    ) as cluster:
        assert cluster.finish(EXIT_LIMIT_S) == [1, 1]
        assert "5 devices were expected, but JAX found 2" in cluster.stderr(1).splitlines()[-1]
        assert "process 1 (" in cluster.stderr(0)
        assert "5 devices were expected, but JAX found 2" in cluster.stderr(0).splitlines()[-1]


@pytest.mark.slow
def test_a_process_that_finds_no_others_ends_in_time_with_a_message(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("DS2_START_S", "3")
    with Cluster(1, *flags_for(clips), f"--workdir={tmp_path / 'run'}", "--num_processes=2") as cluster:
        assert cluster.finish(EXIT_LIMIT_S) == [RETRY]  # a launcher retries: a machine may be late
        assert "error: the 2 processes did not all connect at 127.0.0.1:" in cluster.stderr(0).splitlines()[-1]


@pytest.mark.slow
def test_an_unresolvable_host_is_reported(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("DS2_START_S", "3")
    flags = ["--coordinator=nowhere.invalid:7000", "--num_processes=2", "--process_id=1"]
    result = run_main(*flags_for(clips), f"--workdir={tmp_path / 'run'}", *flags)
    assert result.returncode == RETRY
    last = result.stderr.splitlines()[-1]
    assert "the host nowhere.invalid of --coordinator=nowhere.invalid:7000 cannot be resolved" in last


@pytest.mark.parametrize(
    ("coordinator", "message"),
    [
        ("nowhere.invalid:70", "the host nowhere.invalid of --coordinator=nowhere.invalid:70 cannot be resolved"),
        ("127.0.0.1:70", "the 2 processes did not all connect at 127.0.0.1:70 within 3 s"),
        (None, "the 2 processes did not all connect at the address that Slurm provides within 3 s"),
    ],
)
def test_processes_that_do_not_connect_name_the_address_or_its_host_without_one(coordinator, message):
    assert processes._describe_failed_start(ProcessInfo("Slurm", coordinator, 2, 1), 3).startswith(message)


def test_a_port_in_use_is_reported(clips, tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--workdir={tmp_path / 'run'}"]
        with Cluster(1, *flags_for(clips), *flags) as cluster:
            assert cluster.finish(EXIT_LIMIT_S) == [1]
            assert f"error: port {port} of --coordinator=127.0.0.1:{port} is in use" in cluster.stderr(0)


def test_an_unexpected_number_of_processes_is_refused(clips, tmp_path):
    with Cluster(2, *flags_for(clips), f"--workdir={tmp_path / 'run'}", "--expect_processes=3") as cluster:
        assert cluster.finish(EXIT_LIMIT_S) == [1, 1]
        assert "3 processes were expected, but 2 connected" in cluster.stderr(1)
    result = run_main(*flags_for(clips), f"--workdir={tmp_path / 'run'}", "--expect_processes=2")
    assert result.returncode == 1
    assert "2 processes were expected, but 1 connected" in result.stderr


@pytest.mark.slow
def test_a_different_model_is_refused(clips, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("main.py", "ds2_jax", "input_pipeline", "decoding", "configs", "models/an4"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    (copy / "models" / "an4" / "SHA256SUMS").unlink()  # damage is another error
    weights = copy / "models" / "an4" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    flags = ["--mode=eval", "--config.restore=models/an4", f"--config.data.test={clips}", f"--workdir={tmp_path}"]
    with Cluster(2, *flags, roots={1: copy}) as cluster:
        assert cluster.finish(EXIT_LIMIT_S) == [1, 1]
        assert re.search(r"the model models/an4 \(digest\) is \w+ in process 1 ", cluster.stderr(0).splitlines()[-1])


def test_different_numbers_of_processes_are_refused(clips, tmp_path):
    own = {1: ["--num_processes=3"]}
    with Cluster(2, *flags_for(clips), f"--workdir={tmp_path / 'run'}", own=own) as cluster:
        assert cluster.finish(EXIT_LIMIT_S) == [1, 1]
        assert re.search(r"--num_processes is 3 in process 1 .*, but 2 in the others", cluster.stderr(0))
