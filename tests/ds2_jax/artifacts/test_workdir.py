"""A run's folder in Google Cloud Storage, against a local emulator; and invalid folders."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ds2_jax.artifacts.load import load_model
from ds2_jax.artifacts.workdir import LOCK, Workdir, make_workdir
from ds2_jax.cli.train import run_train as train
from input_pipeline.storage import object_store
from tests.google_store import google_store
from tests.runs import small_config

logging.getLogger("gcsfs").setLevel(logging.ERROR)  # it warns of missing credentials, which the emulator does not need


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Run an emulator of Google Cloud Storage, and point all clients in this process to it."""
    with google_store() as address:
        yield address


def test_a_folder_whose_name_is_not_utf8_is_refused_before_any_work(tmp_path):
    path = f"{tmp_path}/caf\udce9"
    with pytest.raises(ValueError, match=r"--workdir=.* is not UTF-8, and checkpoints need it: rename the folder"):
        make_workdir(path)
    with pytest.raises(ValueError, match=r"the model .* is not UTF-8"):
        load_model(path)


def test_small_files_go_to_the_store_and_come_back(bucket):
    with Workdir(f"{bucket}/small") as first:
        Path(first.local, "metrics.jsonl").write_text("1\n")
        Path(first.local, "reports").mkdir()
        Path(first.local, "reports", "test.txt").write_text("ok")
        first.push()
        assert object_store.read(f"{bucket}/small/metrics.jsonl") == b"1\n"
        Path(first.local, "metrics.jsonl").write_text("1\n2\n")
    assert not Path(first.local).exists()
    assert object_store.read(f"{bucket}/small/reports/test.txt") == b"ok"
    with Workdir(f"{bucket}/small") as again:
        assert Path(again.local, "metrics.jsonl").read_text() == "1\n2\n"


@pytest.mark.slow
def test_a_run_in_a_store_resumes_and_leaves_the_same_files_as_a_local_one(clips, bucket, tmp_path):
    config = small_config(clips)
    config.data.dev = config.data.test = str(clips)
    config.batch.buckets = 1
    config.optim.schedule = "constant"
    for config.train.epochs in (1, 2):
        results, expected = (train(config, folder) for folder in (f"{bucket}/run", str(tmp_path / "run")))
    assert results["wer"] == expected["wer"]

    import fsspec

    store = fsspec.filesystem("gs")
    store.invalidate_cache()
    lines = [json.loads(line) for line in store.cat("speech/run/metrics.jsonl").splitlines()]
    local = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r.get("loss"), r.get("dev_wer")) for r in lines] == [
        (r["step"], r.get("loss"), r.get("dev_wer")) for r in local
    ]
    assert len(json.loads(store.cat("speech/run/run.json"))) == 2
    for name in set(os.listdir(tmp_path / "run")) - {LOCK}:
        assert store.exists(f"speech/run/{name}"), name
    meta, variables = load_model(f"{bucket}/run")
    assert meta.vocabulary.size > 20
    assert variables["params"]["output"]["kernel"].shape[1] == meta.vocabulary.size


@pytest.mark.parametrize(
    ("path", "message"), [("", "--workdir is empty"), ("s3://bucket/run", "mount other stores as a folder")]
)
def test_invalid_folders_are_refused(path, message):
    with pytest.raises(ValueError, match=message):
        make_workdir(path)
