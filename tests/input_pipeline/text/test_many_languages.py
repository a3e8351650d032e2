"""Sentences of many languages through normalisation, scoring, the vocabulary tool, the check of manifests and language models."""

import collections
import json
import os
import unicodedata
from pathlib import Path

import pytest

from decoding.lm.preparation import Preparation
from decoding.scoring.error_rate import count_utterance
from input_pipeline import manifest
from input_pipeline.manifest.text_checks import suspicious_texts
from input_pipeline.text import ScoringRules, TextRules, Vocabulary, normalise

SENTENCES = Path(os.environ.get("DS2_SPEECH_DATA", ""), "texts_many_languages", "sentences.tsv")
MOST_FALSE_ALARMS = 1 / 200
# Language, a sentence as it is published, and what is compared of it.
WRITTEN = [
    ("ab", "Иахьа хаз-хазы ицеит.", "иахьа хаз-хазы ицеит"),
    ("am", "ሰላም፡ለዓለም። ጥሩ ነው፧", "ሰላም ለዓለም ጥሩ ነው"),
    ("ar", "هَلْ تَتَكَلَّمُ العَرَبِيَّةَ؟", "هَلْ تَتَكَلَّمُ العَرَبِيَّةَ"),
    ("as", "মই ঘৰলৈ নহ'লে বজাৰলৈ যাম।", "মই ঘৰলৈ নহ'লে বজাৰলৈ যাম"),
    ("bn", "ক্ষমা করবেন, র‌্যাব কোথায়?", "ক্ষমা করবেন র‌্যাব কোথায়"),
    ("bo", "བཀྲ་ཤིས།", "བཀྲ ཤིས"),
    ("br", "Petra 'zo? Ur c’hazh-koad!", "petra 'zo ur c'hazh-koad"),
    ("ca", "L'Anna té col·legi i dona-m'ho.", "l'anna té col·legi i dona-m'ho"),
    ("cs", "Příliš žluťoučký kůň – úpěl!", "příliš žluťoučký kůň úpěl"),
    ("cv", "Хĕр кĕпе-тум илчĕ, ача турта-турта кайрӗ.", "хĕр кĕпе-тум илчĕ ача турта-турта кайрӗ"),
    ("cy", "Mae'r ci 'di mynd i Lan-non.", "mae'r ci 'di mynd i lan-non"),
    ("de", "„Die Straße“, sagte GROẞ-Müller.", "die straße sagte groß müller"),
    ("dv", "ކިހިނެއް؟ ރަނގަޅު، ޝުކުރިއްޔާ", "ކިހިނެއް ރަނގަޅު ޝުކުރިއްޔާ"),
    ("el", "Γι' αυτό ο ΙΗΣΟΥΣ μ’ ακούει· 'στριψε;", "γι' αυτό ο ιησους μ' ακούει 'στριψε"),
    ("en", "“Well-known customers’ shops – don't!”", "well known customers shops don't"),
    ("eo", "Ĉu ŝi ĵaŭde manĝis?", "ĉu ŝi ĵaŭde manĝis"),
    ("es", "¿Qué hora es? ¡Pingüino!", "qué hora es pingüino"),
    ("fa", "می‌خواهم کتاب‌ها را بخوانم؛ خوبه؟", "می‌خواهم کتاب‌ها را بخوانم خوبه"),
    ("fi", "EU:n jäsen katsoi TV:tä, niin.", "eu:n jäsen katsoi tv:tä niin"),
    ("fr", "Est-ce l’été ? « Peut-être » !", "est-ce l'été peut-être"),
    ("fy-NL", "Hy hat 'e hûn sjoen.", "hy hat 'e hûn sjoen"),
    ("ga-IE", "Tá an tAthair ag an nGael, an t-ochtú.", "tá an t-athair ag an ngael an t-ochtú"),
    ("haw", "ʻO ka ʻāina kēia, Hawaiʻi.", "'o ka 'āina kēia hawai'i"),
    ("he", 'שָׁלוֹם, צה"ל בבית־ספר.', 'שָׁלוֹם צה"ל בבית ספר'),
    ("hi", "मैं हिन्दी में बात करता हूँ। क्‍यों?", "मैं हिन्दी में बात करता हूँ क्‍यों"),
    ("hu", "Azt mondta: jó-e, Őrült?", "azt mondta jó-e őrült"),
    ("hy", "Ինչո՞ւ եւ ի՚նչ։", "ինչու եւ ի'նչ"),
    ("id", "Anak-anak bermain.", "anak-anak bermain"),
    ("it", "Un po' d'acqua, 'fra' amici: città.", "un po' d'acqua fra amici città"),
    ("ja", "東京タワーは、人々で「いっぱい」です。", "東京タワーは人々でいっぱいです"),
    ("ka", "ერთ-ერთი ᲥᲐᲠᲗᲣᲚᲘ სიტყვა.", "ერთ-ერთი ქართული სიტყვა"),
    ("kab", "Iεeqqayen d teǧǧi-t, Ԑelmeɣ.", "iεeqqayen d teǧǧi-t ԑelmeɣ"),
    ("km", "ខ្ញុំ ស្រឡាញ់អ្នក។", "ខ្ញុំស្រឡាញ់អ្នក"),
    ("ko", "안녕하세요, ㅋㅋㅋ ㅏ.", "안녕하세요 ㅋㅋㅋ ㅏ"),
    ("ky", "Кыргызча — бирден-бир тил, ыраазымын ө ү ң.", "кыргызча бирден-бир тил ыраазымын ө ү ң"),
    ("lt", "Šį rytą „ąžuolas“ žydi.", "šį rytą ąžuolas žydi"),
    ("ml", "അവൻ വന്നു.", "അവൻ വന്നു"),
    ("mt", "Biża' ta' qalbu, 'iva' tal-kelb.", "biża' ta' qalbu iva tal-kelb"),
    ("my", "မြန်မာ ဘာသာ။", "မြန်မာဘာသာ"),
    ("nl", "'s Avonds zie ik foto's.", "'s avonds zie ik foto's"),
    ("nqo", "ߒߞߏ ߞߊ߲߫ ߡߊ߬߸", "ߒߞߏ ߞߊ߲߫ ߡߊ߬"),
    ("or", "ମୁଁ ସା'ନ୍ତେ ଯାଉଛି।", "ମୁଁ ସା'ନ୍ତେ ଯାଉଛି"),
    ("pa-IN", "ਮੈਂ ਪੰਜਾਬੀ ਬੋਲਦਾ ਹਾਂ।", "ਮੈਂ ਪੰਜਾਬੀ ਬੋਲਦਾ ਹਾਂ"),
    ("pl", "— Zażółć gęślą jaźń!", "zażółć gęślą jaźń"),
    ("ro", "S-a dus și-ar țipa.", "s-a dus și-ar țipa"),
    ("ru", "«По-прежнему» всё — ещё?", "по-прежнему всё ещё"),
    ("sah", "Күлсэ-күлсэ, дии-дии ҥ ҕ.", "күлсэ-күлсэ дии-дии ҥ ҕ"),
    ("si", "ක්‍රියා කරන්න.", "ක්‍රියා කරන්න"),
    ("sv-SE", "Sätt på TV:n åt dig: nu!", "sätt på tv:n åt dig nu"),
    ("ta", "நான் தமிழ் பேசுகிறேன்.", "நான் தமிழ் பேசுகிறேன்"),
    ("th", "น้ำ ทำ ไม่ ๆ ครับ", "น้ำทำไม่ๆครับ"),
    ("tr", "IŞIK İstanbul'da, Ilık iğne.", "ışık istanbul'da ılık iğne"),
    ("tt", "Берәм-берәм килде: ак-кара.", "берәм-берәм килде ак-кара"),
    ("uk", "П’ять будь-яких ґудзиків.", "п'ять будь-яких ґудзиків"),
    ("uz", "Oʻzbek togʻ bogʻi", "o'zbek tog' bog'i"),
    ("vi", "Ngữ nghĩa, “thuở ấy”.", "ngữ nghĩa thuở ấy"),
    ("yo", "Ẹ kú àárọ̀, ọ̀rẹ́.", "ẹ kú àárọ̀ ọ̀rẹ́"),
    ("zh-TW", "「你好」，世界 ！", "你好世界"),
]


