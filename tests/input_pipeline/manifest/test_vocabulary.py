"""The tool that makes a vocabulary of manifests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from input_pipeline.manifest import vocabulary
from input_pipeline.text import Vocabulary
from input_pipeline.text.characters import count_characters


def write_manifest(path: Path, *texts: str) -> Path:
    records = [{"audio_filepath": f"{i}.wav", "duration": 1.0, "text": text} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_the_tool_makes_a_vocabulary_of_several_manifests(tmp_path, capsys):
    one = write_manifest(tmp_path / "one.jsonl", "It’s  a test", "A B")
    two = write_manifest(tmp_path / "two.jsonl", "TEST")
    output = tmp_path / "vocabulary.txt"
    assert vocabulary.main(["--count_threshold=2", f"--output={output}", str(one), str(two)]) == 0
    out = capsys.readouterr().out
    assert output.read_text() == "t\n \ns\na\ne\n"
    assert out.splitlines()[0].split()[:2] == ["5", "'t'"]
    assert "1  'i' (U+0069 LATIN SMALL LETTER I), left out" in out
    assert "5 symbols from 3 transcripts" in out


def test_the_tool_warns_of_characters_that_seldom_belong(tmp_path, capsys):
    manifest = write_manifest(tmp_path / "m.jsonl", *["a plain sentence of letters"] * 4, "pl\u0430in \u0430\ue000 q")
    assert vocabulary.main([f"--output={tmp_path / 'v.txt'}", str(manifest)]) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert "private or unassigned characters: '\\ue000' (U+E000 without a name)" in warnings[0]
    assert "letters of a rare script: 'а' (U+0430 CYRILLIC SMALL LETTER A)" in warnings[1]
    assert "seen only once: 'q'" in warnings[2]
    assert "two scripts that look alike: pl\u0430in" in warnings[3]
    assert len(warnings) == 4


def test_digits_and_spaces_do_not_make_letters_a_rare_script():
    assert vocabulary.suspicious(count_characters(["1 2 3 4 5 6 7 8 9 0 ab", "1 2 3 4 5 6 7 8 9 0 ba"])) == []


@pytest.mark.parametrize(
    "texts",
    [
        ["東京タワーの近くで人々が待つ", "コーヒーを飲む人々"],
        ["ไม่มีใครรู้", "ใครไม่มี", "รู้"],
        ["ʻo kēia ka ʻāina", "ka ʻāina kēia ʻo"],
    ],
)
def test_letters_that_belong_to_a_language_are_no_rare_script(texts):
    counts = count_characters(texts * 10)
    assert vocabulary.suspicious(counts) == []


def test_a_combining_mark_is_shown_on_a_dotted_circle(tmp_path, capsys):
    manifest = write_manifest(tmp_path / "m.jsonl", "কি কি", "مُ مُ")
    assert vocabulary.main([f"--output={tmp_path / 'v.txt'}", str(manifest)]) == 0
    out = capsys.readouterr().out
    assert "2  '\u25ccি' (U+09BF BENGALI VOWEL SIGN I)" in out
    assert "2  '\u25cc\u064f' (U+064F ARABIC DAMMA)" in out
    assert "2  'م' (U+0645 ARABIC LETTER MEEM)" in out


def test_the_tool_reads_real_transcripts_and_is_deterministic(clips, tmp_path, capsys):
    for name in ("one.txt", "two.txt"):
        assert vocabulary.main([f"--output={tmp_path / name}", str(clips)]) == 0
    made = Vocabulary.load(tmp_path / "one.txt")
    assert made == Vocabulary.load(tmp_path / "two.txt")
    assert set(made.symbols) <= set(" 'abcdefghijklmnopqrstuvwxyz")
    assert " " in made.symbols


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl"),
        (["bad.jsonl"], "bad.jsonl:1"),
        (["good.jsonl", "--count_threshold=99"], "no character of 1 transcripts occurs 99 times"),
        (["good.jsonl", "--output=good.jsonl/v.txt"], "good.jsonl/v.txt cannot be written"),
    ],
)
def test_the_tool_tells_a_mistake_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "good.jsonl", "abc")
    (tmp_path / "bad.jsonl").write_text('{"text": 1}\n')
    assert vocabulary.main(["--output=v.txt", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "v.txt").exists()


def test_the_tool_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "input_pipeline.text", "--output=v.txt", "--language=xx", "m.jsonl"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    assert result.returncode == 2
    assert "'xx': choose none, or an ISO 639 code" in result.stderr
