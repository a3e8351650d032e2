"""Model cards: generated sections are replaced, and text written by hand stays."""

import re

import yaml

from ds2_jax.artifacts.model_card import make_card, update_card

OLD = {"model": "A network of DS2-JAX: 1 parameter.\n", "network": "## Network\n\n| 1 |\n"}
FRONT = {"language": "en", "metrics": ["wer", "cer"]}
NEW = {"model": "A network of DS2-JAX: 2 parameters.\n", "network": "## Network\n\n| 2 |\n"}


def test_a_new_card_has_a_title_and_all_sections():
    card = make_card("mine", OLD, FRONT)
    front, title = re.fullmatch(r"---\n(.*)\n---\n(# mine)\n.*", card, re.DOTALL).groups()  # type: ignore[union-attr]
    assert (yaml.safe_load(front), title) == (FRONT, "# mine")
    assert card.index("1 parameter.") < card.index("| 1 |")


def test_only_generated_sections_change():
    written = "## Results\n\nWER **3.36 %**.\n\n"
    card = make_card("mine", OLD, FRONT).replace("# mine", "# mine: numbers")
    card = card.replace("<!-- generated: network", written + "<!-- generated: network") + "\nLicence: CC0\n"
    updated, by_hand = update_card(card, NEW, FRONT)
    assert by_hand == []
    expected = make_card("mine", NEW, FRONT).replace("# mine", "# mine: numbers")
    assert (
        updated == expected.replace("<!-- generated: network", written + "<!-- generated: network") + "\nLicence: CC0\n"
    )
    assert update_card(updated, NEW, FRONT) == (updated, [])


def test_a_section_changed_by_hand_stays_and_is_named():
    card = make_card("mine", OLD, FRONT).replace("| 1 |", "| 1, tuned on dev |")
    updated, by_hand = update_card(card, NEW, FRONT)
    assert by_hand == ["network"]
    assert "| 1, tuned on dev |" in updated
    assert "| 2 |" not in updated
    assert "2 parameters." in updated


def test_other_white_space_is_no_change():
    updated, by_hand = update_card(make_card("mine", OLD, FRONT).replace("| 1 |\n", "| 1 |  \n\n"), NEW, FRONT)
    assert (by_hand, "| 2 |" in updated) == ([], True)


def test_sections_without_marks_stay_and_missing_ones_are_added():
    card = "# mine\n\nA network of DS2-JAX: 1 parameter, the best one.\n\n## Results\n\n3.36 %\n"
    updated, by_hand = update_card(card, NEW, FRONT)
    assert by_hand == ["model"]
    assert updated.startswith(card)
    assert updated.count("| 2 |") == 1
    assert "2 parameters" not in updated


def test_generated_sections_that_are_not_made_again_stay():
    card = make_card("mine", {**OLD, "language_model": "## Language model\n\n`lm.bin`\n"}, FRONT)
    assert "`lm.bin`" in update_card(card, NEW, FRONT)[0]


def test_front_matter_is_replaced_unless_it_was_changed_by_hand():
    card = make_card("mine", OLD, FRONT)
    updated, by_hand = update_card(card, NEW, FRONT | {"license": "mit"})
    assert by_hand == []
    assert updated == make_card("mine", NEW, FRONT | {"license": "mit"})
    changed = card.replace("language: en", "language: cy")
    updated, by_hand = update_card(changed, NEW, FRONT)
    assert by_hand == ["front matter"]
    assert "language: cy" in updated
    without = card[card.index("# mine") :]
    assert update_card(without, NEW, FRONT) == (make_card("mine", NEW, FRONT), [])


def test_a_card_written_by_hand_gets_no_front_matter():
    card = "# mine\n\nA network of DS2-JAX: 1 parameter.\n\n## Network\n"
    assert update_card(card, NEW, FRONT) == (card, ["model", "network"])
