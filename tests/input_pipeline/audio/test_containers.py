"""Lengths and starts found in the bytes of MP3, Ogg and FLAC files."""

import io

import numpy as np
import pytest
import soundfile

from input_pipeline.audio.containers import flac_starts, mp3_samples, ogg_starts


def encode(rate_hz: int, container: str, coding: str, seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(rate_hz).normal(0, 0.1, int(seconds * rate_hz))
    soundfile.write(file, noise, rate_hz, format=container, subtype=coding)
    return file.getvalue()


@pytest.mark.parametrize("rate_hz", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_the_frames_of_an_mp3_are_all_counted(rate_hz, mode):
    """At rates that do not divide the bytes of a frame, some frames have a byte of padding."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * rate_hz)
    soundfile.write(file, noise, rate_hz, format="MP3", bitrate_mode=mode, compression_level=0.5)
    of_a_frame = 1152 if rate_hz >= 32000 else 576
    extra = mp3_samples(file.getvalue()) - len(noise)
    assert 0 <= extra <= 3 * of_a_frame  # what an encoder adds at both ends
    assert mp3_samples(file.getvalue()) % of_a_frame == 0


def test_what_is_no_frame_of_an_mp3_is_skipped():
    whole = encode(44100, "MP3", "MPEG_LAYER_III")
    for junk in (b"ID3" + bytes(50), b"\xff" * 30, b"\xff\xfb" + b"\xff" * 10, b"\xff\xfb\x90"):
        assert mp3_samples(junk + whole) == mp3_samples(whole)
        assert mp3_samples(whole + junk) == mp3_samples(whole) - 1152  # the last frame cannot be told from junk
        assert mp3_samples(junk) == 0
    assert mp3_samples(whole + whole) == 2 * mp3_samples(whole)
    assert mp3_samples(b"") == 0


@pytest.mark.parametrize(
    "header", [b"\xff\xfb\x00\x00", b"\xff\xfb\xf0\x00", b"\xff\xfb\x9c\x00", b"\xff\xeb\x90\x00", b"\xff\xfd\x90\x00"]
)
def test_a_frame_of_a_free_or_forbidden_kind_is_none(header):
    """No rate of bits, a forbidden one, a reserved rate of samples, a reserved version, layer II."""
    assert mp3_samples(header + bytes(2000)) == 0
    assert mp3_samples(b"\xff\xfb\x90\x00" + bytes(413)) == 1152


def test_the_starts_of_joined_files_are_found():
    for container, coding, starts in (
        ("OGG", "VORBIS", ogg_starts),
        ("OGG", "OPUS", ogg_starts),
        ("FLAC", "PCM_16", flac_starts),
    ):
        first, second = encode(16000, container, coding), encode(48000, container, coding)
        assert starts(first) == [0]
        assert starts(first + second + first) == [0, len(first), len(first) + len(second)]
    assert flac_starts(b"fLaC" + bytes(20)) == []
    assert ogg_starts(b"OggS" + bytes(10)) == []
