"""Common steps of corpora: bad archives, full disks, splits by group, sources and scans."""

import io
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from input_pipeline import manifest
from input_pipeline.corpora import fsdd, prepare
from input_pipeline.corpora.assemble import CorpusError, Preparation, Recording, find_root, list_files
from input_pipeline.corpora.groups import split_by_group
from tests import corpus_archives
from tests.conftest import CLIPS
from tests.corpus_archives import clip, write_tree
from tests.runs import OWN_MOUNTS, ROOT

NOBODY = 65534  # user id of nobody


def recordings(speakers: int, each: int = 10) -> list[Recording]:
    return [Recording(f"{s}-{n}.wav", "text", f"speaker {s}") for s in range(speakers) for n in range(each)]


def split_speakers(speakers: int, shares: dict[str, float], each: int = 10) -> dict[str, set[str]]:
    divided = split_by_group(recordings(speakers, each), shares, lambda one: one.speaker)
    return {split: {one.speaker for one in members} for split, members in divided.items()}


def test_splits_approximate_their_shares_and_have_no_common_group():
    splits = split_speakers(100, {"dev": 0.1, "test": 0.2})
    assert [len(names) for names in splits.values()] == [70, 10, 20]
    assert len(set.union(*splits.values())) == 100


def test_splits_do_not_depend_on_the_order_of_recordings():
    forward = split_by_group(recordings(9), {"dev": 0.2}, lambda one: one.speaker)
    backward = split_by_group(recordings(9)[::-1], {"dev": 0.2}, lambda one: one.speaker)
    assert {split: sorted(members) for split, members in forward.items()} == {
        split: sorted(members) for split, members in backward.items()
    }


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_every_split_has_a_group_even_if_shares_are_small_or_large(share):
    splits = split_speakers(3, {"dev": share, "test": 0.05})
    assert [len(names) for names in splits.values()] == [1, 1, 1]


def test_a_speaker_of_most_recordings_stays_in_train():
    many = recordings(5, 2) + [Recording(f"m{n}.wav", "text", "main") for n in range(90)]
    divided = split_by_group(many, {"dev": 0.02, "test": 0.04}, lambda one: one.speaker)
    assert {split: len(members) for split, members in divided.items()} == {"train": 94, "dev": 2, "test": 4}


def test_too_few_groups_are_refused():
    with pytest.raises(CorpusError, match="2 speakers or files are too few for train, dev, test"):
        split_speakers(2, {"dev": 0.1, "test": 0.1})


def test_records_keep_their_order_for_any_number_of_threads(tmp_path):
    tree = write_tree(tmp_path, {f"{n:03d}.flac": clip(n) for n in range(150)})
    files = [Recording(path, path) for path in list_files(tree, ".flac")]
    records = Preparation(tmp_path, workers=8).scan(files, "test")
    assert [record["audio_filepath"] for record in records] == [f"{n:03d}.flac" for n in range(150)]
    assert records == Preparation(tmp_path, workers=1).scan(files, "test")


def test_a_file_name_that_is_not_utf8_is_reported_and_skipped(tmp_path, capsys):
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9.flac"))
    shutil.copy(CLIPS / corpus_archives.CLIP_NAMES[0], path)
    good = write_tree(tmp_path, {"a.flac": clip(0)}) / "a.flac"
    written = Preparation(tmp_path).write({"train": [Recording(path), Recording(good)]})
    assert len(written["train"]) == 1
    assert "caf\\udce9.flac' (the name is not UTF-8: rename it)" in capsys.readouterr().out
    assert len(manifest.read(tmp_path / "train.jsonl")) == 1


def test_the_nearest_folder_with_the_marker_is_found_within_the_depth_limit(tmp_path):
    for folder in ("b/etc", "a/c/etc", "d/e/f/etc"):
        (tmp_path / folder).mkdir(parents=True)
    assert find_root(tmp_path, "etc") == tmp_path / "b"
    assert find_root(tmp_path / "a", "etc") == tmp_path / "a" / "c"
    assert find_root(tmp_path / "d", "etc") == tmp_path / "d" / "e" / "f"
    assert find_root(tmp_path / "d" / "e" / "f", "nothing") is None


def test_hidden_files_are_ignored(tmp_path):
    write_tree(tmp_path, {"a.wav": "", "._a.wav": "", "B.WAV": "", "c.txt": "", ".Trash-1000/files/d.wav": ""})
    assert [os.path.basename(path) for path in list_files(tmp_path, ".wav")] == ["B.WAV", "a.wav"]
    assert list_files(tmp_path / "nowhere", ".wav") == []


