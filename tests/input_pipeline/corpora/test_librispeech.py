"""LibriSpeech from archives laid out like the published ones, over HTTP and from folders; and what can go wrong."""

import hashlib

import pytest

from input_pipeline import manifest
from input_pipeline.corpora import librispeech, prepare
from tests import corpus_site


def part(name: str, speakers: tuple[str, ...]) -> dict[str, bytes | str]:
    """Lay out a part: two chapters of one utterance for each speaker."""
    files: dict[str, bytes | str] = {"LibriSpeech/README.TXT": "LibriSpeech", "LibriSpeech/SPEAKERS.TXT": ";"}
    for number, speaker in enumerate(speakers):
        for chapter in ("1001", "1002"):
            folder, utterance = f"LibriSpeech/{name}/{speaker}/{chapter}", f"{speaker}-{chapter}-0000"
            files[f"{folder}/{utterance}.flac"] = corpus_site.clip(number)
            files[f"{folder}/{speaker}-{chapter}.trans.txt"] = f"{utterance} MISTER QUILTER'S WORD {speaker}\n"
    return files


PARTS = {
    "train-clean-100": part("train-clean-100", ("19", "103")),
    "dev-clean": part("dev-clean", ("84",)),
    "test-clean": part("test-clean", ("61",)),
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Write the archives to a folder, and take their digests for the published ones."""
    archives = {name: corpus_site.tar(files) for name, files in PARTS.items()}
    corpus_site.write_tree(tmp_path / "site", {f"{name}.tar.gz": packed for name, packed in archives.items()})
    digests = {name: (hashlib.md5(packed).hexdigest(), len(packed)) for name, packed in archives.items()}
    monkeypatch.setattr(librispeech, "MD5_AND_BYTES", digests)
    return tmp_path / "site"


def test_parts_are_downloaded_verified_unpacked_and_scanned(site, tmp_path, capsys):
    target = tmp_path / "librispeech"
    with corpus_site.serve(site) as address:
        assert prepare.main(["librispeech", f"--target_dir={target}", f"--url={address}"]) == 0
    assert {path.name for path in target.glob("*.jsonl")} == {f"{name}.jsonl" for name in PARTS}
    first = corpus_site.read_manifest(target / "dev-clean.jsonl")[0]
    assert first == {
        "audio_filepath": "dev-clean/LibriSpeech/dev-clean/84/1001/84-1001-0000.flac",
        "duration": corpus_site.duration(0),
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
    assert "unpacked already" in capsys.readouterr().out


def test_archives_are_removed_on_request_and_not_fetched_again(site, tmp_path):
    target = tmp_path / "x"
    line = ["librispeech", f"--target_dir={target}", "--parts=dev-clean", "--remove_archives"]
    with corpus_site.serve(site) as address:
        assert prepare.main([*line, f"--url={address}"]) == 0
    assert sorted(path.name for path in target.iterdir()) == ["dev-clean", "dev-clean.jsonl"]
    assert prepare.main([*line, "--url=http://127.0.0.1:9"]) == 0


@pytest.mark.parametrize("below", ["", "LibriSpeech"])
def test_an_unpacked_source_is_used_where_it_is(tmp_path, below):
    tree = corpus_site.write_tree(tmp_path / "tree", PARTS["test-clean"])
    line = ["librispeech", f"--source={tree / below}", f"--target_dir={tmp_path / 'x'}", "--parts=test-clean"]
    assert prepare.main(line) == 0
    record = corpus_site.read_manifest(tmp_path / "x" / "test-clean.jsonl")[0]
    assert record["audio_filepath"] == str(tree / "LibriSpeech/test-clean/61/1001/61-1001-0000.flac")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["test-clean.jsonl"]


def test_only_test_parts_lead_to_an_evaluation(site, tmp_path, capsys):
    assert prepare.main(["librispeech", f"--source={site}", f"--target_dir={tmp_path}/x", "--parts=test-clean"]) == 0
    assert (
        f"--mode=eval --config.restore=MODEL --config.data.test={tmp_path}/x/test-clean.jsonl"
        in capsys.readouterr().out
    )


def test_an_unknown_part_is_refused_with_the_known_ones(tmp_path, capsys):
    assert prepare.main(["librispeech", f"--target_dir={tmp_path}", "--parts=dev-clean,dev-clear"]) == 1
    assert (
        "--parts=dev-clean,dev-clear: dev-clear is not one of train-clean-100, train-clean" in capsys.readouterr().err
    )


@pytest.mark.parametrize("fetched", [True, False], ids=["fetched", "source"])
def test_a_wrong_digest_leaves_neither_folder_nor_manifest(site, tmp_path, capsys, monkeypatch, fetched):
    right = librispeech.MD5_AND_BYTES["dev-clean"]
    monkeypatch.setitem(librispeech.MD5_AND_BYTES, "dev-clean", ("0" * 32, right[1]))
    with corpus_site.serve(site) as address:
        where = f"--url={address}" if fetched else f"--source={site}"
        assert prepare.main(["librispeech", f"--target_dir={tmp_path / 'x'}", "--parts=dev-clean", where]) == 1
    error = capsys.readouterr().err
    assert f"md5 {right[0]} instead of {'0' * 32}" in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "x").glob("*"))


def test_missing_doubled_and_empty_transcripts_are_named_and_skipped(tmp_path, capsys):
    tree = corpus_site.write_tree(tmp_path / "tree", PARTS["train-clean-100"])
    first = tree / "LibriSpeech/train-clean-100/19/1001"
    corpus_site.write_tree(first, {
        "19-1001-0001.flac": corpus_site.clip(3),
        "19-1001-0002.flac": b"not FLAC",
        "19-1001-0003.flac": corpus_site.clip(4),
        "19-1001-0004.flac": corpus_site.clip(5),
        "19-1001.trans.txt": "19-1001-0000 ONE\n19-1001-0000 ANOTHER\n19-1001-0002 TWO\n19-1001-0003\n"
        "19-1001-0004 SAME\n19-1001-0004 SAME\n19-1001-0009 NINE\n",
    })  # fmt: skip
    line = ["librispeech", f"--source={tree}", f"--target_dir={tmp_path / 'x'}", "--parts=train-clean-100"]
    assert prepare.main(line) == 0
    out = capsys.readouterr().out
    assert "have several transcripts that differ: 1: 19-1001-0000" in out
    assert "have an audio file but no transcript: 1: 19-1001-0001" in out
    assert "have a transcript but no audio file: 1: 19-1001-0009" in out
    assert "have an empty transcript: 1: 19-1001-0003" in out
    assert "cannot be read: 1: " in out
    assert "19-1001-0002.flac is not in an audio format that libsndfile can read" in out
    assert "same" in corpus_site.texts(tmp_path / "x" / "train-clean-100.jsonl")
    assert len(corpus_site.texts(tmp_path / "x" / "train-clean-100.jsonl")) == 4


def test_a_part_without_any_usable_audio_writes_no_manifest(tmp_path, capsys):
    tree = corpus_site.write_tree(tmp_path / "tree", {"dev-clean/1/2/1-2.trans.txt": "1-2-0000 WORD\n"})
    assert prepare.main(["librispeech", f"--source={tree}", f"--target_dir={tmp_path / 'x'}", "--parts=dev-clean"]) == 1
    assert "nothing is left for" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
