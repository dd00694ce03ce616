"""Depthwise and separable convolution, and the Fourier transform."""

import cmath
import math

import pytest
import torch
from torch.nn import functional as F

from mmmetaformer.mixers import DepthwiseActNorm, DepthwiseConv, Fourier, SepConv


def test_depthwise(randomize):
    mixer = randomize(DepthwiseConv(4, kernel_size=5))
    x = torch.randn(2, 4, 6, 9)
    out = mixer(x)
    for channel in range(4):
        weight = mixer.conv.weight[channel : channel + 1]
        expected = F.conv2d(x[:, channel : channel + 1], weight, padding=2)
        expected = expected + mixer.conv.bias[channel]
        torch.testing.assert_close(out[:, channel : channel + 1], expected, rtol=1e-5, atol=1e-5)


def test_depthwise_with_activation_and_norm(randomize):
    mixer = randomize(DepthwiseActNorm(4, kernel_size=3, act_cfg=dict(type="ReLU"))).train()
    x = torch.randn(2, 4, 6, 9)
    y = F.conv2d(x, mixer.conv.weight, mixer.conv.bias, padding=1, groups=4).clamp(min=0)
    mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, correction=0)
    weight, bias = mixer.norm.weight.view(-1, 1, 1), mixer.norm.bias.view(-1, 1, 1)
    torch.testing.assert_close(mixer(x), (y - mean) / (var + 1e-5).sqrt() * weight + bias)


def test_sepconv(randomize):
    """Pointwise, StarReLU, depthwise 7x7, pointwise; from plain operations in float64."""
    mixer = randomize(SepConv(3)).double()
    x = torch.randn(2, 3, 8, 9, dtype=torch.double)
    weights = {name: value for name, value in mixer.named_parameters()}
    assert set(weights) == {
        "pwconv1.weight", "act1.scale", "act1.bias", "dwconv.weight", "pwconv2.weight",
    }  # fmt: skip
    y = torch.einsum("dc,bchw->bdhw", weights["pwconv1.weight"][..., 0, 0], x)
    y = weights["act1.scale"] * y.clamp(min=0) ** 2 + weights["act1.bias"]
    y = F.conv2d(y, weights["dwconv.weight"], padding=3, groups=6)
    y = torch.einsum("dc,bchw->bdhw", weights["pwconv2.weight"][..., 0, 0], y)
    torch.testing.assert_close(mixer(x), y)


@pytest.mark.parametrize("cls", [DepthwiseConv, SepConv])
@pytest.mark.parametrize("kernel_size", [0, 4, 3.0])
def test_wrong_kernel_size(cls, kernel_size):
    with pytest.raises(ValueError, match=f"kernel_size.*odd.*{kernel_size}"):
        cls(4, kernel_size=kernel_size)


def dft(x: list[complex]) -> list[complex]:
    """The definition of the discrete transform, with orthonormal scaling."""
    n = len(x)
    return [
        sum(v * cmath.exp(-2j * math.pi * k * i / n) for i, v in enumerate(x)) / math.sqrt(n)
        for k in range(n)
    ]


def test_fourier_against_the_definition():
    x = torch.randn(2, 3, 4, 5, dtype=torch.double)
    expected = x.to(torch.complex128)
    for dim in (1, 2, 3):
        lines = expected.movedim(dim, -1)
        flat = [dft(line) for line in lines.reshape(-1, lines.shape[-1]).tolist()]
        expected = torch.tensor(flat, dtype=torch.complex128).view_as(lines).movedim(-1, dim)
    torch.testing.assert_close(Fourier(3)(x), expected.real)


def test_fourier_scaling():
    x = torch.randn(1, 4, 6, 8)
    torch.testing.assert_close(Fourier(4, norm="backward")(x), Fourier(4)(x) * (4 * 6 * 8) ** 0.5)
    with pytest.raises(ValueError, match="'none'"):
        Fourier(4, norm="none")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fourier_in_half_precision(dtype):
    x = torch.randn(1, 4, 6, 7)
    out = Fourier(4)(x.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), Fourier(4)(x), rtol=0.05, atol=0.05)
