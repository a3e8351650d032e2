"""Words with letters of two scripts that look alike."""

import pytest

from input_pipeline.text.scripts import TWINS, mixed_words, script_of, writing_system


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the c\u043ede is g\u03bfod", ["c\u043ede", "g\u03bfod"]),
        ("привет wоrld", ["wоrld"]),
        ("Он купил iPhone и USB-кабель", []),
        ("東京タワーで Tシャツ 10km", []),
        ("plain English", []),
        ("Ελλάδα και Europe", []),
        ("한국어 K팝", []),
        ("Αthens Мoscow кофe ещë СССP", ["Αthens", "Мoscow", "кофe", "ещë", "СССP"]),
        ("сcуc", ["сcуc"]),  # letters of both look alike
        ("Ĕç тĕлне пĕлмен çын Хĕр хăйне", []),  # Chuvash with the Latin ă, ĕ and ç
        ("Ԑelmeɣ iγer nesεa", []),  # Kabyle with the Greek γ and ε
        ("VKда iPhoneдун COVIDке", []),
        ("10μm kΩ NFκB", []),
        ("XXнче гасыр, XXIнче", []),  # Tatar
        ("кIант ХIара гIалим къIу", []),  # Chechen, Avar, Kabardian
        ("МОI УКРАIНА Кiев Iван ХIХ", ["МОI", "УКРАIНА", "Кiев", "Iван", "ХIХ"]),
    ],
)
def test_only_words_with_scripts_that_look_alike_are_named(text, words):
    assert mixed_words(text) == words


def test_twins_are_letters_of_their_scripts():
    for first, second, letters, others in TWINS:
        assert len(letters) == len(set(letters)) == len(others) == len(set(others))
        assert {script_of(letter) for letter in letters} == {first}
        assert {script_of(letter) for letter in others} == {second}


def test_letters_of_several_scripts_belong_to_none_and_japanese_is_one_writing_system():
    assert [writing_system(letter) for letter in "ー々ːʻªⁿ"] == [""] * 6
    assert {writing_system(letter) for letter in "東にタﾃ"} == {"CJK"}
    assert [writing_system(letter) for letter in "aя"] == ["LATIN", "CYRILLIC"]
