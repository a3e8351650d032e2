"""The commands printed after a corpus is prepared."""

import pytest

from input_pipeline.corpora import next_step, prepare
from tests.corpus_archives import clip, write_tree
from tests.runs import ROOT


@pytest.mark.parametrize(
    ("hours", "recipe", "options"),
    [
        (0.01, "configs/an4.py", ["--config.train.epochs=160", "--config.batch.buckets=6"]),
        (0.5, "configs/an4.py", ["--config.train.epochs=160", "--config.batch.buckets=6"]),
        (4.0, "configs/an4.py", ["--config.train.epochs=22"]),
        (24.0, "configs/ljspeech.py", []),
        (100.0, "configs/librispeech_100.py", []),
    ],
)
def test_the_settings_fit_the_hours_of_speech(hours, recipe, options):
    assert next_step.settings_for(hours) == (recipe, options)
    assert (ROOT / recipe).is_file()


def test_own_recordings_are_followed_by_a_command_with_these_settings(tmp_path, capsys):
    files = {f"{number}.wav": clip(number) for number in range(3)} | {f"{number}.txt": "one" for number in range(3)}
    source = write_tree(tmp_path / "source", files)
    assert prepare.main(["custom", f"--source={source}", f"--target_dir={tmp_path / 'mine'}"]) == 0
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert "--config=configs/an4.py --workdir=runs/mine" in last
    assert last.endswith("--config.train.epochs=160 --config.batch.buckets=6")
