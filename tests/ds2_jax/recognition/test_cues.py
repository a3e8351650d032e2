import itertools
import re
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.hypothesis import Word
from ds2_jax.recognition.cues import SEGMENTS, SUBTITLES, CueSettings, format_srt, format_vtt, lengthen, split
from input_pipeline.text import width


def speak(*texts: str, start_s: float = 0.0, pause_s: float = 0.1) -> list[Word]:
    """Return words of 0.3 s with the same pause between them."""
    return [
        Word(text, start_s + i * (0.3 + pause_s), start_s + i * (0.3 + pause_s) + 0.3, 0.9)
        for i, text in enumerate(texts)
    ]


def test_a_long_pause_separates_cues():
    words = [*speak("one", "two"), *speak("three", start_s=1.7)]  # a pause of 1 s
    assert [cue.text for cue in split(words)] == ["one two", "three"]
    assert len(split([*words[:2], *speak("three", start_s=1.65)])) == 1


def test_a_cue_that_is_too_long_is_split_at_its_longest_pause():
    words = [*speak(*"abcdefghi"), *speak(*"jklmnopqrs", start_s=3.95)]  # 9 words, 0.45 s, 10 words: more than 7 s
    assert [cue.text for cue in split(words)] == ["a b c d e f g h i", "j k l m n o p q r s"]


def test_a_cue_has_at_most_the_characters_allowed():
    cues = split(speak(*["word"] * 50, pause_s=0.0), CueSettings(longest_s=100, line_width=19, lines=1))
    assert {cue.text for cue in cues[:-1]} == {"word word word word"}
    assert sum(len(cue.words) for cue in cues) == 50


def test_words_of_languages_without_spaces_are_joined_without_them():
    assert [cue.text for cue in split(speak(*"今天天气"), CueSettings(joiner=""))] == ["今天天气"]


def test_there_are_no_cues_without_words():
    assert split([]) == []
    assert format_srt([]) == ""
    assert format_vtt([]) == "WEBVTT\n"


def test_short_cues_are_shown_for_a_second_unless_the_next_one_starts():
    cues = [split(speak("one", start_s=start_s))[0] for start_s in (0.0, 0.5, 9.0)]
    assert [(cue.start_s, cue.end_s) for cue in lengthen(cues)] == [(0.0, 0.5), (0.5, 1.5), (9.0, 10.0)]


@pytest.mark.parametrize("field", ["pause_s", "longest_s", "line_width", "lines", "characters_per_s"])
def test_limits_without_meaning_are_refused(field):
    with pytest.raises(ValueError, match=field):
        CueSettings(**{field: 0})  # type: ignore[arg-type]


def test_srt_has_numbers_times_and_texts():
    words = [Word("yes", 3723.0, 3725.25, 1.0), Word("no", 3730.0004, 3732.9996, 1.0)]
    assert format_srt(split(words)) == (
        "1\n01:02:03,000 --> 01:02:05,250\nyes\n\n2\n01:02:10,000 --> 01:02:13,000\nno\n"
    )


def test_vtt_escapes_what_would_be_markup():
    assert format_vtt(split(speak("<i>", "a&b"))) == ("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n&lt;i&gt; a&amp;b\n")


def test_lines_are_balanced_and_not_too_long():
    text = format_srt(split(speak(*["word"] * 12, pause_s=0.0))).splitlines()[2:]
    assert text == ["word word word word word word"] * 2
    mandarin = CueSettings(joiner="")
    assert format_srt(split(speak(*"天" * 38, pause_s=-0.2), mandarin), mandarin).splitlines()[2:] == ["天" * 19] * 2


def test_a_chinese_character_takes_two_columns():
    mandarin = CueSettings(joiner="", longest_s=100)
    cues = split(speak(*"天" * 100, pause_s=0.0), mandarin)
    assert max(len(cue.text) for cue in cues) <= 42
    lines = [line for line in format_srt(cues, mandarin).splitlines() if "天" in line]
    assert max(map(len, lines)) == 21


