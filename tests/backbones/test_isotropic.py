"""Networks of one stride and their pyramid."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmmetaformer import ConvMixer, IsotropicMetaFormer, MetaFormer, MlpMixer, create_backbone
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.weights.convert import convert

TINY = dict(dim=16, depth=8, stem=dict(type="PatchEmbedding", patch_size=16))


def mixer(**kwargs) -> MlpMixer:
    return MlpMixer(TINY, **kwargs)


def test_maps_are_taken_behind_quarters_of_the_blocks(randomize):
    backbone = randomize(mixer(pyramid=None, out_norm_cfg=None)).eval()
    x = torch.randn(1, 3, 224, 224)
    levels = backbone(x)
    y = backbone.stem(x)
    for number, block in enumerate(backbone.blocks, 1):
        y = block(y)
        if number % 2 == 0:
            torch.testing.assert_close(levels[number // 2 - 1], y)


@pytest.mark.parametrize(("depth", "ends"), [(4, [1, 2, 3, 4]), (7, [1, 3, 5, 7])])
def test_depths_that_four_does_not_divide(depth, ends):
    backbone = mixer(depth=depth)
    assert len(backbone.blocks) == depth
    for end, index in zip(ends, range(4), strict=True):
        # What is built ends with the block of the last level.
        assert len(mixer(depth=depth, out_indices=index).blocks) == end


@pytest.mark.parametrize("given", [(0, 1, 2, 3), (1, 2, 3), (-1,), 1, (3, 0)])
def test_out_indices(given, randomize):
    """Blocks behind the last level are not built; the others give the same maps."""
    everything = randomize(mixer()).eval()
    backbone = mixer(out_indices=given).eval()
    state = everything.state_dict()
    backbone.load_state_dict({k: v for k, v in state.items() if k in backbone.state_dict()})
    assert len(backbone.blocks) == 2 * (max(backbone.out_indices) + 1)
    norms = {name for name, _ in backbone.named_children() if name.startswith("norm")}
    assert norms == {f"norm{index}" for index in backbone.out_indices}
    x = torch.randn(1, 3, 64, 96)
    expected = everything(x)
    for index, stride, level in zip(
        backbone.out_indices, backbone.out_strides, backbone(x), strict=True
    ):
        assert stride == (4, 8, 16, 32)[index]
        torch.testing.assert_close(level, expected[index])


def test_pyramid_of_a_stride_of_16(randomize):
    """Two, one and no transposed convolution, and a pooling."""
    backbone = randomize(mixer()).eval()
    plain = mixer(pyramid=None).eval()
    state = backbone.state_dict()
    plain.load_state_dict({k: v for k, v in state.items() if not k.startswith("pyramid")})
    x = torch.randn(2, 3, 64, 80)
    levels, maps = backbone(x), plain(x)
    first = backbone.pyramid.levels["0"]
    assert [type(layer).__name__ for layer in first] == [
        "ConvTranspose2d", "LayerNorm2d", "GELU", "ConvTranspose2d",
    ]  # fmt: skip
    torch.testing.assert_close(levels[0], first(maps[0]))
    up = backbone.pyramid.levels["1"][0]
    torch.testing.assert_close(levels[1], F.conv_transpose2d(maps[1], up.weight, up.bias, 2))
    torch.testing.assert_close(levels[2], maps[2])
    torch.testing.assert_close(levels[3], F.max_pool2d(maps[3], 2, ceil_mode=True))
    assert backbone.out_channels == (4, 8, 16, 16)


@pytest.mark.parametrize(
    ("name", "stride", "channels"),
    [
        ("convmixer_768_32", 8, (384, 768, 768, 768)),
        ("convmixer_1024_20", 16, (256, 512, 1024, 1024)),
        ("mlp_mixer_s32", 32, (64, 128, 256, 512)),
        ("mlp_mixer_h14", 16, (320, 640, 1280, 1280)),
    ],
)
def test_patches_and_channels(name, stride, channels):
    with torch.device("meta"):
        backbone = build_backbone(name, depth=4)
    assert backbone.stem.stride == stride
    assert backbone.out_channels == channels


@pytest.mark.parametrize("patch_size", [7, 14, 16, 32])
def test_strides_are_true_ones(patch_size, randomize):
    """Moving the image by 32 pixels moves the levels by 8, 4, 2 and 1 positions, exactly."""
    arch = dict(TINY, stem=dict(type="PatchEmbedding", patch_size=patch_size))
    backbone = randomize(MlpMixer(arch, token_mixers="identity")).eval()
    x = torch.randn(1, 3, 96, 128)
    moved = backbone(x.roll(32, dims=-1))
    for stride, level, after in zip(backbone.out_strides, backbone(x), moved, strict=True):
        assert level.shape[2:] == (96 // stride, 128 // stride)
        torch.testing.assert_close(after, level.roll(32 // stride, dims=-1))


def test_whatever_is_emitted_keeps_its_names():
    """A checkpoint of four levels loads into a backbone of three, each weight in its place."""
    four, three = mixer(), mixer(out_indices=(3, 1, 2))
    result = convert(four.state_dict(), three)
    assert set(result.state_dict) == set(three.state_dict()) and result.new == []
    assert all(name.startswith(("norm0", "pyramid.levels.0"))
               for name in result.dropped["for outputs that are not emitted"])  # fmt: skip
    up = "pyramid.levels.1.0.weight"
    assert torch.equal(result.state_dict[up], four.state_dict()[up])


def test_translation_by_one_stride_is_a_step_of_one_position(randomize):
    backbone = randomize(create_backbone("convmixer_768_32", dim=16, depth=4, pyramid=None,
                                         patch_stride=8)).eval()  # fmt: skip
    x = torch.randn(1, 3, 64, 320)
    for level, moved in zip(backbone(x), backbone(x.roll(8, dims=-1)), strict=True):
        assert level.shape[2:] == (8, 40)
        # Four kernels of 7 reach 12 positions from the borders.
        torch.testing.assert_close(moved[..., 15:27], level[..., 14:26], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("patch", "stride"), [(7, 8), (14, 16)])
def test_resampled_kernels_keep_the_features_of_an_enlarged_image(patch, stride, randomize):
    """FlexiViT's property, patch by patch, in float64."""
    published = randomize(mixer(stem=dict(type="PatchEmbedding", patch_size=patch), pyramid=None))
    resampled = mixer(stem=dict(type="PatchEmbedding", patch_size=patch))
    resampled.stem.load_state_dict(published.stem.state_dict())
    patches = torch.randn(5, 3, patch, patch, dtype=torch.double)
    enlarged = F.interpolate(patches, (stride, stride), mode="bilinear", align_corners=False)
    expected = published.stem.double()(patches)
    torch.testing.assert_close(resampled.stem.double()(enlarged), expected, rtol=1e-5, atol=1e-5)


