"""Branches, norms and skips folded into one convolution."""

import copy

import pytest
import torch
from torch import nn

from mmmetaformer import create_backbone, switch_to_deploy
from mmmetaformer.layers import ConvNorm, RepConv, ResidualNormConv

PARTS = {
    "1x1": lambda: ConvNorm(6, 8),
    "depthwise": lambda: ConvNorm(6, 12, 5, stride=2, groups=6),
    "without norm": lambda: ConvNorm(6, 8, 3, norm_cfg=None),
    "two kernels": lambda: RepConv(6, 6, (7, 3), groups=6),
    "strips": lambda: RepConv(6, 6, (9, 5, (1, 9), (9, 1)), groups=6),
    "small first": lambda: RepConv(6, 6, (1, (3, 7)), groups=6),
    "no affine": lambda: ConvNorm(6, 8, 3, norm_cfg=dict(type="BN", affine=False)),
    "strided": lambda: RepConv(6, 12, (7, 3), stride=2, groups=6),
    "skip": lambda: ResidualNormConv(6),
}


@pytest.mark.parametrize("size", [(9, 12), (1, 5)])
@pytest.mark.parametrize("part", PARTS)
def test_one_convolution_is_the_same_function(part, size, randomize_norms):
    module = randomize_norms(PARTS[part]()).double()
    fused = module.to_conv()
    assert type(fused) is nn.Conv2d and not fused.training
    assert fused.weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(2, 6, *size, dtype=torch.double)
    torch.testing.assert_close(fused(x), module(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["ffnet_1", "ffnet_3"])
def test_a_whole_backbone(name, randomize_norms):
    """At an odd size, in float64; saved and loaded again."""
    backbone = create_backbone(name, depths=[1, 2, 1, 1], dims=[8, 16, 32, 64])
    randomize_norms(backbone).double()
    x = torch.randn(1, 3, 97, 65, dtype=torch.double)
    expected = backbone(x)
    fused = copy.deepcopy(backbone).switch_to_deploy()
    for level, other in zip(fused(x), expected, strict=True):
        assert ((level - other).abs().max() / other.abs().max()) < 1e-12
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    again = create_backbone(name, depths=[1, 2, 1, 1], dims=[8, 16, 32, 64]).eval()
    again.switch_to_deploy().double().load_state_dict(fused.state_dict(), strict=True)
    torch.testing.assert_close(again(x), fused(x))


def test_twice_is_once_and_others_stay_as_they_are(randomize):
    backbone = create_backbone("ffnet_1", depths=[1] * 4, dims=[8, 16, 32, 64]).eval()
    state = {k: v.clone() for k, v in backbone.switch_to_deploy().state_dict().items()}
    torch.testing.assert_close(dict(backbone.switch_to_deploy().state_dict()), state)
    other = create_backbone("poolformer_s12", out_indices=(0,)).train()
    names = list(other.state_dict())
    assert switch_to_deploy(other) is other and list(other.state_dict()) == names


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"call model\.eval\(\).*stages\.0"):
        backbone = create_backbone("ffnet_1", depths=[1] * 4, dims=[8, 16, 32, 64])
        backbone.downsample_layers.eval()
        backbone.switch_to_deploy()


def test_only_batch_norm_folds():
    with pytest.raises(TypeError, match="got GroupNorm"):
        ConvNorm(4, 4, norm_cfg=dict(type="GN", num_groups=1)).eval().to_conv()


def test_a_part_inside_of_a_detector(randomize_norms):
    """Found wherever it is, by name or not."""
    model = randomize_norms(nn.Sequential(nn.ModuleDict({"rep": RepConv(3, 3, (5, 3))}), nn.ReLU()))
    x = torch.randn(1, 3, 8, 8)
    expected = model[0]["rep"](x)
    switch_to_deploy(model)
    assert type(model[0]["rep"]) is nn.Conv2d
    torch.testing.assert_close(model[0]["rep"](x), expected, rtol=1e-4, atol=1e-5)


def test_a_part_itself_and_errors_that_change_nothing(randomize_norms):
    part = randomize_norms(ConvNorm(3, 4))
    assert type(switch_to_deploy(part)) is nn.Conv2d and type(part) is ConvNorm
    other = ConvNorm(4, 4, norm_cfg=dict(type="GN", num_groups=1))
    model = nn.Sequential(part, other).eval()
    with pytest.raises(TypeError, match="got GroupNorm"):
        switch_to_deploy(model)
    assert [type(child) for child in model] == [ConvNorm, ConvNorm]


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float16, marks=pytest.mark.torch("2.4")), torch.bfloat16]
)
def test_the_type_of_the_weights_is_kept(dtype, randomize_norms):
    module = randomize_norms(nn.Sequential(RepConv(6, 6, (5, 3)), ResidualNormConv(6)))
    x = torch.randn(1, 6, 9, 9)
    expected = module(x)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(dtype)
    fused = switch_to_deploy(module)
    assert {p.dtype for p in fused.parameters()} == {dtype}
    torch.testing.assert_close(fused(x.to(dtype)).float(), expected, rtol=0.05, atol=0.2)


@pytest.mark.parametrize("kernel_size", [4, 0, 2.0])
def test_kernels_are_odd(kernel_size):
    with pytest.raises(ValueError, match=f"odd integer, got {kernel_size}"):
        RepConv(4, 4, (kernel_size, 3))
