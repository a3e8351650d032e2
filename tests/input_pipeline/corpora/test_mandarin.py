"""AISHELL-1 and THCHS-30 from archives with the published layout."""

import pytest

from input_pipeline.corpora import aishell, prepare, thchs30
from tests import corpus_archives

AISHELL = {  # utterance: split and text
    "BAC009S0002W0122": ("train", "而 对 楼市 成交 抑制 作用 最 大 的 限 购"),
    "BAC009S0002W0123": ("train", "也 成为 地方 政府 的 眼中 钉"),
    "BAC009S0724W0121": ("dev", "广州 市 房地产 中介 协会 分析"),
    "BAC009S0764W0121": ("test", "甚至 出现 交易 几乎 停滞 的 情况"),
}


@pytest.fixture
def aishell_site(tmp_path, monkeypatch):
    """Write data_aishell.tgz, which contains an archive for each speaker."""
    speakers: dict[str, dict[str, bytes | str]] = {}
    for number, (utterance, (split, _)) in enumerate(AISHELL.items()):
        speaker = utterance[6:11]
        path = f"{split}/{speaker}/{utterance}.wav"
        speakers.setdefault(speaker, {})[path] = corpus_archives.clip(number, "WAV")
    files: dict[str, bytes | str] = {
        f"data_aishell/wav/{name}.tar.gz": corpus_archives.tar(f) for name, f in speakers.items()
    }
    lines = [f"{utterance} {text}\n" for utterance, (_, text) in AISHELL.items()]
    files["data_aishell/transcript/aishell_transcript_v0.8.txt"] = "".join(lines) + "BAC009S0999W0001 没有 声音\n"
    packed = corpus_archives.tar(files)
    corpus_archives.publish(monkeypatch, aishell, packed)
    return corpus_archives.write_tree(tmp_path / "site", {"data_aishell.tgz": packed})


def test_aishell_is_unpacked_with_its_inner_archives_and_texts_lose_their_spaces(aishell_site, tmp_path, capsys):
    target = tmp_path / "aishell"
    with corpus_archives.serve(aishell_site) as address:
        assert prepare.main(["aishell", f"--target_dir={target}", f"--url={address}"]) == 0
    assert corpus_archives.texts(target / "train.jsonl") == ["而对楼市成交抑制作用最大的限购", "也成为地方政府的眼中钉"]
    assert corpus_archives.texts(target / "dev.jsonl") == ["广州市房地产中介协会分析"]
    test = corpus_archives.read_manifest(target / "test.jsonl")
    assert [record["speaker"] for record in test] == ["S0764"]
    assert "甚至" in (target / "test.jsonl").read_text(encoding="utf-8")
    assert not list(target.rglob("*.tar.gz"))
    out = capsys.readouterr().out
    assert "skipped 1 (transcript without audio file): BAC009S0999W0001" in out
    assert f"--config=configs/aishell.py --workdir=runs/aishell --config.data.train={target}/train.jsonl" in out


def test_aishell_resumes_after_the_speakers_already_unpacked(aishell_site, tmp_path):
    line = ["aishell", f"--target_dir={tmp_path / 'x'}", f"--source={aishell_site}"]
    assert prepare.main(line) == 0
    wav = tmp_path / "x" / "data_aishell" / "data_aishell" / "wav"
    done, interrupted = wav / "S0002", wav / "S0724"
    # as after a killed run: a speaker's archive still exists, and its folder is incomplete
    (wav / "S0724.tar.gz").write_bytes(
        corpus_archives.tar({"dev/S0724/BAC009S0724W0121.wav": corpus_archives.clip(2, "WAV")})
    )
    interrupted.rename(wav / "S0724.part")
    before = done.stat().st_ino
    assert prepare.main(line) == 0
    assert done.stat().st_ino == before
    assert corpus_archives.texts(tmp_path / "x" / "dev.jsonl") == ["广州市房地产中介协会分析"]
    assert sorted(path.name for path in wav.iterdir()) == ["S0002", "S0724", "S0764"]


