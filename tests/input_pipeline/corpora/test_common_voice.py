"""Common Voice from a release with the published layout, with MP3 clips."""

import pytest

from input_pipeline import audio
from input_pipeline.corpora import prepare
from tests import corpus_archives

HEADER = "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\n"


def release(locale: str, sentences: dict[str, list[str]]) -> dict[str, bytes | str]:
    """Return the files of a release: a speaker for each split, and one clip that is in no split."""
    folder, number = f"cv-corpus-17.0-2024-03-15/{locale}", 100
    files: dict[str, bytes | str] = {f"{folder}/clips/common_voice_{locale}_99.mp3": corpus_archives.clip(9, "MP3")}
    for split, texts in sentences.items():
        rows = HEADER
        for text in texts:
            clip = f"common_voice_{locale}_{number}.mp3"
            files[f"{folder}/clips/{clip}"] = corpus_archives.clip(number, "MP3")
            rows += f"speaker-of-{split}\t{clip}\tab12\t{text}\t\t2\t0\ttwenties\tmale_masculine\t\t{locale}\n"
            number += 1
        files[f"{folder}/{split}.tsv"] = rows
    return files | {f"{folder}/validated.tsv": HEADER, f"{folder}/clip_durations.tsv": "clip\tduration[ms]\n"}


ENGLISH = release("en", {"train": ['"Hello," she said.', "It's Ærø — isn’t it?"], "dev": ["Yes!"], "test": ["No?"]})
MANDARIN = release("zh-CN", {"train": ["你 好，世界！"], "dev": ["是的。"], "test": ["ＡＢＣ不"]})


@pytest.mark.parametrize("packed", [True, False], ids=["archive", "unpacked"])
def test_a_release_gives_its_splits_with_unchanged_mp3_files(tmp_path, packed, capsys):
    files = {"cv-corpus-17.0-2024-03-15-en.tar.gz": corpus_archives.tar(ENGLISH)}
    source = corpus_archives.write_tree(tmp_path / "s", files if packed else ENGLISH)
    target = tmp_path / "common_voice"
    assert prepare.main(["common_voice", f"--source={source}", f"--target_dir={target}"]) == 0
    assert corpus_archives.texts(target / "train.jsonl") == ["hello she said", "it's ærø isn't it"]
    assert corpus_archives.texts(target / "test.jsonl") == ["no"]
    (record,) = corpus_archives.read_manifest(target / "dev.jsonl")
    assert record["speaker"] == "speaker-of-dev"
    assert record["audio_filepath"].endswith("common_voice_en_102.mp3")
    samples, rate = audio.read(target / record["audio_filepath"])
    assert len(samples) / rate == pytest.approx(record["duration"], abs=0.001)
    out = capsys.readouterr().out
    assert "without transcript" not in out  # clips in no split are not an error
    assert "--config=configs/librispeech_100.py" in out


def test_texts_can_be_kept_unchanged(tmp_path):
    source = corpus_archives.write_tree(tmp_path / "s", ENGLISH)
    assert prepare.main(["common_voice", f"--source={source}", f"--target_dir={tmp_path}/x", "--text=as_is"]) == 0
    assert corpus_archives.texts(tmp_path / "x" / "train.jsonl") == ['"Hello," she said.', "It's Ærø — isn’t it?"]


def test_several_locales_require_a_choice(tmp_path, capsys):
    source = corpus_archives.write_tree(tmp_path / "s", {**ENGLISH, **MANDARIN})
    line = ["common_voice", f"--source={source}", f"--target_dir={tmp_path / 'x'}"]
    assert prepare.main(line) == 1
    assert "contains en, zh-CN: choose one with --locale" in capsys.readouterr().err
    assert prepare.main([*line, "--locale=zh-CN"]) == 0
    assert corpus_archives.texts(tmp_path / "x" / "train.jsonl") == ["你好世界"]
    assert corpus_archives.texts(tmp_path / "x" / "test.jsonl") == ["abc不"]
    assert "--config=configs/aishell.py" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--locale=zh-CN"]])
