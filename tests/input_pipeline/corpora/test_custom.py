"""A folder of user recordings: tables, text files, LibriSpeech-like transcripts; and errors."""

import json
import os

import openpyxl
import pytest

from input_pipeline.corpora import prepare
from tests.corpus_archives import clip, read_manifest, texts, write_tree


def run(source, target, *options: str) -> int:
    return prepare.main(["custom", f"--source={source}", f"--target_dir={target}", *options])


def all_texts(target) -> list[str]:
    return sorted(text for path in target.glob("*.jsonl") for text in texts(path))


def many(count: int, ending: str = "wav") -> dict[str, bytes | str]:
    return {f"clips/{number:02d}.{ending}": clip(number, ending.upper()) for number in range(count)}


TABLES = {
    "comma": ("a.csv", 'path,text,speaker\nclips/00.wav,"well, yes",anna\nclips/01.wav,no,ben\nclips/02.wav,maybe,cleo\n'),
    "semicolon": ("a.csv", "Audio_FilePath;Transcript\nclips/00.wav;well, yes\nclips/01.wav;no\nclips/02.wav;maybe\n"),
    "bars": ("a.csv", "path|text\nclips/00.wav|well, yes\nclips/01.wav|no\nclips/02.wav|maybe\n"),
    "tabs": ("a.tsv", 'file\tsentence\nclips/00.wav\twell, yes\nclips/01.wav\tno\nclips/02.wav\tmaybe\n'),
    "byte order mark": ("a.csv", "\ufeffpath,text\r\nclips\\00.wav,\"well, yes\"\r\nclips\\01.wav,no\r\nclips\\02.wav,maybe\r\n"),
    "Excel's own line": ("a.csv", "sep=;\r\npath;text;a,b,c,d\r\n00;well, yes\r\n01;no\r\n02;maybe\r\n"),
    "bare names": ("a.csv", 'file_name,transcription\n00.wav,"well, yes"\n01,no\nclips/02,maybe\n'),
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_tables_are_read_with_any_delimiter(tmp_path, table):
    name, content = TABLES[table]
    source = write_tree(tmp_path / "s", {**many(3), name: content})
    assert run(source, tmp_path / "x") == 0
    assert all_texts(tmp_path / "x") == ["maybe", "no", "well, yes"]
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"train.jsonl", "dev.jsonl", "test.jsonl"}


ROWS = [{"audio_filepath": f"clips/{n:02d}.wav", "text": f"caf\u00e9 {n}", "lang": 7} for n in range(3)]
FORMS: dict[str, bytes | str] = {
    "array": json.dumps(ROWS),
    "indented array": json.dumps(ROWS, indent=1),
    "pretty": "\n".join(json.dumps(row, indent=1, ensure_ascii=False) for row in ROWS),
    "keyed": json.dumps({str(n): row for n, row in enumerate(ROWS)}, indent=2),
    "columns": json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}),
    "commas": "".join(json.dumps(row) + ",\n" for row in ROWS),
    "lines": "".join(json.dumps(row) + "\n" for row in ROWS),
    "carriage returns": "\r".join(json.dumps(row) for row in ROWS),
    "Python": "".join(f"{row}\n" for row in ROWS),
    "UTF-16": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode("utf-16"),
    "Windows-1252": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode("cp1252"),
}


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_records_are_read_in_any_form_and_keep_their_other_keys(tmp_path, form):
    source = write_tree(tmp_path / "s", {**many(3), "rows.data": FORMS[form]})
    assert run(source, tmp_path / "x", "--table=rows.data", "--dev_share=0", "--test_share=0") == 0
    records = read_manifest(tmp_path / "x" / "train.jsonl")
    assert [record["text"] for record in records] == [f"caf\u00e9 {n}" for n in range(3)]
    assert [record["lang"] for record in records] == [7, 7, 7]


def test_the_name_of_a_table_gives_the_split_and_no_table_is_replaced(tmp_path, capsys):
    source = write_tree(tmp_path / "s", {**many(2), "test.json": FORMS["array"], "train.jsonl": FORMS["lines"]})
    assert run(source, tmp_path / "x", "--table=test.json") == 0
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["test.jsonl"]
    assert run(source, source, "--table=train.jsonl") == 1
    assert "a manifest to write would replace it: choose another --target_dir" in capsys.readouterr().err


