"""Reaching the mixers of every kind of backbone."""

from __future__ import annotations

import pytest
import torch

from instruments import mixer_sites, recording
from instruments.recording import activity_maps, measure
from mmmetaformer import MetaFormer, create_backbone
from mmmetaformer.metamixer import as_metamixer
from mmmetaformer.mixers import SepConv, WindowAttention

TINY = dict(depths=[2, 1, 3, 1], dims=[8, 8, 16, 16], norm_cfg="LN2d")


def test_blocks_of_a_hierarchical_network():
    backbone = MetaFormer(TINY, out_indices=(0, 2))
    numbers = [(stage, number) for stage, number, _ in backbone.numbered_blocks()]
    assert numbers == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
    blocks = [block for *_, block in backbone.numbered_blocks()]
    assert blocks == [block for stage in backbone.stages for block in stage]


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1,)])
def test_blocks_of_an_isotropic_network(out_indices):
    """Six blocks in quarters of 1, 2, 1 and 2."""
    backbone = create_backbone("convmixer_768_32", depth=6, dim=8, out_indices=out_indices)
    assert backbone.settings.depths() == [1, 2, 1, 2]
    numbers = [(stage, number) for stage, number, _ in backbone.numbered_blocks()]
    expected = [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]
    assert numbers == expected[: len(backbone.blocks)]
    assert [block for *_, block in backbone.numbered_blocks()] == list(backbone.blocks)


def test_sites_and_what_has_no_coefficients():
    mixers = ["pooling", "identity", "sepconv", "attention"]
    arch = dict(TINY, depths=[1, 1, 1, 1], channel_mixers=["mlp", None, "convnext", "mlp"])
    backbone = MetaFormer(arch, token_mixers=mixers[:3] + [dict(type="attention", head_dim=8)])
    sites = mixer_sites(backbone)
    assert [(site.layer, site.branch, site.mixer_name) for site in sites] == [
        (0, "token", "Pooling"), (0, "channel", "Mlp"),
        (1, "token", "Identity"), (1, "channel", None),
        (2, "token", "SepConv"), (2, "channel", "ConvNeXt"),
        (3, "token", "Attention"), (3, "channel", "Mlp"),
    ]  # fmt: skip
    assert {site.layer: site.why_not for site in sites if site.branch == "token"} == {
        0: "Pooling is not a MetaMixer: it has no keys and no coefficients",
        1: "Identity is not a MetaMixer: it has no keys and no coefficients",
        2: None,
        3: None,
    }
    assert sites[3].why_not == "the block has no channel mixer"
    assert [site.branch for site in mixer_sites(backbone, ("channel",))] == ["channel"] * 4


def test_mixers_are_measured_on_their_own_inputs(randomize):
    """The output of the mixer is that of what was recorded; hooks are gone behind it."""
    backbone = randomize(MetaFormer(TINY, token_mixers="sepconv")).train()
    image = torch.randn(3, 64, 64)
    sites = mixer_sites(backbone)
    outputs = {}
    handles = [
        site.mixer.register_forward_hook(lambda m, _, out: outputs.setdefault(m, out))
        for site in sites
    ]
    results = measure(backbone, image, sites, lambda mixer, x: mixer.aggregate(
        mixer.coefficients(x), x))  # fmt: skip
    for site, result in zip(sites, results, strict=True):
        torch.testing.assert_close(result, outputs[site.mixer])
    for handle in handles:
        handle.remove()
    assert backbone.training and not any(site.mixer._forward_pre_hooks for site in sites)


def test_too_many_coefficients_are_refused_and_hooks_removed(monkeypatch):
    """A map of 16x16 with attention: 256 keys in two heads for 256 positions."""
    attention = dict(type="attention", head_dim=4)
    backbone = MetaFormer(dict(TINY, token_mixers=attention), out_indices=(0,))
    sites = mixer_sites(backbone, ("token",))
    image = torch.randn(3, 64, 64)
    monkeypatch.setattr(recording, "MAX_COEFFICIENTS", 2 * 256 * 256)
    keys = measure(backbone, image, sites, lambda mixer, x: mixer.num_keys(x))
    assert keys == [512, 512]
    monkeypatch.setattr(recording, "MAX_COEFFICIENTS", 2 * 256 * 256 - 1)
    message = r"token mixer of block 0.0 \(Attention\) has 512 keys on a map of 16x16.* 131072 "
    with pytest.raises(ValueError, match=message):
        measure(backbone, image, sites, activity_maps)
    assert not any(site.mixer._forward_pre_hooks for site in sites)


def test_activity_is_the_distance_from_no_match(randomize):
    """A StarReLU with a bias of -0.5: what is switched off has that coefficient."""
    act_cfg = dict(type="StarReLU", scale=2.0, bias=-0.5)
    mixer = randomize(SepConv(8, act_cfg=None))
    view = as_metamixer(mixer)
    x = torch.randn(2, 8, 5, 6)
    scores = view.scores(x)
    coefficients, activity = activity_maps(view, x)  # no activation: scores, resting at 0
    torch.testing.assert_close(coefficients, scores)
    torch.testing.assert_close(activity, scores.abs())
    biased = SepConv(8, act_cfg=act_cfg)
    biased.load_state_dict(mixer.state_dict(), strict=False)
    coefficients, activity = activity_maps(as_metamixer(biased), x)
    torch.testing.assert_close(activity, 2 * scores.relu() ** 2)
    torch.testing.assert_close(coefficients, activity - 0.5)


def test_activity_of_a_softmax_is_the_coefficient_itself():
    mixer = WindowAttention(8, window_size=3, head_dim=4)
    coefficients, activity = activity_maps(mixer, torch.randn(1, 8, 4, 5))
    assert torch.equal(coefficients, activity)
    torch.testing.assert_close(coefficients.sum(1), torch.full((1, 4, 5), 2.0))


def test_coefficients_that_are_not_finite():
    with pytest.raises(ValueError, match="SepConv has coefficients that are not finite"):
        activity_maps(as_metamixer(SepConv(8)), torch.full((1, 8, 4, 4), torch.nan))
