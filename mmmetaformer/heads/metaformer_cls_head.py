"""The classifier of the MetaFormer baselines."""

from __future__ import annotations

from typing import Any

from mmcv.cnn import build_norm_layer
from mmpretrain.models.heads import ClsHead
from torch import Tensor, nn

from ..layers import build_activation
from ..registry import MODELS

_LN = dict(type="LN", eps=1e-6)
_HIDDEN_LN = dict(type="LN", eps=1e-5)
_SQUARED_RELU = dict(type="SquaredReLU")


@MODELS.register_module()
class MetaFormerClsHead(ClsHead):
    """A norm of the pooled features and a classifier, which is linear in IdentityFormer, RandFormer
    and PoolFormerV2 and has a hidden layer in ConvFormer and CAFormer (`MetaFormer Baselines for
    Vision <https://arxiv.org/abs/2210.13452>`_).

    Args:
        hidden_ratio: Hidden channels over ``in_channels``; None for a linear classifier.
        dropout_ratio, act_cfg: Dropout and activation of the hidden layer.
        hidden_norm_cfg: The norm behind the activation. timm's copy has the epsilon 1e-6 there.
        init_cfg: Initialisation; the default is the published one.
        **kwargs: As for mmpretrain's ``ClsHead``: ``loss``, ``topk``, ``cal_acc``.

    Shape:
        Pooled features, the last of a tuple, (B, in_channels) -> logits (B, num_classes)

    Raises:
        ValueError: If a number is out of its range, or dropout is asked for without a hidden layer.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        hidden_ratio: float | None = None,
        dropout_ratio: float = 0.0,
        act_cfg: dict | None = _SQUARED_RELU,
        norm_cfg: dict = _LN,
        hidden_norm_cfg: dict = _HIDDEN_LN,
        init_cfg: dict | list[dict] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            init_cfg=init_cfg or dict(type="TruncNormal", layer="Linear", std=0.02), **kwargs
        )
        if num_classes < 1:
            raise ValueError(f"num_classes must be positive, got {num_classes!r}")
        if hidden_ratio is not None and hidden_ratio <= 0:
            raise ValueError(f"hidden_ratio must be positive or None, got {hidden_ratio!r}")
        if not 0 <= dropout_ratio < 1:
            raise ValueError(f"dropout_ratio must be in [0, 1), got {dropout_ratio!r}")
        if dropout_ratio > 0 and hidden_ratio is None:
            raise ValueError("dropout_ratio is for the hidden layer, and hidden_ratio is None")
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.hidden_ratio = hidden_ratio
        self.norm = build_norm_layer(norm_cfg, in_channels)[1]
        if hidden_ratio is None:
            self.fc = nn.Linear(in_channels, num_classes)
            return
        hidden = int(in_channels * hidden_ratio)
        self.fc1 = nn.Linear(in_channels, hidden)
        self.act = build_activation(act_cfg)
        self.hidden_norm = build_norm_layer(hidden_norm_cfg, hidden)[1]
        self.dropout = nn.Dropout(dropout_ratio)
        self.fc2 = nn.Linear(hidden, num_classes)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """The input of the last linear layer, (B, in_channels) or (B, hidden)."""
        x = self.norm(feats[-1])
        return x if self.hidden_ratio is None else self.hidden_norm(self.act(self.fc1(x)))

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        x = self.pre_logits(feats)
        return self.fc(x) if self.hidden_ratio is None else self.fc2(self.dropout(x))
