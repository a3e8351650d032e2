"""Normalisation and scoring by the rules of languages: case, spaces, and marks that belong to words."""

import pytest

from input_pipeline.text import ScoringRules, is_spaced, language_code, normalise, upper

CODES = ("en", "zh", "none", "tr", "ca", "he")


@pytest.mark.parametrize(
    ("language", "written", "learnt"),
    [
        ("en", "  It\u2019s  a\tTest\n", "it's a test"),
        ("en", "ＦＵＬＬ　width ﬁn", "full width fin"),
        ("en", "O´Neil ‛tis ｀so′", "o'neil 'tis 'so'"),
        ("en", "Café, 3 – ok?", "café, 3 – ok?"),
        ("zh", " 你 好　ＡＢＣ Ｄ\u00a0世界。", "你好abcd世界。"),
        ("zh", "Ｔ恤１２", "t恤12"),
        ("none", "  ＡB  cafe\u0301\t’ ", "ＡB caf\u00e9 ’"),
        ("en", " \n", ""),
        ("tr", "Ilık İSTANBUL IŞIK I\u0307zmir i\u0307yi", "ılık istanbul ışık izmir iyi"),
        ("tr-TR", "ISI", "ısı"),
        ("az", "İsmayıl Iraq", "ismayıl ıraq"),
        ("en", "İstanbul ISI", "istanbul isi"),
        ("lt", "I\u0307\u0301 Šį", "í šį"),
        ("de", "STRAẞE Straße", "straße straße"),
        ("el", "ΟΔΟΣ ΣΟΦΌΣ", "οδος σοφός"),
        ("el", "ἀλλ\u1fbd ἐγώ, σ\u0384 αυτό, ἀπ\u1fbf ἐμοῦ", "ἀλλ' ἐγώ, σ' αυτό, ἀπ' ἐμοῦ"),
        ("ca", "COL·LEGI col•legi paraŀlel", "col·legi col·legi paral·lel"),
        ("fr", "L’Œuvre d\u2010été, est\u2011ce", "l'œuvre d-été, est-ce"),
        ("uk", "Пʼять п’ять", "п'ять п'ять"),
        ("uz", "O‘zbek oʻzbek", "o'zbek o'zbek"),
        ("th", "ทำ น้ำ", "ทำน้ำ"),
        ("lo", "ໜຳໝ", "ໜຳໝ"),
        ("hy", "Երևան", "երևան"),
        ("ja", "ﾃｽﾄ　です ABC", "テストですabc"),
        ("hi", "ज़िन्दगी कि", "ज\u093cिन्दगी कि"),
        ("ar", "مُحَمَّدٌ  قال", "مُحَمَّدٌ قال"),
        ("ga", "An tAire, nÉireann, t-uisce, TAIRE", "an t-aire, n-éireann, t-uisce, taire"),
        ("hur", "Xʷəl m²", "xʷəl m2"),
        ("zgh", "ⴰⴳⵯⵎⴰⵔ", "ⴰⴳⵯⵎⴰⵔ"),
        ("nan", "Tiⁿ", "tiⁿ"),
        ("ko", "ㅋㅋㅏ 한국\u1112\u1161\u11ab", "ㅋㅋㅏ 한국한"),
        ("none", "ILIK Café\u0301", "ILIK Café\u0301"),
        ("he", "צה״ל צה”ל צה''ל ג׳ירפה “שלום”", 'צה"ל צה"ל צה"ל ג\'ירפה “שלום”'),
        ("yi", "ר״ל ס׳איז", "ר\"ל ס'איז"),
        ("ru", "Дом №5", "дом №5"),
        ("ar", "محـــمد", "محمد"),
        ("none", "محـــمد ～ นํ้า ״", "محـــمد ～ นํ้า ״"),
        ("ja", "そうだ～", "そうだ〜"),
        ("th", "นํ้า น้ํา คํา", "น้ำน้ำคำ"),
        ("lo", "ນໍ້າ ນ້ໍາ ຄໍາ", "ນ້ຳນ້ຳຄຳ"),
    ],
)
def test_case_and_letters_follow_the_language(language, written, learnt):
    assert normalise(written, language) == learnt


