"""Segments and channels of longer recordings: the samples that stand there, in every format, and what is named if they do not."""

import io
import threading

import numpy as np
import pytest
import soundfile

from input_pipeline.audio import AudioError, Segment, cut, load, read

RATE = 16000
# Format, coding, and the largest difference from decoding the whole file: Opus needs 80 ms to settle after a seek.
FORMATS = [
    ("WAV", "PCM_16", 0),
    ("WAV", "PCM_24", 0),
    ("WAV", "FLOAT", 0),
    ("WAV", "ULAW", 0),
    ("WAV", "GSM610", 0),
    ("FLAC", "PCM_16", 0),
    ("AIFF", "PCM_16", 0),
    ("NIST", "PCM_16", 0),
    ("OGG", "VORBIS", 0),
    ("OGG", "OPUS", 2e-3),
    ("MP3", "MPEG_LAYER_III", 1e-6),
]


def write(path, container="FLAC", coding="PCM_16", channels=1, seconds=12.0) -> str:
    """Write a tone that rises, with another one a channel."""
    at = np.arange(int(seconds * RATE)) / RATE
    tones = [0.3 * np.sin(2 * np.pi * (200 + 100 * number + 20 * at) * at) for number in range(channels)]
    with soundfile.SoundFile(path, "w", RATE, channels, format=container, subtype=coding) as file:
        for second in np.array_split(np.stack(tones, 1), int(seconds)):
            file.write(second)
    return str(path)


@pytest.mark.parametrize(("container", "coding", "tolerance"), FORMATS)
def test_a_segment_is_what_stands_there(tmp_path, container, coding, tolerance):
    path = write(tmp_path / "long", container, coding)
    whole = read(path)[0]
    for offset, duration in ((5.25, 1.5), (0.0, 2.0), (9.0, 1.0), (0.0, 2.0), (11.0, 0.0)):
        samples, rate = read(Segment(path, offset, duration))
        first = round(offset * RATE)
        expected = whole[first : first + round(duration * RATE)] if duration else whole[first:]
        assert rate == RATE
        np.testing.assert_allclose(samples, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("container", "coding", "tolerance"), FORMATS)
def test_a_cut_segment_gives_the_same_samples(tmp_path, container, coding, tolerance):
    path = write(tmp_path / "long", container, coding)
    segment = Segment(path, 3.1, 1.7)
    np.testing.assert_allclose(read(cut(segment))[0], read(segment)[0], rtol=0, atol=tolerance)


def test_a_segment_is_resampled_like_a_file_of_its_own(tmp_path):
    segment = Segment(write(tmp_path / "long.flac"), 3.1, 1.7)
    np.testing.assert_array_equal(read(segment, 8000)[0], read(cut(segment), 8000)[0])


def test_a_channel_is_read_alone(tmp_path):
    path = write(tmp_path / "stereo.flac", channels=2)
    both = soundfile.read(path, dtype="float32")[0]
    for channel in (0, 1):
        np.testing.assert_array_equal(read(Segment(path, channel=channel))[0], both[:, channel])
        part = Segment(path, 2.0, 1.0, channel)
        np.testing.assert_array_equal(read(part)[0], both[2 * RATE : 3 * RATE, channel])
        np.testing.assert_array_equal(read(cut(part))[0], both[2 * RATE : 3 * RATE, channel])
    np.testing.assert_allclose(read(path)[0], both.mean(axis=1), atol=1e-7)


def test_bytes_and_file_objects_have_segments(tmp_path):
    path = write(tmp_path / "long.ogg", "OGG", "VORBIS")
    expected = read(Segment(path, 4.0, 1.0))[0]
    content = (tmp_path / "long.ogg").read_bytes()
    for source in (content, io.BytesIO(content)):
        np.testing.assert_array_equal(read(Segment(source, 4.0, 1.0))[0], expected)


@pytest.mark.parametrize(
    ("segment", "said"),
    [
        ({"offset_s": 12.0, "duration_s": 1.0}, r"12\.000 s of audio.*cannot begin at 12 s; correct 'offset'"),
        ({"offset_s": 11.0, "duration_s": 2.0}, r"cannot end at 13\.000 s.*correct 'offset' or 'duration'"),
        ({"offset_s": 0.0, "duration_s": 1e8}, "cannot end at 100000000"),
        ({"offset_s": 1e300, "duration_s": 1.0}, "cannot begin"),
        ({"channel": 1}, "1 channel, counted from 0, and no channel 1; correct 'channel'"),
    ],
)
def test_a_part_that_is_not_there_is_named(tmp_path, segment, said):
    path = write(tmp_path / "long.flac")
    for use in (read, cut, lambda part: load(part, whole=False)):
        with pytest.raises(AudioError, match=said):
            use(Segment(path, **segment))


def test_a_rounded_end_may_be_slightly_behind_the_file(tmp_path):
    path = write(tmp_path / "long.flac")
    assert len(read(Segment(path, 11.0, 1.04))[0]) == RATE


def test_threads_read_segments_of_one_file_at_the_same_time(tmp_path):
    path = write(tmp_path / "long.flac")
    whole, wrong = read(path)[0], []

    def work(seed: int) -> None:
        for first in np.random.default_rng(seed).integers(0, 11 * RATE, 30):
            samples = read(Segment(path, first / RATE, 0.5))[0]
            if not np.array_equal(samples, whole[first : first + RATE // 2]):
                wrong.append(first)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_file_that_changes_is_read_anew(tmp_path):
    path = write(tmp_path / "long.flac")
    before = read(Segment(path, 1.0, 1.0))[0]
    write(path, channels=2)
    assert not np.array_equal(read(Segment(path, 1.0, 1.0, 1))[0], before)
