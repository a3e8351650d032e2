"""The lines of files of any kind that hold texts: text, manifests, tables and records, plain or compressed."""

import itertools
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from input_pipeline.storage import json_line, tables
from input_pipeline.storage.file_kind import RECORDS, TITLES, WESTERN, open_binary, peek_kind, without_id

MAX_SHOWN = 20  # characters of a title in a message
LINES_PER_UPDATE = 500  # of the progress bar


def read_lines(paths: Iterable[str], flag: str = "--text", bar: tqdm | None = None) -> Iterator[str]:
    """Yield the lines of text files, and the texts of manifests, tables, records and Kaldi's lines; print which.

    `bar` counts the bytes read, of compressed files the compressed ones. Raises ValueError naming `flag` and file, also
    for files that hold no texts.
    """
    for path in paths:
        try:
            yield from _lines(path, flag, bar)
        except tables.TableError as error:
            raise ValueError(f"{flag}: {error}") from error
        except OSError as error:
            raise ValueError(f"{flag}: {path} cannot be read: {error}") from error


def _lines(path: str, flag: str, bar: tqdm | None) -> Iterator[str]:
    with open_binary(path) as raw:
        kind = peek_kind(raw)
        if kind.encoding == WESTERN:
            raise ValueError(f"{flag}: {path} is {kind}; save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW")
        if kind.form not in (*RECORDS, "keyed text", "text", "empty"):
            raise ValueError(f"{flag}: {path} is {kind}, which holds no texts to read; name text files or manifests")
        texts = {"keyed text": ": the ids are left out"} | dict.fromkeys(RECORDS, ": the text of each record is read")
        print(f"{flag}: {path} is {kind}{texts.get(kind.form, '')}", flush=True)
        if kind.form in RECORDS and kind.form != "json lines":
            yield from _texts(path, flag)
            return
        number = position = 0
        try:
            with kind.open_on(raw) as file:
                for line in file:
                    number += 1
                    if bar is not None and number % LINES_PER_UPDATE == 0 and raw.seekable():
                        bar.update(raw.tell() - position)
                        position = raw.tell()
                    if kind.form == "keyed text":
                        yield without_id(line)
                    elif kind.form != "json lines":
                        yield line
                    elif line.strip():
                        yield _text_of(line)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{flag}: {path} cannot be read after line {number}: {error}; save it as UTF-8: iconv -f ENCODING -t UTF-8"
            ) from error
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise ValueError(f"{flag}: {path} cannot be read after line {number}: {error}") from error
        except json_line.RepeatedKeyError as error:
            raise ValueError(f"{flag}: {path}:{number}: {error}; remove one of them") from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{flag}: {path}:{number}: not a JSON object with a string as its 'text' ({error}); correct or remove the line"
            ) from error


def _text_of(line: str) -> str:
    """Return the text of a manifest's line. Raises JSONDecodeError, RepeatedKeyError, KeyError, TypeError."""
    text = json_line.decode(line)["text"]
    if not isinstance(text, str):
        raise TypeError(f"it is a {type(text).__name__}")
    return text


def _texts(path: str, flag: str) -> Iterator[str]:
    """Yield the texts of a table or of records. Raises ValueError where no column is known to be the text."""
    rows = tables.read_table(path)
    header = next(rows, [])
    titles = [title.strip().lower() for title in header]
    column = next((titles.index(title) for title in TITLES["text"] if title in titles), None)
    first = next(rows, None)
    if column is None or (header == tables.HEADERLESS and first is not None and first[column].endswith(".txt")):
        raise ValueError(
            f"{flag}: {path} is a table whose columns ({', '.join(title[:MAX_SHOWN] for title in header)}) include no text: "
            f"add a first line that names one of them {TITLES['text'][0]}, or cut -f2 FILE > TEXTS, if the second has the texts"
        )
    for row in itertools.chain([first] if first is not None else [], rows):
        yield row[column] if column < len(row) else ""