@pytest.mark.parametrize(
    ("language", "written", "compared"),
    [
        ("en", "“Don’t!” – she said, 'no'.", "don't she said no"),
        ("en", "rock 'n' roll well-known it´s", "rock n roll well known it's"),
        ("zh", "你好， 世界！Ｏ Ｋ", "你好世界ok"),
        ("none", " Ａ,  b’ ", "Ａ, b’"),
        ("en", "?!", ""),
        ("en", "Well-known passers-by: it's «fine»", "well known passers by it's fine"),
        ("fr", "Est-ce l'été – peut-être ?", "est-ce l'été peut-être"),
        ("ca", "El col·legi, dona-m'ho!", "el col·legi dona-m'ho"),
        ("id", "anak-anak.", "anak-anak"),
        ("ro", "S-a dus.", "s-a dus"),
        ("de", "E-Mail, Süd-Nord", "e mail süd nord"),
        ("el", "άνω· κάτω;", "άνω κάτω"),
        ("he", 'צה"ל ג\'ירפה, "שלום" בית־ספר', "צה\"ל ג'ירפה שלום בית ספר"),
        ("hy", "Ինչո՞ւ։", "ինչու"),
        ("hi", "कि। सा'न्ते", "कि सा'न्ते"),
        ("ur", "کیا؟ ہاں، جی", "کیا ہاں جی"),
        ("tr", "Işık’ın, IŞIK'IN", "ışık'ın ışık'ın"),
        ("th", "ทำ น้ำ", "ทำน้ำ"),
        ("mt", "'Il-kelma' ta' Malta, tista'.", "il-kelma ta' malta tista'"),
        ("it", "un po' di 'tutto'; 'è'", "un po' di tutto è"),
        ("nld", "'s Avonds", "'s avonds"),
        ("nl", "'s Morgens, 't huis", "'s morgens 't huis"),
        ("sv", "TV:n: 10:30", "tv:n 10:30"),
        ("none", "A-b, Cafe\u0301.\u200b", "A-b, Café."),
        ("he", "צה״ל צה”ל, ג׳ירפה “שלום”", 'צה"ל צה"ל ג\'ירפה שלום'),
        ("ja", "そうだ～よ〜", "そうだよ"),
        ("ar", "محـــمد", "محمد"),
        ("gd", "A’ chlann 's an 'taigh'", "a' chlann 's an taigh"),
        ("nap", "’O sole", "'o sole"),
        ("som", "Lo' badan", "lo' badan"),
    ],
)
def test_scoring_follows_the_language(language, written, compared):
    rules = ScoringRules.for_language(language)
    assert rules.apply(written) == compared
    assert rules.apply(compared) == compared


@pytest.mark.parametrize("language", CODES)
def test_normalising_twice_changes_nothing(language):
    characters = [chr(c) for c in range(0x11800) if not 0xD800 <= c < 0xE000]
    once = [normalise(f"A{c}b", language) for c in characters]
    assert [o for o in once if normalise(o, language) != o] == []


@pytest.mark.parametrize(
    ("language", "written", "normal"),
    [
        ("fa", "\u0647\u200d\u0640 \u0642", "\u0647 \u0642"),  # a joiner beside a tatweel
        ("fa", "\u0640\u200c\u0647\u0627", "\u0647\u0627"),
        ("th", "\u0e19\u0e4d \u0e32", "\u0e19\u0e33"),  # an am that a space divides
    ],
)
def test_what_is_removed_leaves_nothing_that_another_pass_would_change(language, written, normal):
    assert normalise(written, language) == normal
    assert normalise(normal, language) == normal


def test_apostrophes_of_compatible_forms_are_scored_as_others():
    rules = ScoringRules.for_language("en")
    assert rules.apply("don\uff40t") == rules.apply("don't") == "don't"


@pytest.mark.parametrize("language", ["en", "zh-TW", "pa-IN", "rm-sursilv", "nan-tw", "kab", "PT_br", "none"])
def test_codes_of_two_or_three_letters_with_or_without_a_region_are_languages(language):
    assert language_code(language) == language


@pytest.mark.parametrize(
    ("language", "hint"),
    [
        ("klingon", "en, zh, tr"),
        ("", "none"),
        ("jp", "write ja"),
        ("cz", "write cs"),
        ("iw", "write he"),
        ("xx", "ISO 639"),
        ("jpn", "write ja"),
        ("1a", "ISO"),
        ("chi", "write zh"),
    ],
)
def test_an_unknown_language_is_refused_with_a_hint(language, hint):
    for refuse in (normalise, lambda _, code: ScoringRules.for_language(code)):
        with pytest.raises(ValueError, match=f"language is {language!r}.*{hint}"):
            refuse("a", language)


def test_languages_without_spaces_are_known():
    assert [is_spaced(code) for code in ("zh-CN", "ja", "th", "yue", "en", "ko", "none")] == [False] * 4 + [True] * 3


@pytest.mark.parametrize(
    ("language", "capitals"), [("tr", "IŞIK İSTANBUL"), ("en", "IŞIK ISTANBUL"), ("none", "IŞIK ISTANBUL")]
)
def test_capitals_follow_the_language(language, capitals):
    assert upper("ışık istanbul", language) == capitals
