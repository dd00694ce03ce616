"""What each network of the table promises a neck, whatever it is made of."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torchvision
from torch.nn.modules.batchnorm import _BatchNorm

from mmmetaformer import create_backbone, list_archs
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.mixers.pooling import Pooling
from mmmetaformer.variants import FAMILIES, VARIANTS

SIZES = [(224, 224), (33, 65), (112, 137), (96, 320)]
ARCHS = list_archs()


def is_isotropic(name: str) -> bool:
    return FAMILIES[VARIANTS[name]["family"]]["structure"] == "isotropic"


ISOTROPIC = [name for name in ARCHS if is_isotropic(name)]


def thin(name: str, make=build_backbone, **kwargs):
    """The network with one block per stage, the same in everything else."""
    depth = dict(depth=4) if is_isotropic(name) else dict(depths=[1, 1, 1, 1])
    return make(name, **depth, **kwargs)


def level_sizes(name: str, height: int, width: int) -> list[tuple[int, int]]:
    """The arithmetic of the published convolutions (7x7 s4 p2, then 3x3 s2 p1; FFNet: kernels
    that halve, rounded up), or the exact sizes that isotropic networks promise."""
    if is_isotropic(name) or name.startswith("ffnet"):
        return [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
    sizes = [((height - 3) // 4 + 1, (width - 3) // 4 + 1)]
    for _ in range(3):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


@pytest.mark.parametrize("name", ARCHS)
def test_channels_strides_and_sizes(name):
    """On the meta device, so that the largest network costs nothing."""
    with torch.device("meta"):
        backbone = build_backbone(name)
        assert backbone.out_strides == (4, 8, 16, 32)
        for size in SIZES:
            levels = backbone(torch.empty(2, 3, *size))
            assert [level.shape[1] for level in levels] == list(backbone.out_channels)
            assert [tuple(level.shape[2:]) for level in levels] == level_sizes(name, *size)
            assert all(level.shape[0] == 2 for level in levels)


@pytest.mark.parametrize("name", ARCHS)
def test_real_outputs_are_finite_at_an_odd_size(name):
    backbone = thin(name).eval()
    with torch.no_grad():
        levels = backbone(torch.randn(2, 3, 112, 137))
    assert [tuple(level.shape[2:]) for level in levels] == level_sizes(name, 112, 137)
    assert all(level.isfinite().all() for level in levels)


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_maps_are_contiguous(name, mode):
    """What mmcv's operators assume without asking: RoIAlign on a map with innermost channels
    returns noise."""
    maps = thin(name)
    plain = thin(name, pyramid=None) if is_isotropic(name) else maps
    for backbone in (maps, plain):
        levels = backbone.train(mode)(torch.randn(2, 3, 48, 64))
        assert [level.is_contiguous() for level in levels] == [True] * 4


@pytest.mark.parametrize("name", ["caformer_s18", "ffnet_1", "mlp_mixer_s16"])
def test_regions_of_the_maps(name):
    """The mean over a region by RoIAlign is that by torchvision's, which takes any layout."""
    RoIAlign = pytest.importorskip("mmcv.ops").RoIAlign
    with torch.no_grad():
        levels = thin(name).eval()(torch.randn(2, 3, 64, 96))
    regions = torch.tensor([[0, 2.0, 3.0, 60.0, 50.0], [1, 10.0, 0.0, 90.0, 40.0]])
    for level, stride in zip(levels, (4, 8, 16, 32), strict=True):
        ours = RoIAlign(7, 1 / stride, 2)(level, regions)
        theirs = torchvision.ops.roi_align(level, regions, 7, 1 / stride, 2, aligned=True)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ISOTROPIC)