def test_excel_tables_are_read(tmp_path):
    book = openpyxl.Workbook()
    for row in [("Path", "Text", "Speaker"), ("clips/00.wav", "caf\u00e9", 7), (1, 7.0, None), (None, None, None)]:
        book.active.append(row)
    source = write_tree(tmp_path / "s", {**many(2), "1.wav": clip(2, "WAV")})
    book.save(source / "a.xlsx")
    (source / "~$a.xlsx").write_bytes(b"open")
    assert run(source, tmp_path / "x", "--dev_share=0", "--test_share=0") == 0
    records = read_manifest(tmp_path / "x" / "train.jsonl")
    assert sorted((record["text"], record.get("speaker")) for record in records) == [("7", None), ("caf\u00e9", "7")]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-8-sig", "cp1251"])
def test_tables_and_text_files_are_read_in_their_encoding(tmp_path, encoding):
    text = "\u0434\u0430" if encoding == "cp1251" else "tr\u00e8s br\u00fbl\u00e9"
    options = ["--dev_share=0", "--test_share=0"] + (["--encoding=cp1251"] if encoding == "cp1251" else [])
    source = write_tree(tmp_path / "s", {**many(1), "a.csv": f"path;text\r\n00;{text}\r\n".encode(encoding)})
    assert run(source, tmp_path / "x", *options) == 0
    assert texts(tmp_path / "x" / "train.jsonl") == [text]
    source = write_tree(tmp_path / "t", {**many(1), "clips/00.txt": text.encode(encoding)})
    assert run(source, tmp_path / "y", *options) == 0
    assert texts(tmp_path / "y" / "train.jsonl") == [text]


def test_a_table_without_titles_may_name_text_files(tmp_path):
    files = {**many(2), "clips/00.txt": "from a file\n", "a.csv": "clips/00.wav,clips/00.txt\nclips/01.wav,given\n"}
    assert run(write_tree(tmp_path / "s", files), tmp_path / "x", "--dev_share=0", "--test_share=0") == 0
    assert all_texts(tmp_path / "x") == ["from a file", "given"]


def test_audio_is_found_however_its_path_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    source = write_tree(tmp_path / "s", many(6))
    write_tree(tmp_path, {"far.wav": clip(7, "WAV"), "near.wav": clip(8, "WAV")})
    written = [
        "clips\\00.wav", "D:\\speech\\clips\\01.wav", f"file://{source}/clips/02.wav", "Clips/03.WAV", "/other/s/clips/04.wav",
        "clips/05.wav\r", "~/far.wav", "../near.wav",
    ]  # fmt: skip
    rows = [{"path": path, "text": number} for number, path in enumerate(written)]
    (source / "a.json").write_text(json.dumps(rows))
    assert run(source, tmp_path / "x", f"--table={source}/a.json", "--dev_share=0", "--test_share=0") == 0
    records = read_manifest(tmp_path / "x" / "train.jsonl")
    assert {os.path.basename(record["audio_filepath"]): record["text"] for record in records} == {
        **{f"0{number}.wav": str(number) for number in range(6)}, "far.wav": "6", "near.wav": "7",
    }  # fmt: skip


def test_paths_that_lead_nowhere_say_why_where_it_can_be_told(tmp_path, capsys):
    table = "path,text\nclips/00.wav,a\nclops/01.wav,b\nCLIPS/CAF\u00c9.wav,c\n"
    source = write_tree(tmp_path / "s", {**many(1), "a.csv": table})
    assert run(source, tmp_path / "x", "--dev_share=0", "--test_share=0") == 0
    out = capsys.readouterr().out
    assert f"not found: 'clops/01.wav': there is no folder {source}/clops" in out
    assert "not found: 'CLIPS/CAF\u00c9.wav': there is clips: upper and lower case differ" in out


def test_digits_and_invisible_characters_are_counted(tmp_path, capsys):
    table = "path,text\n00,bus 7\n01,a\u200bb \u200b\n02,word\n"
    source = write_tree(tmp_path / "s", {**many(3), "a.csv": table})
    assert run(source, tmp_path / "x") == 0
    out = capsys.readouterr().out
    assert (
        "note: texts have invisible characters, which normalisation removes: U+200B ZERO WIDTH SPACE (2 times)" in out
    )
    assert "note: 1 texts have digits; --spell_numbers writes numbers as words" in out


