"""An unverified language model is tried with noise that leads a search through it."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np

from decoding.lm.verification import Memory
from decoding.search import beam, trial
from decoding.settings import BeamSettings
from input_pipeline.text import Vocabulary
from tests.arpa import write_arpa
from tests.runs import ROOT


def test_noise_is_normalised_and_of_two_kinds():
    decoded: list[list[np.ndarray]] = []
    trial.decode_noise(lambda arrays: decoded.append(list(arrays)), 7)
    assert [(len(arrays), {array.shape for array in arrays}) for arrays in decoded] == [(4, {(150, 7)})] * 2
    probabilities = [np.exp(np.array(arrays, np.float64)) for arrays in decoded]
    for found in probabilities:
        np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    likely = [(found > 0.1).sum(-1).mean() for found in probabilities]
    assert likely[0] > 1.5 * likely[1]  # candidates in a frame: many, and few


def test_the_child_process_opens_the_model_and_decodes_noise(tmp_path, monkeypatch):
    lm = str(write_arpa(tmp_path / "lm.arpa", ["ab cab"]))
    settings = dataclasses.asdict(BeamSettings(lm=lm, threads=1))
    task = {"symbols": [" ", "a", "b", "c"], "settings": settings, "engine": "ctc_beam_decoder"}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(task).encode())))
    sizes = []
    monkeypatch.setattr(trial, "decode_noise", lambda decode, size: sizes.append((callable(decode), size)))
    beam.run_trial()
    assert sizes == [(True, 5)]


def test_the_child_process_finds_the_program_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lm = Path(shutil.copyfile(ROOT / "models" / "an4" / "lm.bin", tmp_path / "lm.bin"))
    vocabulary = Vocabulary.load(ROOT / "models" / "an4" / "vocabulary.txt")
    trial.try_model(vocabulary, BeamSettings(lm=str(lm), threads=1), "ctc_beam_decoder")
    assert Memory(lm).read("ctc_beam_decoder") == "tried"
