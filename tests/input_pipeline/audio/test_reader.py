"""Reading real files in each format, and saying what is wrong with those that cannot be read."""

import io

import numpy as np
import pytest
import soundfile

from input_pipeline.audio import AudioError, info, read, rms_db

RATE = 16000
FORMATS = [
    ("a.wav", "WAV", "PCM_16", 1e-4),
    ("a.flac", "FLAC", "PCM_16", 1e-4),
    ("a.ogg", "OGG", "VORBIS", 0.1),
    ("a.opus", "OGG", "OPUS", 0.2),
    ("a.mp3", "MP3", "MPEG_LAYER_III", 0.1),
    ("a.sph", "NIST", "PCM_16", 1e-4),
]


def tone(seconds: float = 0.5, hertz: float = 440.0, rate: int = RATE) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize(("name", "container", "coding", "tolerance"), FORMATS)
def test_each_format_is_read(tmp_path, name, container, coding, tolerance):
    soundfile.write(tmp_path / name, tone(), RATE, format=container, subtype=coding)
    samples, rate = read(tmp_path / name)
    assert rate == RATE
    assert samples.dtype == np.float32
    n = min(len(samples), 8000)
    spectrum = np.abs(np.fft.rfft(samples[:n]))
    assert abs(spectrum.argmax() * rate / n - 440) < 5
    assert rms_db(samples[1000:7000]) == pytest.approx(rms_db(tone()[1000:7000]), abs=max(20 * tolerance, 0.01))


def test_stereo_is_mixed_down_and_other_rates_are_resampled(tmp_path):
    left, right = tone(rate=8000), np.zeros(4000, np.float32)
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], 1), 8000, subtype="FLOAT")
    samples, own_rate = read(tmp_path / "s.wav", RATE)
    assert own_rate == 8000
    assert len(samples) == 8000
    np.testing.assert_allclose(samples[1000:7000], tone()[1000:7000] / 2, atol=2e-3)  # soxr's pass band


@pytest.mark.parametrize(("name", "container", "coding", "tolerance"), FORMATS)
def test_bytes_and_file_objects_are_read_like_files(tmp_path, name, container, coding, tolerance):
    soundfile.write(tmp_path / name, tone(), RATE, format=container, subtype=coding)
    content = (tmp_path / name).read_bytes()
    file = io.BytesIO(content)
    assert info(file) == info(tmp_path / name)  # and leaves the file somewhere in the middle
    np.testing.assert_array_equal(read(file)[0], read(tmp_path / name)[0])
    np.testing.assert_array_equal(read(content)[0], read(tmp_path / name)[0])


@pytest.mark.parametrize("content", [b"", b"no audio at all", b"RIFF" + bytes(100)])
def test_bytes_that_are_no_audio_are_refused(content):
    for source in (content, io.BytesIO(content)):
        with pytest.raises(AudioError, match="the given audio"):
            read(source)


@pytest.mark.parametrize(("name", "coding"), [("a.mp3", "MPEG_LAYER_III"), ("a.flac", "PCM_16"), ("a.ogg", "OPUS")])
def test_a_truncated_file_is_refused(tmp_path, name, coding):
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE)
    soundfile.write(tmp_path / name, noise, RATE, subtype=coding)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=f"{name} is truncated.*copy it again"):
        read(tmp_path / name)


