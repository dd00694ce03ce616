"""The stem of an isotropic network."""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS
from . import padding
from .activation import build_activation
from .norm_config import build_norm

_GELU = dict(type="GELU")
_BN = dict(type="BN")


@MODELS.register_module()
class PatchEmbedding(BaseModule):
    """A convolution whose kernel is its stride.

    The image is padded with zeros at its right and its bottom to a multiple of the stride, so
    the map has ``ceil(H / stride)`` rows.

    Networks with patches of 7 or 14 pixels have no place in a pyramid of strides 4, 8, 16, 32.
    Another ``stride`` than the patch size is what the kernel resampled to patches of that size by
    the pseudo-inverse of bilinear resizing would give (`FlexiViT
    <https://arxiv.org/abs/2212.08013>`_, section 3.4): an image enlarged by ``stride /
    patch_size`` gives the same features as the original image under the original kernel. The
    resampling is linear, so it is applied to the patches of the image instead, and the convolution
    stays the published one.

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
        x = padding.pad_to_multiple(x, self.stride, self.stride)
        if self.resize is not None:
            x = self._resize_patches(x, self.resize.to(x.dtype))
        return self.conv(x)

    def _resize_patches(self, x: Tensor, resize: Tensor) -> Tensor:
        """Patches of ``stride`` pixels to patches of ``patch_size``: rows, then columns."""
        x = x.unflatten(3, (-1, self.stride)) @ resize.t()  # (B, C, H, w, patch_size)
        x = x.flatten(3).transpose(2, 3).unflatten(3, (-1, self.stride)) @ resize.t()
        return x.flatten(3).transpose(2, 3)


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
    """The matrix (size, new_size) that takes a row of ``new_size`` pixels to ``size``: the
    pseudo-inverse of linear enlargement. Rows and columns are resized one after the other, as
    bilinear resizing does."""
    # Computed on the CPU also where a meta device is the default: it is a constant.
    units = torch.eye(size, dtype=torch.double, device="cpu")[None]
    enlarged = F.interpolate(units, new_size, mode="linear", align_corners=False)[0]
    # A row of pixels times ``enlarged``, (size, new_size), is the enlarged row.
    return torch.linalg.pinv(enlarged).T.float()