@pytest.mark.parametrize("joiner", ["", " "])
@pytest.mark.parametrize("text", ["ผู้ใหญ่ที่นั่น", "नमस्ते", "ကျွန်ုပ်", "ខ្ញុំស្រឡាញ់", "ދިވެހިބަސް", "क\u094d\u200dषिक\u094d\u200dषि"])
def test_letters_stay_with_their_marks(text, joiner):
    narrow = CueSettings(joiner=joiner, line_width=3, lines=1, longest_s=100, pause_s=100)
    words = speak(*text) if not joiner else speak(text)
    cues = split(words, narrow)
    assert "".join(cue.text for cue in cues) == text
    lines = [line for cue in cues for line in format_srt([cue], narrow).splitlines()[2:]]
    assert "".join(lines) == text
    assert len(lines) > 1
    assert all(unicodedata.category(line[0])[0] == "L" and width(line) <= 3 for line in lines)


def test_no_pause_divides_a_letter_and_its_mark():
    words = [*speak(*"ที"), *speak("่", start_s=5.0)]
    assert [cue.text for cue in split(words, CueSettings(joiner="", longest_s=100))] == ["ที่"]


def test_marks_take_no_time_to_read():
    cue = split([Word("ที่" * 40, 1.0, 1.5, 1.0)])[0]
    assert lengthen([cue])[0].end_s == 3.0


def test_english_cues_and_lines_end_before_conjunctions_and_prepositions():
    english = CueSettings(language="en", longest_s=100)
    words = speak(*["the", "quick", "brown", "fox", "jumped", "over", "the", "lazy", "dog"], pause_s=0.0)
    assert format_srt(split(words, english), english).splitlines()[2:] == [
        "the quick brown fox jumped",
        "over the lazy dog",
    ]
    words = speak(*["one", "two", "three", "four", "and", "five", "six"], pause_s=0.0)
    assert next(cue.text for cue in split(words, CueSettings(language="en", longest_s=2.0))) == "one two three four"
    clear = [*words[:5], *speak("five", "six", start_s=words[4].end_s + 0.5)]
    assert next(cue.text for cue in split(clear, CueSettings(language="en", longest_s=2.2))) == "one two three four and"


def test_a_cue_is_shown_long_enough_to_be_read():
    cue = split([Word("w" * 40, 1.0, 1.5, 1.0)])[0]
    assert lengthen([cue])[0].end_s == 3.0
    assert lengthen([cue], CueSettings(characters_per_s=40.0))[0].end_s == 2.0


def test_a_day_of_words_is_split_in_a_second():
    words = speak(*["word"] * 200_000, pause_s=0.0)
    started = time.process_time()
    assert len(split(words, SEGMENTS)) > 1000
    assert time.process_time() - started < 20


def _words(steps: list[tuple[str, float, float]]) -> list[Word]:
    words, time_s = [], 0.0
    for text, pause_s, length_s in steps:
        words.append(Word(text, time_s + pause_s, time_s + pause_s + length_s, 0.5))
        time_s += pause_s + length_s
    return words


STEPS = st.lists(
    st.tuples(st.text("abc<&天", min_size=1, max_size=60), st.floats(0, 3), st.floats(0.01, 9)), max_size=60
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from([SUBTITLES, SEGMENTS]))
def test_cues_have_all_words_in_order_within_the_limits(steps, limits):
    words = _words(steps)
    cues = split(words, limits)
    assert [word for cue in cues for word in cue.words] == words
    for cue in cues:
        assert cue.text == " ".join(word.text for word in cue.words)
        if len(cue.words) > 1:
            assert width(cue.text) <= limits.line_width * limits.lines
            assert cue.end_s - cue.start_s <= limits.longest_s
            assert all(round(b.start_s - a.end_s, 3) < limits.pause_s for a, b in itertools.pairwise(cue.words))


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_a_file_of_subtitles_can_be_read_back(steps):
    cues = split(_words(steps))
    blocks = re.findall(r"(\d+)\n(\S+) --> (\S+)\n((?:.+\n)+)", format_srt(cues))
    assert [int(number) for number, *_ in blocks] == list(range(1, len(cues) + 1))
    for (*_, text), cue in zip(blocks, cues, strict=True):
        assert text.replace("\n", "").replace(" ", "") == cue.text.replace(" ", "")
        assert max(map(width, text.splitlines())) <= SUBTITLES.line_width
    times = [time for _, start, end, _ in blocks for time in (start, end)]
    assert times == sorted(times)
