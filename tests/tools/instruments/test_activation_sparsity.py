"""Shares of networks in which they are known."""

from __future__ import annotations

import pytest
import torch

from instruments import activation_sparsity
from mmmetaformer import MetaFormer, create_backbone, switch_to_deploy

ARCH = dict(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8], norm_cfg=None)


def image(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


def with_keys(weight: float, bias: float, act_cfg: str | dict = "ReLU") -> MetaFormer:
    """All keys of the only block have one bias; the second half of them is the first, negated."""
    torch.manual_seed(0)
    backbone = MetaFormer(ARCH, token_mixers="identity", act_cfg=act_cfg, out_indices=(0,))
    fc1 = backbone.stages[0][0].mlp.fc1
    with torch.no_grad():
        fc1.weight[:16] = weight * torch.randn(
            16, 8, 1, 1, generator=torch.Generator().manual_seed(1)
        )
        fc1.weight[16:] = -fc1.weight[:16]
        fc1.bias.fill_(bias)
    return backbone


@pytest.mark.parametrize(
    ("weight", "bias", "share"),
    [(0.0, -1.0, 1.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.5)],
)
def test_known_shares_of_relu(weight, bias, share):
    """All keys off, none, and by symmetry half."""
    backbone = with_keys(weight, bias)
    (layer,) = activation_sparsity(backbone, image(2, 3, 32, 32), threshold=0)
    assert (layer.not_positive, layer.inactive) == (share, share)
    assert (layer.site.layer, layer.site.stage, layer.site.branch) == (0, 0, "channel")


def test_negative_scores_of_gelu_are_not_off():
    """Large scores below zero are cut off, small ones are not."""
    shares = []
    for weight in (1e-3, 1e3):
        (layer,) = activation_sparsity(with_keys(weight, 0.0, "GELU"), image(1, 3, 32, 32))
        assert layer.not_positive == 0.5
        shares.append(layer.inactive)
    assert shares[0] < 0.05 and shares[1] > 0.5


def test_by_definition(randomize):
    """Both measures written out, on the last layer of a network and for two images."""
    arch = dict(ARCH, act_cfg=dict(type="StarReLU", scale=0.9, bias=-0.4), norm_cfg="LN2d")
    backbone = randomize(MetaFormer(arch, token_mixers="sepconv"))
    images = image(2, 3, 64, 64)
    measured = activation_sparsity(backbone, images, threshold=0.3)[-1]
    kept = []
    block = backbone.stages[3][0]
    block.mlp.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    backbone.eval()(images)
    scores = block.mlp.fc1(kept[0])
    away = (block.mlp.act(scores) - block.mlp.act.bias).abs()
    rms = away.square().mean((1, 2, 3), keepdim=True).sqrt()
    assert measured.not_positive == pytest.approx((scores <= 0).double().mean().item())
    assert measured.inactive == pytest.approx((away <= 0.3 * rms).double().mean().item())
    assert measured.not_positive < measured.inactive < 1


def test_scale_of_a_layer_does_not_matter():
    shares = [
        activation_sparsity(with_keys(weight, 0.0), image(1, 3, 32, 32), threshold=0.1)[0].inactive
        for weight in (1e-4, 1.0, 1e4)
    ]
    assert shares[0] == pytest.approx(shares[1], abs=1e-3) == pytest.approx(shares[2], abs=1e-3)
    assert 0.5 < shares[1] < 0.7


def test_token_mixers_and_layers_without_anything_to_measure():
    backbone = MetaFormer(
        dict(ARCH, channel_mixers=["mlp", None, "mlp", "mlp"]),
        token_mixers=["pooling", "sepconv", "identity", dict(type="attention", head_dim=8)],
    )
    layers = activation_sparsity(backbone, image(1, 3, 64, 64), ("token", "channel"))
    assert [(x.site.layer, x.site.branch, x.site.mixer_name) for x in layers] == [
        (0, "token", "Pooling"), (0, "channel", "Mlp"), (1, "token", "SepConv"),
        (1, "channel", None), (2, "token", "Identity"), (2, "channel", "Mlp"),
        (3, "token", "Attention"), (3, "channel", "Mlp"),
    ]  # fmt: skip
    assert [x.why_not is None for x in layers] == [
        False,
        True,
        True,
        False,
        False,
        True,
        True,
        True,
    ]
    assert all(x.not_positive is None and x.inactive is None for x in layers if x.why_not)
    # The sign of a score says nothing under a softmax.
    assert layers[6].not_positive is None and 0 <= layers[6].inactive < 1


def test_padding_of_windows_does_not_count(randomize):
    """A map of 8x8 in windows of 5: whole ones and such of 5x3, 3x5 and 3x3 positions."""
    mixer = dict(type="window_attention", window_size=5, head_dim=8, coefficient_act_cfg="GELU")
    backbone = randomize(MetaFormer(ARCH, token_mixers=mixer, out_indices=(0,))).eval()
    picture = image(3, 32, 32)
    (layer,) = activation_sparsity(backbone, [picture], ("token",), threshold=0.5)
    x = backbone.downsample_layers[0](picture[None])[0]
    qkv = backbone.stages[0][0].token_mixer.qkv.weight
    found = []
    for rows in (slice(0, 5), slice(5, 8)):
        for columns in (slice(0, 5), slice(5, 8)):
            tokens = x[:, rows, columns].flatten(1).T
            scores = (tokens @ qkv[:8].T) @ (tokens @ qkv[8:16].T).T / 8**0.5
            found.append(scores.flatten())
    scores = torch.cat(found)
    activity = torch.nn.functional.gelu(scores).abs()
    inactive = activity <= 0.5 * activity.square().mean().sqrt()
    assert layer.not_positive == pytest.approx((scores <= 0).double().mean().item())
    assert layer.inactive == pytest.approx(inactive.double().mean().item())
    assert 0.1 < layer.not_positive < 0.9 and 0.1 < layer.inactive < 0.9


def test_fused_and_not(randomize):
    arch = dict(depths=[1, 1, 1, 1], dims=[8, 16, 32, 64])
    backbone = randomize(create_backbone("ffnet_1", **arch)).eval()
    images = image(1, 3, 64, 64)
    before, after = (
        activation_sparsity(network, images, ("token", "channel"))
        for network in (backbone, switch_to_deploy(backbone))
    )
    assert len(before) == len(after) == 8
    for one, other in zip(before, after, strict=True):
        assert one.not_positive == pytest.approx(other.not_positive, abs=2e-3)
        assert one.inactive == pytest.approx(other.inactive, abs=2e-3)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="threshold must not be negative, got -0.1"):
        activation_sparsity(with_keys(1.0, 0.0), image(1, 3, 32, 32), threshold=-0.1)
    with pytest.raises(ValueError, match="an average over images, got none"):
        activation_sparsity(with_keys(1.0, 0.0), [])
