"""The command line: output, files, and error messages."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.runs import ROOT, run_main, slow, small_flags


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("main") / "a run"  # its name needs quoting
    result = run_main(
        *small_flags(clips), f"--config.data.test={clips}", "--config.train.epochs=2", f"--workdir={workdir}"
    )
    assert result.returncode == 0, result.stderr
    return workdir, result


def error_of(result: subprocess.CompletedProcess) -> str:
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    return result.stderr


def test_training_ends_with_the_test_result_as_json(run, clips):
    results = json.loads(run[1].stdout.splitlines()[-1])
    assert results["utterances"] == len(clips.read_text().splitlines())
    assert 0 <= results["wer"] <= 5


def test_the_test_report_of_a_run_without_dev_shows_curves(run):
    step = json.loads(run[1].stdout.splitlines()[-1])["checkpoint"]
    page = (run[0] / "test.html").read_text()
    assert "<img src='curves.png'" in page
    assert (run[0] / "curves.png").stat().st_size > 10_000
    assert (
        f"<dt>Model</dt><dd>{run[0]}</dd><dt>Checkpoint</dt><dd>step {step}</dd><dt>Decoding</dt><dd>greedy</dd>"
        in page
    )


def test_the_summary_of_a_run_lists_its_files_and_its_result(run):
    command = [sys.executable, "-m", "ds2_jax.cli.run_summary", str(run[0])]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    _, _, curves, checkpoints, test = result.stdout.splitlines()
    names = ("curves.png", "metrics.jsonl", "tensorboard")
    assert curves == "curves:      " + ", ".join(str(run[0] / name) for name in names)
    assert checkpoints.startswith(f"checkpoints: {run[0] / 'checkpoints'}: ")
    wer = json.loads(run[1].stdout.splitlines()[-1])["wer"]
    assert test.startswith(f"test: WER {wer:.2%}, ")
    assert str(run[0] / "test.html") in test


def test_eval_reads_a_run_a_checkpoint_and_a_bundle_alike(run, clips, tmp_path):
    workdir, _ = run
    checkpoint = next((workdir / "checkpoints").iterdir())
    exported = run_main("--mode=export", f"--config.restore={workdir}", f"--output={tmp_path / 'bundle'}")
    assert exported.returncode == 0, exported.stderr
    assert f"'--workdir={workdir}'" in (tmp_path / "bundle" / "README.md").read_text()  # quoted for the shell
    results = []
    for restore in (workdir, checkpoint, tmp_path / "bundle"):
        flags = [f"--config.restore={restore}", f"--config.data.test={clips}", f"--workdir={tmp_path / 'report'}"]
        result = run_main("--mode=eval", *flags)
        assert result.returncode == 0, result.stderr
        results.append(json.loads(result.stdout.splitlines()[-1]))
        page = (tmp_path / "report" / "eval.html").read_text()
        assert f"<dt>Model</dt><dd>{restore}</dd>" in page
        assert (f"<dt>Checkpoint</dt><dd>step {checkpoint.name}</dd>" in page) == (restore != tmp_path / "bundle")
        step = None if restore == tmp_path / "bundle" else f"step {checkpoint.name}"
        assert (results[-1].pop("model"), results[-1].pop("checkpoint")) == (str(restore), step)
        date = results[-1].pop("date")
        assert (results[-1]["lm"], results[-1]["alpha"], results[-1]["beta"]) == (None, None, None)
        record = json.loads((tmp_path / "report" / "eval.json").read_text())
        assert (record["model"], record["date"], record["decoding"]) == (str(restore), date, "greedy")
        assert f"model: {restore}\n" in (tmp_path / "report" / "eval.txt").read_text()
    assert results[0] == results[1]
    assert results[0]["cer"] == pytest.approx(results[2]["cer"], abs=0.02)  # float16 may change a close decision


def test_infer_transcribes_files_and_one_bad_file_does_not_stop_the_rest(run, clips, tmp_path):
    good = sorted(str(path) for path in clips.parent.glob("*.flac"))[:2]
    (tmp_path / "empty.wav").write_bytes(b"")
    audio = ",".join([good[0], str(tmp_path / "empty.wav"), good[1], str(tmp_path / "nowhere.wav")])
    output = tmp_path / "out.jsonl"
    result = run_main("--mode=infer", f"--config.restore={run[0]}", f"--audio={audio}", f"--output={output}")
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [("text" in record, "error" in record) for record in records] == [(True, False), (False, True)] * 2
    assert "empty.wav" in records[1]["error"]


def test_a_result_is_printed_even_if_its_report_cannot_be_written(run, clips, tmp_path):
    (tmp_path / "eval.html").mkdir()
    flags = [f"--config.restore={run[0]}", f"--config.data.test={clips}", f"--workdir={tmp_path}"]
    result = run_main("--mode=eval", *flags)
    assert "eval.html" in error_of(result)
    assert json.loads(result.stdout.splitlines()[-1])["utterances"] == len(clips.read_text().splitlines())
    no_files = ["bash", "-c", 'ulimit -f 0; exec "$@"', "limited", sys.executable, "main.py"]
    audio = [f"--audio={clips.parent / 'cen1-mtos-b.flac'}", f"--output={tmp_path / 'out.jsonl'}"]
    command = [*no_files, "--mode=infer", f"--config.restore={run[0]}", *audio]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "out.jsonl" in error_of(result)
    assert result.stdout.count("hypothesis:") == 1


def test_infer_writes_names_that_are_no_text(run, clips, tmp_path):
    names = [b"a\xff.flac", b"b\x1b[31m.flac", "\u4f60.flac".encode()]
    (tmp_path / "in").mkdir()
    for name in names:
        shutil.copy(os.fsencode(clips.parent / "cen1-mtos-b.flac"), os.fsencode(tmp_path / "in") + b"/" + name)
    flags = ["--mode=infer", f"--config.restore={run[0]}"]
    result = run_main(*flags, f"--audio={tmp_path / 'in'}", f"--output={tmp_path / 'out.jsonl'}")
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {os.fsencode(Path(record["audio_filepath"]).name) for record in records} == set(names)
    assert all("text" in record for record in records)
    command = [sys.executable, "main.py", *flags, f"--audio={tmp_path / 'in'},-"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    with open(clips.parent / "cen1-mtos-b.flac", "rb") as audio:
        shown = subprocess.run(command, cwd=ROOT, env=environment, stdin=audio, capture_output=True, timeout=300)
    assert shown.returncode == 0, shown.stderr
    heads = [line for line in shown.stdout.splitlines() if not line.startswith(b" ")]
    expected = [b"a\\udcff.flac", b"b\\x1b[31m.flac", b"\\u4f60.flac", b"standard input"]
    assert [head.rpartition(b"/")[2] for head in heads] == expected


def test_suspects_ranks_the_clips_of_a_manifest(run, clips, tmp_path):
    output = tmp_path / "suspects.jsonl"
    flags = [f"--config.restore={run[0]}", f"--config.data.test={clips}", f"--output={output}"]
    result = run_main("--mode=suspects", *flags, "--config.suspects.show=3")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in clips.read_text().splitlines()]
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["rank"] for record in records] == [*range(1, len(rows) + 1)]
    assert {(record["line"], record["text"]) for record in records} == {(n, r["text"]) for n, r in enumerate(rows, 1)}
    assert result.stdout.count("recognised: ") == 3
    assert f"    1. {records[0]['score']:7.2f}  {clips}:{records[0]['line']} (" in result.stdout


def test_infer_of_a_manifest_without_text(run, clips, tmp_path):
    rows = [json.loads(line) for line in clips.read_text().splitlines()]
    manifest = tmp_path / "without_text.jsonl"
    lines = [{"audio_filepath": str(clips.parent / r["audio_filepath"]), "duration": r["duration"]} for r in rows]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run_main("--mode=infer", f"--config.restore={run[0]}", f"--config.data.test={manifest}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("hypothesis:") == min(10, len(rows))


def test_infer_takes_segments_rows_without_duration_and_what_is_left_of_a_cut_file(run, clips, tmp_path):
    samples = [soundfile.read(path, dtype="int16")[0] for path in sorted(clips.parent.glob("*.flac"))[:3]]
    soundfile.write(tmp_path / "one.wav", samples[0], 16000)
    soundfile.write(tmp_path / "call.flac", np.concatenate(samples), 16000)
    whole = (tmp_path / "one.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) * 3 // 4])
    (tmp_path / "open.wav").write_bytes(whole[:40] + bytes(4) + whole[44:])
    first, second = (len(part) / 16000 for part in samples[:2])
    lines = [
        {"audio_filepath": "one.wav"},
        {"audio_filepath": "call.flac", "offset": 0.0, "duration": first},
        {"audio_filepath": "call.flac", "offset": first + second},
        {"audio_filepath": "open.wav"},
        {"audio_filepath": "cut.wav"},
        {"audio_filepath": "one.wav", "channel": 1},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = [f"--config.restore={run[0]}", f"--config.data.test={tmp_path / 'm.jsonl'}"]
    result = run_main("--mode=infer", *flags, f"--output={tmp_path / 'out.jsonl'}")
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    whole_texts = [record["text"] for record in (records[0], records[1], records[3])]
    assert whole_texts == whole_texts[:1] * 3
    assert (records[1]["offset"], records[1]["duration"]) == (0.0, first)
    assert "all are read" in records[3]["remarks"][0]
    assert "only what is there is read" in records[4]["remarks"][0]
    assert "no channel 1" in records[5]["error"]
    shown = run_main("--mode=infer", *flags).stdout
    assert f"call.flac, 0 to {round(first, 3):g} s" in shown
    assert "warning:    " in shown


def test_infer_writes_all_of_a_manifest_to_a_file_in_a_new_folder(run, clips, tmp_path):
    output = tmp_path / "new" / "out.jsonl"
    result = run_main("--mode=infer", f"--config.restore={run[0]}", f"--config.data.test={clips}", f"--output={output}")
    assert result.returncode == 0, result.stderr
    assert len(output.read_text().splitlines()) == len(clips.read_text().splitlines()) > 10


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("s3://bucket/out.jsonl", "is in an object store: write to a local file"),
        (".", "is a folder: give a file in it"),
        ("{clips}/out.jsonl", "cannot be written (Not a directory)"),
    ],
)
def test_an_unwritable_output_is_refused_before_the_model_is_loaded(output, expected, clips):
    flags = ["--mode=infer", "--config.restore=nowhere", f"--config.data.test={clips}"]
    assert expected in error_of(run_main(*flags, f"--output={output.format(clips=clips)}"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config.model.rnn_sise=256"], "unknown setting 'rnn_sise'. Did you mean \"rnn_size\""),
        (["--config.batch.size=many"], "--config.batch.size=many: invalid literal"),
        (["--config=configs/nowhere.py"], "No such file or directory: 'configs/nowhere.py'"),
        (["--config=configs/an4.py:16"], "this recipe has no variants"),
        (["--config=configs/librispeech.py:7"], "a batch is stated for 8, 1, 4, 16, 64, 256 devices"),
        (["--config=pyproject.toml"], "pyproject.toml, line"),
        (["--mod=eval"], "Unknown command line flag 'mod'"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_an_invalid_command_line_ends_with_code_2_and_one_line(flags, expected):
    result = run_main(*flags, "--workdir=unused")
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert expected in line


def test_the_interpreter_is_not_finalised_while_native_threads_use_it(tmp_path):
    recipe = "import atexit\nfrom configs.tiny import get_config\natexit.register(print, 'ended')\n"
    (tmp_path / "recipe.py").write_text(recipe)
    program = """if True:
        import os, signal
        from ds2_jax.cli.main import main
        class Client:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGSEGV)
        client = Client()
        main()
    """
    command = [sys.executable, "-c", program, f"--config={tmp_path / 'recipe.py'}", "--mode=none"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (2, "ended\n"), result.stderr
    assert result.stderr.startswith("error: ")


def test_what_multiprocessing_holds_is_freed_at_the_end(tmp_path):
    program = """if True:
        import multiprocessing, time
        from ds2_jax.cli.main import main
        lock = multiprocessing.get_context("spawn").Lock()
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60], daemon=True)
        child.start()
        print(child.pid, flush=True)
        main()
    """
    result = subprocess.run(
        [sys.executable, "-c", program, "--mode=none"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "leaked" not in result.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(result.stdout), 0)


def test_an_error_leaves_no_semaphores_behind():
    program = """if True:
        import multiprocessing
        from ds2_jax.cli.main import main
        lock = multiprocessing.get_context("spawn").Lock()
        main()
    """
    command = [sys.executable, "-c", program, "--mode=eval", "--config.restore=none"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")


def test_settings_of_a_restored_model_cannot_be_overridden(run, clips):
    arguments = (
        "--mode=eval",
        f"--config.restore={run[0]}",
        f"--config.data.test={clips}",
        "--config.model.rnn_size=3",
    )
    assert "config.model.rnn_size cannot be set" in error_of(run_main(*arguments))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config.data.train=nowhere.jsonl"], "nowhere.jsonl"),
        (["--config.batch.shuffle=riffle"], "riffle"),
        slow(["--config.model.cell=gro"], "gro"),
        slow(["--config.batch.seconds=60"], "config.batch.size"),
        slow(["--mode=eval"], "config.restore"),
        (["--mode=eval", "--config.restore=an4", "--output=x"], "--mode=eval writes to --workdir, not to --output=x"),
        (["--mode=suspects", "--config.restore=an4"], "config.data.test is empty: give the manifest to examine"),
        (["--mode=infer", "--config.restore=an4", "--audio=nowhere*.wav"], "no file matches the pattern"),
        slow(["--mode=eval", "--config.restore=nowhere", "--config.data.test=t.jsonl"], "nowhere"),
    ],
)
def test_wrong_values_are_reported(flags, expected, tmp_path):
    workdir = [] if flags[0].startswith("--mode") else [f"--workdir={tmp_path}"]
    assert expected in error_of(run_main(*flags, *workdir))


def test_an_unwritable_workdir_is_reported(clips, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error_of(run_main(*small_flags(clips), f"--workdir={tmp_path / 'file' / 'run'}"))


@pytest.mark.slow
def test_fine_tuning_extends_the_vocabulary(run, clips, tmp_path):
    vocabulary = tmp_path / "more.txt"
    vocabulary.write_text("é\nß\n")
    flags = [f"--config.restore={run[0]}", f"--config.vocabulary={vocabulary}", f"--config.data.train={clips}"]
    size = ["--config.batch.size=4", "--config.batch.buckets=2", "--config.train.epochs=1"]
    result = run_main(*flags, *size, f"--workdir={tmp_path / 'tuned'}")
    assert result.returncode == 0, result.stderr
    assert "2 added: 'é' 'ß'" in result.stderr


def test_a_full_disk_leaves_saved_checkpoints_intact(clips, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", disk]).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        flags = [*small_flags(clips), "--config.train.epochs=40", "--config.train.keep=30", f"--workdir={disk}/run"]
        result = run_main(*flags, f"--config.data.dev={clips}")
        assert "cannot be written" in error_of(result)
        assert result.stderr.splitlines()[-1].endswith("free disk space and run the same command again")
        saved = run_main("--mode=eval", f"--config.restore={disk}/run", f"--config.data.test={clips}")
        assert saved.returncode == 0, saved.stderr
    finally:
        subprocess.run(["umount", disk], check=True)
