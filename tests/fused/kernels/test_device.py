"""The kernels compiled for a GPU (Hopper), as the functions would launch them; none is needed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled in the interpreter", allow_module_level=True)

kernels = pytest.importorskip("mmmetaformer.fused.kernels")
device, ops = kernels.device, kernels.ops
JITFunction = triton.runtime.jit.JITFunction

HOPPER = SimpleNamespace(
    get_current_target=lambda: triton.backends.compiler.GPUTarget("cuda", 90, 32),
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
)
KERNELS = {
    getattr(device, name).fn if name != "merge_moments" else device.merge_moments
    for name in (
        "activate",
        "activate_backward",
        "block_moments",
        "merge_moments",
        "normalize",
        "normalize_backward",
        "normalize_backward_sums",
        "pool_residual",
        "pool_residual_backward",
    )
}


@pytest.fixture
def compile_all(monkeypatch) -> Iterator[Callable[..., list]]:
    """Call every function on a map of any values; what it launches is compiled and not run.

    Of the configurations of a kernel the first is compiled, or all.
    """
    compiled, configs = [], 1
    run = JITFunction.run

    def compile_one(self, *args, grid, warmup, **kwargs):
        compiled.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    def compile_tuned(self, *args, **kwargs):
        for config in self.configs[:configs]:
            self.fn.run(*args, **kwargs, **config.all_kwargs())

    def forget() -> None:
        # What was compiled for this device must not be found where there is another.
        for kernel in KERNELS:
            kernel.device_caches.clear()

    def call(shape, dtype, memory_format, pool_size=3, all_configs=False) -> list:
        nonlocal configs
        configs = None if all_configs else 1
        batch, channels = shape[:2]
        x = torch.empty(shape, dtype=dtype).contiguous(memory_format=memory_format)
        vector, factor, one = torch.empty(batch), torch.empty(batch, channels), torch.empty(1)
        ops.moments(x, 1e-5)
        ops.normalize(x, vector, vector, dtype)
        ops.normalize_backward(x, x, vector, torch.float32)
        for identity in (None, factor[0]):
            ops.pool_residual(x, factor, identity, pool_size, dtype)
            ops.pool_residual_moments(x, factor, identity, pool_size, dtype, 1e-5)
            ops.pool_residual_backward(x, x, vector, vector, factor, identity, pool_size)
        for act, numbers in ops.ACTIVATIONS.items():
            ops.activate(x, act, (one,) * numbers)
            ops.activate_backward(x, x, act, (one,) * numbers)
        assert {kernel.name for kernel in compiled} == {kernel.__name__ for kernel in KERNELS}
        return compiled

    monkeypatch.setattr(ops, "require", lambda x: None)
    monkeypatch.setattr(triton.runtime.driver, "_active", HOPPER)
    monkeypatch.setattr(JITFunction, "run", compile_one)
    monkeypatch.setattr(triton.runtime.Autotuner, "run", compile_tuned)
    forget()
    yield call
    forget()


def spilled_bytes(kernel, path) -> int:
    """What a thread keeps in memory because registers do not suffice."""
    cubin = path / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    usage = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(cubin)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return int(re.search(r"STACK:(\d+)", usage)[1])


@pytest.mark.parametrize(
    ("dtype", "memory_format"),
    [(torch.bfloat16, torch.channels_last), (torch.float32, torch.contiguous_format)],
)
def test_compiles_to_whole_vectors_without_spilling(
    dtype, memory_format, compile_all, tmp_path
) -> None:
    for kernel in compile_all((2, 64, 28, 32), dtype, memory_format):
        assert spilled_bytes(kernel, tmp_path) == 0, kernel.name
        if kernel.name != "merge_moments":
            assert re.search(r"ld\.global(\.\w+)*\.v[24]\.", kernel.asm["ptx"]), kernel.name


def test_compiles_where_sizes_become_constants(compile_all) -> None:
    assert compile_all((1, 1, 1, 1), torch.float16, torch.contiguous_format)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 64, 200, 336), (2, 320, 51, 85), (2, 3, 1, 7)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_compiles_in_all_configurations(dtype, memory_format, shape, compile_all) -> None:
    assert compile_all(shape, dtype, memory_format, all_configs=True)


@pytest.mark.slow
@pytest.mark.parametrize("pool_size", [1, 5, 7, 9, 15])
def test_compiles_with_other_windows(pool_size, compile_all) -> None:
    shape = (2, 64, 200, 336)
    assert compile_all(shape, torch.bfloat16, torch.channels_last, pool_size)
