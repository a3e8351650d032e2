"""A checkpoint is checked before it is used: its digests, or where its arrays lie."""

import json
import shutil
from pathlib import Path

import pytest

from ds2_jax.artifacts import verification
from ds2_jax.artifacts.bundle import ModelFileError
from ds2_jax.artifacts.load import load_model
from ds2_jax.artifacts.ranking import Score
from ds2_jax.training.checkpoint import Checkpoints
from ds2_jax.training.progress import Progress
from input_pipeline.storage.digests import LISTING
from tests import attack_targets


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Return a folder with a run of one checkpoint."""
    folder = tmp_path_factory.mktemp("written")
    attack_targets.make_checkpoint(folder)
    return folder / "run"


@pytest.fixture
def run(written, tmp_path) -> Path:
    """Return a copy of the run, to damage."""
    return Path(shutil.copytree(written, tmp_path / "run"))


def files_of(run: Path) -> list[Path]:
    """Return the files of all items, for which digests are stored."""
    return sorted(path for path in (run / "checkpoints" / "3").glob("*/**/*") if path.is_file())


def latest(run: Path) -> int | None:
    with Checkpoints(str(run)) as checkpoints:
        return checkpoints.latest()


def test_every_flipped_byte_sets_a_checkpoint_aside(run, caplog):
    assert latest(run) == 3
    checkpoint = run / "checkpoints" / "3"
    for file in files_of(run):
        content = bytearray(file.read_bytes())
        if not content:
            continue
        content[len(content) // 3] ^= 1
        original = file.read_bytes()
        file.write_bytes(content)
        assert file.name in verification.find_damage(checkpoint, verification.ITEMS)
        file.write_bytes(original)
    assert latest(run) == 3
    file.write_bytes(content)
    assert latest(run) is None
    assert f"{checkpoint} is damaged (" in caplog.text
    assert [path.name.partition("-")[0] for path in (run / "checkpoints").iterdir()] == ["3.damaged"]


@pytest.mark.parametrize("listed", [True, False])
def test_a_checkpoint_without_its_largest_file_is_set_aside(run, listed, caplog):
    if not listed:
        (run / "checkpoints" / "3" / LISTING).unlink()
    max(files_of(run), key=lambda path: path.stat().st_size).unlink()
    assert latest(run) is None
    assert len(caplog.records) == 1
    assert "\n" not in caplog.messages[0]


@pytest.mark.slow
def test_every_file_that_is_removed_or_cut_leads_to_one_line_at_most(run):
    (run / "checkpoints" / "3" / LISTING).unlink()
    whole = run.with_name("whole")
    shutil.copytree(run, whole)
    for file in files_of(run):
        for content in (None, b"", file.read_bytes()[: file.stat().st_size // 2]):
            if content is None:
                file.unlink()
            else:
                file.write_bytes(content)
            try:
                load_model(str(run / "checkpoints" / "3"))
            except ModelFileError as error:
                assert "\n" not in str(error)  # noqa: PT017 - some files are not needed to load
            shutil.copyfile(whole / file.relative_to(run), file)


def test_a_model_is_not_loaded_from_a_damaged_checkpoint(run):
    load_model(str(run))
    file = max((run / "checkpoints" / "3" / "model").glob("**/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelFileError, match=f"{file.name} is damaged"):
        load_model(str(run))


def test_a_checkpoint_without_digests_is_read_and_called_unverified(run, caplog):
    caplog.set_level("INFO", "ds2_jax")
    load_model(str(run))
    assert "unverified" not in caplog.text
    (run / "checkpoints" / "3" / LISTING).unlink()
    load_model(str(run))
    assert f"{run}/checkpoints/3 is unverified: it has no digest of " in caplog.text


def test_a_score_is_added_with_its_digest(run):
    with Checkpoints(str(run)) as checkpoints:
        checkpoints.add_score(Progress(step=3, best_error_rate=0.5), Score(0.5))
        checkpoint = run / "checkpoints" / "3"
        assert verification.find_damage(checkpoint, verification.ITEMS) == ""
        progress = checkpoint / "progress" / "metadata"
        progress.write_text(json.dumps(json.loads(progress.read_text()) | {"step": 4}))
        assert "progress/metadata is damaged" in verification.find_damage(checkpoint, verification.ITEMS)


def test_a_process_killed_while_it_adds_a_score_leaves_no_wrong_digest(run):
    checkpoint = run / "checkpoints" / "3"
    verification.replace_digests(checkpoint, "progress", remove=True)
    (checkpoint / "progress" / "metadata").write_text(json.dumps({"step": 3, "best_error_rate": 0.5}))
    assert latest(run) == 3
