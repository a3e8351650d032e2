"""Vocabularies and their files; scoring rules describe themselves."""

import pickle

import numpy as np
import pytest

from input_pipeline.text import ScoringRules, UnknownCharacters, Vocabulary, VocabularyError


def test_encoding_leaves_index_zero_to_the_blank():
    vocabulary = Vocabulary((" ", "'", "a", "é"))
    encoded = vocabulary.encode("aé' a")
    assert vocabulary.size == 5
    assert encoded.dtype == np.int32
    assert encoded.tolist() == [3, 4, 2, 1, 3]
    assert vocabulary.decode(encoded) == "aé' a"
    assert vocabulary.encode("").shape == (0,)


@pytest.mark.parametrize("ids", [[0], [1, 0, 2], [-1], [3]])
def test_decoding_refuses_the_blank_and_what_lies_outside(ids):
    with pytest.raises(ValueError, match="1 to 2"):
        Vocabulary(("a", "b")).decode(ids)


def test_unknown_characters_are_named_with_their_code_points():
    with pytest.raises(UnknownCharacters) as error:
        Vocabulary(tuple("abc ")).encode("a cab\u00a0é é")
    assert error.value.characters == ("\u00a0", "é")
    assert "U+00E9 LATIN SMALL LETTER E WITH ACUTE" in str(error.value)
    assert "U+00A0 NO-BREAK SPACE" in str(error.value)


def test_many_unknown_characters_are_counted_and_not_all_named():
    with pytest.raises(UnknownCharacters) as error:
        Vocabulary(("a",)).encode("".join(map(chr, range(0x4E00, 0x4E00 + 100))))
    assert "and 80 more" in str(error.value)
    assert len(error.value.characters) == 100


def test_unknown_characters_come_back_from_a_worker_process():
    error = UnknownCharacters(["é"], "café")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.characters, copy.text, str(copy)) == (("é",), "café", str(error))


@pytest.mark.parametrize("symbols", [(), ("a", "a"), ("ab",), ("",), ("a", "\n"), ("\r",), ("\ud800",)])
def test_what_cannot_be_a_vocabulary_is_refused(symbols):
    with pytest.raises(VocabularyError):
        Vocabulary(symbols)


@pytest.mark.parametrize(
    ("content", "symbols"),
    [
        (b" \n'\na\nb\n", (" ", "'", "a", "b")),
        (b"a\nb", ("a", "b")),  # the original loses this b
        (b"a\n ", ("a", " ")),
        (b"\xef\xbb\xbfa\r\n \r\nb\r\n", ("a", " ", "b")),
        ("\u3000\n\u2028\n\x85\n你\n".encode(), ("\u3000", "\u2028", "\x85", "你")),  # no line ends of this file
    ],
)
def test_vocabulary_files_of_the_original_and_of_editors_are_read(tmp_path, content, symbols):
    (tmp_path / "vocab.txt").write_bytes(content)
    assert Vocabulary.load(tmp_path / "vocab.txt").symbols == symbols


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\n", "is empty"),
        (b"a\nb\na\n", ":3: 'a' is in line 1 already"),
        (b"a\nbc\n", ":2: 'bc' must be one character; put each symbol on its own line"),
        ("a\ne\u0301\n".encode(), "decomposed (NFD): write 'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE)"),
        (b"a\n\nb\n", ":2: '' must be one character; remove the line; the space is a line with one space"),
        (b"a\n\xff\n", "is not UTF-8"),
        (None, "No such file"),
    ],
)
def test_bad_vocabulary_files_are_named_with_line_and_remedy(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VocabularyError) as error:
        Vocabulary.load(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_saving_and_loading_keep_every_symbol(tmp_path):
    vocabulary = Vocabulary((" ", "z", "'", "你", "\u2028", "\ufeff", "😀"))
    vocabulary.save(tmp_path / "new" / "vocab.txt")
    assert Vocabulary.load(tmp_path / "new" / "vocab.txt") == vocabulary
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["vocab.txt"]


def test_a_failed_save_says_where_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("a")
    for path in (tmp_path / "taken", tmp_path / "file" / "vocab.txt"):
        with pytest.raises(VocabularyError, match=f"{path} cannot be written"):
            Vocabulary(("a",)).save(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_building_goes_by_count_and_then_by_code_point():
    texts = ["cab b", "abd", "é "]
    assert Vocabulary.build(texts).symbols == ("b", " ", "a", "c", "d", "é")
    assert Vocabulary.build(reversed(texts)) == Vocabulary.build(texts)
    assert Vocabulary.build(texts, count_threshold=2).symbols == ("b", " ", "a")


def test_extending_keeps_old_indices():
    old = Vocabulary(("b", " ", "a"))
    new = old.extended(["a", "é", "b", "ß", "é"])
    assert new.symbols == ("b", " ", "a", "é", "ß")
    assert new.encode("ab ").tolist() == old.encode("ab ").tolist()
    assert old.extended(old.symbols) == old


def test_digest_follows_symbols_and_their_order():
    digests = {Vocabulary(symbols).digest for symbols in (("a", "b"), ("b", "a"), ("a",), ("a", "b", "c"))}
    assert len(digests) == 4
    assert Vocabulary(("a", "b")).digest == Vocabulary(tuple("ab")).digest
    assert all(len(digest) == 12 for digest in digests)


def test_scoring_rules_describe_themselves_in_one_line():
    assert str(ScoringRules.for_language("zh")) == (
        "case ignored, punctuation removed, full-width forms folded, spaces removed"
    )
    assert ScoringRules.for_language("none").describe() == "as it is"
    assert "\n" not in str(ScoringRules())


def test_marks_stand_alone_where_a_message_lists_symbols():
    assert Vocabulary(("น", "\u0e49", "a")).beginning() == "น\u25cc\u0e49a"
