"""What a file contains, told by its first bytes and never by its name."""

import ast
import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import os
import re
import shlex
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

HEAD_BYTES = 1 << 16
LONGEST_LINE_BYTES = 64 << 20  # of a first line that is read whole: some write a corpus as one line
LINES_LOOKED_AT = 20
FEWEST_ROWS = 3  # by which a table without known titles is recognised
FFMPEG_ENDINGS = (  # of audio and video that ffmpeg decodes
    *(".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".aac", ".webm", ".mka", ".mkv", ".wma", ".wmv", ".amr"),
    *(".avi", ".flv", ".ac3", ".wv", ".ape", ".tta"),
)
AUDIO_ENDINGS = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".sph", ".aif", ".aiff", ".au", ".w64", ".rf64", ".caf"),
    *FFMPEG_ENDINGS,
)
# Titles of the columns of tables, and keys of records, by meaning; the first existing one counts.
TITLES = {
    "path": ("audio_filepath", "path", "file", "file_name", "filename", "audio", "audio_path", "wav", "wav_filename"),
    "text": ("text", "transcript", "transcription", "sentence", "normalized_text", "wrd"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk", "spk_id"),
    "split": ("split", "subset", "partition"),
}
DELIMITERS = "\t,;|"

FORMS = {
    "empty": "an empty file",
    "json lines": "JSON lines",
    "comma lines": "JSON objects with a comma after each line",
    "python lines": "Python dictionaries instead of JSON",
    "array": "a JSON array",
    "pretty": "JSON objects that extend over several lines",
    "keyed": "one JSON object with a record for each key",
    "columns": "one JSON object with a list for each column",
    "json": "JSON without records",
    "table": "a table (CSV, TSV)",
    "xlsx": "an Excel table (xlsx)",
    "xls": "an old Excel or Word file",
    "arpa": "a language model (ARPA)",
    "kenlm": "a language model (KenLM binary)",
    "audio": "an audio file",
    "archive": "an archive (zip)",
    "binary": "a binary file",
    "keyed text": "lines of an utterance's id and its text",
    "text": "text",
}
RECORDS = ("json lines", "comma lines", "python lines", "array", "pretty", "keyed", "columns", "table", "xlsx")
OPENERS: dict[str, Callable[..., Any]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda head: zlib.decompressobj(31).decompress(head, HEAD_BYTES),
    "bzip2": lambda head: bz2.BZ2Decompressor().decompress(head, HEAD_BYTES),
    "xz": lambda head: lzma.LZMADecompressor().decompress(head, HEAD_BYTES),
}
KENLM_MAGIC = b"mmap lm http://kheafield.com/code"
_MAGIC = {
    KENLM_MAGIC: "kenlm",
    b"\xd0\xcf\x11\xe0": "xls",
    b"RIFF": "audio",
    b"fLaC": "audio",
    b"OggS": "audio",
    b"ID3": "audio",
    b"NIST_1A": "audio",
    b"FORM": "audio",
    b".snd": "audio",
}
_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
WESTERN = "cp1252"
_FOREIGN_RUN = re.compile(
    rb"[\x80-\xff]{4}"
)  # as in Chinese or Russian encodings; Western words have one or two accents
_SIGN_IN_WORD = re.compile(r"[^\W\d_][¡-©±-¶¸¹¼-¿×÷][^\W\d_]")  # as of Polish letters read as Windows-1252
_KEYED = re.compile(r'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*([{\[])')
_UTTERANCE = re.compile(r"(?=\S*\d)(?=\S*[-_])[\w.-]+")  # as in Kaldi's `text`, and in LibriSpeech
_ID = re.compile(r"[\w./\\:-]*\d[\w./\\:-]*")


@dataclass(frozen=True)
class FileKind:
    """The form of a file's content (a key of FORMS), its encoding, and how it is compressed ('' for not)."""

    form: str
    encoding: str = "utf-8-sig"  # which drops a byte order mark
    compression: str = ""
    carriage_returns: bool = False  # lines end in \r alone

    def __str__(self) -> str:
        name = {"utf-8-sig": "", WESTERN: "Windows-1252 or Latin-1"}.get(self.encoding, self.encoding.upper())
        more = [
            part
            for part in (name and f"encoded as {name}", self.compression and f"packed by {self.compression}")
            if part
        ]
        return ", ".join([FORMS[self.form], *more])

    def open_on(self, raw: BinaryIO) -> TextIO:
        """Return the text of an open file, decompressed and decoded; any line end becomes a line feed."""
        if self.compression:
            return OPENERS[self.compression](raw, "rt", encoding=self.encoding)
        return io.TextIOWrapper(raw, encoding=self.encoding)

    def read_text(self, path: str | os.PathLike) -> str:
        """Return a whole file as text. Raises OSError, EOFError, UnicodeDecodeError."""
        with open(path, "rb") as raw, self.open_on(raw) as file:
            return file.read()


def file_kind(path: str | os.PathLike) -> FileKind:
    """Tell what a local file contains. Raises OSError."""
    with open_binary(path) as file:
        return peek_kind(file)


def open_binary(path: str | os.PathLike) -> io.BufferedReader:
    """Open a file, or a pipe, so that `peek_kind` can look at its start. Raises OSError."""
    return io.BufferedReader(io.FileIO(path), HEAD_BYTES)


def peek_kind(file: io.BufferedReader) -> FileKind:
    """Tell what a file from `open_binary` contains, and leave it at its start."""
    if not file.seekable():
        return kind_of(file.peek(HEAD_BYTES)[:HEAD_BYTES], whole=False)
    head = file.read(HEAD_BYTES)
    if len(head) == HEAD_BYTES and head[:1] in b"{[" and b"\n" not in head:
        head += file.readline(LONGEST_LINE_BYTES)
    whole = not file.read(1)
    file.seek(0)
    return kind_of(head, whole=whole)


def kind_of(head: bytes, *, whole: bool) -> FileKind:
    """Tell what a file contains from its first bytes; whole: they are all of it."""
    for magic, compression in _COMPRESSED.items():
        if head.startswith(magic):
            try:
                inner = kind_of(_DECOMPRESS[compression](head), whole=False)
            except (zlib.error, OSError, EOFError, lzma.LZMAError):
                return FileKind("binary", compression=compression)
            return FileKind(inner.form, inner.encoding, compression, inner.carriage_returns)
    if head.startswith(b"PK\3\4"):
        return FileKind("xlsx" if b"[Content_Types].xml" in head or b"xl/" in head else "archive")
    form = next((form for magic, form in _MAGIC.items() if head.startswith(magic)), "")
    if form:
        return FileKind(form)
    encoding = _encoding_of(head, whole)
    if not encoding:
        return FileKind("binary")
    text = head.decode(encoding, errors="ignore")
    return FileKind(_form_of(text, whole), encoding, carriage_returns="\r" in text and "\n" not in text)


def _encoding_of(head: bytes, whole: bool) -> str:
    """Return the encoding of text, '' for binary content."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    nulls = head.count(0)
    if nulls > len(head) // 4:  # UTF-16 of Western text without a mark
        return "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
    if nulls:
        return ""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)  # a head may end inside a character
        return "utf-8-sig"
    except UnicodeDecodeError:
        return WESTERN if is_western(head) else "utf-8-sig"


def is_western(content: bytes) -> bool:
    """Tell whether bytes that are not UTF-8 are Western European text in Windows-1252 or Latin-1.

    Runs of bytes beyond ASCII, and signs inside words, are those of other encodings. Czech, for one, cannot be told.
    """
    try:
        text = content.decode(WESTERN)
    except UnicodeDecodeError:
        return False
    return not _FOREIGN_RUN.search(content) and not _SIGN_IN_WORD.search(text)


def _form_of(text: str, whole: bool) -> str:
    """Return the form of decoded text, of which there may be more unless it is whole."""
    text = text.lstrip("\ufeff \t\r\n")
    if not text:
        return "empty"
    if text.startswith("\\data\\"):
        return "arpa"
    ended = whole or text[-1] in "\r\n"
    lines = [line for line in re.split(r"\r\n?|\n", text) if line.strip()]
    lines = lines[: max(1, len(lines) - (not ended))][:LINES_LOOKED_AT]  # the last one may be cut
    return _json_form(text, lines) or _table_form(lines) or _keyed_form(lines) or "text"


def _json_form(text: str, lines: list[str]) -> str:
    """Return the form of JSON, or of what resembles it; '' for other text."""
    if text[0] == "[" and text[1:].lstrip()[:1] == "{":
        return "array"
    objects = [one for line in lines if isinstance(one := _object(line), dict)]
    if objects:
        return _one_object(objects[0]) if len(lines) == 1 else "json lines"
    if text[0] == "[":
        return "json" if text[1:].lstrip()[:1] == '"' or _object(lines[0]) is not None else ""
    if text[0] != "{":
        return ""
    if any(isinstance(_object(line.rstrip().rstrip(",")), dict) for line in lines):
        return "comma lines"
    if any(isinstance(_literal(line.rstrip().rstrip(",")), dict) for line in lines):
        return "python lines"
    try:
        return _one_object(json.JSONDecoder().raw_decode(text)[0], otherwise="pretty")
    except ValueError:
        nested = _KEYED.match(text)
    if nested:
        return "keyed" if nested[1] == "{" else "columns"
    # A first line that is only begun is a broken line of a manifest; one that opens an object begins pretty-printed ones.
    return "pretty" if len(lines) > 1 and lines[0].strip() == "{" and lines[1].lstrip()[:1] == '"' else ""


def _one_object(value: Any, otherwise: str = "json lines") -> str:
    values = list(value.values()) if isinstance(value, dict) else []
    if values and all(isinstance(one, dict) for one in values):
        return "keyed"
    return "columns" if values and all(isinstance(one, list) for one in values) else otherwise


def _object(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _literal(line: str) -> Any:
    try:
        return ast.literal_eval(line.strip()) if len(line) < HEAD_BYTES else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _table_form(lines: list[str]) -> str:
    """Return `table` for lines with the titles of one, or with the same number of fields: by tabs, or one an id or a path."""
    if lines[0].lower().startswith("sep=") and len(lines[0].strip()) == len("sep=;"):
        return "table"
    known = {title for column in ("path", "text") for title in TITLES[column]}
    for delimiter in DELIMITERS:
        rows = [next(csv.reader([line], delimiter=delimiter), []) for line in lines]
        counts = {len(row) for row in rows}
        if len(rows[0]) > 1 and known & {title.strip().lower() for title in rows[0]}:
            return "table"
        if len(rows[0]) < 2 or len(counts) > 1 or any(field.startswith(" ") for row in rows for field in row):
            continue
        if delimiter == "\t" and len(rows) >= FEWEST_ROWS:
            return "table"
        for column in zip(*rows, strict=True):
            fields = column[1:] or column  # the first line may be titles
            if all(field.lower().endswith(AUDIO_ENDINGS) for field in fields):
                return "table"
            if len(rows) >= FEWEST_ROWS and all(map(_ID.fullmatch, fields)):
                return "table"
    return ""


def _keyed_form(lines: list[str]) -> str:
    """Return `keyed text` for lines that each begin with another utterance's id; '' for other text."""
    keys = {line.split(maxsplit=1)[0] for line in lines}
    different = FEWEST_ROWS <= len(keys) == len(lines)
    texts = any(len(line.split(maxsplit=1)) > 1 for line in lines)
    return "keyed text" if different and texts and all(map(_UTTERANCE.fullmatch, keys)) else ""


def without_id(line: str) -> str:
    """Return a line of `keyed text` without its id; one that does not begin with an id as it is."""
    key, *text = line.split(maxsplit=1) or [""]
    return "".join(text) if _UTTERANCE.fullmatch(key) else line


def describe_conversion(path: str | os.PathLike) -> str:
    """Return the command that makes a manifest of a file of records."""
    folder, name = os.path.split(os.fspath(path))
    target = f"data/{Path(name).stem}"
    return (
        "python -m input_pipeline.prepare custom "
        + shlex.join([f"--source={folder or '.'}", f"--table={name}", f"--target_dir={target}"])
        + " --dev_share=0 --test_share=0"
    )