def test_an_unreadable_folder_is_reported(tmp_path, monkeypatch):
    write_tree(tmp_path, {"a/a.wav": "", "b/c/b.wav": ""})
    tmp_path.chmod(0o755)
    (tmp_path / "b" / "c").chmod(0)
    monkeypatch.chdir(tmp_path)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(NOBODY)  # root can read everything
        with pytest.raises(CorpusError, match=r"b/c: cannot be read \(Permission denied\): make it readable, or move"):
            list_files(Path(), ".wav")
    finally:
        os.seteuid(user)


FSDD = {
    f"free-spoken-digit-dataset-1.0.9/recordings/{digit}_{speaker}_{number}.wav": clip(number, "WAV")
    for digit in (0, 1)
    for speaker in ("anna", "ben")
    for number in (0, 5, 10)
}


def test_archives_with_paths_outside_the_folder_or_links_are_refused(tmp_path, monkeypatch, capsys):
    for number, (name, link) in enumerate([("../evil.wav", ""), ("recordings/1_a_0.wav", "/etc/passwd")]):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            good = tarfile.TarInfo("recordings/0_a_0.wav")
            archive.addfile(good, io.BytesIO())
            bad = tarfile.TarInfo(name)
            bad.type, bad.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
            archive.addfile(bad, io.BytesIO())
        corpus_archives.publish(monkeypatch, fsdd, packed.getvalue())
        source = write_tree(tmp_path / f"s{number}", {"v1.0.9.tar.gz": packed.getvalue()})
        target = tmp_path / f"x{number}"
        assert prepare.main(["fsdd", f"--source={source}", f"--target_dir={target}"]) == 1
        assert f"refused to unpack '{name}'" in capsys.readouterr().err
        assert not list(target.iterdir())
    assert not (tmp_path / "evil.wav").exists()


def test_a_truncated_download_is_reported_and_a_second_run_succeeds(tmp_path, monkeypatch, capsys):
    packed = corpus_archives.tar(FSDD)
    corpus_archives.publish(monkeypatch, fsdd, packed)
    site = write_tree(tmp_path / "site", {"v1.0.9.tar.gz": packed[:-1000]})
    target = tmp_path / "x"
    with corpus_archives.serve(site) as address:
        line = ["fsdd", f"--target_dir={target}", f"--url={address}"]
        assert prepare.main(line) == 1
        assert f"offers {len(packed) - 1000:,} bytes, {len(packed):,} were published" in capsys.readouterr().err
        assert not list(target.glob("*"))
        (site / "v1.0.9.tar.gz").write_bytes(packed)
        assert prepare.main(line) == 0


def test_a_damaged_fetched_archive_is_removed_and_reported(tmp_path, monkeypatch, capsys):
    packed = corpus_archives.tar(FSDD)[:-1000]
    corpus_archives.publish(monkeypatch, fsdd, packed)
    site = write_tree(tmp_path / "site", {"v1.0.9.tar.gz": packed})
    with corpus_archives.serve(site) as address:
        assert prepare.main(["fsdd", f"--target_dir={tmp_path / 'x'}", f"--url={address}"]) == 1
    assert re.search(
        r"v1.0.9.tar.gz is damaged \(.*\) and was removed: run the same command again\n", capsys.readouterr().err
    )
    assert not list((tmp_path / "x").iterdir())


def test_archives_can_be_removed_in_a_later_run(tmp_path, monkeypatch, capsys):
    packed = corpus_archives.tar(FSDD)
    corpus_archives.publish(monkeypatch, fsdd, packed)
    site = write_tree(tmp_path / "site", {"v1.0.9.tar.gz": packed})
    with corpus_archives.serve(site) as address:
        line = ["fsdd", f"--target_dir={tmp_path / 'x'}", f"--url={address}"]
        for options, left in (([], True), (["--remove_archives"], False), (["--remove_archives"], False)):
            assert prepare.main([*line, *options]) == 0
            assert (tmp_path / "x" / "v1.0.9.tar.gz").exists() == left
    assert capsys.readouterr().out.count("v1.0.9.tar.gz: unpacked and removed") == 1


