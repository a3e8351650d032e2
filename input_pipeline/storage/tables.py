"""Rows of tables and records in any common form: CSV, TSV, Excel, JSON arrays, JSON lines, Python dictionaries."""

import ast
import csv
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.storage import json_line
from input_pipeline.storage.file_kind import AUDIO_ENDINGS, RECORDS, WESTERN, FileKind, file_kind, is_western

ADVICE_QUOTES = "correct the quotes, put each text on one line, or save the table with tabs between columns"
LARGEST_FIELD = 1 << 24  # characters of a CSV field
_SPACES, _COMMAS = re.compile(r"\s*"), re.compile(r"\s*,*")
HEADERLESS = ["path", "text"]  # the columns of a table without titles whose first column is audio


class TableError(ValueError):
    """A table that cannot be read; the message names file and line and says what to do."""


def read_table(path: str | os.PathLike, encoding: str = "", *, lenient: bool = False) -> Iterator[list[str]]:
    """Yield the rows of a table or of records as text, titles first. Raises TableError, OSError.

    Of records, the titles are all their keys. encoding: of the text, '' to recognise it; lenient: replace what cannot be
    decoded. A table of two columns without titles, the first of which is audio, gets HEADERLESS.
    """
    kind = _kind(path)
    if kind.form == "xlsx":
        yield from _excel_rows(path)
    elif kind.form in RECORDS and kind.form != "table":
        rows = [dict(record) for record in read_records(path, encoding)]
        titles = list(dict.fromkeys(key for row in rows for key in row))
        yield titles
        for row in rows:
            yield [_as_text(row.get(title)) for title in titles]
    elif kind.form in ("table", "text", "keyed text", "json", "empty"):
        content = read_text(path, encoding, lenient=lenient)
        yield from with_titles(_csv_rows(content, path), path)
    else:
        raise TableError(f"{path} is {kind}, not a table: save it as CSV with UTF-8, or as xlsx")


def with_titles(rows: Iterator[list[str]], path: str | os.PathLike) -> Iterator[list[str]]:
    """Yield rows, with titles before them where the first row is none. Raises TableError where they are not known."""
    first = next(rows, None)
    if first is None:
        return
    if first and first[0].strip().lower().endswith(AUDIO_ENDINGS):
        if len(first) != len(HEADERLESS):
            raise TableError(
                f"{path}:1: a table of {len(first)} columns without titles: add a first line such as path,text,speaker"
            )
        yield HEADERLESS
    yield first
    yield from rows


