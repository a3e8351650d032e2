"""speechocean762, LJ Speech and the Free Spoken Digit Dataset from archives laid out like the published ones."""

import pytest

from input_pipeline.corpora import fsdd, ljspeech, prepare
from tests import corpus_site


def speechocean762_files(speakers: int = 12) -> dict[str, bytes | str]:
    """Lay out the archive: odd speakers are train, even ones test, two utterances each."""
    files: dict[str, bytes | str] = {"speechocean762/README.md": "readme", "speechocean762/resource/scores.json": "{}"}
    lists: dict[str, str] = {}
    for number in range(1, 2 * speakers + 1):
        split, speaker = ("test", "train")[number % 2], f"{number:04d}"
        for utterance in (f"0{speaker}0011", f"0{speaker}0012"):
            wav = f"WAVE/SPEAKER{speaker}/{utterance}.WAV"
            files[f"speechocean762/{wav}"] = corpus_site.clip(number, "WAV")
            for name, value in (("wav.scp", wav), ("text", f"WE CALL IT BEAR {speaker}"), ("utt2spk", speaker)):
                path = f"speechocean762/{split}/{name}"
                lists[path] = lists.get(path, "") + f"{utterance}\t{value}\n"
    return files | lists


def test_speechocean762_keeps_the_official_test_and_takes_dev_speakers_from_train(tmp_path, capsys):
    site = corpus_site.write_tree(tmp_path / "s", {"speechocean762.tar.gz": corpus_site.tar(speechocean762_files())})
    target = tmp_path / "speechocean762"
    with corpus_site.serve(site) as address:
        assert prepare.main(["speechocean762", f"--target_dir={target}", f"--url={address}"]) == 0
    splits = {split: corpus_site.read_manifest(target / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert {name: len(records) for name, records in splits.items()} == {"train": 22, "dev": 2, "test": 24}
    speakers = {name: {record["speaker"] for record in records} for name, records in splits.items()}
    assert not speakers["train"] & speakers["dev"]
    assert all(int(speaker) % 2 == 0 for speaker in speakers["test"])
    assert splits["test"][0]["text"] == "we call it bear 0002"
    out = capsys.readouterr().out
    assert "speechocean762.tar.gz: no digest is known, only the size is verified" in out
    assert "no digest of speechocean762.tar.gz is known; its structure is checked instead" in out
    assert "--config=configs/speechocean762.py" in out


def test_an_archive_of_something_else_is_refused_and_leaves_no_folder(tmp_path, capsys):
    site = corpus_site.write_tree(tmp_path / "s", {"speechocean762.tar.gz": corpus_site.tar({"other/file": "x"})})
    assert prepare.main(["speechocean762", f"--target_dir={tmp_path / 'x'}", f"--source={site}"]) == 1
    error = capsys.readouterr().err
    assert "is not speechocean762.tar.gz as published: no train/wav.scp in it" in error
    assert not list((tmp_path / "x").iterdir())


LJ = """LJ001-0001|Printing, 1 "sense"|Printing, in the only "sense"
LJ001-0002|modern.|in being comparatively modern.
LJ002-0001|It's Müller|It’s Müller
LJ003-0001|three|Three!
"""


def test_ljspeech_takes_the_spelled_out_text_and_splits_by_chapter(tmp_path, monkeypatch):
    names = [line.partition("|")[0] for line in LJ.splitlines()]
    files: dict[str, bytes | str] = {
        f"LJSpeech-1.1/wavs/{name}.wav": corpus_site.clip(number, "WAV", rate=22_050)
        for number, name in enumerate(names)
    }
    packed = corpus_site.tar(files | {"LJSpeech-1.1/metadata.csv": LJ, "LJSpeech-1.1/README": "LJ"}, bz2=True)
    corpus_site.publish(monkeypatch, ljspeech, packed)
    site = corpus_site.write_tree(tmp_path / "site", {"LJSpeech-1.1.tar.bz2": packed})
    target = tmp_path / "ljspeech"
    with corpus_site.serve(site) as address:
        assert prepare.main(["ljspeech", f"--target_dir={target}", f"--url={address}/LJSpeech-1.1.tar.bz2"]) == 0
    splits = {name: corpus_site.read_manifest(target / f"{name}.jsonl") for name in ("train", "dev", "test")}
    chapters = {name: {record["audio_filepath"][-14:-9] for record in records} for name, records in splits.items()}
    assert set.union(*chapters.values()) == {"LJ001", "LJ002", "LJ003"}
    assert sum(map(len, chapters.values())) == 3
    records = {record["audio_filepath"][-14:-4]: record for records in splits.values() for record in records}
    assert records["LJ001-0001"] | {"audio_filepath": ""} == {
        "audio_filepath": "",
        "duration": corpus_site.duration(0, "WAV", 22_050),
        "text": "printing in the only sense",
        "speaker": "lj",
        "sample_rate": 22_050,
    }
    assert records["LJ002-0001"]["text"] == "it's müller"


def test_a_line_of_ljspeech_with_other_columns_is_named(tmp_path, capsys):
    tree = corpus_site.write_tree(tmp_path / "t", {"metadata.csv": "LJ001-0001|a|a\nLJ001-0002|b\n", "wavs/x.wav": b""})
    assert prepare.main(["ljspeech", f"--source={tree}", f"--target_dir={tmp_path / 'x'}"]) == 1
    assert "metadata.csv:2: 2 columns where 3 are parted by '|'" in capsys.readouterr().err


def fsdd_files() -> dict[str, bytes | str]:
    """Lay out GitHub's archive: two digits, three speakers, clips 0 to 11, at 8 kHz."""
    top = "free-spoken-digit-dataset-1.0.9"
    files: dict[str, bytes | str] = {f"{top}/README.md": "fsdd", f"{top}/utils/trimmer.py": ""}
    for number in range(12):
        for speaker in ("george", "jackson", "nicolas"):
            for digit in (0, 7):
                files[f"{top}/recordings/{digit}_{speaker}_{number}.wav"] = corpus_site.clip(number, "WAV", rate=8_000)
    return files


@pytest.mark.parametrize("split", ["official", "speakers"])
def test_fsdd_splits_by_clip_or_by_speaker(tmp_path, monkeypatch, split, capsys):
    packed = corpus_site.tar(fsdd_files())
    corpus_site.publish(monkeypatch, fsdd, packed)
    site = corpus_site.write_tree(tmp_path / "site", {"v1.0.9.tar.gz": packed})
    target = tmp_path / "fsdd"
    with corpus_site.serve(site) as address:
        assert prepare.main(["fsdd", f"--target_dir={target}", f"--url={address}", f"--split={split}"]) == 0
    splits = {name: corpus_site.read_manifest(target / f"{name}.jsonl") for name in ("train", "dev", "test")}
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


def test_a_foreign_name_among_the_digits_is_refused(tmp_path, capsys):
    tree = corpus_site.write_tree(tmp_path / "t", {"recordings/10_george_0.wav": corpus_site.clip(0, "WAV")})
    assert prepare.main(["fsdd", f"--source={tree}", f"--target_dir={tmp_path / 'x'}"]) == 1
    assert "10_george_0.wav: the name is not DIGIT_SPEAKER_CLIP.wav" in capsys.readouterr().err
