"""`--mode=align` as users run it: a folder of utterances, tables of times, clear refusals, nothing half-written."""

import json

import pytest

from tests.conftest import CLIPS
from tests.runs import run_main

ALIGN = ("--mode=align", "--config.restore=models/an4")


def test_a_recording_becomes_a_corpus_and_tables(tmp_path):
    text = tmp_path / "smith.txt"
    text.write_text("S, m, i, t, h!\n")
    clip = CLIPS / "cen1-mtos-b.flac"
    outputs = ",".join(str(tmp_path / name) for name in ("smith", "smith.TextGrid", "smith.ctm"))
    result = run_main(*ALIGN, f"--audio={clip}", f"--text={text}", f"--output={outputs}")
    assert result.returncode == 0, result.stderr
    assert "1 utterances" in result.stdout
    [row] = map(json.loads, (tmp_path / "smith" / "manifest.jsonl").read_text().splitlines())
    assert (row["text"], row["audio_filepath"]) == ("s m i t h", "audio/0001.flac")
    assert (tmp_path / "smith" / row["audio_filepath"]).is_file()
    grid = (tmp_path / "smith.TextGrid").read_text()
    assert 'name = "words"' in grid
    assert 'name = "symbols"' in grid
    assert [line.split()[4] for line in (tmp_path / "smith.ctm").read_text().splitlines()] == list("smith")


def test_the_words_of_a_manifest_are_placed(tmp_path, clips):
    output = tmp_path / "times.json"
    result = run_main(*ALIGN, f"--config.data.test={clips}", f"--output={output}")
    assert result.returncode == 0, result.stderr
    texts = [json.loads(line)["text"] for line in clips.read_text().splitlines()]
    described = json.loads(output.read_text())
    words = [[word for part in one["segments"] for word in part["words"]] for one in described]
    assert [" ".join(word["text"] for word in one) for one in words] == texts
    assert all("".join(symbol["text"] for symbol in word["symbols"]) == word["text"] for one in words for word in one)


@pytest.mark.parametrize(
    ("text", "output", "message"),
    [
        ("entirely different words are here\n", "book", "have too little in common: "),
        ("s m\n" * 100, "book", "have too little in common: "),
        ("yes\n", "clips.xyz", ".xyz is no format of transcripts"),
        ("yes\n", "", "--mode=align writes to --output"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(tmp_path, text, output, message):
    (tmp_path / "a.txt").write_text(text)
    flags = [f"--output={tmp_path / output}"] if output else []
    clip = CLIPS / "cen1-mtos-b.flac"
    result = run_main(*ALIGN, f"--audio={clip}", f"--text={tmp_path / 'a.txt'}", *flags)
    assert result.returncode != 0
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("output", "cut", "expected"),
    [
        ("book", "segments", "is read by ffmpeg, and cannot be read in parts: use config.align.cut=flac"),
        ("book.json", "segments", "ffmpeg"),  # nothing is cut; it is not installed, or cannot read this
    ],
)
def test_what_ffmpeg_reads_cannot_be_cut_into_segments(tmp_path, output, cut, expected):
    film, text = tmp_path / "film.mp4", tmp_path / "text.txt"
    film.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    text.write_text("a\n")
    outputs = (f"--output={tmp_path / output}", f"--config.align.cut={cut}")
    result = run_main(*ALIGN, f"--audio={film}", f"--text={text}", *outputs)
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert expected in line
    assert ("cannot be read in parts" in line) == (output == "book" and cut == "segments")
    assert not (tmp_path / output).exists()
