"""Language models as decoders meet them: what is none, or does not fit, is named; their words are read."""

import gzip
import logging
from pathlib import Path

import pytest

from decoding.lm import model_file, text_corpus
from decoding.search import beam
from decoding.search.beam import make_engine
from decoding.settings import BeamSettings
from input_pipeline.storage import file_kind
from input_pipeline.text import Vocabulary
from tests.arpa import write_arpa
from tests.decoding.engines import ENGINES
from tests.runs import ROOT

FRAME_S = 0.03
LETTERS = Vocabulary((" ", "a", "b", "c", "'"))
MANDARIN = Vocabulary(tuple("你好世界"))


def engine_with(lm: Path, vocabulary: Vocabulary = LETTERS, **settings) -> beam.Engine:
    return make_engine(vocabulary, BeamSettings(engine="ctc_beam_decoder", lm=str(lm), **settings), FRAME_S)


def test_a_file_that_is_no_language_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"config\.decode\.lm is .*nowhere.*decoding\.lm train"):
        engine_with(tmp_path / "nowhere.bin")
    (tmp_path / "empty.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"not a file, or empty.*decoding\.lm train"):
        engine_with(tmp_path / "empty.bin")
    (tmp_path / "other.bin").write_bytes(b"PK\3\4 something else")
    with pytest.raises(ValueError, match="is not a KenLM model"):
        engine_with(tmp_path / "other.bin")
    (tmp_path / "cut.bin").write_bytes(file_kind.KENLM_MAGIC + b" version 5\n\0" + b"\0" * 300)
    with pytest.raises(ValueError, match=r"truncated.*config\.decode\.unigrams"):
        engine_with(tmp_path / "cut.bin")


def test_a_cut_off_arpa_file_is_named(tmp_path):
    whole = write_arpa(tmp_path / "lm.arpa", ["ab cab"]).read_text()
    (tmp_path / "cut.arpa").write_text(whole[: whole.index("\\2-grams:") + 15])
    with pytest.raises(ValueError, match=r"cut\.arpa.*decoding\.lm train"):
        engine_with(tmp_path / "cut.arpa")


def arpa_of_order(order: int) -> str:
    """Write a model that knows one word, and all n-grams of it up to an order."""
    counts = "".join(f"ngram {n}={3 if n == 1 else 1}\n" for n in range(1, order + 1))
    parts = ["-1\t<unk>\n-1\t<s>\t0\n-1\tab\t0", *(f"-1\t{' '.join(['ab'] * n)}" for n in range(2, order + 1))]
    grams = "\n\n".join(f"\\{n}-grams:\n{part}" for n, part in enumerate(parts, start=1))
    return f"\\data\\\n{counts}\n{grams}\n\n\\end\\\n"


@pytest.mark.parametrize("name", ENGINES)
def test_a_model_of_a_higher_order_is_refused(name, tmp_path):
    (tmp_path / "lm.arpa").write_text(arpa_of_order(7))
    with pytest.raises(ValueError, match=r"lm\.arpa' is of order 7, .* up to order 6: .* a smaller --order"):
        make_engine(LETTERS, BeamSettings(engine=name, lm=str(tmp_path / "lm.arpa")), FRAME_S)
    with gzip.open(tmp_path / "lm.arpa.gz", "wt") as file:
        file.write(arpa_of_order(7))
    with pytest.raises(ValueError, match="is of order 7"):
        make_engine(LETTERS, BeamSettings(engine=name, lm=str(tmp_path / "lm.arpa.gz")), FRAME_S)
    (tmp_path / "lm.bin").write_bytes(binary_of(["<unk>", "ab"], order=7))
    with pytest.raises(ValueError, match="is of order 7"):
        make_engine(LETTERS, BeamSettings(engine=name, lm=str(tmp_path / "lm.bin")), FRAME_S)


@pytest.mark.parametrize("name", ENGINES)
def test_a_model_with_a_hole_is_told_in_the_words_of_kenlm_alone(name, tmp_path):
    whole = (ROOT / "models" / "an4" / "lm.bin").read_bytes()
    (tmp_path / "hole.bin").write_bytes(whole[:10000] + whole[20000:])
    vocabulary = Vocabulary(tuple(" abcdefghijklmnopqrstuvwxyz'"))
    with pytest.raises(ValueError, match=r"hole\.bin': Binary file has size .* should be at least \d+[.;] "):
        make_engine(vocabulary, BeamSettings(engine=name, lm=str(tmp_path / "hole.bin")), FRAME_S)


def test_models_of_words_and_of_characters_are_told_apart(tmp_path):
    words = write_arpa(tmp_path / "words.arpa", ["你好 世界"])
    with pytest.raises(ValueError, match=r"word model \(你好, 世界\).*no space"):
        engine_with(words, MANDARIN)
    many = "".join(map(chr, range(0x4E00, 0x4E80)))
    characters = write_arpa(tmp_path / "characters.arpa", [many], characters=True)
    with pytest.raises(ValueError, match=r"character model.*outputs words"):
        engine_with(characters, Vocabulary((" ", *many)))


def test_a_model_in_another_case_is_refused_and_words_out_of_reach_are_named(tmp_path, caplog):
    with pytest.raises(ValueError, match=r"2 of its 2 words.*case or numbers differ.*train --vocabulary"):
        engine_with(write_arpa(tmp_path / "upper.arpa", ["AB CAB"]))
    with pytest.raises(ValueError, match=r"2 of its 3 words \(café, pâté\)"):
        engine_with(write_arpa(tmp_path / "most.arpa", ["café ab pâté"]))
    with caplog.at_level(logging.INFO, "decoding"):
        engine_with(write_arpa(tmp_path / "some.arpa", ["ab café"]))
    assert "1 of 2 words cannot be written" in caplog.text
    assert "café" in caplog.text


def test_symbols_that_occur_in_no_word_are_named_once(tmp_path, caplog):
    digits = Vocabulary(tuple(" abc17"))
    cut = write_arpa(tmp_path / "spelled.arpa", ["ab cab"])
    for _ in range(2):
        engine_with(cut, digits)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert (
        "2 of the network's 6 symbols occur in none of the model's words: '1' (U+0031 DIGIT ONE), '7'" in record.message
    )
    caplog.clear()
    engine_with(write_arpa(tmp_path / "whole.arpa", ["ab c17"]), digits)
    assert not caplog.records


def test_a_character_model_may_know_more_characters_than_the_network_but_not_half_of_its_symbols(tmp_path):
    many = "".join(map(chr, range(0x5100, 0x5180)))
    engine_with(write_arpa(tmp_path / "many.arpa", [many + "你好世"], characters=True), MANDARIN)
    with pytest.raises(ValueError, match="128 of its 129 words"):
        engine_with(write_arpa(tmp_path / "few.arpa", [many + "你"], characters=True), MANDARIN)


def test_a_word_that_stands_for_rare_ones_is_not_a_word(tmp_path):
    lm = write_arpa(tmp_path / "lm.arpa", [f"ab {text_corpus.UNKNOWN}", "a b c"])
    assert sorted(model_file.read_words(str(lm))) == ["a", "ab", "b", "c"]


def test_words_are_read_from_arpa_gzip_and_a_file_of_their_own(tmp_path):
    arpa = write_arpa(tmp_path / "lm.arpa", ["ab cab", "a"])
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(arpa.read_bytes()))
    (tmp_path / "words.txt").write_text("cab\n<unk>\n")
    assert sorted(model_file.read_words(str(arpa))) == ["a", "ab", "cab"]
    assert sorted(model_file.read_words(str(tmp_path / "lm.arpa.gz"))) == ["a", "ab", "cab"]
    assert model_file.read_words(str(arpa), str(tmp_path / "words.txt")) == ["cab"]
    with pytest.raises(ValueError, match=r"config\.decode\.unigrams.*nowhere"):
        model_file.read_words(str(arpa), "nowhere.txt")