@pytest.mark.parametrize("packed", [True, False], ids=["speakers packed", "speakers unpacked"])
def test_an_unpacked_aishell_is_used_and_not_changed(tmp_path, packed):
    lines = "".join(f"{utterance} {text}\n" for utterance, (_, text) in AISHELL.items())
    files: dict[str, bytes | str] = {"transcript/aishell_transcript_v0.8.txt": lines}
    for number, (utterance, (split, _)) in enumerate(AISHELL.items()):
        path, wav = f"{split}/{utterance[6:11]}/{utterance}.wav", corpus_archives.clip(number, "WAV")
        files |= {f"wav/{utterance}.tar.gz": corpus_archives.tar({path: wav})} if packed else {f"wav/{path}": wav}
    source = corpus_archives.write_tree(tmp_path / "data_aishell", files)
    before = sorted(source.rglob("*"))
    assert prepare.main(["aishell", f"--source={source}", f"--target_dir={tmp_path / 'x'}"]) == 0
    assert sorted(source.rglob("*")) == before
    assert len(corpus_archives.texts(tmp_path / "x" / "train.jsonl")) == 2
    assert len(list(tmp_path.glob("x/wav/**/*.wav"))) == (len(AISHELL) if packed else 0)


def test_a_damaged_inner_archive_of_aishell_is_reported_and_no_manifest_written(tmp_path, capsys):
    source = corpus_archives.write_tree(
        tmp_path / "s", {"transcript/aishell_transcript_v0.8.txt": "A 一\n", "wav/S0002.tar.gz": b"half an archive"}
    )
    assert prepare.main(["aishell", f"--source={source}", f"--target_dir={tmp_path / 'x'}"]) == 1
    assert "S0002.tar.gz is neither a tar nor a zip archive" in capsys.readouterr().err
    assert not list(tmp_path.glob("x/*.jsonl"))


THCHS30 = {
    "A11_0": ("train", "绿 是 阳春 烟 景"),
    "A8_1": ("dev", "他 仅 凭 腰部 的 力量"),
    "D4_750": ("test", "东北军 的 一些 爱"),
}


def thchs30_files(stub: str) -> dict[str, bytes | str]:
    """Return the archive's files; stub: content of the transcripts in a split's folder, a path instead of text."""
    files: dict[str, bytes | str] = {"data_thchs30/README.TXT": "THCHS-30", "data_thchs30/lm_word/lexicon.txt": "x"}
    for number, (name, (split, text)) in enumerate(THCHS30.items()):
        files[f"data_thchs30/data/{name}.wav"] = corpus_archives.clip(number, "WAV")
        files[f"data_thchs30/data/{name}.wav.trn"] = f"{text}\nlv4 shi4 yang2\nl v4 sh ix4\n"
        files[f"data_thchs30/{split}/{name}.wav"] = corpus_archives.clip(number, "WAV")
        files[f"data_thchs30/{split}/{name}.wav.trn"] = stub.format(name)
    return files


def test_thchs30_uses_characters_without_spaces_and_the_official_splits(tmp_path, monkeypatch, capsys):
    packed = corpus_archives.tar(thchs30_files("../data/{}.wav.trn"))
    corpus_archives.publish(monkeypatch, thchs30, packed)
    site = corpus_archives.write_tree(tmp_path / "site", {"data_thchs30.tgz": packed})
    target = tmp_path / "thchs30"
    with corpus_archives.serve(site) as address:
        assert prepare.main(["thchs30", f"--target_dir={target}", f"--url={address}/data_thchs30.tgz"]) == 0
    assert corpus_archives.texts(target / "train.jsonl") == ["绿是阳春烟景"]
    assert corpus_archives.texts(target / "dev.jsonl") == ["他仅凭腰部的力量"]
    (record,) = corpus_archives.read_manifest(target / "test.jsonl")
    assert record["speaker"] == "D4"
    assert record["audio_filepath"] == "data_thchs30/data_thchs30/data/D4_750.wav"
    assert "test: 1 utterances, officially 2,495" in capsys.readouterr().out


def test_thchs30_reports_a_split_entry_without_transcript(tmp_path, capsys):
    files = thchs30_files("")
    del files["data_thchs30/data/A11_0.wav.trn"]
    files |= {"data_thchs30/train/A11_9.wav": b"", "data_thchs30/data/A11_9.wav": corpus_archives.clip(7, "WAV")}
    files["data_thchs30/data/A11_9.wav.trn"] = "九\n"
    tree = corpus_archives.write_tree(tmp_path / "tree", files)
    assert prepare.main(["thchs30", f"--source={tree}", f"--target_dir={tmp_path / 'x'}"]) == 0
    assert "skipped 1 (empty transcript): A11_0" in capsys.readouterr().out
    assert corpus_archives.texts(tmp_path / "x" / "train.jsonl") == ["九"]
