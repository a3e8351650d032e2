"""Statistics of features and their files; normalisation."""

import zipfile

import numpy as np
import pytest

from input_pipeline.audio.features import FeatureError
from input_pipeline.audio.front_end import STD_FLOOR, FeatureStats, normalise


def test_statistics_survive_a_file_and_the_originals_shape_is_read(tmp_path):
    stats = FeatureStats(np.array([1.0, 2.0, 3.0], np.float32), np.array([0.5, 1.0, 2.0], np.float32))
    stats.save(tmp_path / "mean_std.npz")
    with np.load(tmp_path / "mean_std.npz") as file:
        assert file["mean"].shape == (3, 1)
    np.testing.assert_array_equal(FeatureStats.load(tmp_path / "mean_std.npz").std, stats.std)
    features = np.array([[1.0, 2.0, 5.0]], np.float32)
    np.testing.assert_allclose(normalise(features, "corpus", stats), [[0, 0, 1]])


def test_statistics_of_another_size_or_broken_ones_are_refused(tmp_path):
    stats = FeatureStats(np.zeros(3, np.float32), np.ones(3, np.float32))
    with pytest.raises(FeatureError, match="4 features are needed, there are 3"):
        normalise(np.zeros((2, 4), np.float32), "corpus", stats)
    np.savez(tmp_path / "bad.npz", mean=np.zeros(3), std=np.zeros(3))
    with pytest.raises(FeatureError, match=r"bad\.npz"):
        FeatureStats.load(tmp_path / "bad.npz")


BAD_FILES = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no archive"),
    "broken archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)),
    "one array": lambda path: np.save(path.open("wb"), np.ones(3)),
    "other keys": lambda path: np.savez(path, mu=np.zeros(3), sigma=np.ones(3)),
    "two sizes": lambda path: np.savez(path, mean=np.zeros(3), std=np.ones(4)),
    "a matrix": lambda path: np.savez(path, mean=np.zeros((3, 2)), std=np.ones((3, 2))),
    "not finite": lambda path: np.savez(path, mean=np.array([np.nan]), std=np.ones(1)),
    "words": lambda path: np.savez(path, mean=np.array(["a"]), std=np.array(["b"])),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_statistics_that_cannot_be_read_are_named(tmp_path, bad):
    path = tmp_path / "mean_std.npz"
    BAD_FILES[bad](path)
    with pytest.raises(FeatureError, match=r"mean_std\.npz cannot be used: .+; make them"):
        FeatureStats.load(path)


def test_statistics_that_cannot_be_written_leave_nothing_behind(tmp_path):
    (tmp_path / "stats.npz").mkdir()  # in the way
    with pytest.raises(OSError):
        FeatureStats(np.zeros(3, np.float32), np.ones(3, np.float32)).save(tmp_path / "stats.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["stats.npz"]


def test_an_unknown_normalisation_is_refused_and_none_changes_nothing():
    features = np.array([[1.0, 2.0]], np.float32)
    assert normalise(features, "none", None) is features
    with pytest.raises(FeatureError, match="'speaker'"):
        normalise(features, "speaker", FeatureStats(np.zeros(2, np.float32), np.ones(2, np.float32)))


def test_a_feature_that_does_not_change_in_an_utterance_is_not_blown_up():
    features = np.array([[5.0, -32.2361], [7.0, -32.2363]], np.float32)
    np.testing.assert_allclose(normalise(features, "utterance", None), [[-1, 0.0001 / STD_FLOOR], [1, -0.1]], atol=0.01)


def test_normalising_an_utterance_leaves_mean_0_and_std_1():
    features = np.random.default_rng(0).normal(3, 5, (50, 4)).astype(np.float32)
    normal = normalise(features, "utterance", None)
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std(0), 1, atol=1e-5)


def test_statistics_that_unpack_to_gigabytes_are_refused_unread(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("mean.npy", "w") as array:
        np.lib.format.write_array_header_1_0(array, {"descr": "<f4", "fortran_order": False, "shape": (1 << 24,)})
        for _ in range(64):
            array.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 17
    with pytest.raises(FeatureError, match=r"bomb\.npz cannot be used: it would be larger than statistics can be"):
        FeatureStats.load(path)
