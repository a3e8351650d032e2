"""Accelerators that need not be present: what the compilers have to know of them, and meshes of their chips.

The compilers are installed apart from the program, because JAX would look for such devices at each start:

    python -m pip install --target build/libtpu --no-deps 'libtpu==0.0.42.*'                             # 480 MB
    python -m pip install --target build/cuda --no-deps jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2  # 132 MB

A GPU's plugin that is installed in the environment (`make install ACCELERATOR=cuda`) is used, too. Its version has to be
that of jax.
"""

import dataclasses
import importlib.util
import math
import os
import re
import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from ds2_jax.parallel import sharding

LIBTPU = Path("build/libtpu/libtpu/libtpu.so")
CUDA = Path("build/cuda")
INSTALL_TPU = "python -m pip install --target build/libtpu --no-deps 'libtpu==0.0.42.*'"
GIB = 2**30
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",  # if unset, libtpu logs many lines about a missing TPU
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # allow several compilers at once: none of them opens a chip
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # CUDA's libraries are not needed for compiling
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A type of accelerator: its memory, and for TPUs the clock, which turns the compiler's cycles into seconds."""

    memory_gib: float
    clock_hz: float = 0.0
    target: str = ""  # a GPU's description for the compiler

    @property
    def is_gpu(self) -> bool:
        """Whether this is a GPU."""
        return bool(self.target)


def _gpu(name: str, capability: tuple[int, int], **values: float | str) -> str:
    """Return the compiler's description of a GPU. Without its three versions, the compiler makes no CUDA graphs."""
    device = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "shared_memory_per_block": 49152,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "block_dim_limit_x": 2147483647,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "driver_version": '"13.0.0"',
        "runtime_version": '"13.0.0"',
        "compile_time_toolkit_version": '"13.0.0"',
        **values,
    }
    lines = [f"  {key}: {value}" for key, value in device.items()]
    lines.append(f"  cuda_compute_capability {{ major: {capability[0]} minor: {capability[1]} }}")
    return (
        "gpu_device_info {\n" + "\n".join(lines) + '\n}\nplatform_name: "CUDA"\n'
        "dnn_version_info { major: 9 minor: 12 }\nruntime_version { major: 13 minor: 0 patch: 0 }\n"
        f'device_description_str: "{name}"\n'
    )


H100 = _gpu(
    "NVIDIA H100 80GB HBM3",
    (9, 0),
    core_count=132,
    fpus_per_core=128,
    shared_memory_per_core=233472,
    shared_memory_per_block_optin=232448,
    memory_bandwidth=3352320000000,
    l2_cache_size=52428800,
    clock_rate_ghz=1.98,
    device_memory_size=84929347584,
)
A100 = _gpu(
    "NVIDIA A100-SXM4-80GB",
    (8, 0),
    core_count=108,
    fpus_per_core=64,
    shared_memory_per_core=167936,
    shared_memory_per_block_optin=166912,
    memory_bandwidth=2039000000000,
    l2_cache_size=41943040,
    clock_rate_ghz=1.41,
    device_memory_size=85167243264,
)
CHIPS = {
    "v4": Chip(32, clock_hz=1.05e9),
    "v5e": Chip(16, clock_hz=1.5e9),
    "v5p": Chip(95, clock_hz=1.75e9),
    "v6e": Chip(32, clock_hz=1.75e9),
    "h100": Chip(84929347584 / GIB, target=H100),
    "a100": Chip(85167243264 / GIB, target=A100),
}


def chip_of(topology: str) -> Chip:
    """Return the type of a topology's chips. Raises SystemExit."""
    kind, _, size = topology.partition(":")
    tpu, gpu = r"\d+(x\d+)+", r"(\d+(x\d+)?)?"
    if kind not in CHIPS or not re.fullmatch(gpu if CHIPS[kind].is_gpu else tpu, size):
        raise SystemExit(
            f"error: --topology={topology} is unknown: write it like v5e:4x4, h100 (one GPU), h100:8 (in one machine) or "
            f"h100:2x8 (in two); the types are {', '.join(CHIPS)}"
        )
    return CHIPS[kind]


def make_mesh(topology: str, fsdp: int) -> Mesh:
    """Return a mesh of the chips in a topology, such as v5e:4x4 or h100:8. Raises SystemExit."""
    chip = chip_of(topology)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")  # do not search for devices
    devices = _gpus(topology, chip) if chip.is_gpu else _tpus(topology)
    return Mesh(np.array(devices).reshape(-1, fsdp), (sharding.DATA, sharding.FSDP))


def _tpus(topology: str) -> list:
    if LIBTPU.exists():
        os.environ.setdefault("TPU_LIBRARY_PATH", str(LIBTPU.absolute()))
    sides = [int(side) for side in topology.partition(":")[2].split("x")]
    options = {"chips_per_host_bounds": [1, 1, 1]} if math.prod(sides) == 1 else {}
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except RuntimeError as error:
        remedy = (
            f"install the compiler: {INSTALL_TPU}" if "not installed" in str(error) else "choose another --topology"
        )
        raise SystemExit(f"error: {error}; {remedy}") from error


def cuda_requirements() -> list[str]:
    """Return the packages of the compiler for NVIDIA GPUs, in the version of jax."""
    return [f"jax-cuda13-{part}=={jax.__version__}" for part in ("plugin", "pjrt")]


def _gpus(topology: str, chip: Chip) -> list:
    size = topology.partition(":")[2] or "1"
    if not any(importlib.util.find_spec(f"jax_cuda{major}_plugin") for major in (13, 12)):
        sys.path.append(str(CUDA.absolute()))
    try:
        found = topologies.get_topology_desc(
            platform="cuda", target_config=chip.target, topology=f"1x{size}" if "x" in size else f"1x1x{size}"
        )
    except (RuntimeError, NotImplementedError) as error:
        install = f"python -m pip install --target {CUDA} --no-deps {' '.join(cuda_requirements())}"
        raise SystemExit(f"error: no compiler for GPUs: {error}; install it: {install}") from error
    return found.devices