def test_quotes_are_part_of_the_text_with_tabs_or_bars(tmp_path):
    for target, (name, delimiter) in enumerate([("a.tsv", "\t"), ("a.csv", "|")]):
        table = f'path{delimiter}text\nclips/00.wav{delimiter}"Well," she said\n'
        source = write_tree(tmp_path / f"s{target}", {**many(1), name: table})
        assert run(source, tmp_path / str(target), "--dev_share=0", "--test_share=0") == 0
        assert texts(tmp_path / str(target) / "train.jsonl") == ['"Well," she said']


def test_columns_can_be_given_and_text_made_plain(tmp_path):
    source = write_tree(tmp_path / "s", {**many(3), "a.csv": "id,words,path\n00,Well!,a\n01,No?,b\n02,It's,c\n"})
    options = ["--path_column=ID", "--text_column=words", "--text=plain", "--dev_share=0", "--test_share=0"]
    assert run(source, tmp_path / "x", *options) == 0
    assert texts(tmp_path / "x" / "train.jsonl") == ["well", "no", "it's"]


def test_the_error_for_unknown_columns_lists_existing_and_known_ones(tmp_path, capsys):
    source = write_tree(tmp_path / "s", {**many(1), "a.csv": "id,words\n00,x\n"})
    assert run(source, tmp_path / "x") == 1
    error = capsys.readouterr().err
    assert "a.csv: its columns id, words do not include" in error
    assert "--text_column, or text, transcript" in error
    assert run(source, tmp_path / "x", "--path_column=file") == 1
    assert "no column 'file': use one of id, words" in capsys.readouterr().err


def test_splits_come_from_table_names_or_a_split_column(tmp_path):
    rows = "path,text\nclips/0{}.wav,{}\n"
    source = write_tree(tmp_path / "s", {
        **many(3), "train.csv": rows.format(0, "a"), "validation.csv": rows.format(1, "b"),
        "test.csv": rows.format(2, "c"), "other.csv": rows.format(0, "z"),
    })  # fmt: skip
    assert run(source, tmp_path / "x") == 0
    assert [texts(tmp_path / "x" / f"{split}.jsonl") for split in ("train", "dev", "test")] == [["a"], ["b"], ["c"]]
    column = "path,text,split\nclips/00.wav,a,test\nclips/01.wav,b,valid\nclips/02.wav,c,Train\n"
    source = write_tree(tmp_path / "t", {**many(3), "metadata.csv": column})
    assert run(source, tmp_path / "y") == 0
    assert [texts(tmp_path / "y" / f"{split}.jsonl") for split in ("train", "dev", "test")] == [["c"], ["b"], ["a"]]


def test_a_given_test_split_is_kept_and_dev_is_taken_from_train(tmp_path):
    rows = "".join(f"clips/{number:02d}.wav,text {number}\n" for number in range(9))
    source = write_tree(tmp_path / "s", {**many(10), "train.csv": "path,text\n" + rows})
    write_tree(source, {"test.csv": "path,text\nclips/09.wav,held out\n"})
    assert run(source, tmp_path / "x", "--dev_share=0.2") == 0
    assert texts(tmp_path / "x" / "test.jsonl") == ["held out"]
    assert len(texts(tmp_path / "x" / "dev.jsonl")) == 2
    assert len(texts(tmp_path / "x" / "train.jsonl")) == 7


def test_a_folder_with_only_a_test_split_leads_to_an_evaluation(tmp_path, capsys):
    source = write_tree(tmp_path / "s", {**many(1), "test.csv": "path,text\nclips/00.wav,held out\n"})
    assert run(source, tmp_path / "x") == 0
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["test.jsonl"]
    assert f"--mode=eval --config.restore=MODEL --config.data.test={tmp_path}/x/test.jsonl" in capsys.readouterr().out


def test_unrelated_tables_are_ignored(tmp_path):
    files: dict[str, bytes | str] = {**many(3), **{f"clips/{n:02d}.txt": f"t {n}" for n in range(3)}}
    files["ages.csv"] = b"who,age\nren\xe9,30\n"
    assert run(write_tree(tmp_path / "s", files), tmp_path / "x") == 0
    assert all_texts(tmp_path / "x") == ["t 0", "t 1", "t 2"]


