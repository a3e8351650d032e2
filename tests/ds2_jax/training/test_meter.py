"""Reports of the training loop about steps with non-finite values."""

import re

import pytest

from ds2_jax.cli.train import run_train as train
from tests.runs import small_config


def test_non_finite_steps_are_skipped_and_reported_until_there_are_too_many(clips, tmp_path, caplog):
    config = small_config(clips)
    config.optim.learning_rate = 1e38
    config.train.nonfinite = "skip"
    config.train.max_nonfinite = 2
    with pytest.raises(FloatingPointError, match=r"Non-finite steps so far: 3\. Lower config\.optim\.learning_rate"):
        train(config, str(tmp_path / "run"))
    skipped = [record.getMessage() for record in caplog.records if "the step was skipped" in record.getMessage()]
    assert len(skipped) == 2
    first = re.fullmatch(r"step (\d+): loss .*, utterances (.*): the loss or gradient is not finite; .*", skipped[0])
    assert first
    assert first[2].count(f"{clips}:") == 4  # all of the batch
