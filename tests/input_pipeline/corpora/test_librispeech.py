"""LibriSpeech from archives with the published layout, over HTTP and from folders; and errors."""

import hashlib

import pytest

from input_pipeline import manifest
from input_pipeline.corpora import librispeech, prepare
from tests import corpus_archives


def part(name: str, speakers: tuple[str, ...]) -> dict[str, bytes | str]:
    """Return the files of a part: two chapters of one utterance for each speaker."""
    files: dict[str, bytes | str] = {"LibriSpeech/README.TXT": "LibriSpeech", "LibriSpeech/SPEAKERS.TXT": ";"}
    for number, speaker in enumerate(speakers):
        for chapter in ("1001", "1002"):
            folder, utterance = f"LibriSpeech/{name}/{speaker}/{chapter}", f"{speaker}-{chapter}-0000"
            files[f"{folder}/{utterance}.flac"] = corpus_archives.clip(number)
            files[f"{folder}/{speaker}-{chapter}.trans.txt"] = f"{utterance} MISTER QUILTER'S WORD {speaker}\n"
    return files


PARTS = {
    "train-clean-100": part("train-clean-100", ("19", "103")),
    "dev-clean": part("dev-clean", ("84",)),
    "test-clean": part("test-clean", ("61",)),
    "train-clean-5": part("train-clean-5", ("1088",)),
    "dev-clean-2": part("dev-clean-2", ("1272",)),
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Write the archives to a folder, and replace the published digests by theirs."""
    archives = {name: corpus_archives.tar(files) for name, files in PARTS.items()}
    corpus_archives.write_tree(tmp_path / "site", {f"{name}.tar.gz": packed for name, packed in archives.items()})
    digests = {name: (hashlib.md5(packed).hexdigest(), len(packed)) for name, packed in archives.items()}
    monkeypatch.setattr(librispeech, "MD5_AND_BYTES", digests)
    return tmp_path / "site"


def test_parts_are_downloaded_verified_unpacked_and_scanned(site, tmp_path, capsys):
    target = tmp_path / "librispeech"
    with corpus_archives.serve(site) as address:
        assert prepare.main(["librispeech", f"--target_dir={target}", f"--url={address}"]) == 0
    assert {path.name for path in target.glob("*.jsonl")} == {
        f"{name}.jsonl" for name in PARTS if name not in librispeech.MINI
    }
    first = corpus_archives.read_manifest(target / "dev-clean.jsonl")[0]
    assert first == {
        "audio_filepath": "dev-clean/LibriSpeech/dev-clean/84/1001/84-1001-0000.flac",
        "duration": corpus_archives.duration(0),
        "text": "mister quilter's word 84",
        "speaker": "84",
        "sample_rate": 16_000,
    }
    assert manifest.read(target / "train-clean-100.jsonl").duration.sum() > 4
    out = capsys.readouterr().out
    assert "dev-clean: 2 utterances, officially 2,703" in out
    assert (
        f"--config=configs/librispeech_100.py --workdir=runs/librispeech "
        f"--config.data.train={target}/train-clean-100.jsonl --config.data.dev={target}/dev-clean.jsonl "
        f"--config.data.test={target}/test-clean.jsonl"
    ) in out


def test_a_second_run_unpacks_nothing_again(site, tmp_path, capsys):
    line = ["librispeech", f"--target_dir={tmp_path / 'x'}", f"--source={site}", "--parts=dev-clean"]
    assert prepare.main(line) == 0
    audio = next((tmp_path / "x").rglob("*.flac"))
    before = audio.stat().st_mtime_ns
    assert prepare.main(line) == 0
    assert audio.stat().st_mtime_ns == before
    assert "already unpacked" in capsys.readouterr().out


def test_archives_are_removed_on_request_and_not_fetched_again(site, tmp_path):
    target = tmp_path / "x"
    line = ["librispeech", f"--target_dir={target}", "--parts=dev-clean", "--remove_archives"]
    with corpus_archives.serve(site) as address:
        assert prepare.main([*line, f"--url={address}"]) == 0
    assert sorted(path.name for path in target.iterdir()) == ["dev-clean", "dev-clean.jsonl"]
    assert prepare.main([*line, "--url=http://127.0.0.1:9"]) == 0


@pytest.mark.parametrize("below", ["", "LibriSpeech"])
def test_an_unpacked_source_is_used_in_place(tmp_path, below):
    tree = corpus_archives.write_tree(tmp_path / "tree", PARTS["test-clean"])
    line = ["librispeech", f"--source={tree / below}", f"--target_dir={tmp_path / 'x'}", "--parts=test-clean"]
    assert prepare.main(line) == 0
    record = corpus_archives.read_manifest(tmp_path / "x" / "test-clean.jsonl")[0]
    assert record["audio_filepath"] == str(tree / "LibriSpeech/test-clean/61/1001/61-1001-0000.flac")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["test-clean.jsonl"]


def test_only_test_parts_lead_to_an_evaluation(site, tmp_path, capsys):
    assert prepare.main(["librispeech", f"--source={site}", f"--target_dir={tmp_path}/x", "--parts=test-clean"]) == 0
    assert (
        f"--mode=eval --config.restore=MODEL --config.data.test={tmp_path}/x/test-clean.jsonl"
        in capsys.readouterr().out
    )


def test_mini_librispeech_is_fetched_on_request(site, tmp_path, capsys):
    assert librispeech.archive("train-clean-5").url == "https://www.openslr.org/resources/31/train-clean-5.tar.gz"
    assert librispeech.archive("dev-clean").url == "https://www.openslr.org/resources/12/dev-clean.tar.gz"
    line = ["librispeech", f"--source={site}", f"--target_dir={tmp_path}/x"]
    assert prepare.main([*line, "--parts=train-clean-5,dev-clean-2"]) == 0
    assert {path.stem for path in (tmp_path / "x").glob("*.jsonl")} == set(librispeech.MINI)
    assert (
        f"--config=configs/speechocean762.py --workdir=runs/x --config.data.train={tmp_path}/x/train-clean-5.jsonl"
        in (capsys.readouterr().out)
    )


def test_the_error_for_an_unknown_part_lists_the_known_ones(tmp_path, capsys):
    assert prepare.main(["librispeech", f"--target_dir={tmp_path}", "--parts=dev-clean,dev-clear"]) == 1
    assert (
        "--parts=dev-clean,dev-clear: dev-clear is not one of train-clean-100, train-clean" in capsys.readouterr().err
    )


@pytest.mark.parametrize("fetched", [True, False], ids=["fetched", "source"])
def test_a_wrong_digest_leaves_neither_folder_nor_manifest(site, tmp_path, capsys, monkeypatch, fetched):
    right = librispeech.MD5_AND_BYTES["dev-clean"]
    monkeypatch.setitem(librispeech.MD5_AND_BYTES, "dev-clean", ("0" * 32, right[1]))
    with corpus_archives.serve(site) as address:
        where = f"--url={address}" if fetched else f"--source={site}"
        assert prepare.main(["librispeech", f"--target_dir={tmp_path / 'x'}", "--parts=dev-clean", where]) == 1
    error = capsys.readouterr().err
    assert f"md5 {right[0]} instead of {'0' * 32}" in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "x").glob("*"))


def test_missing_contradictory_and_empty_transcripts_are_reported_and_skipped(tmp_path, capsys):
    tree = corpus_archives.write_tree(tmp_path / "tree", PARTS["train-clean-100"])
    first = tree / "LibriSpeech/train-clean-100/19/1001"
    corpus_archives.write_tree(first, {
        "19-1001-0001.flac": corpus_archives.clip(3),
        "19-1001-0002.flac": b"not FLAC",
        "19-1001-0003.flac": corpus_archives.clip(4),
        "19-1001-0004.flac": corpus_archives.clip(5),
        "19-1001.trans.txt": "19-1001-0000 ONE\n19-1001-0000 ANOTHER\n19-1001-0002 TWO\n19-1001-0003\n"
        "19-1001-0004 SAME\n19-1001-0004 SAME\n19-1001-0009 NINE\n",
    })  # fmt: skip
    line = ["librispeech", f"--source={tree}", f"--target_dir={tmp_path / 'x'}", "--parts=train-clean-100"]
    assert prepare.main(line) == 0
    out = capsys.readouterr().out
    assert "skipped 1 (several different transcripts): 19-1001-0000" in out
    assert "skipped 1 (audio file without transcript): 19-1001-0001" in out
    assert "skipped 1 (transcript without audio file): 19-1001-0009" in out
    assert "skipped 1 (empty transcript): 19-1001-0003" in out
    assert "skipped 1 (unreadable): " in out
    assert "19-1001-0002.flac is not in an audio format that libsndfile can read" in out
    assert "same" in corpus_archives.texts(tmp_path / "x" / "train-clean-100.jsonl")
    assert len(corpus_archives.texts(tmp_path / "x" / "train-clean-100.jsonl")) == 4


def test_a_part_without_usable_audio_writes_no_manifest(tmp_path, capsys):
    tree = corpus_archives.write_tree(tmp_path / "tree", {"dev-clean/1/2/1-2.trans.txt": "1-2-0000 WORD\n"})
    assert prepare.main(["librispeech", f"--source={tree}", f"--target_dir={tmp_path / 'x'}", "--parts=dev-clean"]) == 1
    assert "no recordings for" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
