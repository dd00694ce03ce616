"""FFNified attention: attention whose keys and values are weights."""

from ..metamixer import StaticMetaMixer
from ..registry import TOKEN_MIXERS

_GELU = dict(type="GELU")
_BN = dict(type="BN")


@TOKEN_MIXERS.register_module(name=["ffnified_attention", "FFNifiedAttention"])
class FFNifiedAttention(StaticMetaMixer):
    """The MetaMixer of FFNet (`MetaMixer <https://arxiv.org/abs/2406.02021>`_): queries by a 1x1
    projection, keys and values by depthwise convolutions.

    Up to 3, a kernel is one convolution with a bias; larger ones are trained as the sum of one of
    that size and one of 3, each with its norm. ``strips`` adds a row and a column (see
    :class:`~mmmetaformer.layers.DepthwiseRepConv`) and a norm to all sizes.

    Args:
        dim: Number of channels C.
        kernel_size: Side of the depthwise kernels, odd.
        strips: Train each kernel with strips beside it, as FFNet_seg.
        act_cfg: Activation of the coefficients.
        norm_cfg: Norms of the projection and of the branches; BatchNorm can be fused.
        init_cfg: Initialisation; the default is a normal distribution with standard deviation
            0.02.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 7,
        strips: bool = False,
        act_cfg: dict | None = _GELU,
        norm_cfg: dict | None = _BN,
        init_cfg: dict | None = None,
    ) -> None:
        depthwise = dict(type="DepthwiseRepConv", strips=strips, norm_cfg=norm_cfg)
        if kernel_size <= 3 and not strips:
            depthwise = dict(type="DepthwiseConv2d")
        depthwise["kernel_size"] = kernel_size
        super().__init__(
            dim,
            query=dict(type="ConvNorm", norm_cfg=norm_cfg),
            key=depthwise,
            value=depthwise,
            act_cfg=act_cfg,
            init_cfg=init_cfg,
        )