def test_resampled_kernels_are_trained_and_saved_as_published():
    backbone = create_backbone("convmixer_768_32", dim=16, depth=4)
    assert backbone.stem.conv.weight.shape == (16, 3, 7, 7)
    assert not [name for name in backbone.state_dict() if "resize" in name]
    backbone(torch.randn(2, 3, 32, 32))[0].sum().backward()
    assert backbone.stem.conv.weight.grad.abs().sum() > 0


def test_the_border_of_the_image_is_padded_with_zeros(randomize):
    backbone = randomize(mixer()).eval()
    x = torch.randn(1, 3, 50, 70)
    padded = F.pad(x, (0, 10, 0, 14))
    for level, whole in zip(backbone(x), backbone(padded), strict=True):
        height, width = level.shape[-2:]
        torch.testing.assert_close(level, whole[..., :height, :width])


def test_frozen_stages_leave_the_pyramid_alone():
    backbone = mixer(frozen_stages=4)
    trained = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"pyramid"}
    assert backbone.pyramid.levels["0"][1].training


def test_convmixer_block_against_its_definition(randomize):
    """Depthwise with a residual, pointwise without, the norm behind the activation."""
    backbone = randomize(create_backbone("convmixer_1024_20", dim=6, depth=4)).eval().double()
    block = backbone.blocks[0]
    for norm in (block.token_mixer.norm, block.mlp.norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 6, 11, 12, dtype=torch.double)

    def norm(y, module):
        mean, var = (v.view(-1, 1, 1) for v in (module.running_mean, module.running_var))
        weight, bias = (v.view(-1, 1, 1) for v in (module.weight, module.bias))
        return (y - mean) / (var + 1e-5).sqrt() * weight + bias

    conv = block.token_mixer.conv
    y = F.gelu(F.conv2d(x, conv.weight, conv.bias, padding=4, groups=6))
    y = x + norm(y, block.token_mixer.norm)
    y = F.gelu(F.conv2d(y, block.mlp.conv.weight, block.mlp.conv.bias))
    torch.testing.assert_close(block(x), norm(y, block.mlp.norm), rtol=1e-9, atol=1e-9)


