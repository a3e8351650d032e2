"""Common Voice from a release laid out like the published ones, with MP3 clips."""

import pytest

from input_pipeline import audio
from input_pipeline.corpora import prepare
from tests import corpus_site

HEADER = "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\n"


def release(locale: str, sentences: dict[str, list[str]]) -> dict[str, bytes | str]:
    """Lay out a release: a speaker a split, clips with other numbers, one more clip that is in no split."""
    folder, number = f"cv-corpus-17.0-2024-03-15/{locale}", 100
    files: dict[str, bytes | str] = {f"{folder}/clips/common_voice_{locale}_99.mp3": corpus_site.clip(9, "MP3")}
    for split, texts in sentences.items():
        rows = HEADER
        for text in texts:
            clip = f"common_voice_{locale}_{number}.mp3"
            files[f"{folder}/clips/{clip}"] = corpus_site.clip(number, "MP3")
            rows += f"speaker-of-{split}\t{clip}\tab12\t{text}\t\t2\t0\ttwenties\tmale_masculine\t\t{locale}\n"
            number += 1
        files[f"{folder}/{split}.tsv"] = rows
    return files | {f"{folder}/validated.tsv": HEADER, f"{folder}/clip_durations.tsv": "clip\tduration[ms]\n"}


ENGLISH = release("en", {"train": ['"Hello," she said.', "It's Ærø — isn’t it?"], "dev": ["Yes!"], "test": ["No?"]})
MANDARIN = release("zh-CN", {"train": ["你 好，世界！"], "dev": ["是的。"], "test": ["ＡＢＣ不"]})


@pytest.mark.parametrize("packed", [True, False], ids=["archive", "unpacked"])
def test_a_release_gives_its_splits_with_mp3_as_it_is(tmp_path, packed, capsys):
    files = {"cv-corpus-17.0-2024-03-15-en.tar.gz": corpus_site.tar(ENGLISH)}
    source = corpus_site.write_tree(tmp_path / "s", files if packed else ENGLISH)
    target = tmp_path / "common_voice"
    assert prepare.main(["common_voice", f"--source={source}", f"--target_dir={target}"]) == 0
    assert corpus_site.texts(target / "train.jsonl") == ["hello she said", "it's ærø isn't it"]
    assert corpus_site.texts(target / "test.jsonl") == ["no"]
    (record,) = corpus_site.read_manifest(target / "dev.jsonl")
    assert record["speaker"] == "speaker-of-dev"
    assert record["audio_filepath"].endswith("common_voice_en_102.mp3")
    samples, rate = audio.read(target / record["audio_filepath"])
    assert len(samples) / rate == pytest.approx(record["duration"], abs=0.001)
    out = capsys.readouterr().out
    assert "no transcript" not in out  # clips in no split are as they should be
    assert "--config=configs/librispeech_100.py" in out


def test_text_can_be_left_as_it_is(tmp_path):
    source = corpus_site.write_tree(tmp_path / "s", ENGLISH)
    assert prepare.main(["common_voice", f"--source={source}", f"--target_dir={tmp_path}/x", "--text=as_is"]) == 0
    assert corpus_site.texts(tmp_path / "x" / "train.jsonl") == ['"Hello," she said.', "It's Ærø — isn’t it?"]


def test_a_locale_is_asked_for_where_there_are_several(tmp_path, capsys):
    source = corpus_site.write_tree(tmp_path / "s", {**ENGLISH, **MANDARIN})
    line = ["common_voice", f"--source={source}", f"--target_dir={tmp_path / 'x'}"]
    assert prepare.main(line) == 1
    assert "holds en, zh-CN; choose one by --locale" in capsys.readouterr().err
    assert prepare.main([*line, "--locale=zh-CN"]) == 0
    assert corpus_site.texts(tmp_path / "x" / "train.jsonl") == ["你好世界"]
    assert corpus_site.texts(tmp_path / "x" / "test.jsonl") == ["abc不"]
    assert "--config=configs/aishell.py" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--locale=zh-CN"]])
def test_the_folder_of_a_locale_is_a_source_too_and_keeps_its_language(tmp_path, options, monkeypatch, capsys):
    source = corpus_site.write_tree(tmp_path / "s", MANDARIN) / "cv-corpus-17.0-2024-03-15" / "zh-CN"
    monkeypatch.chdir(source)
    for named in (".", str(source)):
        assert prepare.main(["common_voice", f"--source={named}", f"--target_dir={tmp_path / 'x'}", *options]) == 0
        assert corpus_site.texts(tmp_path / "x" / "train.jsonl") == ["你好世界"]
        assert "--config=configs/aishell.py" in capsys.readouterr().out


def test_lines_that_are_cut_off_are_counted(tmp_path, capsys):
    source = corpus_site.write_tree(tmp_path / "s", ENGLISH)
    with open(source / "cv-corpus-17.0-2024-03-15" / "en" / "dev.tsv", "a") as table:
        table.write("speaker\tcommon_voice_en_99.mp3\n")
    assert prepare.main(["common_voice", f"--source={source}", f"--target_dir={tmp_path / 'x'}"]) == 0
    assert "skipped, as they are lines of dev.tsv that are cut off: 1: speaker" in capsys.readouterr().out


def test_a_locale_is_unpacked_beside_another_that_is_unpacked_already(tmp_path):
    source = corpus_site.write_tree(tmp_path / "s", {**ENGLISH, "zh-CN.tar.gz": corpus_site.tar(MANDARIN)})
    line = ["common_voice", f"--source={source}", f"--target_dir={tmp_path / 'x'}", "--locale=zh-CN"]
    for _ in range(2):
        assert prepare.main(line) == 0
        assert corpus_site.texts(tmp_path / "x" / "dev.jsonl") == ["是的"]


def test_a_split_without_clips_is_left_out(tmp_path, capsys):
    source = corpus_site.write_tree(tmp_path / "s", release("ab", {"train": ["Бара"], "dev": [], "test": ["Ари"]}))
    assert prepare.main(["common_voice", f"--source={source}", f"--target_dir={tmp_path / 'x'}"]) == 0
    out = capsys.readouterr().out
    assert "dev.tsv lists no clip" in out
    assert "--config.data.dev= " in out
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["test.jsonl", "train.jsonl"]


def test_a_listed_clip_that_is_missing_is_named_and_a_foreign_table_refused(tmp_path, capsys):
    source = corpus_site.write_tree(tmp_path / "s", ENGLISH)
    folder = source / "cv-corpus-17.0-2024-03-15" / "en"
    (folder / "clips" / "common_voice_en_100.mp3").unlink()
    line = ["common_voice", f"--source={source}", f"--target_dir={tmp_path / 'x'}"]
    assert prepare.main(line) == 0
    assert "have a transcript but no audio file: 1: common_voice_en_100.mp3" in capsys.readouterr().out
    (folder / "dev.tsv").write_text("path\ttext\nx\ty\n")
    assert prepare.main(line) == 1
    assert "dev.tsv: no column client_id, sentence" in capsys.readouterr().err


def test_a_source_is_needed_and_must_hold_a_release(tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepare.main(["common_voice", f"--target_dir={tmp_path / 'x'}"])
    assert prepare.main(["common_voice", f"--source={tmp_path}", f"--target_dir={tmp_path / 'x'}"]) == 1
    assert "holds neither train.tsv nor *.tar.gz" in capsys.readouterr().err