def test_plain_maps(name):
    """pyramid=None: four maps of the network's own stride."""
    stride = VARIANTS[name]["stem"]["patch_size"]
    with torch.device("meta"):
        backbone = build_backbone(name, pyramid=None)
        levels = backbone(torch.empty(1, 3, 224, 137))
    assert backbone.out_strides == (stride,) * 4
    assert backbone.out_channels == (VARIANTS[name]["dim"],) * 4
    assert {tuple(level.shape[2:]) for level in levels} == {(-(-224 // stride), -(-137 // stride))}


@pytest.mark.parametrize("name", ARCHS)
def test_every_parameter_receives_a_gradient(name, randomize):
    backbone = randomize(create_backbone(name))
    sum(level.square().mean() for level in backbone(torch.randn(2, 3, 33, 65))).backward()
    # A bias in front of a pooling cancels, and what is left of its gradient is at most rounding.
    blocks = [block for _, _, block in backbone.numbered_blocks()]
    cancelled = {
        id(getattr(b.norm1, "bias", None)) for b in blocks if isinstance(b.token_mixer, Pooling)
    }
    without = [
        name
        for name, parameter in backbone.named_parameters()
        if parameter.grad is None
        or not (parameter.grad.abs().sum() > 0 or id(parameter) in cancelled)
    ]
    assert without == []


@pytest.mark.parametrize("name", ARCHS)
def test_checkpointed_equals_plain(name, randomize):
    """Outputs, gradients, running statistics; drop path draws the same images again."""
    x = torch.randn(3, 3, 40, 56)
    plain = randomize(thin(name, drop_path_rate=0.3)).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.with_cp = True
    results = []
    for backbone in (plain, checkpointed):
        torch.manual_seed(1)
        levels = backbone(x)
        sum(level.square().mean() for level in levels).backward()
        gradients = {name: p.grad for name, p in backbone.named_parameters()}
        results.append((levels, gradients, dict(backbone.named_buffers())))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ARCHS)
def test_freezing(name):
    """The stem and the first k stages, and nothing else; the pyramid never."""
    for frozen in (-1, 0, 1, 2, 4):
        with torch.device("meta"):
            backbone = thin(name, frozen_stages=frozen)
        for parameter_name, parameter in backbone.named_parameters():
            stem = parameter_name.startswith(("stem.", "downsample_layers.0."))
            found = re.search(r"^(?:norm|[a-z_]+\.)(\d+)\.", parameter_name)
            stage = -1 if stem else int(found.group(1)) if found else 99
            trained = stage >= frozen and not (stem and frozen >= 0)
            assert parameter.requires_grad == trained, (frozen, parameter_name)
        backbone.train()
        assert all(
            module.training == any(p.requires_grad for p in module.parameters(recurse=False))
            for module in backbone.modules()
            if list(module.parameters(recurse=False))
        )


@pytest.mark.parametrize("name", ARCHS)
def test_norm_eval(name):
    backbone = thin(name, norm_eval=True).train()
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    has_batch_norm = name.startswith(("convmixer", "ffnet")) or name == "metaformer_s12_bn"
    assert bool(norms) == has_batch_norm
    assert not any(norm.training for norm in norms)
    backbone.norm_eval = False
    assert all(module.training for module in backbone.train().modules())


# Older versions of torch have no autocast to float16 on the CPU.
FLOAT16 = pytest.param(torch.float16, marks=pytest.mark.torch("2.4"))
DTYPES = pytest.mark.parametrize("dtype", [FLOAT16, torch.bfloat16], ids=["fp16", "bf16"])


@DTYPES
@pytest.mark.parametrize("name", ARCHS)
def test_autocast_is_finite(name, dtype, randomize):
    """Forward and backward, one block per stage, weights that all count."""
    backbone = randomize(thin(name)).train()
    with torch.autocast("cpu", dtype):
        levels = backbone(torch.randn(2, 3, 64, 96))
    assert all(level.isfinite().all() for level in levels)
    sum(level.float().square().mean() for level in levels).backward()
    assert all(parameter.grad.isfinite().all() for parameter in backbone.parameters())


@DTYPES
@pytest.mark.parametrize(
    "name",
    ["poolformer_s12", "metaformer_s12_ppaa", "metaformer_s12_ppff", "identityformer_s12",
     "randformer_s12", "poolformerv2_s12", "convformer_s18", "caformer_s18", "mlp_mixer_s32"],
)  # fmt: skip
def test_autocast_at_full_depth_and_fresh(name, dtype):
    backbone = create_backbone(name).train()
    with torch.autocast("cpu", dtype):
        levels = backbone(torch.randn(1, 3, 64, 96))
    assert all(level.isfinite().all() and level.float().std() > 0 for level in levels)