def test_one_activation_for_all_of_a_convmixer():
    def activations(backbone):
        block = backbone.blocks[0]
        return [type(part.act) for part in (backbone.stem, block.token_mixer, block.mlp)]

    assert activations(ConvMixer("768_32", dim=8, depth=4)) == [nn.ReLU] * 3
    assert activations(ConvMixer("768_32", dim=8, depth=4, act_cfg="GELU")) == [nn.GELU] * 3
    assert activations(ConvMixer("1024_20", dim=8, depth=4)) == [nn.GELU] * 3
    own = dict(type="depthwise_act_norm", act_cfg="SiLU")
    mixed = IsotropicMetaFormer("convmixer_1024_20", dim=8, depth=4, token_mixers=own)
    assert activations(mixed) == [nn.GELU, nn.SiLU, nn.GELU]


def test_a_hybrid_of_quarters():
    backbone = mixer(token_mixers=["identity", "pooling", "token_mlp", "identity"])
    kinds = [type(block.token_mixer).__name__ for block in backbone.blocks]
    assert kinds == ["Identity"] * 2 + ["Pooling"] * 2 + ["TokenMlp"] * 2 + ["Identity"] * 2
    assert backbone.blocks[4].token_mixer.grid_size == (14, 14)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(depth=3), ValueError, "at least 4, got 3"),
        (dict(depth=4.0), ValueError, "positive integers, got 4.0"),
        (dict(stem=dict(type="PatchEmbedding")), ValueError, "'patch_size'"),
        (dict(patch_stride=8), ValueError, "at least patch_size=16, got 8"),
        (dict(patch_stride=24), ValueError, "power of two, got 24"),
        (dict(token_mixers=["identity"] * 8), ValueError, "list of 4"),
        (dict(residual=(True, 1)), ValueError, r"pair of them, got \(True, 1\)"),
        (dict(depths=[1, 1, 1, 1]), TypeError, r"\['depths'\].*'depth'"),
        (dict(pyramid=3), TypeError, "pyramid"),
        (dict(pyramid=dict(type="ScalePyramid", in_stride=32)), ValueError, "follow from"),
        (
            dict(stem=dict(type="PatchEmbedding", patch_size=(7, 7))),
            ValueError,
            "patch_size of stem",
        ),
        (dict(out_indices=4), ValueError, "0 to 3"),
        (dict(pretrain_size=0), ValueError, "pretrain_size"),
    ],
)
def test_wrong_settings_are_named(options, error, message):
    with pytest.raises(error, match=message):
        mixer(**options)


def test_the_other_structure_names_its_class():
    with pytest.raises(ValueError, match=r"isotropic network.*mmmetaformer\.MlpMixer"):
        MetaFormer("mlp_mixer_s16")
    with pytest.raises(ValueError, match=r"hierarchical network.*mmmetaformer\.CAFormer"):
        IsotropicMetaFormer("caformer_s18")


def test_init_weights_twice_is_safe():
    backbone = create_backbone("mlp_mixer_s32", dim=16, depth=4)
    before = copy.deepcopy(backbone.state_dict())
    backbone.init_weights()
    torch.testing.assert_close(dict(backbone.state_dict()), dict(before))