def letters(text: str) -> collections.Counter:
    """Count the letters, marks and numbers of a text."""
    return collections.Counter(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c)[0] in "LMN")


@pytest.mark.parametrize(("language", "sentence", "compared"), WRITTEN, ids=[row[0] for row in WRITTEN])
def test_what_is_compared_is_what_readers_take_for_the_words(language, sentence, compared):
    rules = ScoringRules.for_language(language)
    compared = unicodedata.normalize("NFC", compared)
    assert rules.apply(sentence) == compared
    assert rules.apply(compared) == compared
    assert rules.apply(normalise(sentence, language)) == compared
    words, characters = count_utterance(sentence, compared, rules)
    assert characters.errors == 0
    assert words.errors == 0 or rules.remove_spaces
    assert characters.reference == len(compared)


@pytest.mark.parametrize(("language", "sentence", "compared"), WRITTEN, ids=[row[0] for row in WRITTEN])
def test_the_words_of_a_language_model_are_those_that_are_compared(language, sentence, compared):
    prepared = Preparation(TextRules(language), [*compared, " "])(sentence)
    rules = ScoringRules.for_language(language)
    assert rules.apply(prepared) == unicodedata.normalize("NFC", compared)


@pytest.mark.parametrize(("language", "sentence"), [row[:2] for row in WRITTEN], ids=[row[0] for row in WRITTEN])
def test_none_changes_nothing_that_can_be_seen(language, sentence):
    kept = normalise(sentence, "none")
    assert kept == unicodedata.normalize("NFC", sentence)
    assert letters(normalise(kept, language)).total() == letters(kept).total() - kept.count(
        "ʻ"
    )  # becomes an apostrophe
    assert Preparation(TextRules("none"))(sentence) == kept
    assert ScoringRules.for_language("none").apply(sentence) == kept


