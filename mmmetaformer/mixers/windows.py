"""Cutting a map into windows and putting it together again."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def to_windows(x: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Cut a map into windows that do not overlap, padded with zeros at the right and bottom.

    Args:
        x: (B, C, H, W).
        window: Rows h and columns w of a window.

    Returns:
        The windows (B * n, C, h * w), those of one image behind one another, and which of their
        positions lie in the image, (B * n, h * w); None when all do.
    """
    batch, channels, height, width = x.shape
    rows, columns = window
    bottom, right = -height % rows, -width % columns
    valid = None
    if bottom or right:
        valid = torch.ones(1, 1, height, width, dtype=torch.bool, device=x.device)
        valid = _cut(F.pad(valid, (0, right, 0, bottom)), window).squeeze(1)
        valid = valid.repeat(batch, 1)
        x = F.pad(x, (0, right, 0, bottom))
    return _cut(x, window), valid


def _cut(x: Tensor, window: tuple[int, int]) -> Tensor:
    batch, channels, height, width = x.shape
    rows, columns = window
    x = x.reshape(batch, channels, height // rows, rows, width // columns, columns)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, rows * columns)


def from_windows(windows: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`to_windows`.

    Args:
        windows: (B * n, C, h * w).
        window: Rows h and columns w of a window.
        size: Size (H, W) of the map.

    Returns:
        (B, C, H, W).
    """
    channels = windows.shape[1]
    rows, columns = window
    down, across = -(-size[0] // rows), -(-size[1] // columns)
    x = windows.reshape(-1, down, across, channels, rows, columns)
    x = x.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, down * rows, across * columns)
    return x[..., : size[0], : size[1]]
