"""Networks of other libraries from our weights: the same maps, or an error."""

from __future__ import annotations

import pytest
import torch

from benchmarking.networks import build_network, build_ours, fill, has_network
from mmmetaformer import list_archs
from mmmetaformer.engine.errors import UserError


def archs(implementation: str) -> set[str]:
    return {name for name in list_archs() if has_network(implementation, name)}


def of_families(*families: str) -> set[str]:
    return {name for family in families for name in list_archs(f"{family}_*")}


def test_who_has_what():
    theirs = of_families(
        "poolformer", "poolformerv2", "convformer", "caformer", "convmixer", "mlp_mixer"
    )
    assert archs("timm") == theirs - {"mlp_mixer_h14"}
    theirs = of_families("poolformer", "convmixer", "mlp_mixer")
    assert archs("mmpretrain") == theirs - {"mlp_mixer_h14"}
    assert has_network("plain", "ffnet_1") and not has_network("fused", "ffnet_1")
    assert has_network("fused", "poolformer_s12")


@pytest.mark.parametrize(
    ("implementation", "arch", "size"),
    [
        ("timm", "poolformer_s12", 64),
        ("timm", "caformer_s18", 33),
        ("timm", "convmixer_768_32", 14),
        ("timm", "mlp_mixer_s32", 224),
        ("mmpretrain", "poolformer_s12", 65),
        ("mmpretrain", "convmixer_768_32", 14),
        ("mmpretrain", "mlp_mixer_s32", 224),
        ("fused", "poolformer_s12", 65),
        ("deploy", "ffnet_1", 64),
    ],
)
def test_the_same_maps(implementation, arch, size):
    """The weights show in them."""
    ours = build_ours(arch, "plain")
    fill(ours)
    theirs = build_network(arch, implementation, ours.state_dict())
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pairs = list(zip(theirs(image), ours(image), strict=True))
    assert len(pairs) == 4
    for found, expected in pairs:
        assert found.shape == expected.shape and 1e-2 < float(expected.std()) < 1e3
        assert float((found - expected).abs().max() / expected.std()) < 1e-3


def test_every_branch_of_filled_weights_shows():
    """With LayerScale as it starts, blocks would be invisible, and any of them would do."""
    ours = build_ours("poolformer_s12", "plain")
    fill(ours)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = ours(image)
        for block in ours.stages[2]:
            block.layer_scale2.scale.zero_()
        after = ours(image)
    assert torch.equal(before[1], after[1])
    assert float((before[2] - after[2]).std() / before[2].std()) > 0.1


def test_an_implementation_without_the_network():
    with pytest.raises(UserError, match="timm has no ffnet_1: leave timm out .there are poolform"):
        build_network("ffnet_1", "timm", {})


def test_the_environment_cannot_make_fused_plain(monkeypatch):
    monkeypatch.setenv("MMMETAFORMER_FUSED", "0")
    with pytest.raises(UserError, match="fused wants fused=True .* unset MMMETAFORMER_FUSED"):
        build_ours("poolformer_s12", "fused")
    assert build_ours("poolformer_s12", "plain").fused_path is False
