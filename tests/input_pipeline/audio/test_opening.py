"""Files whose headers promise less or more than there is, or what cannot be."""

import io
import logging
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from input_pipeline.audio import AudioError, info, load, opening, read, reader
from tests.runs import ROOT

RATE = 16000
NOISE = np.random.default_rng(0).normal(0, 0.1, 4 * RATE).astype(np.float32)


def encode(samples=NOISE, container="WAV", coding="PCM_16", rate=RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=coding)
    return file.getvalue()


def with_size(whole: bytes, size: int, chunk: bytes = b"data") -> bytes:
    """State another size of the samples."""
    place = whole.index(chunk) + 4
    return whole[:place] + size.to_bytes(4, "little" if chunk == b"data" else "big") + whole[place + 4 :]


def with_au_size(whole: bytes, size: int) -> bytes:
    return whole[:8] + size.to_bytes(4, "big") + whole[12:]


def with_flac_count(whole: bytes, samples: int) -> bytes:
    return (
        whole[:21] + bytes([whole[21] & 0xF0 | samples >> 32]) + (samples & 0xFFFFFFFF).to_bytes(4, "big") + whole[26:]
    )


AU = encode(container="AU")
WAV, FLAC, AIFF, GSM = encode(), encode(container="FLAC"), encode(container="AIFF"), encode(coding="GSM610", rate=8000)
LONGER = {
    "stale": (with_size(WAV, RATE), WAV),
    "never closed": (with_size(WAV, 0), WAV),
    "never closed, RIFF of size 0": (with_size(WAV[:4] + bytes(4) + WAV[8:], 0), WAV),
    "GSM, stale": (with_size(GSM, 650), GSM),
    "GSM, never closed": (with_size(GSM, 0), GSM),
    "AIFF": (with_size(AIFF, 8 + RATE, b"SSND"), AIFF),
    "AU": (with_au_size(AU, RATE), AU),
    "AU, never closed": (with_au_size(AU, 0), AU),
    "FLAC": (with_flac_count(FLAC, RATE), FLAC),
}


@pytest.mark.parametrize("kind", LONGER)
def test_audio_behind_the_stated_end_is_read_with_a_remark(kind):
    stale, right = LONGER[kind]
    expected = read(right)[0]
    for whole in (True, False):
        loaded = load(stale, whole=whole)
        np.testing.assert_array_equal(loaded.samples, expected)
        assert len(loaded.remarks) == 1
        assert "all are read" in loaded.remarks[0]
    if kind != "FLAC":  # only decoding shows its length
        assert info(stale).samples == info(right).samples
    if "WAV" not in kind and right is WAV:
        assert "ffmpeg -ignore_length 1 -i" in loaded.remarks[0]


