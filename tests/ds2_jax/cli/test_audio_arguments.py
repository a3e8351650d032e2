"""What --audio may name: files, folders, patterns, standard input."""

import os

import pytest

from ds2_jax.cli.audio_arguments import list_audio, natural_order


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("clip10.wav", "clip2.wav", "Clip1.FLAC", "notes.txt", "more/clip3.m4a", ".hidden.wav", "a[1].wav"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("in", ["in/Clip1.FLAC", "in/a[1].wav", "in/clip2.wav", "in/clip10.wav", "in/more/clip3.m4a"]),
        ("in/clip*.wav", ["in/clip2.wav", "in/clip10.wav"]),
        ("in/**/*3*", ["in/more/clip3.m4a"]),
        ("in/clip?.*", ["in/clip2.wav"]),
        ("in/a[1].wav", ["in/a[1].wav"]),
        ("in/nowhere.wav", ["in/nowhere.wav"]),
        ("gs://bucket/a.wav", ["gs://bucket/a.wav"]),
    ],
)
def test_an_argument_names_files_in_natural_order(argument, expected, folder):
    assert list_audio([argument]) == expected


def test_several_arguments_keep_their_order(folder):
    assert list_audio(["in/clip10.wav", "in/clip2*"]) == ["in/clip10.wav", "in/clip2.wav"]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("in/*.mp3", "no file matches the pattern"),
        ("empty", r"the folder contains no audio \(\.wav"),
    ],
)
def test_a_folder_or_a_pattern_without_audio_is_refused(argument, expected, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"{expected}.*: check the path"):
        list_audio([argument])


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"a\.wav is a pipe, which can be read once: give its content as --audio=-"):
        list_audio([str(tmp_path / "a.wav")])


def test_standard_input_is_given_once(monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert list_audio(["-"]) == ["-"]
    with pytest.raises(ValueError, match="give it once"):
        list_audio(["-", "-"])


def test_numbers_in_names_count_as_numbers():
    names = ["b", "a10", "a9b2", "a9b10", "10", "9", "²"]
    assert sorted(names, key=natural_order) == ["9", "10", "a9b2", "a9b10", "a10", "b", "²"]
