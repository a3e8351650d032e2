"""Damaged files of every kind are refused in one line, or read; disturbed programs lose nothing."""

import pytest

from tests import attack, attack_runs
from tests.runs import OWN_MOUNTS

TRIES = 30  # python -m tests.attack makes more


@pytest.mark.slow
@pytest.mark.parametrize("name", attack.ATTACKS)
def test_damaged_files_are_refused_in_one_line_or_read(name, capfd):
    outcomes = attack.run_attack(name, TRIES, seed=1)
    assert sum(outcomes.values()) == TRIES
    assert not sum(outcomes[fault] for fault in attack.FAULTS), capfd.readouterr().err
    if attack.ATTACKS[name].digests:
        assert not outcomes["changed"], capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tries"), [("kill", 2), ("SIGTERM", 1), ("SIGINT", 1), ("disk", 1), ("files", 240), ("evaluations", 6)]
)
def test_disturbed_programs_end_as_if_nothing_had_happened_and_keep_their_size(name, tries, capfd):
    if name == "disk" and not OWN_MOUNTS:
        pytest.skip("mounting needs unshare and user namespaces")
    outcomes = attack_runs.run_attack(name, tries, seed=1)
    assert outcomes
    assert not sum(outcomes[fault] for fault in attack_runs.FAULTS), capfd.readouterr().err


@pytest.mark.parametrize("program", [attack, attack_runs])
def test_an_unknown_attack_is_refused_with_the_known_ones(program, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["", "nothing"])
    with pytest.raises(SystemExit, match="2"):
        program.main()
    assert f"'nothing' is no attack: choose from {next(iter(program.ATTACKS))}" in capsys.readouterr().err
