"""`make quickstart`: synthetic speech, training, evaluation, transcripts."""

import re
import subprocess
import sys

import pytest

from tests.runs import ROOT


@pytest.mark.slow
def test_quickstart_trains_a_model_that_recognises_new_sentences(tmp_path):
    variables = [f"VENV={sys.prefix}", f"RUN={tmp_path / 'run'}", f"DATA={tmp_path / 'data'}"]
    result = subprocess.run(["make", "quickstart", *variables], cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, result.stderr[-3000:]
    rates = {what: float(rate) for what, rate in re.findall(r"^(new \w+): WER ([\d.]+)%", result.stdout, re.MULTILINE)}
    assert rates["new sentences"] < 10
    assert 0 <= rates["new voices"] < 50
    assert result.stdout.count("hypothesis:") == 5
