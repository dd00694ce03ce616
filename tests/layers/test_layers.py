"""Scales, downsampling, norms, activations, position embedding, checkpointing."""

import copy

import pytest
import torch
from torch import nn

from mmmetaformer.backbones.metaformer import ConvDownsampling
from mmmetaformer.layers import (
    ChannelScale,
    ConvStem,
    LayerNorm2d,
    PositionEmbedding,
    ScalePyramid,
    build_activation,
    build_norm,
    checkpoint_block,
)


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


@pytest.mark.parametrize("bias", [False, True])
def test_a_compiled_layer_norm_is_the_same(bias, randomize):
    norm = randomize(build_norm(dict(type="LN2d", bias=bias), 6))
    x = torch.randn(2, 6, 4, 5) * 3 + 1e3
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), norm(x), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(compiled.double()(x.double()), norm.double()(x.double()))
    torch.compiler.reset()


@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm_over_channels(bias, randomize):
    """As torch's on the channels, position by position, in either memory layout."""
    norm = randomize(build_norm(dict(type="LN2d", bias=bias), 6))
    assert (norm.bias is not None) == bias and norm.eps == 1e-6
    x = torch.randn(2, 6, 4, 5) * 3 + 1
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    expected = (x - mean) / (var + 1e-6).sqrt() * norm.weight.view(-1, 1, 1)
    expected = expected + (norm.bias.view(-1, 1, 1) if bias else 0)
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm(x.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("bias", [False, True])
def test_modified_layer_norm(bias, randomize):
    norm = randomize(build_norm(dict(type="MLN", bias=bias, eps=1e-3), 6))
    x = torch.randn(2, 6, 4, 5) * 3 + 1
    mean = x.mean((1, 2, 3), keepdim=True)
    var = x.var((1, 2, 3), keepdim=True, correction=0)
    expected = (x - mean) / (var + 1e-3).sqrt() * norm.weight.view(-1, 1, 1)
    expected = expected + (norm.bias.view(-1, 1, 1) if bias else 0)
    torch.testing.assert_close(norm(x), expected)
    assert len(list(norm.parameters())) == 1 + bias


def test_optimisers_find_the_norms():
    """mmengine's ``norm_decay_mult`` asks for torch's classes."""
    for kind in ("LN2d", "MLN"):
        assert isinstance(build_norm(dict(type=kind), 4), nn.LayerNorm | nn.GroupNorm)


@pytest.mark.parametrize("kind", ["LN2d", "mmmetaformer.LN2d", LayerNorm2d])
def test_a_norm_has_one_epsilon_however_it_is_spelt(kind):
    assert build_norm(dict(type=kind), 4).eps == 1e-6


def test_a_norm_over_the_width_is_refused():
    with pytest.raises(ValueError, match="'LN' would normalise over the width.*'LN2d'"):
        build_norm(dict(type="LN"), 4)


def test_checkpointing_compiles():
    """Without running statistics it is torch's own, which torch.compile understands."""
    block = nn.Sequential(nn.Conv2d(2, 2, 1), nn.GELU())
    compiled = torch.compile(lambda x: checkpoint_block(block, x), backend="eager")
    x = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(compiled(x), block(x))


@pytest.mark.parametrize("kind", ["LM2d", "Batch"])
def test_unknown_norm_and_activation(kind):
    with pytest.raises(ValueError, match=f"unknown norm '{kind}'.*LN2d, MLN, GN"):
        build_norm(dict(type=kind), 4)
    with pytest.raises(ValueError, match=f"unknown activation '{kind}'.*StarReLU"):
        build_activation(dict(type=kind))


def test_activations():
    x = torch.tensor([-2.0, 0.0, 3.0])
    assert build_activation(dict(type="SquaredReLU"))(x).tolist() == [0, 0, 9]
    star = build_activation(dict(type="StarReLU", scale=0.5, bias=-1.0))
    assert star(x).tolist() == [-1, -1, 3.5]
    assert {name: p.shape for name, p in star.named_parameters()} == {"scale": (1,), "bias": (1,)}
    assert [p.item() for p in build_activation(dict(type="StarReLU")).parameters()] == [1, 0]
    assert isinstance(build_activation(dict(type="SiLU")), nn.SiLU)
    assert isinstance(build_activation(None), nn.Identity)


def test_position_embedding_is_resized(randomize):
    layer = randomize(PositionEmbedding(3, 4))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(layer(x), x + layer.pos_embed)
    large = torch.zeros(1, 3, 8, 12)
    # Bilinear weights between neighbouring centres, checked where they are simple.
    column = layer.pos_embed[0, :, :, 0]
    out = layer(large)[0, :, :, 0]
    torch.testing.assert_close(out[:, 0], column[:, 0])
    torch.testing.assert_close(out[:, 1], 0.75 * column[:, 0] + 0.25 * column[:, 1])


def test_pyramid_refuses_a_stride_that_is_no_power_of_two():
    with pytest.raises(ValueError, match="power of two, got 7"):
        ScalePyramid(8, 7)


def test_checkpointing_leaves_running_statistics_alone():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.GELU(), nn.BatchNorm2d(4))
    other = copy.deepcopy(plain)
    x = torch.randn(3, 2, 5, 5)
    plain(x).square().sum().backward()
    checkpoint_block(other, x).square().sum().backward()
    torch.testing.assert_close(dict(other.state_dict()), dict(plain.state_dict()))
    assert other[1].momentum == 0.1 and int(other[3].num_batches_tracked) == 1


@pytest.mark.parametrize("convs", [[(64, 2, True)], [(64, 2, True), (32, 2, False)]])
def test_stem_whose_convolutions_do_not_fit(convs):
    """A stride of 2 instead of 4; 32 channels instead of 16."""
    with pytest.raises(ValueError, match="product 4 and end in 16 channels"):
        ConvStem(3, 16, stride=4, convs=convs)
