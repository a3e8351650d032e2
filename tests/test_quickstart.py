"""The README's first command, as a newcomer runs it."""

import re
import subprocess
import sys

import pytest

from tests.runs import ROOT


@pytest.mark.slow
def test_quickstart_learns_to_recognise_sentences_it_has_not_seen(tmp_path):
    variables = [f"VENV={sys.prefix}", f"RUN={tmp_path / 'run'}", f"DATA={tmp_path / 'data'}"]
    result = subprocess.run(["make", "quickstart", *variables], cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, result.stderr[-3000:]
    rates = {
        what: float(rate) for what, rate in re.findall(r"^(\w+ never .*): WER ([\d.]+)%", result.stdout, re.MULTILINE)
    }
    assert rates["sentences never seen in training"] < 10
    assert 0 <= rates["voices never heard in training"] < 50
    assert result.stdout.count("hypothesis:") == 5
