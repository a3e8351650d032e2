from decoding.hypothesis import Word
from ds2_jax.recognition.stream import Partial, Segment
from ds2_jax.serving.protocols.settled import SettledText


def partial(text: str, settled: int, words: list[str] | None = None) -> Partial:
    return Partial(text, [Word(word, 0.0, 0.1, 1.0) for word in words or text.split()], settled, 0.0)


def final(text: str, reason: str = "silence") -> Segment:
    return Segment(text, [], 1.0, 0.0, 1.0, reason, [])


def test_only_settled_words_are_returned_and_only_once():
    text = SettledText()
    results = [partial("one to", 0), partial("one two", 1), partial("one two th", 1), partial("one two three", 2)]
    assert [text.add_partial(result) for result in results] == ["", "one", "", " two"]
    assert text.add_final(final("one two three")) == " three"
    assert text.text == "one two three"


def test_segments_are_joined_by_a_space():
    text = SettledText()
    pieces = [text.add_final(final("one")), text.add_final(final("")), text.add_partial(partial("two", 1))]
    assert [*pieces, text.add_final(final("two"))] == ["one", "", " two", ""]
    assert text.text == "one two"


def test_a_word_that_occurs_in_another_one_is_found_at_its_place():
    text = SettledText()
    assert text.add_partial(partial("that hat at", 2)) == "that hat"
    assert text.add_partial(partial("that hat at", 3)) == " at"


def test_languages_without_spaces_settle_character_by_character():
    text = SettledText()
    assert text.add_partial(partial("今天天", 2, list("今天天"))) == "今天"
    assert text.add_final(final("今天天气")) == "天气"
