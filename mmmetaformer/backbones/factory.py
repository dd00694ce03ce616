"""Backbones by name, outside of configs."""

from typing import Any

from ..registry import MODELS, find_part
from ..variants import FAMILIES, find_variant
from .base import Backbone


def create_backbone(name: str, **kwargs: Any) -> Backbone:
    """Build an initialised backbone.

    Args:
        name: One of ``list_archs()``, for instance ``'poolformer_s12'``.
        **kwargs: Arguments of the backbone, for instance ``out_indices``, ``drop_path_rate`` or
            ``init_cfg=dict(type='Pretrained', checkpoint=...)``.

    Raises:
        ValueError: If there is no such network; names the nearest ones.

    Example:
        >>> create_backbone('poolformer_s12', out_indices=(1, 2, 3)).out_strides
        (8, 16, 32)
    """
    backbone = build_backbone(name, **kwargs)
    backbone.init_weights()
    return backbone


def build_backbone(name: str, **kwargs: Any) -> Backbone:
    """As :func:`create_backbone`, but with torch's own initialisation; works on the meta device."""
    family = find_variant(name)["family"]
    return find_part(MODELS, FAMILIES[family]["backbone"])(name, **kwargs)
