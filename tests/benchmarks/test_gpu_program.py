"""Programs for absent GPUs: their kernels, loops and CUDA graphs, and regressions of the recipes' figures (slow)."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.accelerators import CUDA, chip_of, cuda_requirements
from benchmarks.compile_for import recipes
from benchmarks.compiled_tables import frame_rates, with_tables
from benchmarks.gpu_program import GpuProgram, Loop
from benchmarks.hlo import Program
from tests.runs import ROOT

HLO = """HloModule m

ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %while.2 = f32[4]{0} while(%p), condition=%c, body=%b, TRANSPOSE/rnn_1/while"}, TURNS{"n":"50"}}
  ROOT %while.7 = f32[4]{0} while(%p), condition=%c, body=%d, SOURCE/while"}, TURNS{"n":"3"}}
}

%d (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %while.9 = f32[4]{0} while(%p), condition=%c, body=%b, SOURCE/while/body/jvp()/while"}, TURNS{"n":"10"}}
}
""".replace("TURNS", 'backend_config={"known_trip_count":').replace("TRANSPOSE", "SOURCE/transpose(jvp(M))")
HLO = HLO.replace("SOURCE", 'metadata={op_name="jit(train_step)')
# One graph of two kernels and a whole loop; a loop around a loop whose turns are a graph and a copy.
THUNKS = """000: kCommandBuffer [source       | next=005 (1)]
    001: kCustomKernel [source        | next=002 (1)] fusion_1 grid: [1, 1, 1] threads: [2, 1, 1]
    002: kWhile        [prev=001 (1)  | next=005 (1)]
condition:
        003: kCustomKernel [source | sink] compare_fusion grid: [1, 1, 1]
      body:
        004: kCustomKernel [source       | sink        ] gemm_fusion_dot grid: [96, 1, 1]
        005: kDynamicSliceFusion [prev=004 (1) | sink        ] params=1, results=1
            006: kCopy [source | sink] kCopy
    007: kConvolution  [prev=000 (1) | next=000 (1)] kConvolution
008: kWhile         [prev=000 (1) | next=000 (1)]
condition:
    009: kCustomKernel [source | sink] compare_fusion grid: [1, 1, 1]
  body:
    010: kWhile         [source | sink]
condition:
        011: kCustomKernel [source | sink] compare_fusion grid: [1, 1, 1]
      body:
        000: kCommandBuffer [source | next=014 (1)]
            012: kCustomKernel [source       | sink        ] gemm_fusion_dot grid: [96, 1, 1]
            013: kCustomKernel [source       | sink        ] fusion grid: [96, 1, 1]
        014: kCopy [source | sink] kCopy
015: kAsyncStart    [prev=000 (1) | next=000 (1)]
    016: kAllReduce [source | sink]
017: kAsyncDone     [prev=000 (1) | next=000 (1)]
"""
NAMES = {2: "while.2", 8: "while.7", 10: "while.9"}
MORE_KERNELS, MORE_BYTES = 1.02, 1.05  # a change of XLA's fusions or layouts that needs no attention


def gpu_program(folder: Path, config: str = "") -> GpuProgram:
    names = "".join(f'thunk_info {{\n profile_annotation: "{n}"\n thunk_id: {i}\n}}\n' for i, n in NAMES.items())
    files = {"thunk_sequence_after_thunk_passes.txt": THUNKS, "thunk_metadata.txt": names, "config.pbtxt": config}
    for name, text in files.items():
        (folder / f"module_0001.jit_step.{name}").write_text(text)
    return GpuProgram(Program(HLO), folder)


def test_kernels_and_launches_count_every_turn(tmp_path):
    program = gpu_program(tmp_path)
    in_graph = 1 + 50 * (2 + 2) + 1  # two of them decide whether the loop goes on
    assert program.thunks.kernels == in_graph + 3 * 10 * 3 + 1
    assert program.thunks.launches == 1 + 3 * 10 * 2 + 1


def test_loops_state_their_layer_turns_and_graph(tmp_path):
    assert gpu_program(tmp_path).loops == [
        Loop("rnn_1", backward=True, turns=50, kernels=4, graph="whole"),
        Loop("CTC", backward=False, turns=30, kernels=3, graph="none"),
    ]


def test_unrolled_graphs_run_no_condition(tmp_path):
    program = gpu_program(tmp_path, "xla_gpu_command_buffer_unroll_loops: true")
    assert program.loops[0].kernels == 2


def test_an_unknown_dump_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 lists of thunks"):
        GpuProgram(Program(HLO), tmp_path)


@pytest.mark.parametrize("topology", ["h100:4x", "h100:0.5", "v5e", "h200", "v5e:2"])
def test_an_unknown_topology_is_refused(topology):
    with pytest.raises(SystemExit, match=f"--topology={topology} is unknown"):
        chip_of(topology)


@pytest.mark.skipif(bool(find_spec("jax_plugins")), reason="the environment has a compiler for GPUs")
def test_a_missing_compiler_is_named_with_its_installation(tmp_path):
    command = [sys.executable, "-m", "benchmarks.compile_for", "--topology=h100", f"--config={ROOT}/configs/tiny.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith(
        f"pip install --target {CUDA} --no-deps {' '.join(cuda_requirements())}"
    )


def test_all_recipes_that_train_are_compiled():
    names = {Path(name).stem for name in recipes("all")}
    assert names >= {"tiny", "librispeech", "aishell_live"}
    assert not names & {"base", "__init__", "voxforge_eval"}


PUBLISHED = json.loads((ROOT / "docs" / "scaling.json").read_text())
TOPOLOGIES = sorted({r["topology"] for r in PUBLISHED if "loops" in r})


def published(topology: str) -> list[dict]:
    return [r for r in PUBLISHED if r["topology"] == topology]


def test_the_guide_shows_the_published_figures_of_gpus():
    assert "h100" in TOPOLOGIES
    for topology in TOPOLOGIES:
        assert {"configs/aishell.py", "configs/librispeech.py"} <= {r["config"] for r in published(topology)}
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert with_tables(page, PUBLISHED) == page, "run python -m benchmarks.compiled_tables"


def compiled(options: list[str], environment: dict[str, str], file: Path) -> list[dict]:
    command = [sys.executable, "-m", "benchmarks.compile_for", *options, f"--json={file}"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(file.read_text())


def key(r: dict) -> tuple:
    return r["config"], r["set"], r["topology"], r["step"], *r["shape"]


@pytest.mark.slow
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_steps_launch_no_more_kernels_and_need_no_more_memory_than_published(topology, cuda_compiler, tmp_path):
    before = {key(r): r for r in published(topology)}
    names = ",".join(sorted({r["config"] for r in before.values()}))
    options = [f"--config={names}", f"--topology={topology}", "--shapes=largest"]
    found = compiled(options, cuda_compiler, tmp_path / "found.json")
    assert {key(r) for r in found} >= set(before)
    for r in (r for r in found if key(r) in before):
        old = before[key(r)]
        assert r["host_callbacks"] == 0
        assert r["kernels"] <= MORE_KERNELS * old["kernels"], key(r)
        assert r["peak_bytes"] <= MORE_BYTES * old["peak_bytes"], key(r)
        assert r["flop"] == pytest.approx(old["flop"], rel=0.01)
        for part, rates in frame_rates(r).items():
            assert all(new <= 1.02 * rate for new, rate in zip(rates, frame_rates(old)[part], strict=True)), key(r)
        whole, before_whole = (sum(loop["graph"] == "whole" for loop in step["loops"]) for step in (r, old))
        assert whole >= before_whole
