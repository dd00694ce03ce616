"""Padding of maps, in a form that survives tracing and export at any size."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..compat import is_compiling


def pad_to_multiple(x: Tensor, rows: int, columns: int) -> Tensor:
    """Pad a map with zeros at its bottom and right to multiples of ``rows`` and ``columns``.

    Args:
        x: (B, C, H, W).
        rows: What the height becomes a multiple of.
        columns: What the width becomes a multiple of.

    Returns:
        (B, C, H', W'), or ``x`` itself where nothing is to be padded.
    """
    height, width = x.shape[-2], x.shape[-1]
    # Not ``-height % rows``: ONNX divides negative numbers in another way than Python.
    bottom = (height + rows - 1) // rows * rows - height
    right = (width + columns - 1) // columns * columns - width
    if not torch.jit.is_scripting():
        # A trace holds for all sizes, so it must not leave out what this size does not need.
        traced = torch.jit.is_tracing() or is_compiling()
        if not traced and bottom == 0 and right == 0:
            return x
    return F.pad(x, (0, right, 0, bottom))


# What depends on the size of a map is one step for torch.fx.
torch.fx.wrap("pad_to_multiple")
