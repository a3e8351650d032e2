"""A language model is compared with its digest once for each state of the file."""

import os
import shutil
from pathlib import Path

import pytest

from decoding.lm.model_file import LanguageModelError
from decoding.lm.verification import Memory, is_verified
from decoding.search import beam
from decoding.settings import BeamSettings
from input_pipeline.storage import digests
from input_pipeline.text import Vocabulary
from tests.runs import ROOT

RELEASED = ROOT / "models" / "an4"


@pytest.fixture
def lm(tmp_path, monkeypatch) -> Path:
    """Return a copy of the released binary, without a digest."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copyfile(RELEASED / "lm.bin", tmp_path / "lm.bin"))


def flip(file: Path, place: int, bit: int = 1) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= bit
    file.write_bytes(content)


def test_a_digest_beside_the_model_or_in_its_folder_verifies_it(lm):
    assert not is_verified(str(lm))
    digests.write_for(lm)
    assert is_verified(str(lm))
    assert is_verified(str(RELEASED / "lm.bin"))


def test_a_damaged_model_is_refused_also_after_it_was_verified(lm):
    digests.write_for(lm)
    assert is_verified(str(lm))
    flip(lm, 30_000)
    with pytest.raises(LanguageModelError, match=r"lm\.bin is damaged: .*lm\.bin\.sha256"):
        is_verified(str(lm))


def test_an_unchanged_model_is_not_read_again(lm, monkeypatch):
    digests.write_for(lm)
    assert is_verified(str(lm))
    monkeypatch.setattr(digests, "digest", lambda file: pytest.fail("read again"))
    assert is_verified(str(lm))
    os.utime(lm)
    assert Memory(lm).read("sha256") is None


def test_a_damaged_memory_is_made_again(lm, tmp_path):
    digests.write_for(lm)
    assert is_verified(str(lm))
    for entry in (tmp_path / "cache").rglob("*.json"):
        entry.write_text("[1, ")
    assert is_verified(str(lm))


def test_an_unverified_binary_is_tried_in_another_process(lm, caplog):
    caplog.set_level("INFO", "decoding")
    vocabulary = Vocabulary.load(RELEASED / "vocabulary.txt")
    beam.make_engine(vocabulary, BeamSettings(engine="native", lm=str(lm)), 0.03)
    assert f"{lm} is unverified" in caplog.text
    assert Memory(lm).read("native") == "tried"


def test_a_binary_that_ends_its_process_is_one_line(lm):
    flip(lm, 8805, bit=2)  # of an offset
    vocabulary = Vocabulary.load(RELEASED / "vocabulary.txt")
    with pytest.raises(LanguageModelError, match=r"lm\.bin is damaged: a process that queries it is ended by SIG"):
        beam.make_engine(vocabulary, BeamSettings(engine="native", lm=str(lm)), 0.03)
