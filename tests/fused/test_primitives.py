"""Statistics of maps, against float64."""

import pytest
import torch

from mmmetaformer.fused.primitives import moments


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (3, 3000), (257, 255)])
@pytest.mark.parametrize("mean", [0.0, 1003.0])
def test_moments(layout, size, mean):
    """A mean that is no multiple of a power of two: sums of those are exact."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, *size, generator=generator) + mean
    x = x.contiguous(memory_format=layout)
    variance, expected = torch.var_mean(x.double(), (1, 2, 3), correction=0)
    found, rstd = moments(x, 1e-5)
    assert found.dtype == rstd.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=5e-7, atol=1e-5)
    torch.testing.assert_close(rstd.double(), (variance + 1e-5).rsqrt(), rtol=1e-5, atol=0)
