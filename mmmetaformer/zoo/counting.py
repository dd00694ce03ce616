"""Parameters and operations of whole detectors and segmentors, and of ImageNet models."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..backbones.arch import find_variant
from ..backbones.factory import build_backbone
from ..backbones.variants import FAMILIES
from ..engine.complexity import count_macs, count_minor_operations, count_parameters
from ..layers import switch_to_deploy

# Heads that look at regions are left out: what they do depends on how many regions there are.
DETECTION_IMAGE = (800, 1280)
DETECTION_PARTS = "backbone, neck and dense head"
SEGMENTATION_PARTS = "backbone, neck and decode head"

# Families whose classifier is an MLP of ratio 4 with a LayerNorm in it.
_MLP_CLASSIFIER = ("convformer", "caformer")
_WITHOUT_LAST_NORM = ("convmixer",)


# How FLOPs are counted, in the order of the fields of Counts.
COUNTERS = ("MACs", "MMCV")


class Counts(NamedTuple):
    """Figures of one network: multiply-accumulate operations, and those with the biases, norms and
    pooling that MMCV's counter adds."""

    parameters: int
    macs: int
    mmcv_flops: int


class DensePath(nn.Module):
    """The part of a detector or segmentor that sees the whole image, as a module to count."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> object:
        model = self.model
        features = model.extract_feat(image)
        if hasattr(model, "decode_head"):
            return model.decode_head(features)
        return (model.rpn_head if hasattr(model, "rpn_head") else model.bbox_head)(features)


class ImageNetModel(nn.Module):
    """A backbone as it was pre-trained: without what dense prediction adds, with its classifier."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        family = find_variant(arch)["family"]
        options: dict = dict(out_norm_cfg=None)
        if FAMILIES[family]["structure"] == "isotropic":
            options["pyramid"] = None
        self.backbone = build_backbone(arch, **options)
        dim = self.backbone.out_channels[-1]
        self.norm = nn.Identity() if family in _WITHOUT_LAST_NORM else nn.LayerNorm(dim)
        self.classifier: nn.Module = nn.Linear(dim, 1000)
        if family in _MLP_CLASSIFIER:
            hidden = 4 * dim
            self.classifier = nn.Sequential(
                nn.Linear(dim, hidden), nn.LayerNorm(hidden), nn.Linear(hidden, 1000)
            )

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.norm(self.backbone(image)[-1].mean((2, 3))))


def build_on_meta(cfg: Config) -> nn.Module:
    """The model of a config without memory for its weights, in eval mode."""
    model = cfg.model.copy()
    model.backbone = model.backbone.copy()
    model.backbone.pop("init_cfg", None)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        return MODELS.build(model).eval()


def image_of(cfg: Config) -> tuple[int, int]:
    """Rows and columns at which the operations of a config are stated."""
    if cfg.default_scope == "mmdet":
        return DETECTION_IMAGE
    return tuple(cfg.model.data_preprocessor.size)


def parts_of(cfg: Config) -> str:
    """What of a config's model the operations are those of."""
    return DETECTION_PARTS if cfg.default_scope == "mmdet" else SEGMENTATION_PARTS


def count_config(cfg: Config, image: tuple[int, int] | None = None, fused: bool = False) -> Counts:
    """Count the model of a config.

    Args:
        cfg: The whole config.
        image: Rows and columns of the image; None for those of :func:`image_of`.
        fused: Whether the branches that merge for prediction are merged.

    Returns:
        The parameters of the whole model, and the operations of :func:`parts_of` it.
    """
    model = build_on_meta(cfg)
    return _count(model, DensePath(model), image or image_of(cfg), fused)


@functools.cache
def count_arch(arch: str, image: tuple[int, int] = (224, 224), fused: bool = False) -> Counts:
    """Count the ImageNet model of an arch, with its classifier of 1000 classes."""
    with torch.device("meta"):
        model = ImageNetModel(arch).eval()
    return _count(model, model, image, fused)


@functools.cache
def count_bare_backbone(arch: str) -> int:
    """Parameters of an arch up to its last stage, without a norm or a classifier behind it."""
    with torch.device("meta"):
        return count_parameters(ImageNetModel(arch).backbone)


def _count(model: nn.Module, path: nn.Module, image: tuple[int, int], fused: bool) -> Counts:
    if fused:
        switch_to_deploy(model)
    macs = count_macs(path, *image)
    return Counts(count_parameters(model), macs, macs + count_minor_operations(path, *image))