CONTAINERS = [
    ("WAV", "PCM_16"),
    ("WAVEX", "FLOAT"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("WAV", "IMA_ADPCM"),
    ("AIFF", "PCM_16"),
    ("AIFF", "ULAW"),
    ("AU", "PCM_16"),
    ("NIST", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
]


@pytest.mark.parametrize(("container", "coding"), CONTAINERS)
def test_a_header_that_states_more_than_is_present_is_refused_before_decoding(container, coding):
    whole = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * RATE)
    soundfile.write(whole, noise, RATE, format=container, subtype=coding)
    assert info(whole).samples >= len(noise)
    cut = whole.getvalue()[: len(whole.getvalue()) * 2 // 3]
    for use in (info, read):
        with pytest.raises(AudioError, match=r"is truncated.*copy it again"):
            use(cut)


@pytest.mark.parametrize(
    ("container", "size_at"),
    [("WAV", lambda whole: whole.index(b"data") + 4), ("AIFF", lambda whole: whole.index(b"SSND") + 4)],
)
@pytest.mark.parametrize("size", [2**31 - 1 - 36, 2**31, 2**32 - 1])
def test_a_size_that_a_pipe_could_not_know_promises_nothing(container, size_at, size):
    file = io.BytesIO()
    soundfile.write(file, tone(), RATE, format=container, subtype="PCM_16")
    whole, order = file.getvalue(), "little" if container == "WAV" else "big"
    place = size_at(whole)
    piped = whole[:4] + size.to_bytes(4, order) + whole[8:place] + size.to_bytes(4, order) + whole[place + 4 :]
    np.testing.assert_array_equal(read(piped)[0], read(whole)[0])


@pytest.mark.parametrize(("container", "coding"), CONTAINERS)
def test_what_stands_behind_the_audio_is_no_matter(container, coding):
    file = io.BytesIO()
    soundfile.write(file, tone(), RATE, format=container, subtype=coding)
    junk = b"TAG" + bytes(125) if container != "AIFF" else b"ANNO" + (100).to_bytes(4, "big") + bytes(20)
    assert info(file.getvalue() + junk).samples >= len(tone())


def mp3(seconds: float, *, levels: tuple[float, float] = (0.2, 0.2), coding: str = "CONSTANT") -> bytes:
    """Encode noise of one level in its first half and another one in its second."""
    noise = np.random.default_rng(1).normal(0, 1, int(seconds * RATE)) * np.repeat(levels, int(seconds * RATE) // 2)
    file = io.BytesIO()
    soundfile.write(file, noise, RATE, format="MP3", bitrate_mode=coding, compression_level=0.5)
    return file.getvalue()


@pytest.mark.parametrize("levels", [(0.2, 2e-4), (2e-4, 0.2)])
def test_an_mp3_of_variable_rate_that_does_not_state_its_length_is_refused(levels):
    whole = mp3(10, levels=levels, coding="VARIABLE")
    assert len(read(whole)[0]) == 10 * RATE
    second = whole.index(whole[:2], whole.index(b"LAME"))  # the first frame holds no audio, but the length
    headless = whole[second:]
    assert soundfile.info(io.BytesIO(headless)).frames != pytest.approx(10 * RATE, rel=0.1)  # what libsndfile guesses
    for use in (info, read):
        with pytest.raises(AudioError, match=r"does not state its length.*ffmpeg"):
            use(headless)


@pytest.mark.parametrize("coding", ["CONSTANT", "VARIABLE"])
def test_mp3_files_put_end_to_end_are_refused_since_the_first_alone_would_be_read(coding):
    tag = b"TAG" + bytes(125)
    for joined in (mp3(3, coding=coding) + mp3(7, coding=coding), mp3(3, coding=coding) + tag + mp3(7, coding=coding)):
        with pytest.raises(AudioError, match="several files joined end to end"):
            info(joined)


def test_an_mp3_with_tags_is_read():
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + b"\xff\xfb\x90" * 85 + b"\0"
    whole = mp3(2)
    np.testing.assert_array_equal(read(tag + whole + b"TAG" + bytes(125))[0], read(whole)[0])


@pytest.mark.parametrize("coding", ["VORBIS", "OPUS"])
def test_ogg_files_put_end_to_end_are_refused_since_the_first_alone_would_be_read(coding):
    parts = []
    for seconds in (1, 2):
        file = io.BytesIO()
        soundfile.write(file, tone(seconds), RATE, format="OGG", subtype=coding)
        assert info(file).duration_s == pytest.approx(seconds, abs=0.01)
        parts.append(file.getvalue())
    with pytest.raises(AudioError, match="several files joined end to end"):
        info(b"".join(parts))


def test_flac_that_was_streamed_and_does_not_know_its_length_is_refused():
    file = io.BytesIO()
    soundfile.write(file, tone(), RATE, format="FLAC")
    whole = bytearray(file.getvalue())
    whole[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
    whole[22:26] = bytes(4)
    for use in (info, read):
        with pytest.raises(AudioError, match="does not state its length"):
            use(bytes(whole))


def test_header_says_what_is_in_the_file(tmp_path):
    soundfile.write(tmp_path / "s.wav", np.zeros((2000, 3)), 8000)
    assert info(tmp_path / "s.wav") == (2000, 8000, 3, 0.25)


def test_real_speech_is_read(clips):
    path = next(clips.parent.glob("*.flac"))
    header = info(path)
    samples, rate = read(path)
    assert (len(samples), rate) == (header.samples, 16000)
    assert -60 < rms_db(samples) < -5


def test_silence_has_no_level():
    assert rms_db(np.zeros(10, np.float32)) == -np.inf


def write_text(path):
    path.write_text("this is no audio")


def write_nothing(path):
    path.write_bytes(b"")


def write_no_samples(path):
    soundfile.write(path, np.zeros(0, np.float32), RATE, format="WAV")


def write_infinite(path):
    soundfile.write(path, np.array([0.1, np.inf], np.float32), RATE, format="WAV", subtype="FLOAT")


def write_shortened(path):
    path.write_bytes(b"NIST_1A\n   1024\n".ljust(1024) + b"ajkg" + b"\0" * 100)


def write_sphere_that_says_shorten(path):
    soundfile.write(path, tone(), RATE, format="NIST", subtype="PCM_16")
    says = path.read_bytes().replace(b"sample_coding -s3 pcm\n", b"sample_coding -s26 pcm,embedded-shorten-v2.00\n")
    path.write_bytes(says[:1024] + b"ajkg" + says[1028:])


def write_folder(path):
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (write_text, "not in an audio format"),
        (write_nothing, "is empty"),
        (write_no_samples, "no samples"),
        (write_infinite, "not finite"),
        (write_shortened, "shorten"),
        (write_sphere_that_says_shorten, "shorten"),
        (write_folder, "folder"),
        (lambda path: None, "does not exist"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_reason(tmp_path, make, said):
    make(tmp_path / "bad.wav")
    with pytest.raises(AudioError, match=said) as error:
        read(tmp_path / "bad.wav")
    assert "bad.wav" in str(error.value)
