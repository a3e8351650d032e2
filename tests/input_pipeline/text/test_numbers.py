"""Numbers as words of a language."""

import sys

import pytest

from input_pipeline.text import TextRules, has_digits, spell_numbers


@pytest.mark.parametrize(
    ("language", "written", "spelled"),
    [
        ("en", "In 1999 room7b", "in one thousand nine hundred and ninety nine room seven b"),
        ("en", "1,234.5 and 007", "one thousand two hundred and thirty four point five and zero zero seven"),
        ("en", "the 1st, the 22nd", "the first, the twenty second"),
        (
            "en",
            "12345678901234567",
            "one two three four five six seven eight nine zero one two three four five six seven",
        ),
        ("de", "21 Äpfel, 1.000,5", "einundzwanzig äpfel, eintausend komma fünf"),
        ("fr", "Il a 22 ans", "il a vingt-deux ans"),
        ("es-MX", "Son 3", "son tres"),
        ("tr", "42 IŞIK", "kırkiki ışık"),
        ("ar", "٣ كتب", "ثلاثة كتب"),
        ("en", "no digits", "no digits"),
        ("th", "ห้อง ๑๒ 25 คน", "ห้องสิบสองยี่สิบห้าคน"),
        ("ja", "25 10 です", "二十五十です"),
        ("ja", "25 ９年", "二十五九年"),
        ("tr", "5'te, 6’ya 7.", "beş'te, altı'ya yedi."),
        ("fi", "EU:n 20:n", "eu:n kaksikymmentä:n"),
        ("it", "l'8 e dell'11", "l'otto e dell'undici"),
        ("en", "a 5-year-old (6), U2!", "a five-year-old (six), u two!"),
        ("en", "3-4 $5", "three - four $ five"),
        ("de", "am 3.5.", "am drei . fünf."),
        ("it", "3,14", "tre virgola uno quattro"),
        ("tr", "2,5 3,14", "iki virgül beş üç virgül bir dört"),
        ("vi", "2,5", "hai phẩy năm"),
        ("cy", "2.5", "dau pwynt pump"),
        ("fa", "۲٫۰۵", "دو ممیز صفر پنج"),
        ("bn", "2.05", "দুই দশমিক শূন্য পাঁচ"),
        ("am", "1999 2023", "አንድ ዘጠኝ ዘጠኝ ዘጠኝ ሁለት ሺህ ሃያ ሦስት"),
        ("am", "1234567", "አንድ ሁለት ሦስት አራት አምስት ስድስት ሰባት"),
        ("te", "10000000000", "ఒకటి " + " ".join(["సున్న"] * 10)),
        ("ar", "٣٬٠٠٠ و ٢٫٥", "ثلاثة آلاف و اثنان فاصلة خمسة"),
        ("fr", "12 000 et 1\u202f234,5", "douze mille et mille deux cent trente-quatre virgule cinq"),
        ("fr", "en 2023 100 ou 12 34", "en deux mille vingt-trois cent ou douze trente-quatre"),
    ],
)
def test_numbers_are_written_as_words_of_the_language(language, written, spelled):
    assert TextRules(language, spell_numbers=True).normalise(written) == spelled


def test_digits_stay_unless_words_are_asked_for():
    assert TextRules("en").normalise("Room 7") == "room 7"
    assert [has_digits(text) for text in ("room 7", "٣", "none")] == [True, True, False]


@pytest.mark.parametrize(("language", "message"), [("sw", "language 'sw'"), ("none", "needs config.text.language")])
def test_a_language_without_numbers_is_refused_at_once(language, message):
    with pytest.raises(ValueError, match=message):
        TextRules(language, spell_numbers=True)


def test_without_num2words_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "num2words", None)
    with pytest.raises(ValueError, match="pip install num2words"):
        spell_numbers("9182736455", "en")