SHORTER = {
    "cut": (WAV[: len(WAV) // 2], 0.49),
    "doubled": (with_size(WAV, 2 * 2 * len(NOISE)), 1.0),
    "GSM, doubled": (with_size(GSM, 2 * len(GSM)), 1.0),
    "AIFF, cut": (AIFF[: len(AIFF) // 2], 0.49),
    "AU, cut": (AU[: len(AU) // 2], 0.49),
    "AU, doubled": (with_au_size(AU, 2 * len(AU)), 1.0),
    "FLAC, false": (with_flac_count(FLAC, 2**35), 1.0),
    "FLAC, doubled": (with_flac_count(FLAC, 2 * len(NOISE)), 1.0),
    "FLAC, from a pipe": (with_flac_count(FLAC, 0), 1.0),
    "FLAC, cut": (FLAC[: len(FLAC) // 2], 0.4),
    "Ogg, cut": (encode(container="OGG", coding="VORBIS")[:20000], 0.4),
    "MP3, cut": (encode(container="MP3", coding="MPEG_LAYER_III")[:9000], 0.4),
}


@pytest.mark.parametrize("kind", SHORTER)
def test_a_cut_file_is_refused_or_read_as_far_as_it_goes(kind):
    content, share = SHORTER[kind]
    with pytest.raises(AudioError, match=r"truncated|does not state its length"):
        read(content)
    left = load(content, whole=False)
    assert len(left.samples) >= share * len(NOISE)
    assert len(left.remarks) == 1
    assert "only what is there is read" in left.remarks[0]


def test_wav_files_joined_end_to_end_are_read_whole():
    second = encode(NOISE[: RATE // 2])
    with_chunk = WAV + b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    for first in (WAV, with_chunk):
        loaded = load(first + second)
        np.testing.assert_array_equal(loaded.samples, np.concatenate([read(WAV)[0], read(second)[0]]))
        assert "2 files joined end to end" in loaded.remarks[0]
        assert "concat" in loaded.remarks[0]
        assert info(first + second).duration_s == 4.5
    with pytest.raises(AudioError, match="different rates or channels"):
        read(WAV + encode(rate=8000))


@pytest.mark.parametrize("seconds", [0.2, 4.0])
def test_flac_files_joined_end_to_end_are_read_whole(seconds):
    second = encode(NOISE[: int(seconds * RATE)], container="FLAC")
    loaded = load(FLAC + second)
    np.testing.assert_array_equal(loaded.samples, np.concatenate([read(FLAC)[0], read(second)[0]]))
    assert ["2 files joined end to end" in remark for remark in loaded.remarks] == [True]
    assert load(FLAC).remarks == ()


def test_joined_flac_files_are_found_wherever_they_begin(monkeypatch):
    monkeypatch.setattr(opening, "_SEARCHED", 5)  # less than what marks a beginning
    assert len(load(FLAC + FLAC + FLAC).samples) == 3 * len(NOISE)


def test_a_cut_flac_file_behind_another_one_is_refused():
    joined = FLAC + FLAC[: len(FLAC) // 2]
    with pytest.raises(AudioError, match=r"truncated|damaged"):
        load(joined)
    assert len(load(joined, whole=False).samples) >= 1.4 * len(NOISE)


@pytest.mark.parametrize(
    "tail", [bytes(1 << 15), b"TAG" + bytes(125), b"LIST" + (2000).to_bytes(4, "little") + b"x" * 2000]
)
def test_what_is_no_audio_is_not_read_as_audio(tail):
    loaded = load(WAV + tail)
    np.testing.assert_array_equal(loaded.samples, read(WAV)[0])
    assert loaded.remarks == ()


def test_two_bytes_do_not_make_data_a_recording():
    """libsndfile takes what begins with these for a sampler's file, whatever follows."""
    data = bytes([1, 4]) + np.random.default_rng(0).bytes(100_000)
    assert soundfile.info(io.BytesIO(data)).frames > 20_000
    for examine in (info, read):
        with pytest.raises(AudioError, match="convert it to WAV or FLAC"):
            examine(data)


@pytest.mark.parametrize("rate", [1, 100, 2**31 - 1])
def test_a_rate_that_cannot_be_is_refused(rate):
    false = WAV[:24] + rate.to_bytes(4, "little") + WAV[28:]
    for use in (info, lambda content: read(content, RATE)):
        with pytest.raises(AudioError, match=f"{rate} Hz, which cannot be that of speech"):
            use(false)


def test_audio_longer_than_allowed_is_refused():
    with pytest.raises(AudioError, match=r"more than 3\.0 s"):
        read(WAV, longest_s=3.0)
    assert len(read(WAV, longest_s=4.0)[0]) == len(NOISE)


def test_a_false_length_costs_no_memory(tmp_path):
    (tmp_path / "false.flac").write_bytes(with_flac_count(FLAC, 400_000_000))
    code = (
        "import resource, sys; from input_pipeline import audio\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "audio.load(sys.argv[1], 16000, whole=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "false.flac")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 200_000  # KiB; the header promises 1.6 GB


def test_channels_that_cancel_are_not_averaged(caplog, monkeypatch):
    monkeypatch.setattr(reader, "_warned", set())
    inverted = encode(np.stack([NOISE, -0.9 * NOISE], 1))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(read(inverted)[0], read(WAV)[0])
    assert [record.message for record in caplog.records] == list(load(inverted).remarks)
    assert "the first is used" in caplog.text
    apart = np.stack([NOISE, np.roll(NOISE, 999)], 1)
    assert load(encode(apart)).remarks == ()


def test_many_remarks_end_with_a_pointer_to_the_check(caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(reader, "_warned", set())
    for number in range(30):
        (tmp_path / f"{number}.wav").write_bytes(with_size(WAV, 0))
        read(tmp_path / f"{number}.wav")
    assert len(caplog.records) == 21
    assert "python -m input_pipeline.manifest check" in caplog.records[-1].message