LIMITED_RUN = """
import pathlib, sys, pytest
from input_pipeline import prepare
from input_pipeline.corpora import fsdd
from tests import corpus_archives

source, target = map(pathlib.Path, sys.argv[1:])
corpus_archives.publish(pytest.MonkeyPatch(), fsdd, (source / "v1.0.9.tar.gz").read_bytes())
code = prepare.main(["fsdd", f"--source={source}", f"--target_dir={target}"])
print("left:", sorted(target.rglob("*")))
sys.exit(code)
"""


def run_limited(
    tmp_path: Path, *wrapper: str, largest_file: int = resource.RLIM_INFINITY
) -> subprocess.CompletedProcess:
    """Prepare FSDD in tmp_path/disk/fsdd in a separate process."""
    source = write_tree(tmp_path / "source", {"v1.0.9.tar.gz": corpus_archives.tar(FSDD)})
    (tmp_path / "disk").mkdir()
    command = [*wrapper, sys.executable, "-c", LIMITED_RUN, str(source), str(tmp_path / "disk" / "fsdd")]
    limits = (largest_file, largest_file)
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )


FULL_RUN = """
import sys
from input_pipeline import audio, manifest
from input_pipeline.audio.front_end import FeatureStats
import numpy as np, pathlib
target = pathlib.Path(sys.argv[1])
record = {"audio_filepath": "a.wav", "duration": 1.0, "text": "x" * 20_000}
writes = {
    "m.jsonl": lambda path: manifest.write(path, [record] * 20),
    "a.flac": lambda path: audio.write_flac(path, np.random.default_rng(0).normal(0, 0.1, 300_000), 16_000),
    "a.npz": FeatureStats(np.ones(50_000, np.float32), np.ones(50_000, np.float32)).save,
}
for name, write in writes.items():
    try:
        write(target / name)
    except OSError as error:
        print(error)
print("left:", list(target.iterdir()))
"""


@pytest.mark.skipif(not OWN_MOUNTS, reason="needs unshare with private mounts")
def test_errors_about_a_full_disk_name_the_file(tmp_path):
    mount = 'mount -t tmpfs -o size=100k none "$0" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, str(tmp_path), sys.executable, "-c", FULL_RUN, str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    names = ("m.jsonl", "a.flac", "a.npz")
    expected = [f"[Errno 28] No space left on device: '{tmp_path / name}'" for name in names]
    assert run.stdout.splitlines() == [*expected, "left: []"]


@pytest.mark.skipif(not OWN_MOUNTS, reason="needs unshare with private mounts")
@pytest.mark.parametrize(
    ("size_kb", "message"),
    [
        (200, "disk/fsdd has 200,704 free; free some space, or choose another folder"),  # smaller than the archive
        (560, "v1.0.9: the disk is full; free some space and run the same command again"),
    ],
)
def test_a_disk_that_fills_while_unpacking_leaves_no_files(tmp_path, size_kb, message):
    mount = f'mount -t tmpfs -o size={size_kb}k none {tmp_path / "disk"} && exec "$@"'
    run = run_limited(tmp_path, "unshare", "-rm", "sh", "-c", mount, "sh")
    assert run.returncode == 1
    assert message in run.stderr
    assert run.stderr.count("\n") == 1
    assert run.stdout.splitlines()[-1] == "left: []"


def test_a_file_that_cannot_be_written_leaves_no_files(tmp_path):
    run = run_limited(tmp_path, largest_file=30_000)
    assert run.returncode == 1
    assert "v1.0.9: cannot be written (File too large)" in run.stderr
    assert run.stdout.splitlines()[-1] == "left: []"


def test_an_interrupted_scan_ends_immediately_and_writes_no_manifest(tmp_path, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("input_pipeline.corpora.assemble.audio.info", interrupted)
    source = write_tree(tmp_path / "s", FSDD)
    assert prepare.main(["fsdd", f"--source={source}", f"--target_dir={tmp_path / 'x'}"]) == 130
    assert "interrupted; run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_every_corpus_has_help_with_its_licence_and_options(capsys):
    for corpus in prepare.CORPORA:
        with pytest.raises(SystemExit) as ended:
            prepare.main([corpus, "--help"])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert "--target_dir" in text or "--output" in text  # tfds writes shards


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--workers=0"], "--workers=0: use 1 or more"), (["--source=/nowhere"], "/nowhere: no such folder")],
)
def test_common_options_are_checked(tmp_path, capsys, options, message):
    assert prepare.main(["musan", f"--target_dir={tmp_path / 'x'}", *options]) == 1
    assert message in capsys.readouterr().err
