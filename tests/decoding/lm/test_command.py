"""Language models: text as the original prepared it, and real models where KenLM's programs are built."""

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from decoding.lm import command, kenlm_build, kenlm_run, model_file, text_corpus
from decoding.lm.preparation import Preparation
from input_pipeline.storage.lock import exclusive
from input_pipeline.text import TextRules, Vocabulary
from tests.runs import ROOT, wait_until_printed

BUILT = all((kenlm_build.BIN / name).is_file() or shutil.which(name) for name in kenlm_build.PROGRAMS)
needs_kenlm = pytest.mark.skipif(not BUILT, reason="KenLM's programs are not built (make kenlm)")
ENGLISH, MANDARIN = Preparation(TextRules("en")), Preparation(TextRules("zh"))
LETTERS = " '-abcdefghijklmnopqrstuvwxyz"
SENTENCES = ["the cat sat", "the dog sat on the cat", "a dog and a cat", "the cat ran to the dog", "a cat sat"]


def test_rare_words_are_replaced(tmp_path):
    (tmp_path / "t.txt").write_text("b a b\nb c a\n")
    counts = text_corpus.write_corpus([str(tmp_path / "t.txt")], ENGLISH, 2, tmp_path / "corpus")
    assert counts == text_corpus.CorpusCounts(lines=2, excluded=0, tokens=6, words=3)
    assert (tmp_path / "corpus").read_text() == f"b a b\nb {text_corpus.UNKNOWN} a\n"


def test_rare_words_are_forgotten_when_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(text_corpus, "MAX_COUNTED", 12)
    lines = [f"often w{i} seldom" if i % 9 == 0 else f"often w{i} often" for i in range(90)]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    counted = text_corpus.write_corpus(
        [str(tmp_path / "t.txt")], Preparation(TextRules("none")), 2, tmp_path / "corpus"
    )
    assert (counted.lines, counted.tokens) == (90, 270)
    assert set((tmp_path / "corpus").read_text().split()) == {"often", "seldom", text_corpus.UNKNOWN}


def test_texts_of_a_test_set_are_left_out(tmp_path, monkeypatch):
    records = [{"audio_filepath": "x.wav", "duration": 1, "text": text} for text in ("It's no good at all!", "yes")]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, records)))
    kept = ["it's no good at alloa", "yes or no", "no good at all", "its no good at all"]
    dropped = [
        "Its no good \u2013 oh, it\u2019s no good at all, she said",
        "it's no good at all",
        "Yes.",
        "It's no, good at all",
    ]
    (tmp_path / "t.txt").write_text("\n".join(dropped + kept))
    excluded = text_corpus.ExcludedTexts([str(tmp_path / "test.jsonl")], ENGLISH.rules)
    assert len(excluded) == 2
    counted = text_corpus.write_corpus([str(tmp_path / "t.txt")], ENGLISH, 99, tmp_path / "corpus", excluded)
    assert (tmp_path / "corpus").read_text().splitlines() == kept
    assert counted.excluded == len(dropped)
    (tmp_path / "t.txt").write_text("yes\n")
    with pytest.raises(ValueError, match=r"nothing is left of .* without the 1 lines of --exclude"):
        text_corpus.write_corpus([str(tmp_path / "t.txt")], ENGLISH, 99, tmp_path / "corpus", excluded)
    with pytest.raises(ValueError, match="--exclude: nowhere"):
        text_corpus.ExcludedTexts(["nowhere.jsonl"], ENGLISH.rules)


def test_the_first_text_of_a_test_set_is_left_out_whatever_mark_its_file_starts_with(tmp_path):
    (tmp_path / "test.txt").write_text("今天的天气非常好\n", encoding="utf-8-sig")
    assert text_corpus.ExcludedTexts([str(tmp_path / "test.txt")], MANDARIN.rules).match("今 天 的 天 气 非 常 好")
    assert text_corpus.ExcludedTexts([str(tmp_path / "test.txt")], TextRules("none")).match("今天的天气非常好")


