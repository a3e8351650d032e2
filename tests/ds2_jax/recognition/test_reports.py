"""Reports written into a run's folder: which clips they play, and the effect of unusable clips."""

import json
import re
from pathlib import Path

import pytest

from decoding.scoring.error_rate import summarise
from ds2_jax.artifacts.workdir import Workdir
from ds2_jax.recognition.evaluation import Evaluation
from ds2_jax.recognition.reports import write_reports
from input_pipeline import manifest as manifests
from input_pipeline.manifest.pack import pack
from input_pipeline.text import ScoringRules

FACTS = {"Model": "models/an4", "Decoding": "greedy"}


@pytest.fixture
def manifest(clips, tmp_path) -> Path:
    """Write a manifest of three clips, beside their audio."""
    (tmp_path / "data").mkdir()
    for line in clips.read_text().splitlines()[:3]:
        name = json.loads(line)["audio_filepath"]
        (tmp_path / "data" / name).write_bytes((clips.parent / name).read_bytes())
        with open(tmp_path / "data" / "three.jsonl", "a") as file:
            file.write(line + "\n")
    return tmp_path / "data" / "three.jsonl"


def evaluation_of(utterances: manifests.Manifest, unusable: int | None = None) -> Evaluation:
    """Return an evaluation with an extra word in each hypothesis, and one unreadable clip."""
    rows = [row for row in range(len(utterances)) if row != unusable]
    references = [utterances.text[row] for row in rows]
    hypotheses = [f"{reference} more" for reference in references]
    names = [utterances.name(row) for row in rows]
    result = summarise(references, hypotheses, rules=ScoringRules.for_language("en"), names=names)
    return Evaluation(result, 1.0, references, hypotheses, names, {} if unusable is None else {unusable: "broken"})


def written(manifest: Path, workdir: str | Path, unusable: int | None = None) -> tuple[list[str], list[str]]:
    """Write reports; return the page's audio addresses and the names of its utterances."""
    utterances = manifests.read(manifest)
    files = Workdir(str(workdir))
    Path(files.local).mkdir(exist_ok=True)
    write_reports(evaluation_of(utterances, unusable), utterances, files, "test", "three clips", FACTS)
    assert {"test.html", "test.json", "test.txt"} <= {path.name for path in Path(files.local).iterdir()}
    page = Path(files.local, "test.html").read_text()
    return re.findall("<audio [^>]*src='([^']*)'", page), re.findall(r"<h3 [^>]*>([^<]*)</h3>", page)


def test_a_report_plays_the_clips_it_lists(manifest, tmp_path):
    urls, names = written(manifest, tmp_path / "run")
    assert urls == [f"../data/{name}" for name in names]
    assert len(names) == 3
    page = (tmp_path / "run" / "test.html").read_text()
    assert "<dt>Model</dt><dd>models/an4</dd>" in page
    assert "WER by length" in page


@pytest.mark.parametrize("unusable", [0, 1, 2])
def test_unusable_clips_do_not_shift_the_others(unusable, manifest, tmp_path):
    urls, names = written(manifest, tmp_path / "run", unusable)
    assert urls == [f"../data/{name}" for name in names]
    assert len(names) == 2
    lines = map(json.loads, manifest.read_text().splitlines())
    durations = {line["audio_filepath"]: line["duration"] for line in lines}
    page = (tmp_path / "run" / "test.html").read_text()
    for name in names:
        assert f", {durations[name]:.1f} s" in page[page.index(f">{name}</h3>") :].split("</p>")[0]


def test_records_of_shards_keep_their_names_and_are_not_played(manifest, tmp_path):
    _, names = written(manifest, tmp_path / "files")
    pack(str(manifest), str(tmp_path / "packed"), shards=1)
    assert written(tmp_path / "packed" / "three.jsonl", tmp_path / "run") == ([], names)


def test_clips_in_a_store_are_not_played(manifest, tmp_path):
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines[1]["audio_filepath"] = "s3://bucket/b.flac"
    manifests.write(manifest, lines)
    urls, names = written(manifest, tmp_path / "run")
    assert len(names) == 3
    assert sorted(urls) == sorted(f"../data/{name}" for name in names if not name.startswith("s3:"))


def test_a_report_in_a_store_plays_nothing_from_this_machine(manifest):
    urls, names = written(manifest, "gs://bucket/run")
    assert (urls, len(names)) == ([], 3)