def read_records(path: str | os.PathLike, encoding: str = "") -> Iterator[dict]:
    """Yield the records of a file in one of the forms of JSON, or of Python dictionaries. Raises TableError, OSError."""
    kind, text = _kind(path), read_text(path, encoding)
    if kind.form in ("json lines", "comma lines", "python lines"):
        for number, line in enumerate(io.StringIO(text, newline=None), start=1):
            if line.strip():
                yield _record(line, kind.form, f"{path}:{number}")
        return
    try:
        values = list(_values(text.lstrip("\ufeff")))
    except ValueError as error:
        raise TableError(f"{path}: {kind}, but damaged ({error}): write it again") from error
    if kind.form == "array":
        values = [one for value in values for one in value]
    elif kind.form == "keyed":
        values = [one for value in values for one in value.values()]
    elif kind.form == "columns":
        lengths = {name: len(column) for value in values for name, column in value.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise TableError(f"{path}: its columns have different lengths ({listed}): write it again")
        values = [dict(zip(value, row, strict=True)) for value in values for row in zip(*value.values(), strict=True)]
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise TableError(
                f"{path}: record {number} is a {type(value).__name__}, not an object: correct or remove it"
            )
        yield value


def _record(line: str, form: str, where: str) -> dict:
    line = line.strip().strip("\ufeff").rstrip("," if form != "json lines" else "")
    try:
        value = ast.literal_eval(line) if form == "python lines" else json_line.decode(line)
    except (ValueError, SyntaxError, RecursionError) as error:
        raise TableError(f"{where}: cannot be read ({error}): correct or remove the line") from error
    if not isinstance(value, dict):
        raise TableError(f"{where}: a {type(value).__name__} instead of an object: correct or remove the line")
    return value


def _values(text: str) -> Iterator[Any]:
    """Yield the JSON values that follow one another in a text. Raises ValueError."""
    decoder, position = json.JSONDecoder(), 0
    while (position := _skip(_COMMAS, text, position)) < len(text):
        value, position = decoder.raw_decode(text, _skip(_SPACES, text, position))
        yield value


def _skip(pattern: re.Pattern, text: str, position: int) -> int:
    """Return where the rest begins behind what a pattern matches at a position; the text, which may be long, is not copied."""
    match = pattern.match(text, position)
    return match.end() if match else position


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_text(path: str | os.PathLike, encoding: str = "", *, lenient: bool = False) -> str:
    """Return a file's text; without an encoding, it is UTF-8, UTF-16 with a mark, or Windows-1252.

    lenient: replace what cannot be decoded. Raises TableError, OSError.
    """
    kind = _kind(path)
    if encoding:
        kind = FileKind(kind.form, encoding, kind.compression)
    try:
        return kind.read_text(path)
    except LookupError as error:
        raise TableError(f"--encoding={encoding}: {error}: use a name such as cp1252, cp1251 or gb18030") from error
    except (EOFError, zlib.error) as error:
        raise TableError(f"{path} is damaged ({error}): copy it again") from error
    except UnicodeDecodeError as error:
        content = Path(path).read_bytes()
        if lenient:
            return content.decode("utf-8", errors="replace")
        if not encoding and not kind.compression and is_western(content):
            return content.decode(WESTERN).replace("\r\n", "\n").replace("\r", "\n")
        line = content.count(b"\n", 0, error.start) + 1
        raise TableError(
            f"{path}:{line}: not {encoding or 'UTF-8'} text ({error.reason}): save it as UTF-8, or name its encoding: "
            "--encoding=cp1251, for instance"
        ) from error


def _kind(path: str | os.PathLike) -> FileKind:
    try:
        return file_kind(path)
    except FileNotFoundError as error:
        raise TableError(f"{path} does not exist: check the path, or fetch the corpus again") from error


def _csv_rows(content: str, path: str | os.PathLike) -> Iterator[list[str]]:
    """Yield the rows of a table. Raises TableError naming file and line.

    The delimiter is a tab if the header has one, otherwise the most frequent of , ; | in it, or that of a first line such
    as `sep=;` from Excel. With tabs or bars, quotes are part of the text. A quoted field with a line break is refused,
    because the closing quote was probably forgotten.
    """
    content, first = content.lstrip("\ufeff"), 1
    header, _, rest = content.partition("\n")
    if header.lower().startswith("sep=") and len(header) == len("sep=;"):
        delimiter, content, first = header[-1], rest, 2
    else:
        delimiter = "\t" if "\t" in header else max(",;|", key=header.count)
    csv.field_size_limit(LARGEST_FIELD)
    rows = csv.reader(
        io.StringIO(content),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if delimiter in "\t|" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    skipped = first - 1
    try:
        for row in rows:
            last = rows.line_num + skipped
            if last > first:
                raise TableError(f"{path}:{first}: a quote is only closed in line {last}: {ADVICE_QUOTES}")
            yield row
            first = last + 1
    except csv.Error as error:
        raise TableError(f"{path}:{first}: {error}: {ADVICE_QUOTES}") from error


def _excel_rows(path: str | os.PathLike) -> Iterator[list[str]]:
    """Yield the rows of the first sheet of an Excel file. Raises TableError."""
    try:
        import openpyxl
    except ImportError as error:
        raise TableError(
            f"{path} is an Excel table, which needs openpyxl: pip install openpyxl, or save it as CSV with UTF-8"
        ) from error
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheet = book.worksheets[0]
        rows = [[_cell(value) for value in row] for row in sheet.iter_rows(values_only=True)]
        book.close()
    except Exception as error:  # openpyxl raises errors of zipfile, of the XML parser and its own for damaged files
        raise TableError(f"{path} cannot be read as an Excel table ({error}): save it again, or as CSV") from error
    filled = [row for row in rows if any(row)]
    width = max((len(_trimmed(row)) for row in filled), default=0)
    yield from (row[:width] for row in filled)


def _trimmed(row: Sequence[str]) -> Sequence[str]:
    end = max((index + 1 for index, value in enumerate(row) if value), default=0)
    return row[:end]


def _cell(value: Any) -> str:
    """Return a cell as text; whole numbers without a decimal point."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