def test_the_source_may_be_the_folder_of_a_locale(tmp_path, options, monkeypatch, capsys):
    source = corpus_archives.write_tree(tmp_path / "s", MANDARIN) / "cv-corpus-17.0-2024-03-15" / "zh-CN"
    monkeypatch.chdir(source)
    for path in (".", str(source)):
        assert prepare.main(["common_voice", f"--source={path}", f"--target_dir={tmp_path / 'x'}", *options]) == 0
        assert corpus_archives.texts(tmp_path / "x" / "train.jsonl") == ["你好世界"]
        assert "--config=configs/aishell.py" in capsys.readouterr().out


def test_truncated_lines_are_reported(tmp_path, capsys):
    source = corpus_archives.write_tree(tmp_path / "s", ENGLISH)
    with open(source / "cv-corpus-17.0-2024-03-15" / "en" / "dev.tsv", "a") as table:
        table.write("speaker\tcommon_voice_en_99.mp3\n")
    assert prepare.main(["common_voice", f"--source={source}", f"--target_dir={tmp_path / 'x'}"]) == 0
    assert "skipped 1 (truncated lines of dev.tsv): speaker" in capsys.readouterr().out


def test_a_locale_is_unpacked_even_if_another_one_is_already(tmp_path):
    source = corpus_archives.write_tree(tmp_path / "s", {**ENGLISH, "zh-CN.tar.gz": corpus_archives.tar(MANDARIN)})
    line = ["common_voice", f"--source={source}", f"--target_dir={tmp_path / 'x'}", "--locale=zh-CN"]
    for _ in range(2):
        assert prepare.main(line) == 0
        assert corpus_archives.texts(tmp_path / "x" / "dev.jsonl") == ["是的"]


def test_a_split_without_clips_is_not_written(tmp_path, capsys):
    source = corpus_archives.write_tree(tmp_path / "s", release("ab", {"train": ["Бара"], "dev": [], "test": ["Ари"]}))
    assert prepare.main(["common_voice", f"--source={source}", f"--target_dir={tmp_path / 'x'}"]) == 0
    out = capsys.readouterr().out
    assert "dev.tsv lists no clips; dev.jsonl is not written" in out
    assert "--config.data.dev= " in out
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["test.jsonl", "train.jsonl"]


def test_a_missing_clip_is_reported_and_another_kind_of_table_refused(tmp_path, capsys):
    source = corpus_archives.write_tree(tmp_path / "s", ENGLISH)
    folder = source / "cv-corpus-17.0-2024-03-15" / "en"
    (folder / "clips" / "common_voice_en_100.mp3").unlink()
    line = ["common_voice", f"--source={source}", f"--target_dir={tmp_path / 'x'}"]
    assert prepare.main(line) == 0
    assert "skipped 1 (transcript without audio file): common_voice_en_100.mp3" in capsys.readouterr().out
    (folder / "dev.tsv").write_text("path\ttext\nx\ty\n")
    assert prepare.main(line) == 1
    assert "dev.tsv: no column client_id, sentence" in capsys.readouterr().err


def test_a_source_is_required_and_must_contain_a_release(tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepare.main(["common_voice", f"--target_dir={tmp_path / 'x'}"])
    assert prepare.main(["common_voice", f"--source={tmp_path}", f"--target_dir={tmp_path / 'x'}"]) == 1
    assert "contains neither train.tsv nor *.tar.gz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("locale", "written", "plain", "option"),
    [
        ("tr", "Ilık \u0130zmir\u2019in \u2013 IŞIK.", "ılık izmir'in ışık", "--config.text.language=tr"),
        ("ca", "Col·legi, dona-m\u2019ho!", "col·legi dona-m'ho", "--config.text.language=ca"),
        ("ja", "東京 です。", "東京です", "--config.text.language=ja"),
        ("fa", "می\u200cروم\u200f.", "می\u200cروم", "--config.text.language=fa"),
    ],
)
def test_texts_follow_the_locale(tmp_path, capsys, locale, written, plain, option):
    source = corpus_archives.write_tree(tmp_path / "s", release(locale, {"train": [written], "dev": [], "test": []}))
    line = ["common_voice", f"--source={source}", f"--target_dir={tmp_path / 'x'}", f"--locale={locale}"]
    assert prepare.main(line) == 0
    assert corpus_archives.texts(tmp_path / "x" / "train.jsonl") == [plain]
    assert option in capsys.readouterr().out