@pytest.mark.parametrize(
    "content", ['{"audio_filepath": "a.wav", "text": "cab"}\n', "cab\t3\nab\t2\na\t2\n", "cab\na cab\n", None]
)
def test_a_file_that_is_no_list_of_words_is_refused(content, tmp_path):
    arpa = write_arpa(tmp_path / "lm.arpa", ["ab cab", "a"])
    (tmp_path / "words.txt").write_text(arpa.read_text() if content is None else content)
    with pytest.raises(ValueError, match=r"config\.decode\.unigrams.*(not a list of words|must be one word)"):
        model_file.read_words(str(arpa), str(tmp_path / "words.txt"))


def test_a_list_of_words_may_have_a_byte_order_mark_and_any_line_ends(tmp_path):
    arpa = write_arpa(tmp_path / "lm.arpa", ["ab cab", "a"])
    (tmp_path / "words.txt").write_bytes(b"\xef\xbb\xbfcab\r\n\r\nab\r\n")
    assert model_file.read_words(str(arpa), str(tmp_path / "words.txt")) == ["cab", "ab"]


def binary_of(words: list[str], *, has_words: bool = True, count: int | None = None, order: int = 5) -> bytes:
    """Make what KenLM writes around a model: its header, some numbers, and the words at the end."""
    header = model_file.HEADER.pack(1, order, 1.5, 5, has_words, 1, len(words) if count is None else count)
    start = (file_kind.KENLM_MAGIC + b" version 5\n\0").ljust(model_file.HEADER_OFFSET, b"\0")
    return start + header + bytes(range(256)) * 9 + b"".join(word.encode() + b"\0" for word in words)


def test_words_are_read_from_the_end_of_a_binary(tmp_path):
    path = tmp_path / "lm.bin"
    path.write_bytes(binary_of(["<unk>", "<s>", "</s>", "ab", "你好"]))
    assert model_file.read_words(str(path)) == ["ab", "你好"]


@pytest.mark.parametrize("broken", [{"has_words": False}, {"count": 9}])
def test_a_binary_without_its_words_asks_for_them(broken, tmp_path):
    path = tmp_path / "lm.bin"
    path.write_bytes(binary_of(["<unk>", "ab"], **broken))
    with pytest.raises(ValueError, match=r"config\.decode\.unigrams=words\.txt"):
        model_file.read_words(str(path))
    (tmp_path / "words.txt").write_text("ab\n")
    assert model_file.read_words(str(path), str(tmp_path / "words.txt")) == ["ab"]


@pytest.mark.parametrize("place", [0.01, 0.05, 0.1])
def test_a_damaged_compressed_model_is_one_line(place, tmp_path):
    lines = [f"word{number} and word{number * 7}" for number in range(3000)]
    content = bytearray(gzip.compress(write_arpa(tmp_path / "lm.arpa", lines).read_bytes()))
    start = int(place * len(content))
    content[start : start + 2000] = b"\xff" * 2000  # no valid code
    (tmp_path / "lm.arpa.gz").write_bytes(content)
    with pytest.raises(model_file.LanguageModelError, match=r"lm\.arpa\.gz"):
        model_file.read_words(str(tmp_path / "lm.arpa.gz"))
