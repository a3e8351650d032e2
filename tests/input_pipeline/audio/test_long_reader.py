import io
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from input_pipeline.audio import AudioError, Segment, load
from input_pipeline.audio.long_reader import open_long, stated_s
from input_pipeline.audio.reader import mix

RATE_HZ = 8000


@pytest.fixture
def samples() -> np.ndarray:
    """Return 10 s of stereo noise [N, 2]."""
    return (0.1 * np.random.default_rng(0).standard_normal((10 * RATE_HZ, 2))).astype(np.float32)


def read(source) -> tuple[np.ndarray, str]:
    with open_long(source, whole=False) as audio:
        return np.concatenate(list(audio.blocks())), "; ".join(audio.remarks)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_every_format_is_read_in_blocks(tmp_path, samples, name):
    path = tmp_path / name
    soundfile.write(path, samples, RATE_HZ)
    expected, _ = soundfile.read(path, dtype="float32")
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        found, problem = read(source)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert problem == ""
    assert stated_s(path) == pytest.approx(len(expected) / RATE_HZ)


def test_an_array_is_read_in_blocks(samples):
    np.testing.assert_array_equal(read((samples, RATE_HZ))[0], samples)
    np.testing.assert_array_equal(read((samples[:, 0], RATE_HZ))[0], samples[:, :1])


@pytest.mark.parametrize(("name", "least_s"), [("a.wav", 7.4), ("a.flac", 5.0)])
def test_a_file_that_ends_early_is_read_as_far_as_it_goes(tmp_path, samples, name, least_s):
    path = tmp_path / name
    soundfile.write(path, samples, RATE_HZ)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    found, problem = read(path)
    assert least_s < len(found) / RATE_HZ < 7.6
    np.testing.assert_allclose(found, samples[: len(found)], atol=1e-4)
    assert f"{len(found) / RATE_HZ:.1f} s" in problem
    with pytest.raises(AudioError, match=f"{name} .*copy it again"), open_long(path) as audio:
        list(audio.blocks())


def flac(samples: np.ndarray, counted: int | None = None) -> bytes:
    """Return a FLAC file; counted: samples that its header states instead of their number."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format="FLAC")
    content = bytearray(file.getvalue())
    if counted is not None:
        content[22:26] = counted.to_bytes(4, "big")
    return bytes(content)


def test_flac_is_read_beyond_the_samples_that_its_header_counts(samples):
    twice = np.concatenate([samples, samples[: RATE_HZ // 2]])
    for content, expected, remark in (
        (
            flac(samples, RATE_HZ),
            samples,
            f"has {len(samples) / RATE_HZ:.1f} s, of which its header counts 1.0 s; all are",
        ),
        (flac(samples) + flac(samples[: RATE_HZ // 2]), twice, "is 2 files joined end to end; all of them are read"),
    ):
        found, problem = read(content)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert remark in problem


def test_flac_that_ends_early_in_a_joined_file_is_refused_or_read_as_far_as_it_goes(samples):
    content = flac(samples) + flac(samples)[:-20_000]
    found, problem = read(content)
    assert len(samples) < len(found) < 2 * len(samples)
    assert f"ends early: {len(found) / RATE_HZ:.1f} s of {2 * len(samples) / RATE_HZ:.1f} s could be read" in problem
    with pytest.raises(AudioError, match="ends early"), open_long(content) as audio:
        list(audio.blocks())


def test_a_file_that_is_no_audio_is_explained(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("no audio")
    for source, message in [
        (path, "not in an audio format"),
        (tmp_path / "nowhere.wav", "does not exist"),
    ]:
        with pytest.raises(AudioError, match=message), open_long(source):
            pass
    assert stated_s(path) == 0


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_containers_are_decoded_by_ffmpeg(tmp_path, samples):
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-c:a", "alac", tmp_path / "a.m4a"]
    subprocess.run(command, check=True)
    found, problem = read(tmp_path / "a.m4a")
    np.testing.assert_allclose(found[: len(samples)], samples, atol=1e-4)
    assert problem == ""
    assert stated_s(tmp_path / "a.m4a") == float("inf")


def test_a_segment_and_a_channel_are_read(tmp_path, samples):
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    found, _ = read(Segment(tmp_path / "a.wav", 2.0, 3.0, channel=1))
    np.testing.assert_array_equal(found, samples[2 * RATE_HZ : 5 * RATE_HZ, 1:])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused_by_name_and_time(tmp_path, samples, value):
    samples[5 * RATE_HZ] = value
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav, after 5 s, has samples that are not finite"):
        read(tmp_path / "a.wav")


def test_a_segment_behind_the_end_of_a_cut_file_says_that_it_is_cut(tmp_path, samples):
    path = tmp_path / "a.flac"
    soundfile.write(path, samples, RATE_HZ)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"a\.flac is truncated"):
        load(Segment(path, 8.0, 1.0), RATE_HZ, whole=False)


def test_channels_that_cancel_each_other_are_not_averaged(samples):
    inverted = np.stack([samples[:, 0], -samples[:, 0]], axis=1)
    for channels, expected, cancelled in ((inverted, samples[:, 0], True), (samples, samples.mean(1), False)):
        mono, found = mix(channels)
        np.testing.assert_array_equal(mono, expected)
        assert found == cancelled


def test_integers_of_an_array_are_full_scale(samples):
    integers = (samples * 32767).astype(np.int16)
    for array in (integers, integers[:, 0]):
        with open_long((array, RATE_HZ)) as audio:
            found = np.concatenate(list(audio.blocks()))
        np.testing.assert_array_equal(found, array.reshape(found.shape) / np.float32(32768))


@pytest.mark.parametrize("array", [(np.zeros(9, np.uint8), RATE_HZ), (np.zeros((9, 1, 1)), RATE_HZ), (np.zeros(9), 0)])
def test_what_is_no_audio_is_refused(array):
    with pytest.raises(AudioError, match=r"the array|the sample rate"), open_long(array):
        pass
