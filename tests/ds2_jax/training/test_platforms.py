"""The recipes' steps for absent accelerators: lowered for CUDA and ROCm, compiled for TPUs (slow)."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import recipe_shapes
from benchmarks.compile_for import parse_settings, steps_of
from benchmarks.recipe_steps import make_steps
from ds2_jax.cli import settings
from ds2_jax.parallel import sharding
from ds2_jax.recognition.step import abstract_batch
from input_pipeline import manifest as manifests
from input_pipeline.audio.front_end import FrontEnd
from input_pipeline.augment import Augmentation
from input_pipeline.batches.corpus import Corpus
from input_pipeline.batches.labels import Labels
from tests.runs import ROOT

RECIPES = ("librispeech", "aishell")
TOPOLOGIES = {1: "v5e:1x1", 4: "v5e:2x2", 16: "v5e:4x4", 64: "v5e:8x8", 256: "v5e:16x16"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_steps_lower_for_cuda_and_rocm(recipe):
    config = recipe_shapes.read_config(str(ROOT / "configs" / f"{recipe}.py"))
    gpu = jax.sharding.AbstractDevice(device_kind="NVIDIA H100", num_cores=None, platform="gpu")
    shape = (jax.device_count(), 1)
    mesh = jax.sharding.AbstractMesh(shape, (sharding.DATA, sharding.FSDP), abstract_device=gpu)
    steps = make_steps(config, recipe_shapes.VOCABULARY[recipe], mesh)  # type: ignore[arg-type]
    for function, first, size in steps.values():
        exported = jax.export.export(function, platforms=("cuda", "rocm"))(first, abstract_batch((8, 96, 16), size))
        assert exported.platforms == ("cuda", "rocm")
        assert exported.nr_devices == jax.device_count()
        assert "stablehlo.convolution" in exported.mlir_module()  # the native convolution, not the CPU's products


def rows_per_chip(recipe: str, chips: int) -> float:
    """Return the number of utterances that a chip computes at once, with the recipe's batch for so many chips."""
    config = recipe_shapes.read_config(f"{ROOT}/configs/{recipe}.py:{chips}")
    return -(-config.batch.size // (chips * config.optim.accumulate))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_chip_among_many_computes_no_more_rows_than_a_single_chip(recipe):
    """What fits on one chip should then fit on each of several; the slow test below confirms it."""
    assert all(rows_per_chip(recipe, chips) <= rows_per_chip(recipe, 1) for chips in (4, 8, 16, 64, 256))


@pytest.mark.parametrize("recipe", RECIPES)
def test_published_memory_figures_match_the_current_recipes(recipe):
    published = json.loads((ROOT / "docs" / "scaling.json").read_text())
    trained = [r for r in published if r["step"] == "train" and "estimated_s" in r]
    results = [r for r in trained if r["config"].startswith(f"configs/{recipe}.py:")]
    assert all(result["fits"] for result in results)
    assert {result["chips"] for result in results} == set(TOPOLOGIES)
    for name, chips in {(result["config"], result["chips"]) for result in results}:
        config = recipe_shapes.read_config(f"{ROOT}/{name}")
        multiple = chips * config.optim.accumulate
        bucket = recipe_shapes.shapes(config, *recipe_shapes.lengths(config), training=True)[0]
        shape = [-(-bucket.rows // multiple) * multiple, bucket.frames, bucket.labels]
        shapes = [result["shape"] for result in results if result["config"] == name]
        assert shape in shapes, f"run python -m benchmarks.compile_for --config={name} --shapes=largest ... again"


def test_every_bucket_of_both_recipes_was_compiled_for_16_chips():
    published = json.loads((ROOT / "docs" / "scaling.json").read_text())
    for recipe in RECIPES:
        config = recipe_shapes.read_config(f"{ROOT}/configs/{recipe}.py:16")
        compiled = [
            (r["step"], *r["shape"]) for r in published if r["config"] == f"configs/{recipe}.py:16" and r["fits"]
        ]
        for name in ("train", "eval"):
            for bucket in recipe_shapes.shapes(config, *recipe_shapes.lengths(config), training=name == "train"):
                assert (name, -(-bucket.rows // 16) * 16, bucket.frames, bucket.labels) in compiled


def test_the_guide_states_the_measured_figures():
    peaks = {
        f"{Path(r['config']).name} {r['step']} {r['shape'][1]} x {r['shape'][2]}": f"{r['peak_bytes'] / 2**30:.2f}"
        for r in json.loads((ROOT / "docs" / "scaling.json").read_text())
        if "estimated_s" in r
    }
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "scaling.md").read_text().splitlines()]
    longest = [row for row in rows if len(row) == 7 and row[0].startswith("`")]
    buckets = [row for row in rows if len(row) == 9 and row[0] in ("train", "eval")]
    assert (len(longest), len(buckets)) == (10, 16)
    for recipe, _, rows_x_frames, _, _, peak, _ in longest:
        start = f"{recipe.strip('`')} train {rows_x_frames.split(' x ')[1]} x "
        assert peak.strip("*") in [value for name, value in peaks.items() if name.startswith(start)]
    for step, english, english_peak, _, _, mandarin, mandarin_peak, _, _ in buckets:
        assert peaks[f"librispeech.py:16 {step} {english}"] == english_peak
        assert peaks[f"aishell.py:16 {step} {mandarin}"] == mandarin_peak


def test_shapes_of_a_manifest_are_those_that_training_compiles(clips):
    config = recipe_shapes.read_config(f"{ROOT}/configs/an4.py")
    config.features.window_ms = 25.0  # three strides: two frames are not stretched
    training, manifest = settings.read_training(config), manifests.read(clips)
    front_end = FrontEnd(training.new_model.features)
    augmentation = Augmentation.load(training.augmentation, front_end.settings.sample_rate_hz)
    ends = np.cumsum([0, *(len(text) for text in manifest.text)])
    labels = Labels(np.zeros(ends[-1], np.uint8), ends)
    corpus = Corpus(manifest, labels, front_end, training.batch, augmentation)
    seconds, symbols = recipe_shapes.lengths(config, str(clips))
    assert recipe_shapes.shapes(config, seconds, symbols, training=True) == corpus.buckets[::-1]


def test_a_given_shape_is_used_for_the_given_step_and_padded_to_the_chips():
    config = recipe_shapes.read_config(f"{ROOT}/configs/librispeech.py")
    config.optim.accumulate = 3
    arguments = Namespace(frames=500, labels=7, batch=jax.device_count() + 1, manifest="", shapes="all", steps="train")
    mesh = sharding.make_mesh()
    assert steps_of(config, mesh, arguments) == [("train", (3 * mesh.size, 500, 7))]
    arguments.steps = "all"
    assert steps_of(config, mesh, arguments)[1] == ("eval", (2 * mesh.size, 500, 7))


def test_settings_on_the_command_line_may_have_any_type():
    config = recipe_shapes.read_config(f"{ROOT}/configs/librispeech.py")
    text = "batch.shuffle=batch_shuffle_clipped,model.conv=5x5/3x2:4,mesh.fsdp=8,train.remat=true,model.cell=gru"
    config.update_from_flattened_dict(parse_settings(text))
    assert (config.batch.shuffle, config.model.conv) == ("batch_shuffle_clipped", "5x5/3x2:4")
    assert (config.mesh.fsdp, config.train.remat, config.model.cell) == (8, True, "gru")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("chips", "topology"), TOPOLOGIES.items())
def test_training_fits_tpu_v5e(recipe, chips, topology, tpu_compiler, tmp_path):
    options = [f"--config=configs/{recipe}.py:{chips}", f"--topology={topology}", "--shapes=largest", "--steps=train"]
    command = [sys.executable, "-m", "benchmarks.compile_for", *options, f"--json={tmp_path}/found.json"]
    result = subprocess.run(command, cwd=ROOT, env=tpu_compiler, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    [compiled] = json.loads(Path(tmp_path, "found.json").read_text())
    assert compiled["fits"], compiled
    assert compiled["host_callbacks"] == 0
    assert set(compiled["collectives"]) <= {"all-reduce"}
    assert compiled["rows_of_a_chip"] == rows_per_chip(recipe, chips)


@pytest.mark.slow
def test_every_bucket_of_a_recipe_is_compiled_in_one_run(tpu_compiler, tmp_path):
    options = ["--config=configs/tiny.py", "--topology=v5e:2x2", f"--json={tmp_path}/found.json"]
    command = [sys.executable, "-m", "benchmarks.compile_for", *options]
    result = subprocess.run(command, cwd=ROOT, env=tpu_compiler, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "TPU_WORKER_HOSTNAMES" not in result.stderr  # warnings of libtpu
    config = recipe_shapes.read_config(str(ROOT / "configs" / "tiny.py"))
    expected = [
        (name, bucket.frames, bucket.labels)
        for name in ("train", "eval")
        for bucket in recipe_shapes.shapes(config, *recipe_shapes.lengths(config), training=name == "train")
    ]
    results = json.loads(Path(tmp_path, "found.json").read_text())
    assert sorted((r["step"], *r["shape"][1:]) for r in results) == sorted(expected)
    assert len([line for line in result.stdout.splitlines() if line.startswith("| `tiny.py` |")]) == len(expected)
    assert all(r["fits"] and r["host_callbacks"] == 0 for r in results)
