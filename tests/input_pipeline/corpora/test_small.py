"""speechocean762, LJ Speech and the Free Spoken Digit Dataset from archives with the published layout."""

import pytest

from input_pipeline.corpora import fsdd, ljspeech, prepare
from tests import corpus_archives


def speechocean762_files(speakers: int = 12) -> dict[str, bytes | str]:
    """Return the archive's files: odd speakers are train, even ones test, with two utterances each."""
    files: dict[str, bytes | str] = {"speechocean762/README.md": "readme", "speechocean762/resource/scores.json": "{}"}
    lists: dict[str, str] = {}
    for number in range(1, 2 * speakers + 1):
        split, speaker = ("test", "train")[number % 2], f"{number:04d}"
        for utterance in (f"0{speaker}0011", f"0{speaker}0012"):
            wav = f"WAVE/SPEAKER{speaker}/{utterance}.WAV"
            files[f"speechocean762/{wav}"] = corpus_archives.clip(number, "WAV")
            for name, value in (("wav.scp", wav), ("text", f"WE CALL IT BEAR {speaker}"), ("utt2spk", speaker)):
                path = f"speechocean762/{split}/{name}"
                lists[path] = lists.get(path, "") + f"{utterance}\t{value}\n"
    return files | lists


def test_speechocean762_keeps_the_official_test_set_and_takes_dev_speakers_from_train(tmp_path, capsys):
    site = corpus_archives.write_tree(
        tmp_path / "s", {"speechocean762.tar.gz": corpus_archives.tar(speechocean762_files())}
    )
    target = tmp_path / "speechocean762"
    with corpus_archives.serve(site) as address:
        assert prepare.main(["speechocean762", f"--target_dir={target}", f"--url={address}"]) == 0
    splits = {split: corpus_archives.read_manifest(target / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert {name: len(records) for name, records in splits.items()} == {"train": 22, "dev": 2, "test": 24}
    speakers = {name: {record["speaker"] for record in records} for name, records in splits.items()}
    assert not speakers["train"] & speakers["dev"]
    assert all(int(speaker) % 2 == 0 for speaker in speakers["test"])
    assert splits["test"][0]["text"] == "we call it bear 0002"
    out = capsys.readouterr().out
    assert "speechocean762.tar.gz: no digest is known, only the size is verified" in out
    assert "no digest of speechocean762.tar.gz is known; its structure is checked instead" in out
    assert "--config=configs/speechocean762.py" in out


def test_an_archive_with_other_content_is_refused_and_leaves_no_folder(tmp_path, capsys):
    site = corpus_archives.write_tree(
        tmp_path / "s", {"speechocean762.tar.gz": corpus_archives.tar({"other/file": "x"})}
    )
    assert prepare.main(["speechocean762", f"--target_dir={tmp_path / 'x'}", f"--source={site}"]) == 1
    error = capsys.readouterr().err
    assert "is not speechocean762.tar.gz as published: it has no train/wav.scp: check the address" in error
    assert not (tmp_path / "x").exists()


LJ = """LJ001-0001|Printing, 1 "sense"|Printing, in the only "sense"
LJ001-0002|modern.|in being comparatively modern.
LJ002-0001|It's Müller|It’s Müller
LJ003-0001|three|Three!
"""


def test_ljspeech_uses_the_spelled_out_text_and_splits_by_chapter(tmp_path, monkeypatch):
    names = [line.partition("|")[0] for line in LJ.splitlines()]
    files: dict[str, bytes | str] = {
        f"LJSpeech-1.1/wavs/{name}.wav": corpus_archives.clip(number, "WAV", rate=22_050)
        for number, name in enumerate(names)
    }
    packed = corpus_archives.tar(files | {"LJSpeech-1.1/metadata.csv": LJ, "LJSpeech-1.1/README": "LJ"}, bz2=True)
    corpus_archives.publish(monkeypatch, ljspeech, packed)
    site = corpus_archives.write_tree(tmp_path / "site", {"LJSpeech-1.1.tar.bz2": packed})
    target = tmp_path / "ljspeech"
    with corpus_archives.serve(site) as address:
        assert prepare.main(["ljspeech", f"--target_dir={target}", f"--url={address}/LJSpeech-1.1.tar.bz2"]) == 0
    splits = {name: corpus_archives.read_manifest(target / f"{name}.jsonl") for name in ("train", "dev", "test")}
    chapters = {name: {record["audio_filepath"][-14:-9] for record in records} for name, records in splits.items()}
    assert set.union(*chapters.values()) == {"LJ001", "LJ002", "LJ003"}
    assert sum(map(len, chapters.values())) == 3
    records = {record["audio_filepath"][-14:-4]: record for records in splits.values() for record in records}
    assert records["LJ001-0001"] | {"audio_filepath": ""} == {
        "audio_filepath": "",
        "duration": corpus_archives.duration(0, "WAV", 22_050),
        "text": "printing in the only sense",
        "speaker": "lj",
        "sample_rate": 22_050,
    }
    assert records["LJ002-0001"]["text"] == "it's müller"


def test_a_line_of_ljspeech_with_too_few_columns_is_reported(tmp_path, capsys):
    tree = corpus_archives.write_tree(
        tmp_path / "t", {"metadata.csv": "LJ001-0001|a|a\nLJ001-0002|b\n", "wavs/x.wav": b""}
    )
    assert prepare.main(["ljspeech", f"--source={tree}", f"--target_dir={tmp_path / 'x'}"]) == 1
    assert "metadata.csv:2: 2 columns instead of 3 separated by '|'" in capsys.readouterr().err


def fsdd_files() -> dict[str, bytes | str]:
    """Return the files of GitHub's archive: two digits, three speakers, clips 0 to 11, at 8 kHz."""
    top = "free-spoken-digit-dataset-1.0.9"
    files: dict[str, bytes | str] = {f"{top}/README.md": "fsdd", f"{top}/utils/trimmer.py": ""}
    for number in range(12):
        for speaker in ("george", "jackson", "nicolas"):
            for digit in (0, 7):
                files[f"{top}/recordings/{digit}_{speaker}_{number}.wav"] = corpus_archives.clip(
                    number, "WAV", rate=8_000
                )
    return files


@pytest.mark.parametrize("split", ["official", "speakers"])
def test_fsdd_splits_by_clip_or_by_speaker(tmp_path, monkeypatch, split, capsys):
    packed = corpus_archives.tar(fsdd_files())
    corpus_archives.publish(monkeypatch, fsdd, packed)
    site = corpus_archives.write_tree(tmp_path / "site", {"v1.0.9.tar.gz": packed})
    target = tmp_path / "fsdd"
    with corpus_archives.serve(site) as address:
        assert prepare.main(["fsdd", f"--target_dir={target}", f"--url={address}", f"--split={split}"]) == 0
    splits = {name: corpus_archives.read_manifest(target / f"{name}.jsonl") for name in ("train", "dev", "test")}
    assert {record["sample_rate"] for records in splits.values() for record in records} == {8_000}
    assert {record["text"] for record in splits["test"]} == {"zero", "seven"}
    clips = {
        name: {int(r["audio_filepath"][:-4].rpartition("_")[2]) for r in records} for name, records in splits.items()
    }
    speakers = {name: {record["speaker"] for record in records} for name, records in splits.items()}
    if split == "official":
        assert clips == {"train": {10, 11}, "dev": set(range(5, 10)), "test": set(range(5))}
        assert speakers["train"] == speakers["dev"] == speakers["test"] == {"george", "jackson", "nicolas"}
    else:
        assert [len(names) for names in speakers.values()] == [1, 1, 1]
        assert len(set.union(*speakers.values())) == 3
    assert "all: 72 utterances, officially 2,500" in capsys.readouterr().out


def test_an_unexpected_file_name_among_the_digits_is_refused(tmp_path, capsys):
    tree = corpus_archives.write_tree(tmp_path / "t", {"recordings/10_george_0.wav": corpus_archives.clip(0, "WAV")})
    assert prepare.main(["fsdd", f"--source={tree}", f"--target_dir={tmp_path / 'x'}"]) == 1
    assert "10_george_0.wav: the name is not DIGIT_SPEAKER_CLIP.wav" in capsys.readouterr().err
