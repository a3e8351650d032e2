"""Measure what a GPU can do at best: products, a copy, and the costs of a launch and of a barrier."""

import torch

from benchmarks.peers import torch_device

LAUNCHES = 500
LARGE = 1e11  # operations of a product beside which a launch takes no time


def product_tflops(shape: tuple[int, int, int, int], device: str, precision: str) -> float:
    """Return the speed of [D, M, K] x [D, K, N] products of random numbers, in 1e12 operations per second."""
    torch_device.prepare(device, precision)
    d, m, k, n = shape
    dtype = torch_device.dtype_of(precision)
    left, right = torch.randn(d, m, k, device=device, dtype=dtype), torch.randn(d, k, n, device=device, dtype=dtype)
    out = torch.empty(d, m, n, device=device, dtype=dtype)
    operations = 2 * d * m * k * n
    repeats = 1 if operations > LARGE else 50

    def product():
        torch.bmm(left, right, out=out)

    call = product if repeats == 1 else recorded(product, repeats, device)
    return operations * repeats / torch_device.median_s(call, device) / 1e12


def copy_tb_per_s(size: int, device: str) -> float:
    """Return the speed of a copy of `size` bytes within the device, counting reads and writes, in 1e12 bytes per second."""
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / torch_device.median_s(lambda: target.copy_(source), device) / 1e12


def launch_us(device: str, *, graph: bool) -> float:
    """Return the microseconds of a kernel that does almost nothing, launched one by one or as part of a CUDA graph."""
    x = torch.ones(256, device=device)

    def once():
        x.add_(1)

    def one_by_one():
        for _ in range(LAUNCHES):
            once()

    call = recorded(once, LAUNCHES, device) if graph else one_by_one
    return 1e6 * torch_device.median_s(call, device) / LAUNCHES


def recorded(call, repeats: int, device: str):
    """Return a function that runs a call `repeats` times: as one CUDA graph on a GPU, else one by one."""

    def repeated():
        for _ in range(repeats):
            call()

    if device != "cuda":
        return repeated
    repeated()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        repeated()
    return graph.replay


BARRIER = """
extern "C" __global__ void barriers(unsigned int* arrived, unsigned int turns) {
  for (unsigned int turn = 1; turn <= turns; ++turn) {
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();
      atomicAdd(arrived, 1);
      while (*(volatile unsigned int*)arrived < turn * gridDim.x) {}
      __threadfence();
    }
    __syncthreads();
  }
}
"""


def barrier_us(blocks: int, turns: int = 1000) -> float:
    """Return the microseconds of a barrier of thread blocks, one on each multiprocessor, within a kernel (needs CuPy)."""
    import cupy

    kernel = cupy.RawKernel(BARRIER, "barriers", enable_cooperative_groups=True)  # refused unless all blocks fit

    def call():
        kernel((blocks,), (256,), (cupy.zeros(1, cupy.uint32), cupy.uint32(turns)))
        cupy.cuda.Device().synchronize()

    return 1e6 * torch_device.median_s(call, "cuda") / turns
