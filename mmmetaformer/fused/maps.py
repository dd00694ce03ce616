"""Dtypes and memory formats of maps (B, C, H, W) in the fused path."""

from __future__ import annotations

import torch
from torch import Tensor

from ..compat import autocast_dtype

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that values of a dtype are computed and added up in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype of matrix products: autocast's, else that of the weights."""
    autocast = None if x.dtype == torch.float64 else autocast_dtype(x.device.type)
    return autocast or weight.dtype


def cast_like(value: Tensor | None, like: Tensor) -> Tensor | None:
    """The value in the dtype of ``like``."""
    return None if value is None else value.to(like.dtype)


def gradient_like(parameter: Tensor | None, grad: Tensor | None) -> Tensor | None:
    """The gradient in dtype and shape of its parameter; None where either is None."""
    if parameter is None or grad is None:
        return None
    return grad.to(parameter.dtype).view(parameter.shape)


def per_image(values: Tensor) -> Tensor:
    """Values (B,) or (B, C) that broadcast against a map."""
    return values.view(*values.shape, *(1,) * (4 - values.dim()))


def per_channel(values: Tensor) -> Tensor:
    """Values (C,) that broadcast against a map."""
    return values.view(-1, 1, 1)


def to_rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()


def from_rows(rows: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), a view."""
    return rows.permute(0, 3, 1, 2)


def to_channels_last(x: Tensor) -> Tensor:
    """The map in channels_last."""
    if x.device.type != "cpu" or not x.is_contiguous():
        return x.contiguous(memory_format=torch.channels_last)
    if is_channels_last(x):
        return x
    # For the transpose of a matrix the CPU has a loop that takes a quarter of the time.
    result = torch.empty_like(x, memory_format=torch.channels_last)
    for image, rows in zip(x, to_rows(result), strict=True):
        rows.flatten(0, 1).copy_(image.flatten(1).t())
    return result


def is_channels_last(x: Tensor) -> bool:
    """Whether a map lies in memory as (B, H, W, C)."""
    return x.is_contiguous(memory_format=torch.channels_last)


def match_format(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient by ``x`` in channels_last if ``x`` is."""
    return to_channels_last(grad) if is_channels_last(x) else grad


def has_fast_products(*maps: Tensor) -> bool:
    """Whether oneDNN can work on the maps as they are, and as matrices of float32. torch's own
    matrix products go to another library, which is slower on some processors."""
    return (
        _HAS_ONEDNN
        and bool(torch.backends.mkldnn.enabled)
        and all(
            x.dtype == torch.float32
            and x.device.type == "cpu"
            and x.numel() > 0
            and is_channels_last(x)
            for x in maps
        )
    )
