"""The stem of an isotropic network."""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS
from .activation import build_activation
from .norm import build_norm

_GELU = dict(type="GELU")
_BN = dict(type="BN")


@MODELS.register_module()
class PatchEmbedding(BaseModule):
    """A convolution whose kernel is its stride.

    The image is padded with zeros at its right and its bottom to a multiple of the stride, so
    the map has ``ceil(H / stride)`` rows.

    Networks with patches of 7 or 14 pixels have no place in a pyramid of strides 4, 8, 16, 32.
    Another ``stride`` than the patch size resamples the kernel to patches of that size by the
    pseudo-inverse of bilinear resizing (`FlexiViT <https://arxiv.org/abs/2212.08013>`_, section
    3.4): an image enlarged by ``stride / patch_size`` gives the same features as the original
    image under the original kernel. The parameter keeps its published shape and is resampled in
    each forward pass, so it can be trained and saved as it is.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the output.
        patch_size: Side of the kernel as published.
        stride: Side of the patches and stride of the map; None means ``patch_size``.
        init_cfg: Initialisation; None leaves torch's.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: If ``stride`` is smaller than ``patch_size``, which would lose information.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        patch_size: int,
        stride: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.patch_size = patch_size
        self.stride = patch_size if stride is None else stride
        if self.stride < patch_size:
            raise ValueError(f"stride must be at least patch_size={patch_size}, got {stride!r}")
        self.conv = nn.Conv2d(in_channels, out_channels, patch_size, patch_size)
        # A constant that follows from the sizes: no part of a checkpoint.
        self.register_buffer("resize", None, persistent=False)
        if self.stride != patch_size:
            resize = _pseudo_inverse_resize(patch_size, self.stride)
            self.resize = resize.to(self.conv.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        right, bottom = -width % self.stride, -height % self.stride
        if right or bottom:
            x = F.pad(x, (0, right, 0, bottom))
        weight = self.conv.weight
        if self.resize is not None:
            weight = (weight.flatten(2) @ self.resize.to(weight.dtype)).unflatten(
                2, (self.stride, self.stride)
            )
        return F.conv2d(x, weight, self.conv.bias, self.stride)


@MODELS.register_module()
class PatchActNorm(PatchEmbedding):
    """Patch embedding, activation, norm: the stem of a `ConvMixer
    <https://arxiv.org/abs/2201.09792>`_.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the output.
        patch_size: Side of the kernel as published.
        stride: Side of the patches and stride of the map; None means ``patch_size``.
        act_cfg: Activation; None means none.
        norm_cfg: Norm; None means none.
        init_cfg: Initialisation; None leaves torch's.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        patch_size: int,
        stride: int | None = None,
        act_cfg: dict | None = _GELU,
        norm_cfg: dict | None = _BN,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, patch_size, stride, init_cfg)
        self.act = build_activation(act_cfg)
        self.norm = build_norm(norm_cfg, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(super().forward(x)))


def _pseudo_inverse_resize(size: int, new_size: int) -> Tensor:
    """The matrix (size², new_size²) that takes a flat kernel to patches of ``new_size``."""
    # Computed on the CPU also where a meta device is the default: it is a constant.
    basis = torch.eye(size * size, dtype=torch.double, device="cpu").view(-1, 1, size, size)
    resized = F.interpolate(basis, (new_size, new_size), mode="bilinear", align_corners=False)
    # Rows of ``resized`` are the enlarged unit patches: patch @ resized enlarges a flat patch.
    return torch.linalg.pinv(resized.flatten(1)).T.float()
