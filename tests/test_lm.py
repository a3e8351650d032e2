"""Language models: text as the original prepared it, and real models where KenLM's programs are built."""

import bz2
import gzip
import json
import shutil
import subprocess
import sys

import pytest

from decoding import kenlm_build, lm, lm_vocabulary
from tests.runs import ROOT

BUILT = all((kenlm_build.BIN / name).is_file() or shutil.which(name) for name in kenlm_build.PROGRAMS)
needs_kenlm = pytest.mark.skipif(not BUILT, reason="KenLM's programs are not built (make kenlm)")
SENTENCES = ["the cat sat", "the dog sat on the cat", "a dog and a cat", "the cat ran to the dog", "a cat sat"]


@pytest.mark.parametrize(
    ("language", "line", "prepared"),
    [
        ("en", "  Hello,  World!\n", "hello world"),
        ("en", "It\u2019s 1000 o'clock", "it's one thousand o'clock"),
        ("en", "in 1999: 42%", "in one thousand nine hundred and ninety nine forty two"),
        ("en", "room7b", "room seven b"),
        (
            "en",
            "12345678901234567",
            "one two three four five six seven eight nine zero one two three four five six seven",
        ),
        ("en", "--- !!!", ""),
        ("zh", "你好，世界。 (abc)", "你 好 世 界 a b c"),
        ("none", " As  It is\n", "As It is"),
    ],
)
def test_text_is_prepared_as_the_original_did(language, line, prepared):
    assert lm.prepare(line, language) == prepared


def test_texts_are_read_from_plain_and_compressed_files_and_manifests(tmp_path):
    paths = [tmp_path / name for name in ("a.txt", "b.txt.gz", "c.bz2", "d.jsonl")]
    paths[0].write_text("one\n")
    paths[1].write_bytes(gzip.compress(b"two\n"))
    paths[2].write_bytes(bz2.compress(b"three\n"))
    paths[3].write_text(json.dumps({"audio_filepath": "x.wav", "duration": 1, "text": "four"}))
    assert [line.strip() for line in lm.read_lines(map(str, paths))] == ["one", "two", "three", "four"]


@pytest.mark.parametrize(
    ("content", "name", "named"),
    [
        (None, "a.txt", "a.txt cannot be read"),
        (b"\xff\xfe", "b.txt", "b.txt cannot be read after line 0"),
        (gzip.compress(b"one\ntwo\n" * 99)[:-9], "c.gz", "c.gz cannot be read"),
        (b'{"text": "a"}\nno json', "d.jsonl", "d.jsonl, line 2"),
    ],
)
def test_text_that_cannot_be_read_is_named_with_its_line(content, name, named, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=named):
        list(lm.read_lines([str(tmp_path / name)]))


def test_rare_words_are_replaced(tmp_path):
    (tmp_path / "t.txt").write_text("b a b\nb c a\n")
    counts = lm.write_corpus([str(tmp_path / "t.txt")], "en", 2, tmp_path / "corpus")
    assert counts == {"b": 3, "a": 2, "c": 1}
    assert (tmp_path / "corpus").read_text() == f"b a b\nb {lm.UNKNOWN} a\n"


def run_lm(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "decoding.lm", "train", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


@needs_kenlm
@pytest.mark.parametrize("kind", lm.KINDS)
def test_a_small_corpus_becomes_a_model_and_is_measured(kind, tmp_path):
    text, held_out, output = tmp_path / "t.txt", tmp_path / "h.txt", tmp_path / "lm.bin"
    text.write_text("\n".join(SENTENCES))
    held_out.write_text("the cat sat\nthe zebra sat")
    options = [f"--text={text}", f"--held_out={held_out}", f"--output={output}", f"--kind={kind}", "--order=3"]
    result = run_lm(*options, f"--arpa={tmp_path / 'lm.arpa'}")
    assert result.returncode == 0, result.stderr
    assert "default ones are used" in result.stdout  # five sentences give no discounts
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["words"] == len(set(" ".join(SENTENCES).split()))
    assert found["held_out"]["unknown"] == round(1 / 8, 4)  # zebra, of six words and two ends
    assert 1 < found["held_out"]["perplexity_known"] < 20
    assert set(lm_vocabulary.read_words(str(output))) == set(" ".join(SENTENCES).split())
    assert lm_vocabulary.kind_of(tmp_path / "lm.arpa") == "arpa"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.txt", "lm.arpa", "lm.bin", "t.txt"]


@needs_kenlm
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--order=9"], "--order is 9"),
        (["--prune=5 0"], "lmplz failed"),
        (["--text=nowhere.txt"], "nowhere.txt cannot be read"),
    ],
)
def test_what_cannot_be_trained_is_said_and_leaves_nothing(options, named, tmp_path):
    text = tmp_path / "t.txt"
    text.write_text("\n".join(SENTENCES))
    result = run_lm(f"--text={text}", f"--output={tmp_path / 'lm.bin'}", *options)
    assert result.returncode == 1
    assert named in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


def test_missing_programs_are_named_with_the_command_that_builds_them(monkeypatch, tmp_path):
    monkeypatch.setattr(kenlm_build, "BIN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kenlm_build.KenlmError, match=r"lmplz is not built: run make kenlm"):
        kenlm_build.program("lmplz")
    assert "cmake" in kenlm_build.missing()