@pytest.mark.parametrize(
    ("language", "test", "line", "symbols"),
    [
        ("en", "He sang songs, all of them.", "he sang songs all of them", "abcdefghijklmnopqrstuvwxyz ,."),
        ("zh", "今天，天气非常好。", "今天天气非常好", "今天气非常好，。"),
        ("none", "He sang songs, all of them.", "He sang songs all of them", "abcdefghijklmnopqrstuvwxyzHS ,."),
    ],
)
def test_texts_are_left_out_whatever_punctuation_the_network_has(language, test, line, symbols, tmp_path):
    (tmp_path / "test.txt").write_text(test)
    (tmp_path / "t.txt").write_text(f"{line}\n{test}\n{line[:3]}\n")
    excluded = text_corpus.ExcludedTexts([str(tmp_path / "test.txt")], TextRules(language))
    prepare = Preparation(TextRules(language), symbols)
    counts = text_corpus.write_corpus([str(tmp_path / "t.txt")], prepare, 99, tmp_path / "corpus", excluded)
    assert (counts.lines, counts.excluded) == (1, 2)


def test_short_idioms_are_left_out_as_whole_lines_only(tmp_path):
    (tmp_path / "test.txt").write_text("无可奉告\n今天的天气非常好\n")
    excluded = text_corpus.ExcludedTexts([str(tmp_path / "test.txt")], MANDARIN.rules)
    assert excluded.match(MANDARIN("无可奉告。"))
    assert not excluded.match(MANDARIN("他无可奉告"))
    assert excluded.match(MANDARIN("你看，今天的天气非常好啊"))


def test_stars_of_kenlm_become_a_bar(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(kenlm_run, "TICK_S", 0.1)
    monkeypatch.setattr(kenlm_run, "DELAY_S", 0.15)
    banner = "----5---10---15"
    counting = rf"echo '=== 1/5 Counting ===\nReading it\n{banner}' >&2; printf '%040d' 0 | tr 0 '*' >&2"
    sorting = r"echo '\n=== 2/5 Sorting ===' >&2"
    program = "; ".join(
        (
            counting,
            f"until [ -e {tmp_path}/1 ]; do sleep 0.05; done",
            sorting,
            f"until [ -e {tmp_path}/2 ]; do sleep 0.05; done",
        )
    )
    with ThreadPoolExecutor(1) as thread:
        said = thread.submit(kenlm_run.run, ["sh", "-c", program])
        wait_until_printed("sh 1/5 Counting:  40%", capfd)
        (tmp_path / "1").touch()
        wait_until_printed("sh 2/5 Sorting:   0%", capfd)
        (tmp_path / "2").touch()
    assert said.result().endswith("2/5 Sorting ===\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo why >&2; exit 3", "sh failed: why; exit code 3"),
        ("exit 3", "sh failed: exit code 3"),
        ("echo last >&2; kill -9 $$", "sh failed: last; it was ended by signal 9, perhaps for lack of memory"),
    ],
)
def test_a_program_that_fails_or_is_killed_is_told(command, said):
    with pytest.raises(kenlm_build.KenlmError) as raised:
        kenlm_run.run(["sh", "-c", command])
    assert str(raised.value) == said


