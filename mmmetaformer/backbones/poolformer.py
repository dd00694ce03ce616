"""PoolFormer."""

from collections.abc import Mapping
from typing import Any

from ..registry import MODELS
from .hierarchical import MetaFormer


@MODELS.register_module()
class PoolFormer(MetaFormer):
    """PoolFormer (`MetaFormer Is Actually What You Need for Vision
    <https://arxiv.org/abs/2111.11418>`_).

    Args:
        arch: ``'s12'``, ``'s24'``, ``'s36'``, ``'m36'``, ``'m48'``, or a dict with ``depths`` and
            ``dims``.
        pool_size: Side of the pooling window.
        **kwargs: As for :class:`MetaFormer`.

    Example:
        >>> backbone = PoolFormer('s12', out_indices=(1, 2, 3))
        >>> backbone.out_channels, backbone.out_strides
        ((128, 320, 512), (8, 16, 32))
    """

    family = "poolformer"

    def __init__(
        self, arch: str | Mapping[str, Any] = "s12", *, pool_size: int | None = None, **kwargs: Any
    ) -> None:
        if pool_size is not None:
            if "token_mixers" in kwargs or (isinstance(arch, Mapping) and "token_mixers" in arch):
                raise TypeError("pool_size and token_mixers cannot both be given")
            kwargs["token_mixers"] = dict(type="pooling", pool_size=pool_size)
        super().__init__(arch, **kwargs)
