"""Texts are read from files of any kind, told by content."""

import bz2
import gzip
import json

import pytest

from decoding.lm import text_corpus
from decoding.lm.preparation import Preparation
from decoding.lm.text_files import read_lines
from input_pipeline.text import TextRules

ROWS = [{"audio_filepath": f"{n}.wav", "duration": 1, "text": text} for n, text in enumerate(("one", "two", "three"))]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
FORMS = {
    "JSON lines: the text of each record is read": LINES.encode(),
    "JSON lines, packed by gzip: the text of each record is read": gzip.compress(LINES.encode()),
    "JSON lines, encoded as UTF-16: the text of each record is read": LINES.encode("utf-16"),
    "a JSON array: the text of each record is read": json.dumps(ROWS, indent=1).encode(),
    "JSON objects that extend over several lines: the text of each record is read": "".join(
        json.dumps(row, indent=1) for row in ROWS
    ).encode(),
    "a table (CSV, TSV): the text of each record is read": b"path;sentence\n0.wav;one\n1.wav;two\n2.wav;three\n",
    "lines of an utterance's id and its text: the ids are left out": b"s1_01 one\ns1_02\ttwo\n1089-134686-0000 three\n",
    "text": b"one\ntwo\nthree\n",
}


@pytest.mark.parametrize("name", ["train.json", "train.txt", "train.jsonl.gz", "train"])
@pytest.mark.parametrize("described", FORMS)
def test_the_name_of_a_file_does_not_matter(described, name, tmp_path, capsys):
    (tmp_path / name).write_bytes(FORMS[described])
    assert [line.strip() for line in read_lines([str(tmp_path / name)])] == ["one", "two", "three"]
    assert capsys.readouterr().out == f"--text: {tmp_path / name} is {described}\n"


def test_lines_without_an_id_behind_others_with_one_stay_whole(tmp_path):
    (tmp_path / "a").write_text("".join(f"s1_{n:02} one\n" for n in range(30)) + "\nturn left\ns1_99\n")
    assert [line.strip() for line in read_lines([str(tmp_path / "a")])] == ["one"] * 30 + ["", "turn left", ""]


@pytest.mark.parametrize("described", FORMS)
def test_a_test_set_of_any_form_is_excluded(described, tmp_path):
    (tmp_path / "test.json").write_bytes(FORMS[described])
    (tmp_path / "t.txt").write_text("four\ntwo\n")
    excluded = text_corpus.ExcludedTexts([str(tmp_path / "test.json")], TextRules("en"))
    counts = text_corpus.write_corpus(
        [str(tmp_path / "t.txt")], Preparation(TextRules("en")), 9, tmp_path / "corpus", excluded
    )
    assert (counts.lines, counts.excluded) == (1, 1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_texts_are_read_from_plain_and_compressed_files_and_manifests(encoding, tmp_path):
    record = json.dumps({"audio_filepath": "x.wav", "duration": 1, "text": "four"})
    paths = [tmp_path / name for name in ("a.txt", "b.txt.gz", "c.bz2", "d.jsonl")]
    paths[0].write_text("one\n", encoding)
    paths[1].write_bytes(gzip.compress("two\n".encode(encoding)))
    paths[2].write_bytes(bz2.compress("three\n".encode(encoding)))
    paths[3].write_text(f"{record}\n \n", encoding)
    assert [line.strip() for line in read_lines(map(str, paths))] == ["one", "two", "three", "four"]


@pytest.mark.parametrize(
    ("content", "name", "named"),
    [
        (None, "a.txt", "a.txt cannot be read"),
        (
            "caf\u00e9\n".encode("latin-1"),
            "b.txt",
            "b.txt is text, encoded as Windows-1252 or Latin-1; save it as UTF-8: iconv",
        ),
        (
            "\u0434\u0430\n\u0434\u043e\u0431\u0440\u044b\u0439".encode("cp1251"),
            "b.txt",
            "b.txt cannot be read after line 0",
        ),
        (
            b'{"text": "a", "text": "b"}',
            "d.jsonl",
            "d.jsonl:1: key 'text' occurs twice with different values; remove one",
        ),
        (b"\\data\\\nngram 1=2\n", "a.txt", r"a.txt is a language model \(ARPA\), which holds no texts to read"),
        (b"id\tname\n1\ta\n2\tb\n3\tc\n", "a.txt", r"a.txt is a table whose columns \(id, name\) include no text"),
        (b"a.wav,a.txt\nb.wav,b.txt\n", "a.csv", "a.csv is a table whose columns"),
        (gzip.compress(b"one\ntwo\n" * 99, mtime=0)[:-9], "c.gz", "c.gz cannot be read"),
        (b'{"text": "a"}\nno json', "d.jsonl", "d.jsonl:2: not a JSON object"),
        (b'\n{"text": null}', "d.jsonl", r"d.jsonl:2: .* \(it is a NoneType\); correct or remove the line"),
        (b'["text"]', "d.jsonl", "d.jsonl is JSON without records, which holds no texts"),
        (b'[{"text": 1, }]', "d.jsonl", "d.jsonl: a JSON array, but damaged"),
    ],
)
def test_text_that_cannot_be_read_is_named_with_its_line(content, name, named, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=named):
        list(read_lines([str(tmp_path / name)]))