def run_lm(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "decoding.lm", "train", "--memory=50M", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@needs_kenlm
@pytest.mark.parametrize(
    ("symbols", "options", "words"),
    [
        (None, [], {"l'été", "dit-il", "7", "café", "vingt-deux"}),
        (None, ["--spell_numbers"], {"l'été", "dit-il", "sept", "café", "vingt-deux"}),
        (LETTERS + "é", [], {"l'été", "dit-il", "sept", "café", "vingt-deux"}),
        (LETTERS + "é7", [], {"l'été", "dit-il", "7", "café", "vingt-deux"}),
        (LETTERS + "7", [], {"dit-il", "7", "vingt-deux"}),
    ],
)
def test_words_are_those_of_the_transcripts_or_of_the_networks_symbols(symbols, options, words, tmp_path):
    (tmp_path / "t.txt").write_text("L\u2019ÉTÉ, dit-il.\n7 café\nvingt-deux 7\n" * 9, encoding="utf-8")
    if symbols:
        Vocabulary(tuple(symbols)).save(tmp_path / "run" / "vocabulary.txt")
        options = [*options, f"--vocabulary={tmp_path / 'run'}"]
    output = tmp_path / "lm.bin"
    result = run_lm(f"--text={tmp_path / 't.txt'}", f"--output={output}", "--language=fr", "--order=2", *options)
    assert result.returncode == 0, result.stderr
    assert set(model_file.read_words(str(output))) == words
    assert ("numbers are written as words" in result.stdout) == (bool(symbols) and "7" not in symbols)
    dropped = json.loads(result.stdout.splitlines()[-1])["dropped"]
    unwritable = "l'été" not in words
    assert dropped == {"characters": 18, "words": 18 if unwritable else 0}
    assert "',' (U+002C COMMA) 9 times, as in \"l'été,\"" in result.stdout
    assert ("18 words cannot be written" in result.stdout) == unwritable


@needs_kenlm
def test_held_out_words_that_a_network_cannot_write_are_unknown(tmp_path):
    (tmp_path / "t.txt").write_text("le café est là\nle thé est ici\nle lait est ici\n" * 9, encoding="utf-8")
    Vocabulary(tuple(" abcdefghijklmnopqrstuvwxyz")).save(tmp_path / "v.txt")
    options = [f"--{flag}={tmp_path / 't.txt'}" for flag in ("text", "held_out")]
    result = run_lm(*options, f"--output={tmp_path / 'lm.bin'}", f"--vocabulary={tmp_path / 'v.txt'}", "--order=2")
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["held_out"]["unknown"] == round(3 / 15, 4)
    assert set(model_file.read_words(str(tmp_path / "lm.bin"))) == {"le", "est", "ici", "lait"}


@needs_kenlm
def test_a_text_of_which_most_words_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "t.txt").write_text("ПРИВЕТ МИР ok\n" * 9, encoding="utf-8")
    Vocabulary(tuple(" abcdko")).save(tmp_path / "v.txt")
    result = run_lm(
        f"--text={tmp_path / 't.txt'}", f"--output={tmp_path / 'lm.bin'}", f"--vocabulary={tmp_path / 'v.txt'}"
    )
    assert result.returncode == 1
    assert "18 words cannot be written" in result.stderr
    assert "привет (9)" in result.stderr
    assert not (tmp_path / "lm.bin").exists()


@needs_kenlm
@pytest.mark.parametrize("kind", command.KINDS)
def test_a_small_corpus_becomes_a_model_and_is_measured(kind, tmp_path):
    text, held_out, output = tmp_path / "t.txt", tmp_path / "h.txt", tmp_path / "lm.bin"
    text.write_text("\n".join(SENTENCES))
    held_out.write_text("the cat sat\nthe zebra sat")
    (tmp_path / ".lm.bin.unfinished").mkdir()  # of a run that was killed
    (tmp_path / ".lm.bin.unfinished" / "corpus.txt").write_text("a zebra")
    options = [f"--text={text}", f"--held_out={held_out}", f"--output={output}", f"--kind={kind}", "--order=3"]
    result = run_lm(*options, f"--arpa={tmp_path / 'lm.arpa'}")
    assert result.returncode == 0, result.stderr
    assert "discounts for 3-grams: KenLM's default ones are used" in result.stdout  # five sentences
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["words"] == len(set(" ".join(SENTENCES).split()))
    assert found["held_out"]["unknown"] == round(1 / 8, 4)  # zebra, of six words and two ends
    assert 1 < found["held_out"]["perplexity_known"] < 20
    assert set(model_file.read_words(str(output))) == set(" ".join(SENTENCES).split())
    assert model_file.kind_of(tmp_path / "lm.arpa") == "arpa"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "h.txt",
        "lm.arpa",
        "lm.arpa.sha256",
        "lm.bin",
        "lm.bin.sha256",
        "t.txt",
    ]


