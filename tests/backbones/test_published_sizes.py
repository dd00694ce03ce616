"""Parameters and operations against the published and the counted ones."""

from __future__ import annotations

import pytest
import torch

from mmmetaformer import list_archs
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.engine.complexity import count_macs, count_parameters
from mmmetaformer.variants import FAMILIES, VARIANTS

# ImageNet model with a norm of weight and bias and a linear classifier of 1000 classes: parameters
# in millions as published, GMACs at 224x224.
IMAGENET = {
    "poolformer_s12": (11.915176, 1.8),
    "poolformer_s24": (21.388968, 3.4),
    "poolformer_s36": (30.862760, 5.0),
    "poolformer_m36": (56.172520, 8.8),
    "poolformer_m48": (73.473448, None),  # the paper prints 11.6, counted it is 11.5
    "metaformer_s12_identity": (11.9, 1.8),
    "metaformer_s12_random": (11.9, 3.3),
    "metaformer_s12_depthwise": (11.9, 1.8),
    "metaformer_s12_no_mlp": (2.5, 0.2),
    "metaformer_s12_pppa": (14.0, 1.9),
    "metaformer_s12_ppaa": (16.5, 2.5),
    "metaformer_s12_pppf": (11.9, 1.8),
    "metaformer_s12_ppff": (12.2, 1.9),
    "convmixer_1536_20": (51.63, None),
    "convmixer_768_32": (21.11, None),
    "convmixer_1024_20": (24.38, None),
}
# The backbone alone, counted from the published code; GMACs of the table include the classifier.
BACKBONE = {
    "convformer_s18": (23.67, 3.9),
    "convformer_s36": (36.91, 7.6),
    "convformer_m36": (53.41, 12.8),
    "convformer_b36": (94.44, 22.6),
    "caformer_s18": (23.24, 4.1),
    "caformer_s36": (36.19, 8.0),
    "caformer_m36": (52.56, 13.2),
    "caformer_b36": (93.31, 23.2),
}
# One thing of PoolFormer-S12 changed that leaves its size alone.
AS_POOLFORMER = [
    f"metaformer_s12_{change}"
    for change in ("pool5", "pool7", "pool9", "ln", "bn", "relu", "silu", "no_residual")
]


def bare(name: str):
    """The published network up to its last stage."""
    options = dict(out_norm_cfg=None)
    if FAMILIES[VARIANTS[name]["family"]]["structure"] == "isotropic":
        options["pyramid"] = None
    with torch.device("meta"):
        return build_backbone(name, **options).eval()


def decimals(value: float) -> int:
    return len(str(value).partition(".")[2])


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_model(name):
    parameters, macs = IMAGENET[name]
    backbone = bare(name)
    channels = backbone.out_channels[-1]
    norm = 0 if name.startswith("convmixer") else 2 * channels
    count = count_parameters(backbone) + norm + 1000 * channels + 1000
    assert round(count / 1e6, decimals(parameters)) == parameters
    assert macs in (None, round(count_macs(backbone, 224, 224) / 1e9, 1))


@pytest.mark.parametrize("name", BACKBONE)
def test_backbone(name):
    parameters, macs = BACKBONE[name]
    backbone = bare(name)
    assert round(count_parameters(backbone) / 1e6, 2) == parameters
    assert round(count_macs(backbone, 224, 224) / 1e9, 1) == macs


@pytest.mark.parametrize("name", AS_POOLFORMER)
def test_ablations_that_leave_the_size_alone(name):
    backbone, poolformer = bare(name), bare("poolformer_s12")
    assert count_parameters(backbone) == count_parameters(poolformer)
    assert count_macs(backbone, 224, 224) == count_macs(poolformer, 224, 224)


def test_no_norm_lacks_just_the_norms():
    # Two norms of weight and bias in each block.
    norms = sum(
        2 * 2 * dim * depth for dim, depth in zip((64, 128, 320, 512), (2, 2, 6, 2), strict=True)
    )
    difference = count_parameters(bare("poolformer_s12")) - count_parameters(
        bare("metaformer_s12_no_norm")
    )
    assert difference == norms


def test_frozen_matrices_of_the_random_ablation():
    """21 million, at all four stages of a 224x224 image, none of them a parameter."""
    buffers = sum(buffer.numel() for buffer in bare("metaformer_s12_random").buffers())
    assert buffers == 2 * 3136**2 + 2 * 784**2 + 6 * 196**2 + 2 * 49**2
    assert round(buffers / 1e6) == 21


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mlp_mixer_b16", 59_880_472), ("mlp_mixer_l16", 208_196_168)],
)
def test_mlp_mixer(name, expected):
    """With timm's final norm and classifier."""
    backbone = bare(name)
    channels = backbone.out_channels[-1]
    assert count_parameters(backbone) + 2 * channels + 1000 * channels + 1000 == expected


def test_mixing_families_of_one_size_have_one_size():
    """Identity, random and pooling mixers have no parameters."""
    for size in ("s12", "s24", "s36", "m36", "m48"):
        counts = {
            count_parameters(bare(f"{family}_{size}"))
            for family in ("identityformer", "randformer", "poolformerv2")
        }
        assert len(counts) == 1


@pytest.mark.parametrize(
    ("name", "training", "fused"),
    [("ffnet_1", 13.78, 13.66), ("ffnet_2", 27.21, 26.91), ("ffnet_3", 48.82, 48.33),
     ("ffnet_4", 79.87, 79.20)],
)  # fmt: skip
def test_ffnet_before_and_after_fusing(name, training, fused):
    """With the BatchNorm and the classifier of the ImageNet model."""
    backbone = bare(name)
    channels = backbone.out_channels[-1]
    head = 2 * channels + 1000 * channels + 1000
    assert round((count_parameters(backbone) + head) / 1e6, 2) == training
    assert round((count_parameters(backbone.switch_to_deploy()) + head) / 1e6, 2) == fused


def test_the_tables_of_this_file_name_known_archs():
    assert {*IMAGENET, *BACKBONE, *AS_POOLFORMER} <= set(list_archs())
