"""Files that are not manifests are named with the command that converts them, which does."""

import json
import shlex
import subprocess
import sys

import pytest

from input_pipeline import manifest
from input_pipeline.corpora import prepare
from input_pipeline.manifest import ManifestError
from tests.corpus_archives import clip
from tests.runs import ROOT

ROWS = [{"audio_filepath": f"{n}.wav", "duration": 1.0, "text": f"caf\u00e9 {n}"} for n in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
OTHERS: dict[str, bytes | str] = {
    "a JSON array": json.dumps(ROWS),
    "JSON objects that extend over several lines": "\n".join(json.dumps(row, indent=1) for row in ROWS),
    "one JSON object with a record for each key": json.dumps({str(n): row for n, row in enumerate(ROWS)}),
    "one JSON object with a list for each column": json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}),
    "JSON objects with a comma after each line": LINES.replace("\n", ",\n"),
    "Python dictionaries instead of JSON": "".join(f"{row}\n" for row in ROWS),
    "a table (CSV, TSV)": "wav_filename,transcript\n" + "".join(f"{n}.wav,caf\u00e9 {n}\n" for n in range(3)),
    "JSON lines, encoded as UTF-16": LINES.encode("utf-16"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_a_manifest_is_named_and_its_conversion_works(tmp_path, kind, monkeypatch):
    content = OTHERS[kind]
    path = tmp_path / "test.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for number in range(3):
        (tmp_path / f"{number}.wav").write_bytes(clip(number, "WAV"))
    for read in (manifest.read, lambda path: list(manifest.records(path)), lambda path: manifest.read_many(str(path))):
        with pytest.raises(ManifestError) as error:
            read(path)
        assert str(error.value).startswith(f"{path} is {kind}, not a manifest")
        assert str(error.value).count("\n") == 0
    with pytest.raises(ManifestError):
        manifest.read(path, bad_lines=[])
    monkeypatch.chdir(tmp_path)
    command = shlex.split(str(error.value).partition("convert it: python -m input_pipeline.prepare ")[2])
    assert prepare.main(command) == 0
    assert sorted(manifest.read("data/test/test.jsonl").text) == ["caf\u00e9 0", "caf\u00e9 1", "caf\u00e9 2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (clip(0, "WAV"), "m.jsonl is an audio file, not a manifest; name a file with one JSON object per line"),
        (b"\\data\\\nngram 1=1\n", "m.jsonl is a language model (ARPA), not a manifest"),
        (b"\x1f\x8b\x08\x00broken", "packed by gzip, not a manifest"),
    ],
)
def test_other_files_are_named_too(tmp_path, content, message):
    (tmp_path / "m.jsonl").write_bytes(content)
    with pytest.raises(ManifestError) as error:
        manifest.read(tmp_path / "m.jsonl")
    assert message in str(error.value)


def test_lines_that_end_in_carriage_returns_are_read(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINES, newline="\r", encoding="utf-8")
    assert manifest.read(tmp_path / "m.jsonl").line.tolist() == [1, 2, 3]


def test_a_pipe_is_read_from_its_start(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINES, encoding="utf-8")
    code = "from input_pipeline import manifest; print(len(manifest.read('/dev/stdin')))"
    with open(tmp_path / "m.jsonl", "rb") as file:
        cat = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stdin=cat.stdout, capture_output=True, text=True, timeout=60
        )
        assert cat.wait() == 0
    assert result.stdout.strip() == "3", result.stderr


def test_a_key_with_two_values_is_refused_and_one_repeated_is_not(tmp_path):
    row = '{"audio_filepath": "a.wav", "duration": 1, "text": "a", "words": [{"w": 1, "w": 2}]'
    (tmp_path / "m.jsonl").write_text(f'{row}, "duration": 1}}\n{row}, "text": "b"}}\n')
    with pytest.raises(ManifestError, match=r"m.jsonl:2: key 'text' occurs twice with different values; remove one"):
        manifest.read(tmp_path / "m.jsonl")
    bad: list[str] = []
    assert manifest.read(tmp_path / "m.jsonl", bad_lines=bad).extra[0] == {"words": [{"w": 2}]}
    assert len(bad) == 1


def test_the_home_folder_is_expanded_in_the_path_of_a_manifest_and_in_its_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "~/a.wav", "duration": 1, "text": "a"}')
    read = manifest.read_many("~/m.jsonl:2")
    assert read.audio == [f"{tmp_path}/a.wav"]
    assert read.weights == (2.0,)
    assert read.path_as_written(0) == "a.wav"
