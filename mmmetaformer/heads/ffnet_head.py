"""The decode head of FFNet_seg."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmengine.model import BaseModule, Sequential
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones.base import linear_drop_path
from ..channel_mixers import ConvNeXt
from ..layers import ConvNorm, DropPath, build_activation
from ..mixers import FFNifiedAttention
from ..registry import MODELS
from ..weights import PublishedNames
from ..weights.layouts import HEAD_LAYOUTS

_GELU = dict(type="GELU")
_BN = dict(type="BN")


class FFNetHeadBlock(BaseModule):
    """FFNified attention and a ConvNeXt block whose kernels are trained beside strips, with an
    activation after each residual sum; for the arguments see :class:`FFNetHead`.

    Shape:
        (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(
        self,
        dim: int,
        spatial_kernel: int,
        channel_kernel: int,
        ratio: float,
        drop_path_rate: float,
        act_cfg: dict | None,
        norm_cfg: dict | None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = dict(strips=True, act_cfg=act_cfg, norm_cfg=norm_cfg)
        self.token_mixer = FFNifiedAttention(dim, spatial_kernel, **options)
        self.mlp = ConvNeXt(dim, channel_kernel, ratio=ratio, **options)
        # The release initialises its backbone, and leaves torch's initialisation in the head.
        self.token_mixer.init_cfg = self.mlp.init_cfg = None
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()
        self.act = build_activation(act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(x + self.drop_path(self.token_mixer(x)))
        return self.act(x + self.drop_path(self.mlp(x)))


@MODELS.register_module()
class FFNetHead(PublishedNames, BaseDecodeHead):
    """The head of FFNet_seg (`MetaMixer <https://arxiv.org/abs/2406.02021>`_): the maps are brought
    to the size of the first, concatenated, squeezed to ``head_width`` channels, mixed by blocks,
    widened to ``channels`` and classified. A state dict may have the names of the release.

    Args:
        in_channels: Channels of the maps, those of stride 8, 16 and 32 as published.
        channels: Channels in front of the classifier.
        in_index: Which of the backbone's maps; all of them, in order, unless given.
        head_width, head_depth: Channels of the blocks, and their number.
        spatial_kernel, channel_kernel: Side of the kernels of the blocks' token mixers, and of
            their channel mixers.
        ratio: Hidden channels of the blocks' channel mixers over ``head_width``.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from the first.
        norm_cfg: The norms; BatchNorm can be fused.
        init_cfg: Initialisation; the default is mmseg's, a normal distribution for the classifier
            and torch's own initialisation for the rest, as in the release.
        **kwargs: As for mmseg's ``BaseDecodeHead``.

    Shape:
        Maps (B, C_i, H_i, W_i) -> logits (B, num_classes, H_0, W_0)

    Raises:
        TypeError: If ``in_channels`` is no list.
        ValueError: If there are no blocks or not one index per map.
    """

    # What mmseg's class has, without types.
    align_corners: bool
    cls_seg: Callable[[Tensor], Tensor]
    _transform_inputs: Callable[[list[Tensor]], list[Tensor]]

    layouts = HEAD_LAYOUTS
    class_names = (r"^conv_seg\.",)

    def __init__(
        self,
        in_channels: list[int],
        channels: int = 1024,
        *,
        num_classes: int,
        in_index: list[int] | None = None,
        head_width: int = 256,
        head_depth: int = 3,
        spatial_kernel: int = 9,
        channel_kernel: int = 9,
        ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        act_cfg: dict | None = _GELU,
        norm_cfg: dict | None = _BN,
        **kwargs: Any,
    ) -> None:
        if not isinstance(in_channels, list | tuple):
            raise TypeError(f"in_channels must be a list, one entry per map, got {in_channels!r}")
        in_index = list(range(len(in_channels))) if in_index is None else list(in_index)
        if len(in_index) != len(in_channels):
            raise ValueError(
                f"in_index must name one map for each of in_channels={in_channels}, got {in_index}"
            )
        if type(head_depth) is not int or head_depth < 1:
            raise ValueError(f"head_depth must be a positive integer, got {head_depth!r}")
        super().__init__(
            in_channels=in_channels,
            channels=channels,
            num_classes=num_classes,
            in_index=in_index,
            input_transform="multiple_select",
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            **kwargs,
        )
        total = sum(in_channels)
        self.squeeze = nn.Sequential(
            ConvNorm(total, total, norm_cfg=norm_cfg),
            build_activation(act_cfg),
            ConvNorm(total, head_width, norm_cfg=norm_cfg),
        )
        sizes = head_width, spatial_kernel, channel_kernel, ratio
        rates = linear_drop_path(drop_path_rate, head_depth)
        self.blocks = Sequential(*(FFNetHeadBlock(*sizes, r, act_cfg, norm_cfg) for r in rates))
        self.widen = nn.Sequential(
            ConvNorm(head_width, channels, norm_cfg=norm_cfg), build_activation(act_cfg)
        )

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """The backbone's maps to logits (B, num_classes, H_0, W_0)."""
        maps = self._transform_inputs(inputs)
        size = maps[0].shape[2:]
        # To the exact size, which doubling misses where a side is odd.
        maps = [
            level
            if level.shape[2:] == size
            else F.interpolate(level, size, mode="bicubic", align_corners=self.align_corners)
            for level in maps
        ]
        return self.cls_seg(self.widen(self.blocks(self.squeeze(torch.cat(maps, dim=1)))))
