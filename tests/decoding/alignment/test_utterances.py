"""Utterances are whole phrases that fit, of allowed length, cut at the longest pauses."""

import pytest

from decoding.alignment.utterances import Pause, Piece, Utterance, UtteranceSettings, choose

SETTINGS = UtteranceSettings()


def pieces_of(*phrases: tuple[float, float], unfit: tuple[int, ...] = (), parted: tuple[int, ...] = ()) -> list[Piece]:
    """Return a word for each phrase, given its length and the pause after it."""
    pieces: list[Piece] = []
    at_s = 1.0
    for i, (length_s, pause_s) in enumerate(phrases):
        end_s = at_s + length_s
        pieces.append(Piece(i, at_s, end_s, i not in unfit, Pause(end_s, end_s + pause_s), i in parted))
        at_s = end_s + pause_s
    return pieces


def words_of(utterances: list[Utterance]) -> list[tuple[int, int]]:
    return [(one.first, one.last) for one in utterances]


def test_an_utterance_ends_at_long_pauses_and_has_the_edges_of_them():
    found = choose(pieces_of((3.0, 0.3), (3.0, 1.0), (4.0, 1.0)), Pause(0.0, 1.0), SETTINGS)
    assert words_of(found) == [(0, 1), (2, 2)]
    assert found[0][2:] == pytest.approx((0.7, 7.6))
    assert found[1][2:] == pytest.approx((8.0, 12.6))


def test_a_pause_that_two_utterances_share_is_halved():
    found = choose(pieces_of((10.0, 0.4), (10.0, 0.4)), Pause(1.0, 1.0), SETTINGS)
    assert [one[2:] for one in found] == [pytest.approx((1.0, 11.2)), pytest.approx((11.2, 21.6))]


def test_what_does_not_fit_is_left_out_and_divides():
    found = choose(pieces_of((3.0, 0.3), (3.0, 0.3), (3.0, 0.3), unfit=(1,)), Pause(0.0, 1.0), SETTINGS)
    assert words_of(found) == [(0, 0), (2, 2)]


def test_a_word_that_does_not_fit_spoils_the_words_without_a_pause_between():
    pieces = pieces_of((3.0, 0.3), (3.0, 0.3), (3.0, 0.3), unfit=(1,))
    pieces[0] = pieces[0]._replace(after=None)
    assert words_of(choose(pieces, Pause(0.0, 1.0), SETTINGS)) == [(2, 2)]


def test_text_that_was_not_spoken_divides_at_a_pause_and_spoils_a_phrase():
    assert words_of(choose(pieces_of((3.0, 0.3), (3.0, 0.3), parted=(0,)), Pause(0, 1), SETTINGS)) == [(0, 0), (1, 1)]
    pieces = pieces_of((3.0, 0.3), (3.0, 0.3), parted=(0,))
    pieces[0] = pieces[0]._replace(after=None)
    assert choose(pieces, Pause(0.0, 1.0), SETTINGS) == []


def test_a_short_phrase_is_joined_or_takes_more_of_its_pauses_or_is_left_out():
    assert words_of(choose(pieces_of((0.5, 0.3), (1.4, 0.3)), Pause(0.7, 1.0), SETTINGS)) == [(0, 1)]
    [alone] = choose(pieces_of((0.8, 2.0)), Pause(0.0, 1.0), SETTINGS)
    assert alone.end_s - alone.start_s == pytest.approx(2.0)
    assert choose(pieces_of((0.8, 0.5)), Pause(0.5, 1.0), SETTINGS) == []


def test_no_utterance_is_too_long():
    found = choose(pieces_of(*[(4.0, 0.25)] * 20), Pause(0.0, 1.0), SETTINGS)
    assert words_of(found)[0][0] == 0
    assert words_of(found)[-1][1] == 19
    assert all(2 <= one.end_s - one.start_s <= 15 for one in found)
    assert choose(pieces_of((16.0, 1.0)), Pause(0.0, 1.0), SETTINGS) == []


def test_nothing_gives_no_utterance():
    assert choose([], Pause(0.0, 0.0), SETTINGS) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shortest_s": 20.0}, "config.align.shortest_s is 20.0: use 0 or more, less than longest_s, 15"),
        ({"pause_s": -1.0}, "config.align.pause_s is -1.0: use 0 or more"),
        ({"word_limit": float("nan")}, "config.align.word_limit is nan: use 0 or more"),
    ],
)
def test_limits_without_meaning_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        UtteranceSettings(**values)
