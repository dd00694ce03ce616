"""Blocks that run on the kernels, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("no GPU; test_interpreter.py runs these tests", allow_module_level=True)

from mmmetaformer.backbones import MetaFormerBlock  # noqa: E402
from mmmetaformer.fused import fuse  # noqa: E402

kernels = pytest.importorskip("triton_kernels")
DEVICE = "cpu" if INTERPRETED else "cuda"
FUNCTIONS = {
    "moments",
    "normalize",
    "normalize_backward",
    "pool_residual_moments",
    "pool_residual_backward",
    "activate",
    "activate_backward",
}
MLP = dict(type="mlp", ratio=2)
BLOCKS = {
    "PoolFormer": dict(
        token_mixer=dict(type="pooling"),
        channel_mixer=MLP,
        norm_cfg=dict(type="GN", num_groups=1),
        layer_scale_init_value=1.0,
        drop_path_rate=0.5,
    ),
    "PoolFormerV2": dict(
        token_mixer=dict(type="pooling"),
        channel_mixer=dict(**MLP, act_cfg=dict(type="StarReLU"), bias=False),
        norm_cfg=dict(type="MLN", bias=False),
        res_scale_init_value=1.0,
    ),
}


def make_block(name: str, randomize, fused) -> nn.Module:
    block = randomize(MetaFormerBlock(dim=6, part_defaults={}, **BLOCKS[name])).to(DEVICE)
    return fuse(block, fused) if fused else block


def step(block: nn.Module, x: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    x = x.detach().requires_grad_()
    torch.manual_seed(0)
    y = block(x)
    weights = torch.linspace(-1, 1, y.numel(), device=y.device).view(y.shape)
    grads = torch.autograd.grad((y * weights).sum(), [x, *block.parameters()])
    return [y.detach(), *grads]


@pytest.fixture(autouse=True)
def convolutions_in_float32(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def x() -> Tensor:
    values = torch.randn(4, 6, 7, 5, generator=torch.Generator().manual_seed(0))
    return values.to(DEVICE, memory_format=torch.channels_last)


@pytest.fixture
def called(monkeypatch) -> set[str]:
    """The names of the kernels' functions that were called."""
    names = set()

    def record(name: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            names.add(name)
            return function(*args, **kwargs)

        return call

    for name in FUNCTIONS:
        monkeypatch.setattr(kernels, name, record(name, getattr(kernels, name)))
    return names


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_on_the_kernels_is_the_literal_block(name, randomize, x, called) -> None:
    wanted = step(make_block(name, randomize, False), x)
    assert not called
    results = step(make_block(name, randomize, "triton"), x)
    assert called == FUNCTIONS
    for result, reference in zip(results, wanted, strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-5, atol=2e-5)


def test_a_block_that_asks_for_the_kernels_compiles_to_one_graph(randomize, x) -> None:
    """It compiles the literal block."""
    block = make_block("PoolFormer", randomize, "triton")
    wanted = step(block, x)
    torch._dynamo.reset()
    results = step(torch.compile(block, fullgraph=True, backend="aot_eager"), x)
    for result, reference in zip(results, wanted, strict=True):
        torch.testing.assert_close(result, reference)


def test_a_block_refuses_what_the_kernels_cannot_do(randomize, x) -> None:
    with pytest.raises(ValueError, match="float64 .* use fused='auto'"):
        make_block("PoolFormer", randomize, "triton").double()(x.double())
