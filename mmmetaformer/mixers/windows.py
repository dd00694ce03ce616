"""Cutting a map into windows and putting it together again.

Each function is one step for ``torch.fx``, because what it does depends on the size of the map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..compat import is_compiling
from ..layers.padding import pad_to_multiple


def to_windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Cut a map into windows that do not overlap, padded with zeros at the right and bottom.

    Args:
        x: (B, C, H, W).
        rows: Rows h of a window.
        columns: Columns w of a window.

    Returns:
        (B * n, C, h * w), the n windows of one image behind one another.
    """
    x = pad_to_multiple(x, rows, columns)
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // rows, rows, width // columns, columns)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, rows * columns)


def from_windows(windows: Tensor, rows: int, columns: int, like: Tensor) -> Tensor:
    """Put windows together: the inverse of :func:`to_windows`.

    Args:
        windows: (B * n, C, h * w).
        rows: Rows h of a window.
        columns: Columns w of a window.
        like: A map of the size (H, W) that the result is to have.

    Returns:
        (B, C, H, W).
    """
    height, width = like.shape[-2], like.shape[-1]
    down, across = (height + rows - 1) // rows, (width + columns - 1) // columns
    channels = windows.shape[1]
    x = windows.reshape(-1, down, across, channels, rows, columns)
    x = x.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, down * rows, across * columns)
    return x[:, :, :height, :width]


def valid_keys(x: Tensor, rows: int, columns: int) -> Tensor | None:
    """Which positions of the windows of a map lie in the image, as a mask of attention.

    Args:
        x: (B, C, H, W).
        rows: Rows h of a window.
        columns: Columns w of a window.

    Returns:
        (B * n, 1, 1, h * w), booleans; None when all of them do.
    """
    if not torch.jit.is_scripting():
        traced = torch.jit.is_tracing() or is_compiling()
        if not traced and x.shape[-2] % rows == 0 and x.shape[-1] % columns == 0:
            return None
    return to_windows(torch.ones_like(x[:, :1]), rows, columns)[:, None] > 0


def window_size(x: Tensor, largest: int) -> tuple[int, int]:
    """Rows and columns of square windows on a map, which are no larger than the map."""
    return min(largest, x.shape[-2]), min(largest, x.shape[-1])


for _function in (to_windows, from_windows, valid_keys, window_size):
    torch.fx.wrap(_function.__name__)
