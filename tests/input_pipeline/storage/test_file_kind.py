"""Files are told by their content, whatever their names are."""

import bz2
import gzip
import io
import json
import lzma
import os
import threading
import zipfile

import pytest
import soundfile

from input_pipeline.storage import file_kind
from input_pipeline.storage.file_kind import FileKind, kind_of

ROW = {"audio_filepath": "a.wav", "duration": 1.5, "text": "caf\u00e9, please", "words": [{"w": "x"}]}
LINE = json.dumps(ROW, ensure_ascii=False)


def zipped(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "x")
    return content.getvalue()


def wav() -> bytes:
    content = io.BytesIO()
    soundfile.write(content, [0.0] * 100, 8000, format="WAV")
    return content.getvalue()


KINDS = [
    ("json lines", f"{LINE}\n{LINE}\n"),
    ("json lines", LINE),
    ("json lines", "not JSON\n" + f"{LINE}\n"),
    ("json lines", "{\n" + f"{LINE}\n"),
    ("json lines", '{"text": "only text"}\n{"text": "more"}\n'),
    ("json lines", f"[1]\n{LINE}\n"),
    ("json lines", f'{{"text": "a\u2028b"}}\n{LINE}'),
    ("comma lines", f"{LINE},\n{LINE},\n"),
    ("python lines", f"{ROW}\n{ROW}\n"),
    ("array", f"[{LINE}, {LINE}]"),
    ("array", json.dumps([ROW], indent=2)),
    ("array", f"[\n{LINE},\n{LINE}\n]"),
    ("pretty", json.dumps(ROW, indent=2)),
    ("pretty", json.dumps(ROW, indent=2) * 2),
    ("keyed", json.dumps({"a": ROW, "b": ROW})),
    ("keyed", json.dumps({"a": ROW}, indent=1)),
    ("columns", json.dumps({"path": ["a", "b"], "text": ["x", "y"]})),
    ("json", '["one", "two"]'),
    ("json", "[1, 2]"),
    ("keyed text", "fcaw_01 yes\nfcaw_02 no\nfcaw_03\n"),
    ("text", "fcaw_01 yes\nfcaw_01 no\nfcaw_03 never\n"),
    ("text", "fcaw_01\nfcaw_02\nfcaw_03\n"),
    ("text", "a4-sheet of paper\na5-sheet of paper\nand more\n"),
    ("table", "path,text\na,b\n"),
    ("table", "Audio_FilePath;Transcript\na;b\n"),
    ("table", "client_id\tpath\tsentence\nx\ty\tz\n"),
    ("table", "sep=;\na;b\n"),
    ("table", "clips/a.wav,yes\nclips/b.wav,no\n"),
    ("table", "name,words\n01,yes please\n02,no\n03,never\n"),
    ("table", "u1\tyes\nu2\tno\nu3\tnever\n"),
    ("table", "en\tyes, please\nde\tja, bitte\nfr\toui\n"),
    ("arpa", "\n\\data\\\nngram 1=2\n"),
    ("kenlm", file_kind.KENLM_MAGIC + b"\0" * 40),
    ("audio", wav()),
    ("xlsx", zipped("xl/workbook.xml")),
    ("archive", zipped("a.txt")),
    ("xls", b"\xd0\xcf\x11\xe0" + b"\0" * 99),
    ("binary", bytes(range(256))),
    ("empty", " \n"),
    ("text", "yes, please\nno, thanks\nstop, now\n"),
    ("text", "7,8\n9,1\n"),
    ("text", "the text,\nwith a path\n"),
    ("text", "[music] he said\n"),
    ("text", "{laughs} he said\n{coughs}\n"),
    ("text", '"Well," she said\n'),
    ("text", "\u4f60\u597d,\u4e16\u754c\n\u518d\u89c1,\u4e16\u754c\n\u662f,\u4e0d\n"),
]


@pytest.mark.parametrize(("form", "content"), KINDS)
def test_each_form_is_recognised_plain_and_compressed(form, content):
    content = content.encode() if isinstance(content, str) else content
    assert kind_of(content, whole=True).form == form
    if form in ("xlsx", "archive", "audio", "kenlm", "xls", "binary"):
        return
    for compress, name in ((gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")):
        assert kind_of(compress(content + b"\n"), whole=True) == FileKind(form, compression=name)


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        *(("utf-8", "utf-8-sig"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16"), ("utf-16-le", "utf-16-le")),
        *(("utf-16-be", "utf-16-be"), ("utf-32", "utf-32"), ("cp1252", "cp1252"), ("latin-1", "cp1252")),
    ],
)
def test_the_encoding_is_recognised_and_text_is_read_in_it(tmp_path, encoding, found):
    (tmp_path / "m").write_bytes(f"{LINE}\r\n{LINE}\r\n".encode(encoding))
    kind = file_kind.file_kind(tmp_path / "m")
    assert kind == FileKind("json lines", found)
    assert kind.read_text(tmp_path / "m") == f"{LINE}\n{LINE}\n"


def test_text_in_a_foreign_encoding_does_not_count_as_western():
    assert file_kind.is_western("tr\u00e8s br\u00fbl\u00e9 \u2013 \u201eja\u201c".encode("cp1252"))
    assert not file_kind.is_western("\u0434\u043e\u0431\u0440\u044b\u0439".encode("cp1251"))
    assert not file_kind.is_western("dobry wiecz\u00f3r, \u017c\u00f3\u0142ty".encode("cp1250"))
    assert not file_kind.is_western("\u4eca\u5929\u5929\u6c14".encode("gb18030"))


def test_a_head_may_end_inside_a_character_or_a_line():
    text = f"{LINE}\n{LINE}".encode()
    for end in range(len(LINE.encode()) + 1, len(text)):
        assert kind_of(text[:end], whole=False) == FileKind("json lines")


def test_a_file_of_one_long_line_is_recognised(tmp_path):
    many = [str(number) for number in range(20_000)]
    (tmp_path / "m").write_text(json.dumps({"path": many, "text": many}))
    assert file_kind.file_kind(tmp_path / "m").form == "columns"
    (tmp_path / "m").write_text(json.dumps({**ROW, "alignment": many}))
    assert file_kind.file_kind(tmp_path / "m").form == "json lines"


def test_lines_that_end_in_carriage_returns_alone_are_told():
    assert kind_of(f"{LINE}\r{LINE}\r".encode(), whole=True) == FileKind("json lines", carriage_returns=True)


def test_looking_at_a_pipe_takes_nothing_from_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(f"{LINE}\n",))
    writer.start()
    with file_kind.open_binary(tmp_path / "pipe") as file:
        assert file_kind.peek_kind(file).form == "json lines"
        assert file.read().decode() == f"{LINE}\n"
    writer.join()


def test_a_conversion_quotes_names_with_spaces():
    command = file_kind.describe_conversion("my data/rows 1.json")
    assert command.startswith("python -m input_pipeline.prepare custom '--source=my data' '--table=rows 1.json' ")
