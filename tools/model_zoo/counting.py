"""Parameters and operations of whole detectors, segmentors and image classifiers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmmetaformer.engine.complexity import count_macs, count_minor_operations, count_parameters
from mmmetaformer.layers import switch_to_deploy

# Heads that look at regions are left out: what they do depends on how many regions there are.
DETECTION_IMAGE = (800, 1280)
_PARTS = {
    "mmdet": "backbone, neck and dense head",
    "mmseg": "backbone, neck and decode head",
    "mmpretrain": "whole classifier",
}
# The head that sees the whole image is the first of these that a model has.
_HEADS = ("head", "decode_head", "rpn_head", "bbox_head")

# How FLOPs are counted, in the order of the fields of Counts.
COUNTERS = ("MACs", "MMCV")
# What parameters are counted of where it is not a whole model.
PARTS = ("backbone", "random matrices")


class Counts(NamedTuple):
    """Figures of one network: multiply-accumulate operations, and those with the biases, norms and
    pooling that MMCV's counter adds."""

    parameters: int
    macs: int
    mmcv_flops: int


class DensePath(nn.Module):
    """The part of a model that sees the whole image, as a module to count: all of a classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> object:
        head = next(getattr(self.model, name) for name in _HEADS if hasattr(self.model, name))
        return head(self.model.extract_feat(image))


def build_on_meta(cfg: Config) -> nn.Module:
    """The model of a config without memory for its weights, in eval mode."""
    model = cfg.model.copy()
    model.backbone = model.backbone.copy()
    model.backbone.pop("init_cfg", None)
    if cfg.default_scope == "mmpretrain":
        model.pop("train_cfg", None)  # mixed images, about which it prints a line
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        return MODELS.build(model).eval()


def image_of(cfg: Config) -> tuple[int, int]:
    """Rows and columns at which the operations of a config are stated.

    Raises:
        ValueError: If a classifier is not tested on a central crop.
    """
    if cfg.default_scope == "mmdet":
        return DETECTION_IMAGE
    if cfg.default_scope == "mmseg":
        return tuple(cfg.model.data_preprocessor.size)
    pipeline = cfg.test_dataloader.dataset.pipeline
    crops = [step.crop_size for step in pipeline if step.type == "CenterCrop"]
    if len(crops) != 1:
        raise ValueError(
            f"expected one CenterCrop in the test pipeline of a classifier, got {len(crops)}: its "
            "operations are stated at the crop"
        )
    return crops[0], crops[0]


def parts_of(cfg: Config) -> str:
    """What of a config's model the operations are those of."""
    return _PARTS[cfg.default_scope]


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
    if fused:
        switch_to_deploy(model)
    path, image = DensePath(model), image or image_of(cfg)
    macs = count_macs(path, *image)
    return Counts(count_parameters(model), macs, macs + count_minor_operations(path, *image))


def count_part(cfg: Config, part: str) -> int:
    """Entries of one part of a config's model, one of ``PARTS``: the parameters of its backbone,
    output norms and pyramid included, or the entries of its frozen random matrices.

    Raises:
        ValueError: If there is no such part.
    """
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}: expected {' or '.join(PARTS)}")
    backbone = build_on_meta(cfg).backbone
    if part == "backbone":
        return count_parameters(backbone)
    buffers = backbone.named_buffers()
    return sum(value.numel() for name, value in buffers if name.endswith("random_matrix"))
