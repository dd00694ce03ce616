"""Scales, downsampling and norms."""

import pytest
import torch
from torch import nn

from mmmetaformer.layers import ChannelScale, ConvDownsampling, build_norm


def test_channel_scale():
    scale = ChannelScale(3, 1e-5)
    assert scale.scale.shape == (3,)
    torch.testing.assert_close(scale.scale.detach(), torch.full((3,), 1e-5))
    scale.scale.data = torch.tensor([1.0, 2.0, 3.0])
    x = torch.randn(2, 3, 4, 5)
    expected = torch.stack([x[:, 0], 2 * x[:, 1], 3 * x[:, 2]], 1)
    torch.testing.assert_close(scale(x), expected)


@pytest.mark.parametrize(("side", "expected"), [(32, 8), (33, 8), (35, 9), (224, 56)])
def test_stem_size(side, expected):
    stem = ConvDownsampling(3, 4, kernel_size=7, stride=4, padding=2)
    assert stem(torch.rand(1, 3, side, side + 4)).shape == (1, 4, expected, expected + 1)


def test_norms_stand_before_and_after(randomize):
    layer = randomize(
        ConvDownsampling(
            4, 6, 3, 2, 1, dict(type="GN", num_groups=1), dict(type="GN", num_groups=2)
        )
    )
    x = torch.randn(2, 4, 7, 9)
    torch.testing.assert_close(layer(x), layer.post_norm(layer.conv(layer.pre_norm(x))))
    assert layer.pre_norm.num_channels == 4 and layer.post_norm.num_channels == 6


def test_build_norm():
    assert isinstance(build_norm(None, 4), nn.Identity)
    assert isinstance(build_norm(dict(type="SyncBN"), 4), nn.SyncBatchNorm)
    assert build_norm(dict(type="GN", num_groups=1), 4).eps == 1e-5
