"""Corpora in the formats of other toolkits: the right audio, segment, channel, text and speaker, and what is left out."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile

from input_pipeline.corpora import prepare
from input_pipeline.corpora.kaldi import Source, parse_command
from tests.conftest import CLIPS
from tests.corpus_archives import read_manifest

FORMATS = Path(__file__).parent / "formats"
FIRST_S, SECOND_S = 1.5, 2.9  # of the clips in long.flac


@pytest.fixture
def source(tmp_path) -> Path:
    """Return a folder with two clips in a row as long.flac, and in the right channel of stereo.wav half a second late."""
    folder = tmp_path / "source"
    folder.mkdir()
    paths = sorted(CLIPS.glob("*.flac"))[:2]
    samples = np.concatenate([soundfile.read(path)[0] for path in paths])
    soundfile.write(folder / "long.flac", samples, 16000)
    soundfile.write(folder / "stereo.wav", np.stack([samples, np.roll(samples, 8000)], 1), 16000)
    return folder


def run(corpus: str, source: Path, *options: str) -> dict[str, list[dict]]:
    """Prepare a corpus; return its manifests by split."""
    target = source.parent / "target"
    assert prepare.main([corpus, f"--source={source}", f"--target_dir={target}", *options]) == 0
    return {path.stem: read_manifest(path) for path in sorted(target.glob("*.jsonl"))}


def error_of(capsys, corpus: str, source: Path) -> str:
    assert prepare.main([corpus, f"--source={source}", f"--target_dir={source.parent / 'target'}"]) == 1
    assert not list((source.parent / "target").glob("*.jsonl"))
    return capsys.readouterr().err


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", name.count("_") * (name != "utt2spk"))).write_text(text)


def row(record: dict) -> tuple:
    return tuple(record.get(key) for key in ("text", "offset", "duration", "channel", "speaker"))


def test_kaldi_segments_keep_their_places_in_the_long_file(source):
    write(
        source,
        wav_scp=f"long {source}/long.flac\ncall sph2pipe -f wav -p -c 2 {source}/stereo.wav |\n",
        segments="u1 long 0.0 1.5\nu2 long 1.5 -1\nu3 call 0.5 1.5\nu4 gone 0 1\n",
        text="u1 FIRST ONE\nu2 SECOND\nu3 THIRD\nu4 FOURTH\nu5\n",
        utt2spk="u1 a\nu2 b\nu3 c\nu4 d\n",
    )
    rows = [row(record) for record in run("kaldi", source)["train"]]
    assert rows == [
        ("FIRST ONE", 0.0, FIRST_S, None, "a"),
        ("SECOND", FIRST_S, SECOND_S, None, "b"),
        ("THIRD", 0.5, 1.0, 1, "c"),
    ]


def test_kaldi_folders_become_splits_and_missing_audio_is_named(source, capsys):
    for split, name in (("train", "long.flac"), ("dev", "stereo.wav")):
        write(source / split, wav_scp=f"u1 ../{name}\n", text="u1 Some text.\nu2 more\n")
    manifests = run("kaldi", source, "--text=plain")
    assert {split: records[0]["text"] for split, records in manifests.items()} == {
        "train": "some text",
        "dev": "some text",
    }
    assert f"skipped 1 (no audio in {source}/dev): u2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("sph2pipe -f wav -p a.sph |", Source("a.sph")),
        ("/opt/bin/sph2pipe -p -f wav -c 1 'a b.sph'|", Source("a b.sph", 0)),
        ("flac -c -d -s a.flac |", Source("a.flac")),
        ("flac --decode --stdout --silent a.flac |", Source("a.flac")),
        ("cat a.wav |", Source("a.wav")),
    ],
)
def test_kaldi_commands_that_decode_are_understood(command, expected):
    assert parse_command(command, "wav.scp:1") == expected


@pytest.mark.parametrize(
    "command",
    ["sox a.wav -t wav - speed 1.1 |", "flac -c a.wav |", "flac -cd a.flac | sox - |", "cat a b |", "rm -rf / |"],
)
def test_kaldi_commands_that_do_more_are_refused_by_place(source, capsys, command):
    write(source, wav_scp=f"long long.flac\nu2 {command}\n", text="u2 text\n")
    assert f"{source}/wav.scp:2: {command!r} is not a command that only decodes" in error_of(capsys, "kaldi", source)


def test_a_segment_outside_of_its_file_is_left_out(source, capsys):
    write(source, wav_scp="long long.flac\n", segments="u1 long 0 1\nu2 long 4 9\n", text="u1 one\nu2 two\n")
    assert len(run("kaldi", source)["train"]) == 1
    assert "long.flac (lasts 4.40 s: 5.00 s from 4.00 s are not in it)" in capsys.readouterr().out
    (source / "segments").write_text("u1 long zero 1\n")
    shutil.rmtree(source.parent / "target")
    assert f"{source}/segments:1: 'u1 long zero 1' is not `utterance recording start end`" in error_of(
        capsys, "kaldi", source
    )


def test_lhotse_cuts_and_supervisions(source, capsys):
    for path in (FORMATS / "lhotse").iterdir():
        shutil.copy(path, source)
    manifests = run("lhotse", source)
    expected = [
        ("first", 0.0, FIRST_S, None, "a"),
        ("second", FIRST_S, SECOND_S, None, "b"),
        ("right", 0.5, 1.0, 1, None),
    ]
    assert [row(record) for record in manifests["train"]] == expected
    assert [row(record) for record in manifests["dev"]] == [
        *expected,
        *expected[:2],
        expected[0],
    ]  # cut, whole, resampled
    out = capsys.readouterr().out
    assert "skipped 3 (cuts of cuts_dev.jsonl.gz): u1_sp1.1, whose recording is changed (Speed), " in out
    assert out.count("of the type MixedCut") == 2


def test_lhotse_lists_that_are_incomplete_or_damaged_are_named(source, capsys):
    shutil.copy(FORMATS / "lhotse" / "demo_supervisions_train.jsonl.gz", source)
    assert "its recordings, demo_recordings_train.jsonl.gz, are missing" in error_of(capsys, "lhotse", source)
    packed = (FORMATS / "lhotse" / "demo_recordings_train.jsonl.gz").read_bytes()
    (source / "demo_recordings_train.jsonl.gz").write_bytes(packed[:-20])
    assert "demo_recordings_train.jsonl.gz cannot be read" in error_of(capsys, "lhotse", source)
    (source / "cuts.jsonl").write_text('{"id": "x", "type": "MonoCut", "supervisions": [{}]}\n')
    assert f"{source}/cuts.jsonl:1: not a cut of Lhotse (KeyError('start'))" in error_of(
        capsys, "lhotse", source / "cuts.jsonl"
    )


def test_nemo_manifests(source):
    rows = [
        {"audio_filepath": "long.flac", "duration": FIRST_S, "text": "first", "speaker": 7},
        {"audio_filepath": str(source / "long.flac"), "offset": 1.5, "duration": 2.0, "text": "second"},
    ]
    (source / "train_manifest.json").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (source / "validation_manifest.json").write_text(json.dumps(rows[1] | {"duration": None}) + "\n")
    manifests = run("nemo", source)
    assert [row(record) for record in manifests["train"]] == [
        ("first", 0.0, FIRST_S, None, "7"),
        ("second", FIRST_S, 2.0, None, None),
    ]
    assert [row(record) for record in manifests["dev"]] == [("second", FIRST_S, SECOND_S, None, None)]


def test_a_wrong_row_of_nemo_is_named(source, capsys):
    (source / "train.json").write_text('{"audio_filepath": "long.flac"}\n')
    assert f"{source}/train.json:1: not a row of NeMo's manifests (KeyError('text'))" in error_of(
        capsys, "nemo", source
    )


def test_the_channels_of_nemo_stay_apart(source):
    rows = [
        {"audio_filepath": "stereo.wav", "duration": 2.0, "text": side, "channel": i} for i, side in enumerate("lr")
    ]
    (source / "train.json").write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert [row(record)[:4] for record in run("nemo", source)["train"]] == [("l", 0.0, 2.0, 0), ("r", 0.0, 2.0, 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 1, "end": 2}, "'start' may mean a part of the file"),
        ({"duration": float("nan")}, "nan is no time in seconds"),
        ({"offset": -1.0}, "-1.0 is no time in seconds"),
        ({"channel": -1}, "-1 is no channel"),
        ({"text": 5}, "the text is 5, not a string"),
    ],
)
def test_a_wrong_value_of_nemo_is_named(source, capsys, change, message):
    line = json.dumps({"audio_filepath": "long.flac", "duration": 1.0, "text": "a"} | change)
    (source / "train.json").write_text(line + "\n")
    error = error_of(capsys, "nemo", source)
    assert f"{source}/train.json:1: not a row of NeMo's manifests" in error
    assert message in error


def test_a_text_that_is_null_is_left_out(source, capsys):
    rows = [{"audio_filepath": "long.flac", "duration": 1.0, "text": text} for text in ("a", None)]
    (source / "train.json").write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert [record["text"] for record in run("nemo", source)["train"]] == ["a"]
    assert "skipped 1 (no text, train)" in capsys.readouterr().out


def test_cuts_without_supervisions_are_listed(source, capsys):
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "long.flac"}]}
    said = {"start": 0, "duration": 1.0, "text": "a"}
    cuts = [
        {"id": name, "type": "MonoCut", "start": 0, "recording": recording, "supervisions": supervisions}
        for name, supervisions in (("c1", [said]), ("c2", []))
    ]
    (source / "cuts.jsonl").write_text("".join(json.dumps(cut) + "\n" for cut in cuts))
    assert len(run("lhotse", source)["train"]) == 1
    assert "skipped 1 (cuts of cuts.jsonl): c2, without supervisions" in capsys.readouterr().out


def test_wenet_raw_and_shards(source):
    raw = [
        {"key": "u1", "wav": "../long.flac", "txt": "first", "start": 0.5, "end": 1.5},
        {"key": "u2", "wav": "../stereo.wav", "txt": "all"},
    ]
    (source / "train").mkdir()
    (source / "train" / "data.list").write_text("".join(json.dumps(one) + "\n" for one in raw))
    (source / "dev").mkdir()
    (source / "dev" / "data.list").write_text("shards_000000.tar\n")
    clips = sorted(CLIPS.glob("*.flac"))[:2]
    with tarfile.open(source / "dev" / "shards_000000.tar", "w") as tar:
        for clip in clips:
            for name, content in (
                (f"{clip.stem}.txt", f"text of {clip.stem}".encode()),
                (clip.name, clip.read_bytes()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    for _ in range(2):  # shards are unpacked once
        manifests = run("wenet", source)
        assert [row(record) for record in manifests["train"]] == [
            ("first", 0.5, 1.0, None, None),
            ("all", None, 4.4, None, None),
        ]
        assert [record["text"] for record in manifests["dev"]] == [f"text of {clip.stem}" for clip in clips]
        audio = source.parent / "target" / manifests["dev"][0]["audio_filepath"]
        assert audio.read_bytes() == clips[0].read_bytes()


def test_a_missing_shard_is_named(source, capsys):
    (source / "data.list").write_text("shards_000000.tar\n")
    assert "the archive shards_000000.tar is missing: check the path, or set --root" in error_of(
        capsys, "wenet", source
    )


def test_hugging_face_parquet_files(source):
    shutil.copytree(FORMATS / "huggingface", source, dirs_exist_ok=True)
    manifests = run("huggingface", source)
    assert [(record["text"], record["speaker"]) for record in manifests["dev"]] == [("one", "s1"), ("two", "s2")]
    contents = {path.read_bytes() for path in CLIPS.glob("*.flac")}
    for record in manifests["dev"]:
        assert (source.parent / "target" / record["audio_filepath"]).read_bytes() in contents


def test_parquet_audio_may_be_bytes_and_cells_without_audio_are_listed(source, capsys):
    clip = (CLIPS / "cen1-mtos-b.flac").read_bytes()
    table = pyarrow.table({"audio": [clip, None, b"", b"noise"], "text": ["a", "b", "c", "d"]})
    pyarrow.parquet.write_table(table, source / "train.parquet")
    manifests = run("huggingface", source)
    assert [record["text"] for record in manifests["train"]] == ["a"]
    printed = capsys.readouterr().out
    assert "row 1 (no audio), row 2 (no audio), row 3 (" in printed
    assert "BytesIO" not in printed


def test_a_parquet_column_of_numbers_is_no_text(source, capsys):
    pyarrow.parquet.write_table(pyarrow.table({"audio": [b"x"], "text": [5]}), source / "train.parquet")
    assert "row 0 for train: the text is 5, not a string: name another --text_column" in error_of(
        capsys, "huggingface", source
    )


def test_parquet_without_the_columns_names_those_that_there_are(source, capsys):
    path = FORMATS / "huggingface"
    line = ["huggingface", f"--source={path}", f"--target_dir={source.parent / 'x'}", "--text_column=words"]
    assert prepare.main(line) == 1
    assert "no column words: it has audio, sentence, client_id; name one of them" in capsys.readouterr().err
    (source / "train.parquet").write_bytes(b"PAR1 no")
    assert "train.parquet is not a Parquet file" in error_of(capsys, "huggingface", source)