def test_names_match_in_composed_and_decomposed_form(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"  # macOS stores the second
    for number, (written, stored) in enumerate([(composed, decomposed), (decomposed, composed)]):
        rows = f"path,text\n{written}/1.wav,one\n{written}2.wav,two\n"
        files: dict[str, bytes | str] = {
            f"{stored}/1.wav": clip(0, "WAV"),
            f"deep/{stored}2.wav": clip(1, "WAV"),
            "a.csv": rows,
        }
        assert run(write_tree(tmp_path / f"s{number}", files), tmp_path / str(number), "--dev_share=0") == 0
        assert all_texts(tmp_path / str(number)) == ["one", "two"]


def test_unreadable_audio_does_not_count_when_dividing(tmp_path):
    files: dict[str, bytes | str] = {**many(4), **{f"bad/{number}.m4a": "no audio" for number in range(200)}}
    files |= {f"{os.path.splitext(path)[0]}.txt": "text" for path in files}
    assert run(write_tree(tmp_path / "s", files), tmp_path / "x") == 0
    assert [len(texts(tmp_path / "x" / f"{split}.jsonl")) for split in ("train", "dev", "test")] == [2, 1, 1]


def test_several_tables_require_a_choice(tmp_path, capsys):
    rows = "path,text\nclips/00.wav,a\n"
    source = write_tree(tmp_path / "s", {**many(1), "a.csv": rows, "b.tsv": rows.replace(",", "\t")})
    assert run(source, tmp_path / "x") == 1
    assert "several tables (a.csv, b.tsv): choose one with --table" in capsys.readouterr().err
    assert run(source, tmp_path / "x", "--table=b.tsv", "--dev_share=0", "--test_share=0") == 0


def test_absolute_paths_may_refer_to_audio_outside_the_folder(tmp_path):
    elsewhere = write_tree(tmp_path / "elsewhere", many(1))
    source = write_tree(tmp_path / "s", {"a.csv": f"path,text\n{elsewhere}/clips/00.wav,far away\n"})
    assert run(source, tmp_path / "x", "--dev_share=0", "--test_share=0") == 0
    (record,) = read_manifest(tmp_path / "x" / "train.jsonl")
    assert record["audio_filepath"] == f"{elsewhere}/clips/00.wav"


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg"])
def test_each_recording_may_have_a_text_file(tmp_path, ending):
    files = {**many(3, ending), **{f"clips/{n:02d}.txt": f"\ufeffTurn  on\nlamp {n}\n" for n in range(3)}}
    assert run(write_tree(tmp_path / "s", files), tmp_path / "x") == 0
    assert all_texts(tmp_path / "x") == ["Turn on lamp 0", "Turn on lamp 1", "Turn on lamp 2"]


def test_librispeech_like_transcripts_define_speakers(tmp_path):
    files: dict[str, bytes | str] = {}
    for number in range(6):
        files[f"{number}/7/{number}-7-0001.flac"] = clip(number)
        files[f"{number}/7/{number}-7.trans.txt"] = f"{number}-7-0001 SAY {number}\n"
    assert run(write_tree(tmp_path / "s", files), tmp_path / "x") == 0
    records = read_manifest(tmp_path / "x" / "train.jsonl")
    assert {record["text"] for record in records} == {f"SAY {record['speaker']}" for record in records}


def speaker_folders(speakers: int, each: int) -> dict[str, bytes | str]:
    files: dict[str, bytes | str] = {}
    for speaker in range(speakers):
        for number in range(each):
            files[f"voice{speaker}/{number}.wav"] = clip(speaker, "WAV")
            files[f"voice{speaker}/{number}.txt"] = f"text {number}"
    return files


def test_no_speaker_is_in_two_splits_and_a_second_run_gives_the_same_splits(tmp_path, capsys):
    source = write_tree(tmp_path / "s", speaker_folders(10, 3))
    splits = []
    for target in (tmp_path / "x", tmp_path / "y"):
        assert run(source, target, "--speaker_folders") == 0
        splits.append({path.name: {record["speaker"] for record in read_manifest(path)} for path in target.iterdir()})
    assert splits[0] == splits[1]
    assert sorted(map(len, splits[0].values())) == [1, 1, 8]
    assert len(set.union(*splits[0].values())) == 10
    assert "dividing 10 speakers: each is in only one of train, dev, test" in capsys.readouterr().out


def test_the_split_does_not_depend_on_the_folders_path(tmp_path, monkeypatch):
    write_tree(tmp_path / "a", {**many(10), "t.csv": "path,text\n" + "".join(f"{n:02d},{n}\n" for n in range(10))})
    assert run(tmp_path / "a", tmp_path / "x") == 0
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    assert run("b", "y") == 0
    for split in ("train", "dev", "test"):
        assert texts(tmp_path / "x" / f"{split}.jsonl") == texts(tmp_path / "y" / f"{split}.jsonl")


def test_too_few_speakers_are_reported_and_files_divided(tmp_path, capsys):
    source = write_tree(tmp_path / "s", speaker_folders(2, 5))
    assert run(source, tmp_path / "x", "--speaker_folders") == 0
    assert "dividing by file: 2 speakers are too few" in capsys.readouterr().out
    assert len(texts(tmp_path / "x" / "train.jsonl")) == 8


def test_unmatched_and_ambiguous_recordings_are_reported(tmp_path, capsys):
    table = "path,text\nclips/00.wav,kept\nclips/00.wav,kept\nclips/01.wav,one\nclips/01.wav,other\nclips/77.wav,lost\n"
    source = write_tree(tmp_path / "s", {**many(4), "clips/02.flac": clip(2), "a.csv": f"{table}clips/02.wav,two\n"})
    assert run(source, tmp_path / "x", "--dev_share=0", "--test_share=0") == 0
    out = capsys.readouterr().out
    assert "skipped 1 (several different transcripts): clips/01" in out
    assert "skipped 1 (transcript without audio file): clips/77" in out
    assert "skipped 1 (audio file without transcript): clips/03" in out
    assert "skipped 1 (several audio files with this name): clips/02" in out
    assert texts(tmp_path / "x" / "train.jsonl") == ["kept"]


def test_a_text_with_an_unquoted_comma_is_reported_and_skipped(tmp_path, capsys):
    table = 'path,text\nclips/00.wav,hello, you there\nclips/01.wav,"hello, you there"\n'
    source = write_tree(tmp_path / "s", {**many(2), "a.csv": table})
    assert run(source, tmp_path / "x", "--dev_share=0", "--test_share=0") == 0
    out = capsys.readouterr().out
    expected = "skipped 1 (more fields than the header; put quotes around texts with commas): clips/00.wav (a.csv)"
    assert expected in out
    assert "--config.data.dev= --config.data.test=" in out  # disables those of the recipe
    assert all_texts(tmp_path / "x") == ["hello, you there"]


def test_audio_in_an_unknown_format_is_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # without ffmpeg
    files = {**many(1), "clips/00.txt": "fine", "clips/01.m4a": b"\0\0\0\x20ftypM4A ", "clips/01.txt": "lost"}
    assert run(write_tree(tmp_path / "s", files), tmp_path / "x", "--dev_share=0", "--test_share=0") == 0
    out = capsys.readouterr().out
    assert "skipped 1 (unreadable): " in out
    assert "01.m4a needs ffmpeg" in out


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"a.txt": "text"}, [], "contains no audio"),
        (
            many(1),
            [],
            "contains 1 audio files, but no table (CSV, TSV, xlsx) with a column for the path (audio_filepath, path",
        ),
        ({**many(1), "a.csv": ""}, [], "its columns (none) do not include"),
        (
            {**many(1), "a.csv": "path,text\nclips/00.wav,добрый день\n".encode("cp1251")},
            ["--table=a.csv"],
            "a.csv:2: not UTF-8 text (invalid continuation byte): save it as UTF-8, or name its encoding: --encoding=cp1251",
        ),
        (many(1), ["--table=clips/00.wav"], "00.wav is an audio file, not a table"),
        (
            {**many(1), "a.csv": "path,text,start\n00,a,0\n00,b,2.5\n"},
            [],
            "a.csv: column 'start' ('2.5' in row 3) says that rows are parts of files",
        ),
        ({**many(1), "a.csv": "clips/00.wav,a,b\n"}, ["--table=a.csv"], "a.csv:1: a table of 3 columns without titles"),
        ({**many(1), "a.csv": "clips/00.wav,texts/00.txt\n"}, [], "texts/00.txt: no such text file"),
        (
            {**many(1), "a.json": '{"path": ["00"], "text": ["a", "b"]}'},
            ["--table=a.json"],
            "a.json: its columns have different lengths (path 1, text 2)",
        ),
        ({**many(1), "a.jsonl": '{"path": "00", "text": "a"}\n{'}, ["--table=a.jsonl"], "a.jsonl:2: cannot be read"),
        ({**many(1), "a.xlsx": b"PK\3\4 xl/"}, ["--table=a.xlsx"], "a.xlsx cannot be read as an Excel table"),
        (
            {**many(2), "train.csv": "path,text\nclips/00.wav,a\n", "test.csv": "path,text\n00,a\n01,b\n"},
            [],
            "1 lines assign audio to a second split: clips/00.wav (test and train): keep each file in one split",
        ),
        (
            {**many(3), "a.csv": 'path,text\n00,"open\n01,no\n02,"maybe\n'},
            [],
            "a.csv:2: ',' expected after '\"': correct the quotes",
        ),
        (
            {**many(3), "a.csv": 'sep=,\npath,text\n00,yes\n01,"open\n02,"",maybe"\n'},
            [],
            "a.csv:4: a quote is only closed in line 5: correct the quotes",
        ),
        ({**many(1), "a.csv": "path,text,split\n00,a,eval\n"}, [], "splits eval in"),
        (
            {**many(1), "clips/00.txt": "text"},
            [],
            "1 recordings are too few to divide: set --dev_share=0 --test_share=0",
        ),
        ({**many(1), "a.csv": 'path,text\n00,"open\n'}, [], "a.csv:2: unexpected end of data: correct the quotes"),
        ({**many(1), "a.csv": "path,text\n77,a\n"}, [], "no audio file has a transcript"),
        (many(1), ["--table=b.csv"], "--table=b.csv: no such file"),
        (many(1), ["--dev_share=1.5"], "--dev_share=1.5 --test_share=0.1: use shares of at least 0, below 1 in total"),
    ],
)
def test_misuse_is_refused_in_one_line_and_writes_no_files(tmp_path, capsys, files, options, message):
    source = write_tree(tmp_path / "s", files)
    assert run(source, tmp_path / "x", *options) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_manifest_from_an_earlier_run_is_reported(tmp_path, capsys):
    source = write_tree(tmp_path / "s", speaker_folders(4, 1))
    assert run(source, tmp_path / "x") == 0
    assert run(source, tmp_path / "x", "--test_share=0") == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'x' / 'test.jsonl'} is from an earlier run; remove it" in out
    assert f"--config.data.dev={tmp_path / 'x' / 'dev.jsonl'} --config.data.test= " in out


