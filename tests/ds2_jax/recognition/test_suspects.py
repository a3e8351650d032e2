"""Clips whose texts do not fit: planted ones come first, whatever is wrong with them."""

import json
import math

import pytest

from ds2_jax.artifacts.load import load_model
from ds2_jax.parallel import sharding
from ds2_jax.recognition.evaluation import EvaluationSettings, Evaluator
from ds2_jax.recognition.suspects import rank_suspects
from input_pipeline import manifest as manifests

LONG = "forty two " * 20  # more symbols than the clip has frames


@pytest.fixture(scope="module")
def ranked(clips, tmp_path_factory):
    rows = [json.loads(line) for line in clips.read_text().splitlines()]
    for row in rows:
        row["audio_filepath"] = str(clips.parent / row["audio_filepath"])
    rows[1]["text"], rows[4]["text"] = rows[4]["text"], rows[1]["text"]
    rows[6]["text"] = ""
    rows[8]["text"] = LONG
    rows[9]["text"] += " %"
    rows.append({"audio_filepath": "nowhere.flac", "duration": 1.0, "text": "x"})
    path = tmp_path_factory.mktemp("suspects") / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = manifests.read_many(str(path), need_text=False)
    meta, variables = load_model("models/an4")
    return rank_suspects(Evaluator(meta, sharding.make_mesh(), EvaluationSettings()), variables, manifest), rows


def test_swapped_missing_and_impossible_texts_come_first(ranked):
    (suspects, _), rows = ranked
    assert suspects[0].row == 8
    assert math.isinf(suspects[0].score)
    assert "frames of the network, the clip has" in suspects[0].note
    assert {suspect.row for suspect in suspects[1:4]} == {1, 4, 6}
    assert suspects[3].score > 3 > suspects[4].score
    assert [suspect.score for suspect in suspects] == sorted((s.score for s in suspects), reverse=True)
    by_row = {suspect.row: suspect for suspect in suspects}
    assert by_row[1].recognised == rows[4]["text"]  # the text of the clip with which it was swapped
    assert by_row[6].note == "the text is empty"


def test_symbols_that_the_network_lacks_do_not_make_a_clip_suspicious(ranked):
    (suspects, _), _ = ranked
    [suspect] = [suspect for suspect in suspects if suspect.row == 9]
    assert suspect.score < 1
    assert suspect.note == "symbols that the network lacks do not count: '%'"


def test_unreadable_clips_are_not_ranked_but_named(ranked):
    (suspects, problems), rows = ranked
    assert len(suspects) == len(rows) - 1
    assert list(problems) == [len(rows) - 1]
    assert "nowhere.flac does not exist" in problems[len(rows) - 1]