def test_none_keeps_every_letter_mark_and_number_of_unicode():
    removed = [
        chr(code)
        for code in range(0xE0000)
        if unicodedata.category(chr(code))[0] in "LMN" and not normalise(f"-{chr(code)}-", "none")[1:-1]
    ]
    names = {unicodedata.name(character) for character in removed}
    invisible = ("FILLER", "VARIATION SELECTOR", "VOWEL INHERENT", "GRAPHEME JOINER")
    assert [name for name in names if not any(kind in name for kind in invisible)] == []


@pytest.mark.parametrize("language", ["none", *(row[0] for row in WRITTEN)])
def test_every_sentence_can_be_written_with_the_vocabulary_made_of_it(language):
    texts = [normalise(row[1], language) for row in WRITTEN]
    vocabulary = Vocabulary.build(texts)
    assert [vocabulary.decode(vocabulary.encode(text)) for text in texts] == texts


def test_sentences_come_back_from_manifests(tmp_path):
    rows = [{"audio_filepath": "a.wav", "duration": 9.0, "text": sentence} for _, sentence, _ in WRITTEN]
    manifest.write(tmp_path / "m.jsonl", rows)
    (tmp_path / "escaped.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [sentence for _, sentence, _ in WRITTEN]
    assert list(manifest.read(tmp_path / "m.jsonl").text) == expected
    assert list(manifest.read(tmp_path / "escaped.jsonl").text) == expected


def test_no_sentence_is_suspicious():
    for language, sentence, _ in WRITTEN:
        for text in (sentence, normalise(sentence, language)):
            assert list(suspicious_texts([text], [3.0], [sentence])) == []


@pytest.mark.skipif(not SENTENCES.is_file(), reason="DS2_SPEECH_DATA has no texts_many_languages/sentences.tsv")
def test_thousands_of_published_sentences_keep_their_letters_and_raise_no_alarm():
    rows = [line.split("\t", 1) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    alarms = []
    for language, sentence in rows:
        assert letters(normalise(sentence, "none")) == letters(sentence)
        rules = ScoringRules.for_language(language)
        compared = rules.apply(sentence)
        assert rules.apply(compared) == compared
        assert rules.apply(normalise(sentence, language)) == compared
        text = normalise(sentence, language)
        assert normalise(text, language) == text
        prepared = Preparation(TextRules(language), [*text, " "])(sentence)
        assert rules.apply(prepared) == compared
        kinds = {problem.kind for problem in suspicious_texts([sentence], [3.0], [sentence])}
        alarms += [(language, sentence)] * ("scripts" in kinds)
    assert len(rows) > 5000
    assert len(alarms) < MOST_FALSE_ALARMS * len(rows), alarms
    most = collections.Counter(language for language, _ in alarms).most_common(1)
    assert not most or most[0][1] <= 1
