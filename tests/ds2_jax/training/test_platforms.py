"""The recipes' steps for accelerators that are not here: lowered for CUDA and ROCm, compiled for TPUs (slow)."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks import recipe_shapes
from benchmarks.compile_for import LIBTPU, parse_settings, steps_of
from benchmarks.recipe_steps import make_steps
from ds2_jax.cli import settings
from ds2_jax.parallel import sharding
from ds2_jax.training.compile import abstract_batch
from input_pipeline import manifest as manifests
from input_pipeline.audio.features import FrontEnd
from input_pipeline.augment import Augmentation
from input_pipeline.batches.corpus import Corpus
from input_pipeline.batches.labels import Labels
from tests.runs import ROOT

RECIPES = ("librispeech", "aishell")
TOPOLOGIES = {1: "v5e:1x1", 4: "v5e:2x2", 16: "v5e:4x4", 64: "v5e:8x8", 256: "v5e:16x16"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_steps_lower_for_cuda_and_rocm(recipe):
    config = recipe_shapes.read_config(str(ROOT / "configs" / f"{recipe}.py"))
    mesh = Mesh(np.array(jax.devices()).reshape(-1, 1), (sharding.DATA, sharding.FSDP))
    for function, first, size in make_steps(config, recipe_shapes.VOCABULARY[recipe], mesh).values():
        exported = jax.export.export(function, platforms=("cuda", "rocm"))(first, abstract_batch((8, 96, 16), size))
        assert exported.platforms == ("cuda", "rocm")
        assert exported.nr_devices == jax.device_count()
        assert "stablehlo.convolution" in exported.mlir_module()  # the accelerators' own, not the CPU's products


def rows_of_a_chip(recipe: str, chips: int) -> float:
    """Return how many utterances a chip computes at once, as the recipe states it for so many chips."""
    batch = recipe_shapes.read_config(f"{ROOT}/configs/{recipe}.py:{chips}")
    parts = chips * batch.optim.accumulate
    return -(-batch.batch.size // parts)


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_number_of_chips_has_more_rows_at_once_than_one_chip(recipe):
    """So that what fits one chip should fit the others; the slow test below sees that it does."""
    assert all(rows_of_a_chip(recipe, chips) <= rows_of_a_chip(recipe, 1) for chips in (4, 8, 16, 64, 256))


@pytest.mark.parametrize("recipe", RECIPES)
def test_published_memory_is_of_the_recipes_as_they_are(recipe):
    published = json.loads((ROOT / "docs" / "scaling.json").read_text())
    found = [r for r in published if r["step"] == "train" and r["config"].startswith(f"configs/{recipe}.py:")]
    assert all(result["fits"] for result in found)
    assert {result["chips"] for result in found} == set(TOPOLOGIES)
    for name, chips in {(result["config"], result["chips"]) for result in found}:
        config = recipe_shapes.read_config(f"{ROOT}/{name}")
        multiple = chips * config.optim.accumulate
        bucket = recipe_shapes.shapes(config, *recipe_shapes.lengths(config), training=True)[0]
        shape = [-(-bucket.rows // multiple) * multiple, bucket.frames, bucket.labels]
        shapes = [result["shape"] for result in found if result["config"] == name]
        assert shape in shapes, f"python -m benchmarks.compile_for --config={name} --shapes=largest ... anew"


def test_every_bucket_of_both_recipes_was_compiled_for_16_chips():
    published = json.loads((ROOT / "docs" / "scaling.json").read_text())
    for recipe in RECIPES:
        config = recipe_shapes.read_config(f"{ROOT}/configs/{recipe}.py:16")
        found = [(r["step"], *r["shape"]) for r in published if r["config"] == f"configs/{recipe}.py:16" and r["fits"]]
        for name in ("train", "eval"):
            for bucket in recipe_shapes.shapes(config, *recipe_shapes.lengths(config), training=name == "train"):
                assert (name, -(-bucket.rows // 16) * 16, bucket.frames, bucket.labels) in found


def test_the_guide_shows_the_figures_that_were_measured():
    peaks = {
        f"{Path(r['config']).name} {r['step']} {r['shape'][1]} x {r['shape'][2]}": f"{r['peak_bytes'] / 2**30:.2f}"
        for r in json.loads((ROOT / "docs" / "scaling.json").read_text())
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
    asked, manifest = settings.read_training(config), manifests.read(clips)
    front_end = FrontEnd(asked.new_model.features)
    augmentation = Augmentation.load(asked.augmentation, front_end.settings.sample_rate_hz)
    ends = np.cumsum([0, *(len(text) for text in manifest.text)])
    labels = Labels(np.zeros(ends[-1], np.uint8), ends)
    corpus = Corpus(manifest, labels, front_end, asked.batch, augmentation)
    seconds, symbols = recipe_shapes.lengths(config, str(clips))
    assert recipe_shapes.shapes(config, seconds, symbols, training=True) == corpus.buckets[::-1]


def test_a_shape_of_ones_own_is_of_the_step_asked_for_and_fills_the_chips():
    config = recipe_shapes.read_config(f"{ROOT}/configs/librispeech.py")
    config.optim.accumulate = 3
    asked = Namespace(frames=500, labels=7, batch=jax.device_count() + 1, manifest="", shapes="all", steps="train")
    mesh = sharding.make_mesh()
    assert steps_of(config, mesh, asked) == [("train", (3 * mesh.size, 500, 7))]
    asked.steps = "all"
    assert steps_of(config, mesh, asked)[1] == ("eval", (2 * mesh.size, 500, 7))


def test_settings_on_the_command_line_may_be_words_of_any_kind():
    config = recipe_shapes.read_config(f"{ROOT}/configs/librispeech.py")
    text = "batch.shuffle=batch_shuffle_clipped,model.conv=5x5/3x2:4,mesh.fsdp=8,train.remat=true,model.cell=gru"
    config.update_from_flattened_dict(parse_settings(text))
    assert (config.batch.shuffle, config.model.conv) == ("batch_shuffle_clipped", "5x5/3x2:4")
    assert (config.mesh.fsdp, config.train.remat, config.model.cell) == (8, True, "gru")


@pytest.fixture(scope="module")
def tpu_compiler() -> dict[str, str]:
    """Install the TPU compiler where it is not: it is 480 MB, and no other test needs it."""
    if not (ROOT / LIBTPU).exists():
        import importlib.metadata

        wanted = next(r for r in importlib.metadata.requires("jax") or [] if r.startswith("libtpu"))
        wanted = wanted.partition(";")[0].strip()
        install = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(ROOT / LIBTPU.parent.parent),
        ]
        result = subprocess.run([*install, wanted], capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"libtpu cannot be installed here: {result.stderr.strip().splitlines()[-1]}")
    return {k: v for k, v in os.environ.items() if not k.startswith("XLA")} | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("chips", "topology"), TOPOLOGIES.items())
def test_training_fits_tpu_v5e(recipe, chips, topology, tpu_compiler, tmp_path):
    options = [f"--config=configs/{recipe}.py:{chips}", f"--topology={topology}", "--shapes=largest", "--steps=train"]
    command = [sys.executable, "-m", "benchmarks.compile_for", *options, f"--json={tmp_path}/found.json"]
    result = subprocess.run(command, cwd=ROOT, env=tpu_compiler, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    [found] = json.loads(Path(tmp_path, "found.json").read_text())
    assert found["fits"], found
    assert found["host_callbacks"] == 0
    assert set(found["collectives"]) <= {"all-reduce"}
    assert found["rows_of_a_chip"] == rows_of_a_chip(recipe, chips)


@pytest.mark.slow
def test_every_bucket_of_a_recipe_is_compiled_in_one_run(tpu_compiler, tmp_path):
    options = ["--config=configs/tiny.py", "--topology=v5e:2x2", f"--json={tmp_path}/found.json"]
    command = [sys.executable, "-m", "benchmarks.compile_for", *options]
    result = subprocess.run(command, cwd=ROOT, env=tpu_compiler, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "TPU_WORKER_HOSTNAMES" not in result.stderr  # libtpu's complaints
    config = recipe_shapes.read_config(str(ROOT / "configs" / "tiny.py"))
    expected = [
        (name, bucket.frames, bucket.labels)
        for name in ("train", "eval")
        for bucket in recipe_shapes.shapes(config, *recipe_shapes.lengths(config), training=name == "train")
    ]
    found = json.loads(Path(tmp_path, "found.json").read_text())
    assert sorted((r["step"], *r["shape"][1:]) for r in found) == sorted(expected)
    assert len([line for line in result.stdout.splitlines() if line.startswith(("| train", "| eval"))]) == len(expected)
    assert all(r["fits"] and r["host_callbacks"] == 0 for r in found)