def test_manifests_may_be_written_to_the_folder_itself(tmp_path, capsys):
    source = write_tree(tmp_path / "mine", speaker_folders(4, 1))
    for _ in range(2):
        assert run(source, source) == 0
        assert read_manifest(source / "train.jsonl")[0]["audio_filepath"].startswith("voice")
    assert f"python -m input_pipeline.manifest check {source}/train.jsonl" in capsys.readouterr().out


def test_chinese_texts_lead_to_the_language_setting(tmp_path, capsys):
    source = write_tree(tmp_path / "s", {**many(3), **{f"clips/{n:02d}.txt": "打开 厨房的灯" for n in range(3)}})
    assert run(source, tmp_path / "x") == 0
    assert capsys.readouterr().out.endswith(" --config.text.language=zh\n")


def test_numbers_are_written_as_words_on_request(tmp_path, capsys):
    source = write_tree(tmp_path / "s", {**many(3), **{f"clips/{n:02d}.txt": f"Zimmer {n + 21}" for n in range(3)}})
    assert run(source, tmp_path / "x", "--dev_share=0", "--test_share=0") == 0
    assert "3 texts have digits; --spell_numbers" in capsys.readouterr().out
    options = ["--dev_share=0", "--test_share=0", "--spell_numbers", "--language=de"]
    assert run(source, tmp_path / "y", *options) == 0
    texts = [record["text"] for record in read_manifest(tmp_path / "y" / "train.jsonl")]
    assert sorted(texts) == ["Zimmer dreiundzwanzig", "Zimmer einundzwanzig", "Zimmer zweiundzwanzig"]
    out = capsys.readouterr().out
    assert out.endswith(" --config.text.language=de\n")
    assert "have digits" not in out


def test_circular_links_are_followed_once(tmp_path):
    source = write_tree(tmp_path / "s", {**many(3), **{f"clips/{n:02d}.txt": f"t {n}" for n in range(3)}})
    (source / "clips" / "round").symlink_to(source)
    assert run(source, tmp_path / "x") == 0
    assert len(all_texts(tmp_path / "x")) == 3