@pytest.mark.parametrize("option", ["order=2", "order=6", "words=1", "prune=0 0 1 1 1", "prune=0", "memory=2.5G"])
def test_a_value_at_its_limit_is_allowed(option, tmp_path):
    (tmp_path / "t.txt").write_text("a b\n")
    command.check(
        command.parse(["train", f"--text={tmp_path / 't.txt'}", f"--output={tmp_path / 'lm.bin'}", f"--{option}"])
    )


@needs_kenlm
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--order=9"], "--order is 9"),
        (["--prune=5 0"], "--prune is '5 0'"),
        (["--prune=a"], "--prune is 'a'"),
        (["--order=2", "--prune=0 1 1"], "up to 2 counts, one per order"),
        (["--words=0"], "--words is 0"),
        (["--vocabulary=400000"], "the number of words is --words=400000"),
        (["--vocabulary=nowhere.txt"], "vocabulary nowhere.txt cannot be read"),
        (["--memory=lots"], "--memory is 'lots'"),
        (["--memory=1M"], "error: lmplz failed: Vocab hash size estimate 25165824 exceeds total memory 1048576;"),
        (["--text=nowhere.txt"], "--text: there is no file nowhere.txt"),
        (["--held_out=nowhere.txt"], "--held_out: there is no file nowhere.txt"),
        (["--exclude=."], "--exclude: there is no file ."),
        (["--text=,"], "--text is empty"),
        (["--output=."], "--output=. is a folder"),
    ],
)
def test_what_cannot_be_trained_is_said_and_leaves_nothing(options, named, tmp_path):
    text = tmp_path / "t.txt"
    text.write_text("\n".join(SENTENCES))
    result = run_lm(f"--text={text}", f"--output={tmp_path / 'lm.bin'}", *options)
    assert result.returncode == 1
    assert named in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    text = tmp_path / "t.txt"
    text.write_text("\n".join(SENTENCES))
    full = tmp_path / "lmplz"
    full.write_text(
        "#!/bin/sh\necho 'util/file.cc:1 threw FDException. No space left on device in /x' >&2\nkill -6 $$\n"
    )
    full.chmod(0o755)
    monkeypatch.setattr(kenlm_build, "program", lambda name: str(full))
    monkeypatch.setattr(sys, "argv", ["lm", "train", f"--text={text}", f"--output={tmp_path / 'lm.bin'}"])
    assert command.main() == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'lm.bin'}: the disk is full; free some space and run again, or choose another --output\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lmplz", "t.txt"]


def test_a_second_run_waits_for_the_first_and_leaves_its_folder_alone(tmp_path, monkeypatch, capsys):
    text, output, folder = tmp_path / "t.txt", tmp_path / "lm.bin", tmp_path / ".lm.bin.unfinished"
    text.write_text("\n".join(SENTENCES))
    copying = tmp_path / "copying"  # in place of both programs: from the last file but one, or stdin, to the last one
    copying.write_text(
        '#!/bin/sh\nfor f; do from=$to; to=$f; done\nif [ -f "$from" ]; then cp "$from" "$to"; else cat; fi\n'
    )
    copying.chmod(0o755)
    monkeypatch.setattr(kenlm_build, "program", lambda name: str(copying))
    line = command.parse(["train", f"--text={text}", f"--output={output}", "--language=none"])
    second = threading.Thread(target=command.run_train, args=(line,))
    with exclusive(output):
        folder.mkdir()  # as the first run does
        second.start()
        wait_until_printed("lm.bin: waiting for process", capsys)
        assert folder.is_dir()
        assert not any(folder.iterdir())
    second.join()
    assert output.read_text() == "\n".join(SENTENCES) + "\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copying", "lm.bin", "lm.bin.sha256", "t.txt"]


def test_missing_programs_are_named_with_the_command_that_builds_them(monkeypatch, tmp_path):
    monkeypatch.setattr(kenlm_build, "BIN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kenlm_build.KenlmError, match=r"lmplz is not built: run make kenlm"):
        kenlm_build.program("lmplz")
    assert "cmake" in kenlm_build.missing()
