"""The kernels compiled for a GPU (Hopper), as the functions would launch them; none is needed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled in the interpreter", allow_module_level=True)

kernels = pytest.importorskip("triton_kernels")
device, ops = kernels.device, kernels.ops
JITFunction = triton.runtime.jit.JITFunction

HOPPER = SimpleNamespace(
    get_current_target=lambda: triton.backends.compiler.GPUTarget("cuda", 90, 32),
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
)
KERNELS = {
    kernel if isinstance(kernel, JITFunction) else kernel.fn  # without its tuning
    for kernel in (
        device.activate,
        device.activate_backward,
        device.block_moments,
        device.merge_moments,
        device.normalize,
        device.normalize_backward,
        device.normalize_backward_sums,
        device.pool_residual,
        device.pool_residual_backward,
    )
}


def make(*shape: int, **kwargs) -> torch.Tensor:
    """A tensor without values."""
    return torch.empty(shape, device="meta", **kwargs)


@pytest.fixture
def compiled(monkeypatch) -> Iterator[SimpleNamespace]:
    """What the functions launch is compiled, added to ``kernels`` and not run.

    Of the configurations of a kernel the first ``configs`` are compiled.
    """
    record = SimpleNamespace(kernels=[], configs=1)
    run = JITFunction.run

    def compile_one(self, *args, grid, warmup, **kwargs):
        record.kernels.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    def compile_tuned(self, *args, **kwargs):
        for config in self.configs[: record.configs]:
            self.fn.run(*args, **kwargs, **config.all_kwargs())

    def forget() -> None:
        # What was compiled for this device must not be found where there is another.
        for kernel in KERNELS:
            kernel.device_caches.clear()

    monkeypatch.setattr(ops, "require", lambda x: None)
    monkeypatch.setattr(triton.runtime.driver, "_active", HOPPER)
    monkeypatch.setattr(JITFunction, "run", compile_one)
    monkeypatch.setattr(triton.runtime.Autotuner, "run", compile_tuned)
    forget()
    yield record
    forget()


def launch_all(shape, dtype, memory_format, pool_size=3) -> None:
    """Call every function on such a map."""
    batch, channels = shape[:2]
    x = make(*shape, dtype=dtype, memory_format=memory_format)
    vector, factor, one = make(batch), make(batch, channels), make(1)
    ops.moments(x, 1e-5)
    for identity in (None, factor[0]):
        ops.normalize(x, vector, vector, identity, identity, dtype)
        ops.normalize_backward(x, x, vector, vector, identity)
        ops.pool_residual(x, factor, identity, pool_size, dtype)
        ops.pool_residual_moments(x, factor, identity, pool_size, dtype, 1e-5)
        ops.pool_residual_backward(x, x, vector, vector, factor, identity, pool_size)
    for act, numbers in ops.ACTIVATIONS.items():
        ops.activate(x, act, (one,) * numbers)
        ops.activate_backward(x, x, act, (one,) * numbers)


def names(compiled: SimpleNamespace) -> set[str]:
    return {kernel.name for kernel in compiled.kernels}


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
    dtype, memory_format, compiled, tmp_path
) -> None:
    launch_all((2, 64, 28, 32), dtype, memory_format)
    assert names(compiled) == {kernel.__name__ for kernel in KERNELS}
    for kernel in compiled.kernels:
        assert spilled_bytes(kernel, tmp_path) == 0, kernel.name
    of_maps = [kernel for kernel in compiled.kernels if kernel.name != "merge_moments"]
    for kernel in of_maps:
        assert re.search(r"ld\.global(\.\w+)*\.v[24]\.", kernel.asm["ptx"]), kernel.name


def test_compiles_where_sizes_become_constants(compiled) -> None:
    launch_all((1, 1, 1, 1), torch.float16, torch.contiguous_format)
    assert len(names(compiled)) == len(KERNELS)


def test_compiles_for_more_elements_than_int32_counts(compiled) -> None:
    z = make(5, 64, 3000, 3000, dtype=torch.bfloat16)
    ops.activate(z, "relu")
    ops.activate_backward(z, z, "star_relu", (make(1), make(1)))
    assert [kernel.src.signature["size"] for kernel in compiled.kernels] == ["i64", "i64"]


def test_compiles_to_rounding_to_nearest(compiled) -> None:
    """The interpreter cuts off the digits that bfloat16 lacks."""
    x = make(1, 2, 3, 3)
    ops.normalize(x, make(1), make(1), None, None, torch.bfloat16)
    ops.pool_residual(x, make(1, 2), None, 3, torch.bfloat16)
    assert all("cvt.rn.bf16" in kernel.asm["ptx"] for kernel in compiled.kernels)
    assert len(compiled.kernels) == 2


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 64, 200, 336), (2, 320, 51, 85), (2, 3, 1, 7)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_compiles_in_all_configurations(dtype, memory_format, shape, compiled) -> None:
    compiled.configs = None
    launch_all(shape, dtype, memory_format)
    warps = {k.metadata.num_warps for k in compiled.kernels if k.name == "pool_residual"}
    assert warps == {4, 8, 16}


@pytest.mark.slow
@pytest.mark.parametrize("pool_size", [1, 5, 7, 9])
def test_compiles_with_other_windows(pool_size, compiled) -> None:
    launch_all((2, 64, 200, 336), torch.bfloat16, torch.channels_last, pool_size)
    assert len(names(compiled)) == len(KERNELS)
