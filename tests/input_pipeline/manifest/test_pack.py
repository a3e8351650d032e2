"""Packing: the packed corpus is the same corpus, wherever it lies, and an interrupted run leaves nothing half-written."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from input_pipeline import audio, manifest
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FrontEnd
from input_pipeline.batches.corpus import Corpus
from input_pipeline.batches.labels import encode_transcripts
from input_pipeline.batches.loader import LoadSettings, RowShare
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.manifest import packing
from input_pipeline.manifest.pack import PackOptions, main, pack
from input_pipeline.manifest.packing import PackError, equal_ends
from input_pipeline.shards import format as shard_format
from input_pipeline.shards import source as shard_source
from input_pipeline.storage import object_store
from input_pipeline.storage.lock import exclusive
from input_pipeline.text import TextRules, Vocabulary
from tests.runs import ROOT, Program, run_main, small_flags, wait_until


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("DS2_CACHE", str(tmp_path / "cache" / "shards"))
    monkeypatch.setattr(object_store, "FIRST_PAUSE_S", 0.01)
    shard_source.reset()


def corpus_of(path: str | Path, share: RowShare | None = None, **load) -> Corpus:
    utterances = manifest.read(path)
    labels, _ = encode_transcripts(utterances, Vocabulary.build(utterances.text), TextRules())
    front_end = FrontEnd(FeatureSettings(kind="fbank", mel_bins=20), "utterance")
    batch = BatchSettings(size=5, buckets=2)
    return Corpus(utterances, labels, front_end, batch, load=LoadSettings(**load), share=share or RowShare())


def assert_same_batches(one: Corpus, other: Corpus, epochs=(0, 1)) -> None:
    """Compare all batches of some epochs, bit by bit."""
    for epoch in epochs:
        pairs = zip(one.batches(one.plan_epoch(epoch)), other.batches(other.plan_epoch(epoch)), strict=True)
        valid = 0
        for a, b in pairs:
            assert a.keys() == b.keys()
            valid += a["valid"].sum()
            for name in a:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert valid > len(one.manifest) / one.share.processes / 2


@pytest.mark.parametrize("count", [1, 3, 12])
def test_shards_give_the_batches_of_the_files(clips, tmp_path, count):
    done = pack(str(clips), str(tmp_path / "out"), shards=count)
    assert (done.records, done.shards, done.existing) == (12, count, 0)
    assert_same_batches(corpus_of(clips), corpus_of(done.manifest, threads=3))


@pytest.mark.parametrize("limit", ["1", "3e-4", "0"])
def test_a_bucket_gives_the_batches_of_the_files_whatever_fits_into_the_cache(
    store, clips, tmp_path, monkeypatch, limit
):
    monkeypatch.setenv("DS2_CACHE_GB", limit)
    done = pack(str(clips), f"s3://speech/same{limit}/deep", shards=3)
    assert done.manifest == f"s3://speech/same{limit}/deep/manifest.jsonl"
    assert_same_batches(corpus_of(clips), corpus_of(done.manifest, threads=4))
    assert not list(tmp_path.glob("cache/**/packing"))
    kept = [path.name for path in tmp_path.glob("cache/shards/*.array_record")]
    assert len(kept) <= {"1": 3, "3e-4": 1, "0": 0}[limit]


@pytest.mark.slow
def test_worker_processes_read_shards_and_a_bucket_and_two_hosts_their_halves(store, clips, tmp_path):
    done = pack(str(clips), str(tmp_path / "out"), shards=2)
    assert_same_batches(corpus_of(clips), corpus_of(done.manifest, workers=2), epochs=[1])
    done = pack(done.manifest, "s3://speech/workers", shards=2)
    assert_same_batches(corpus_of(clips), corpus_of(done.manifest, workers=1), epochs=[1])
    for process in (0, 1):
        half = RowShare(2, process, 2)
        assert_same_batches(corpus_of(clips, half), corpus_of(done.manifest, half))


def test_the_packed_manifest_is_the_same_corpus_with_all_its_keys(clips, tmp_path):
    source = tmp_path / "in" / "train.jsonl"
    source.parent.mkdir()
    lines = [json.loads(line) for line in clips.read_text().splitlines()]
    for number, line in enumerate(lines):
        shutil.copyfile(clips.parent / line["audio_filepath"], source.parent / line["audio_filepath"])
        line |= {"number": number, "nested": {"a": [1, None]}}
    lines[4]["audio_filepath"] = str(clips.parent / lines[4]["audio_filepath"])  # absolute
    del lines[5]["text"]  # as in a manifest of noise
    text = "\n\n".join(json.dumps(line) for line in lines)
    source.write_text(text)
    packed = Path(pack(str(source), str(tmp_path / "out"), shards=2).manifest)
    assert packed == tmp_path / "out" / "train.jsonl"
    for line, written in zip(lines, map(json.loads, packed.read_text().splitlines()), strict=True):
        assert written.pop("packed_from") == line["audio_filepath"]
        assert list(written) == list(line)
        assert {**written, "audio_filepath": ""} == {**line, "audio_filepath": ""}
    ours, theirs = (manifest.read(path, need_text=False) for path in (packed, source))
    assert ours.digest() == theirs.digest()
    assert ours.where(0) == f"{packed}:1 ({lines[0]['audio_filepath']})"
    chosen = [11, 3]
    assert ours.select(chosen).digest() == theirs.select(chosen).digest()
    recorded = [
        line for name in sorted(packed.parent.glob("*.array_record")) for line, _ in shard_format.records(str(name))
    ]
    assert recorded == lines


def test_a_packed_corpus_is_packed_again_from_anywhere_to_anywhere(store, clips, tmp_path):
    first = pack(str(clips), str(tmp_path / "a"), shards=5, name="one").manifest
    second = pack(first, "s3://speech/again", shards=2, name="two").manifest
    third = pack(second, str(tmp_path / "b"), shards=3).manifest
    assert manifest.read(third).digest() == manifest.read(clips).digest()
    for path, copy in zip(manifest.read(clips).audio, manifest.read(third).audio, strict=True):
        clip = shard_source.resolve(copy)
        assert isinstance(clip, shard_source.Clip)
        assert clip.getvalue() == Path(path).read_bytes()


def test_single_objects_are_read_and_packed_as_well(store, clips, tmp_path):
    files = fsspec.filesystem("s3")
    files.put(str(clips.parent), "s3://speech/loose", recursive=True)
    loose = corpus_of(
        "s3://speech/loose/clips/manifest.jsonl"
        if files.exists("speech/loose/clips")
        else "s3://speech/loose/manifest.jsonl"
    )
    assert_same_batches(corpus_of(clips), loose)
    done = pack(loose.manifest.sources[0], str(tmp_path / "out"), shards=2)
    assert_same_batches(corpus_of(clips), corpus_of(done.manifest))


def test_shards_hold_about_the_same_bytes_and_none_is_empty():
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = int(rng.integers(1, 60))
        sizes, count = rng.integers(1, 1000, rows), int(rng.integers(1, rows + 1))
        ends = equal_ends(sizes, count)
        assert ends[-1] == rows
        assert all(a < b for a, b in zip([0, *ends], ends, strict=False))
    sizes = rng.integers(1, 1000, 10_000)
    parts = np.add.reduceat(sizes, [0, *equal_ends(sizes, 7)[:-1]])
    assert parts.max() - parts.min() < 2000
    assert equal_ends(np.array([5]), 1) == [1]
    assert equal_ends(np.array([1, 1, 1_000_000]), 3) == [1, 2, 3]


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def long_manifest(clips, tmp_path_factory) -> Path:
    """Return a manifest of 6,000 clips, which takes seconds to pack into 60 shards."""
    path = tmp_path_factory.mktemp("long") / "train.jsonl"
    lines = [json.loads(line) for line in clips.read_text().splitlines()]
    lines = [{**line, "audio_filepath": str(clips.parent / line["audio_filepath"])} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines * 500))
    return path


def test_a_killed_run_leaves_nothing_half_written_and_the_same_command_continues(long_manifest, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = [sys.executable, "-m", "input_pipeline.pack", str(long_manifest), "--shards=60"]
    with Program([*command, f"--output={out}"], cwd=ROOT) as process:
        wait_until(lambda: out.exists() and len(list(out.glob(".*.packed"))) > 3)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (out / "train.jsonl").exists()
    finished = sorted(out.glob("*.array_record"))
    assert 3 < len(finished) < 60
    for name in (".train-00001-of-00009.array_record", "..train-00007-of-00060.array_record.packed.1a2b3c4d"):
        (out / f"{name}.tmp").write_text("half")  # as where the signal comes at another moment
    for path in finished:  # what has its name is whole
        assert 90 < len(list(shard_format.records(str(path)))) < 110
    ran = subprocess.run([*command, f"--output={out}"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "of which existed already" in ran.stdout
    pack(str(long_manifest), str(whole), shards=60)
    assert tree(out) == tree(whole)
    again = subprocess.run([*command, f"--output={out}"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "is packed already: 6,000 utterances in 60 shards" in again.stdout
    interrupted = subprocess.Popen(
        [*command, f"--output={tmp_path / 'int'}"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: any((tmp_path / "int").glob(".*.packed")))
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.communicate(timeout=300)[1].strip().endswith("interrupted; run the same command again to resume")
    assert interrupted.returncode == 130


def test_a_second_run_waits_for_the_first_and_finds_all_packed(long_manifest, tmp_path):
    command = [sys.executable, "-m", "input_pipeline.pack", str(long_manifest), f"--output={tmp_path / 'out'}"]
    with exclusive(tmp_path / "out" / "train.jsonl"):  # else the second could come when the first has ended
        both = [
            subprocess.Popen([*command, "--shards=9"], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        waiting = [run.stdout.readline() for run in both if run.stdout is not None]
    assert all(f"train.jsonl: waiting for process {os.getpid()} on " in line for line in waiting)
    first, second = sorted(
        (run.communicate(timeout=300)[0] for run in both), key=lambda said: "is packed already" in said
    )
    assert [run.returncode for run in both] == [0, 0]
    assert re.search(r"is packed already: 6,000", second)
    assert "MB in 9 shards (" in first
    assert len(list(shard_format.records(str(tmp_path / "out" / "train-00008-of-00009.array_record")))) > 600
    assert not list((tmp_path / "out").glob("*.lock"))


def test_an_upload_that_failed_goes_on(store, clips, tmp_path, monkeypatch):
    real, urls = object_store.upload, []

    def fails(path, url):
        urls.append(url)
        if len(urls) == 3:
            raise object_store.ObjectStoreError("the cable is cut")
        real(path, url)

    monkeypatch.setattr(object_store, "upload", fails)
    with pytest.raises(object_store.ObjectStoreError, match="cable"):
        pack(str(clips), "s3://speech/broken", shards=4)
    assert not object_store.exists("s3://speech/broken/manifest.jsonl")
    done = pack(str(clips), "s3://speech/broken", shards=4)
    assert done.existing == 2
    assert [url.rpartition("/")[2] for url in urls[-2:]] == ["manifest.shards.json", "manifest.jsonl"]
    assert_same_batches(corpus_of(clips), corpus_of(done.manifest))


def changed(clips: Path, tmp_path: Path, **lines: dict) -> Path:
    """Copy the manifest with some lines, counted from 1, changed."""
    rows = [json.loads(line) for line in clips.read_text().splitlines()]
    for number, row in enumerate(rows, start=1):
        row["audio_filepath"] = str(clips.parent / row["audio_filepath"])
        row |= lines.get(f"line{number}", {})
    path = tmp_path / "changed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_clips_that_cannot_be_packed_are_named_with_file_and_line(clips, tmp_path, capsys):
    (tmp_path / "empty.wav").touch()
    bad = {"line2": "nowhere.wav", "line5": "empty.wav", "line6": str(tmp_path)}
    path = changed(clips, tmp_path, **{line: {"audio_filepath": name} for line, name in bad.items()})
    assert main([str(path), f"--output={tmp_path / 'out'}"]) == 1
    said = capsys.readouterr().err
    assert "3 of 12 clips cannot be packed" in said
    assert f"{path}:2 (nowhere.wav) does not exist" in said
    assert f"{path}:5 (empty.wav) is empty" in said
    assert f"{path}:6" in said
    assert "is a folder" in said
    assert not (tmp_path / "out").exists()


def test_a_clip_that_goes_while_packing_is_named_and_nothing_takes_the_name(clips, tmp_path, monkeypatch):
    path = changed(clips, tmp_path)

    def read(name: str) -> bytes:
        if "fmjc" in name:
            raise FileNotFoundError(2, "No such file or directory", name)
        return Path(name).read_bytes()

    monkeypatch.setattr("input_pipeline.manifest.pack._content", read)
    with pytest.raises(PackError, match=rf"{path}:\d+ \(.*fmjc.* cannot be read.*No such file"):
        pack(str(path), str(tmp_path / "out"), shards=1)
    assert not os.listdir(tmp_path / "out")


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_shards_that_are_gone_are_packed_anew(clips, tmp_path, damage):
    line = [str(clips), f"--output={tmp_path}", "--shards=3"]
    assert main(line) == 0
    before = tree(tmp_path)
    second = tmp_path / "manifest-00001-of-00003.array_record"
    if damage == "removed":
        second.unlink()
    else:
        second.write_bytes(second.read_bytes()[:100])
    assert main(line) == 0
    assert tree(tmp_path) == before


def test_other_audio_is_not_packed_over_a_packed_corpus(clips, tmp_path, capsys):
    out = f"--output={tmp_path / 'out'}"
    assert main([str(changed(clips, tmp_path)), out, "--shards=2"]) == 0
    before = tree(tmp_path / "out")
    for line in (
        [str(changed(clips, tmp_path, line3={"text": "other"})), out, "--shards=2"],
        [str(clips), out, "--shards=3", "--name=changed"],
    ):
        assert main(line) == 1
        assert "exists already, packed from other audio" in capsys.readouterr().err
    assert tree(tmp_path / "out") == before


def test_a_manifest_is_not_packed_over_itself(clips, tmp_path, monkeypatch, capsys):
    named = changed(clips, tmp_path)
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    for line in ([str(named), "--output=."], [named.name, f"--output={tmp_path}"]):
        assert main(line) == 1
        assert "changed.jsonl, which is read, and would be lost" in capsys.readouterr().err
    assert tree(tmp_path) == before
    assert main([str(named), "--output=.", "--name=packed"]) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--shards=13"], "--shards=13: .* has 12 utterances"),
        (["--shards=-1"], "give numbers above 0"),
        (["--shard_mb=0"], "give numbers above 0"),
        (["--threads=0"], "give numbers above 0"),
        (["--output=/proc/nowhere"], "/proc/nowhere"),
        (["--output=s3://nobucket/x"], r"s3://nobucket/x/manifest-00000-of-00001.array_record does not exist .*bucket"),
        (["--output=gopher://x"], "there is no store gopher://"),
        (["--output=ftp://127.0.0.1/x"], "there is no store ftp://"),
        (["--output=s3:/speech/x"], "s3:/speech/x lacks a slash: write s3://speech/x"),
        (["--output=s3://"], "--output=s3://: name a bucket"),
        (["--name=a/b"], "--name=a/b: give a name without a folder"),
    ],
)
def test_what_cannot_be_meant_is_named(store, clips, tmp_path, capsys, flags, said):
    assert main([str(clips), f"--output={tmp_path / 'out'}", *flags]) == 1
    assert re.search(said, capsys.readouterr().err)


def test_what_is_on_its_way_to_a_store_lies_in_the_cache(tmp_path):
    folder = packing.Packing("s3://speech/x", "train", [1], "")._work_folder()
    assert folder.is_relative_to(tmp_path / "cache" / "shards")


def test_a_disk_too_small_is_told_before_the_work(clips, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(PackError, match=r"GB free, the shards need .* GB"):
        pack(str(clips), str(tmp_path / "out"))
    assert not os.listdir(tmp_path / "out")


@pytest.mark.parametrize("where", ["here", "store"])
def test_what_is_damaged_costs_its_rows_only(store, clips, tmp_path, where):
    folder = tmp_path / "out"
    packed = manifest.read(pack(str(clips), str(folder), shards=3).manifest)
    references = [parsed for path in packed.audio if (parsed := shard_format.parse_reference(path))]
    damaged, cut, gone = (references[row] for row in (1, 5, 11))
    assert len({damaged.shard, cut.shard, gone.shard}) == 3
    content = bytearray(Path(damaged.shard).read_bytes())
    content[damaged.begin + 1000] ^= 1  # of one record
    Path(damaged.shard).write_bytes(content)
    with open(cut.shard, "rb+") as file:
        file.truncate(cut.begin + 1000)  # the shard ends within one record
    os.unlink(gone.shard)
    if where == "store":
        fsspec.filesystem("s3").put(str(folder), "s3://speech/partly_damaged", recursive=True)
    path = folder / "manifest.jsonl" if where == "here" else "s3://speech/partly_damaged/manifest.jsonl"
    corpus = corpus_of(path)
    said: dict[int, str] = {}
    for batch in corpus.batches(corpus.plan_epoch(0)):
        said |= {int(u): str(p) for u, p in zip(batch["utterance"], batch["problem"], strict=True) if p}
        assert (batch["valid"] == ((batch["problem"] == "") & (batch["utterance"] >= 0))).all()
    of = [[row for row in range(12) if shard.shard in packed.audio[row]] for shard in (damaged, cut, gone)]
    lost = of[1] if where == "here" else [row for row in of[1] if row >= 5]  # ranges before the cut are still there
    assert sorted(said) == sorted([1, *lost, *of[2]])
    assert "is damaged" in said[1]
    assert "end" in said[5]
    assert "does not exist" in said[11]


def test_the_doctor_and_infer_read_shards(clips, tmp_path, capsys):
    from input_pipeline.manifest.command import main as manifest_main

    done = pack(str(clips), str(tmp_path / "out"), shards=2)
    assert manifest_main(["check", done.manifest, f"--output={tmp_path / 'clean.jsonl'}"]) == 0
    assert "no problems found" in capsys.readouterr().out
    cleaned = manifest.read(tmp_path / "clean.jsonl")
    assert cleaned.digest() == manifest.read(clips).digest()
    assert len(audio.read(cleaned.audio[3])[0])
    shutil.copyfile(done.manifest, tmp_path / "moved.jsonl")  # without its shards
    assert manifest_main(["check", str(tmp_path / "moved.jsonl")]) == 1
    assert "manifest-00001-of-00002.array_record; copy it there, or pack again: 5 clips" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_goes_on_from_files_to_a_bucket_with_the_same_numbers(store, clips, tmp_path, monkeypatch):
    bucket = pack(str(clips), "s3://speech/training", shards=3).manifest

    def losses(workdir: str, *stages: tuple[str, int]) -> list[float]:
        for path, steps in stages:
            flags = [flag for flag in small_flags(path) if "train.epochs" not in flag]
            ran = run_main(
                f"--workdir={tmp_path / workdir}",
                "--config=configs/base.py",
                *flags,
                f"--config.train.max_steps={steps}",
                "--config.train.epochs=9",
                "--config.optim.schedule=constant",  # else it would follow the number of steps, as a warm-up does
                "--config.optim.warmup_steps=0",
            )
            assert ran.returncode == 0, ran.stderr
        lines = map(json.loads, (tmp_path / workdir / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]

    files = losses("files", (str(clips), 9))
    assert len(files) == 9
    assert losses("bucket", (bucket, 9)) == files
    assert losses("both", (str(clips), 4), (bucket, 9)) == files
    said = run_main(
        "--mode=infer", "--config.restore=models/an4", f"--config.data.test={bucket}", "--config.infer.samples=1"
    )
    assert said.stdout.startswith("cen2-fash-b.flac\n")


def test_numbers_above_0_are_allowed_and_others_refused():
    PackOptions(shards=0, shard_mb=1e-3, threads=1)
    for values in ({"shards": -1}, {"shard_mb": 0.0}, {"threads": 0}):
        with pytest.raises(PackError, match="give numbers above 0"):
            PackOptions(**values)
