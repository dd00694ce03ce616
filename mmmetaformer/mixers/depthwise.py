"""Depthwise convolution."""

from torch import Tensor, nn

from ..layers import build_activation, build_norm
from ..registry import TOKEN_MIXERS


def same_padding(kernel_size: int) -> int:
    """Padding that keeps the size of a map under an odd kernel.

    Raises:
        ValueError: If the kernel is not a positive odd integer.
    """
    if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be a positive odd integer, got {kernel_size!r}")
    return kernel_size // 2


@TOKEN_MIXERS.register_module(name=["depthwise", "DepthwiseConv"])
class DepthwiseConv(nn.Module):
    """One learnable filter per channel.

    Alone it is the depthwise row in the ablation of `MetaFormer Is Actually What You Need for
    Vision <https://arxiv.org/abs/2111.11418>`_, whose kernel and bias the paper does not name;
    with an activation and a norm behind it, it is the first half of a `ConvMixer
    <https://arxiv.org/abs/2201.09792>`_ layer.

    Args:
        dim: Number of channels C.
        kernel_size: Side of the kernel, odd.
        bias: Whether the convolution has a bias.
        act_cfg: Activation behind the convolution, or None.
        norm_cfg: Norm behind the activation, or None.

    Shape:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: If ``kernel_size`` is not a positive odd integer.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        bias: bool = True,
        act_cfg: dict | None = None,
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        padding = same_padding(kernel_size)
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=padding, groups=dim, bias=bias)
        self.act = build_activation(act_cfg)
        self.norm = build_norm(norm_cfg, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.conv(x)))
