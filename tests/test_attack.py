"""Damaged files of every kind are refused in one line, or read; they end nothing."""

import pytest

from tests import attack

TRIES = 30  # python -m tests.attack makes more


@pytest.mark.slow
@pytest.mark.parametrize("name", attack.ATTACKS)
def test_damaged_files_are_refused_in_one_line_or_read(name, capfd):
    outcomes = attack.run_attack(name, TRIES, seed=1)
    assert sum(outcomes.values()) == TRIES
    assert not sum(outcomes[fault] for fault in attack.FAULTS), capfd.readouterr().err
    if attack.ATTACKS[name].digests:
        assert not outcomes["changed"], capfd.readouterr().err
