"""Pointwise and depthwise products and their gradients.

Products of float32 maps on the CPU are oneDNN's matrix products, the others convolutions. These
follow the same settings (TF32, determinism) as those of the literal path. Gradients by weights and
biases are new memory and, but for depthwise kernels, in at least float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .maps import accumulation_dtype, cast_like, from_rows, has_fast_products, to_rows


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``weight @ x + bias`` at each position, with a weight (K, C) or (K, C, 1, 1)."""
    bias = cast_like(bias, x)
    if has_fast_products(x):
        return from_rows(_linear(to_rows(x), weight.flatten(1).to(x.dtype), bias))
    return F.conv2d(x, _kernel(weight, x), bias)


def pointwise_input_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient by ``x``, of which only size, dtype and memory format count."""
    if has_fast_products(grad):
        return from_rows(_linear(to_rows(grad), weight.flatten(1).to(grad.dtype).t(), None))
    return _same_size_gradient(grad, x, weight, by_input=True)


def pointwise_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The gradients by the weight, (K, C), and by the bias, (K,)."""
    if has_fast_products(grad, x):
        return _product_over_positions(grad, x), bias_gradient(grad, bias)
    grad_weight = _same_size_gradient(grad, x, weight, by_input=False).flatten(1)
    return grad_weight.to(accumulation_dtype(grad_weight.dtype)), bias_gradient(grad, bias)


def depthwise(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The depthwise convolution with kernels (C, 1, k, k) that keeps the size; ``x`` without."""
    if weight is None:
        return x
    padding, groups = weight.shape[-1] // 2, weight.shape[0]
    # The backward pass may run inside of autocast when the forward pass did not.
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(x, weight.to(x.dtype), cast_like(bias, x), padding=padding, groups=groups)


def depthwise_input_gradient(grad: Tensor, x: Tensor, weight: Tensor | None) -> Tensor:
    """The gradient by ``x``, of which only size, dtype and memory format count."""
    return grad if weight is None else _same_size_gradient(grad, x, weight, by_input=True)


def depthwise_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The gradients by the kernels, in the dtype of ``x``, and by the bias, (C,)."""
    return _same_size_gradient(grad, x, weight, by_input=False), bias_gradient(grad, bias)


def bias_gradient(grad: Tensor, bias: Tensor | None) -> Tensor | None:
    """The gradient by the bias, (C,); None for no bias."""
    # A sum of its own is faster than what the CPU's convolutions do for it.
    return None if bias is None else grad.sum((0, 2, 3), dtype=accumulation_dtype(grad.dtype))


def convolution_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    needs: tuple[bool, bool],
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int = 1,
) -> Any:
    """The gradients by ``x`` and by the weight; None for one that is not needed."""
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, [1, 1], False, [0, 0], groups, [*needs, False]
    )[:2]


def windowed_weight_gradient(
    grad: Tensor, x: Tensor, shape: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """The gradient by the weight, of ``shape``, of a convolution of ``x``, as a matrix product over
    windows."""
    channels_out, channels_in, height, width = shape
    rows = F.pad(to_rows(x), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    windows = rows.unfold(1, height, stride[0]).unfold(2, width, stride[1])
    windows = windows.permute(0, 1, 2, 4, 5, 3).flatten(3)
    product = _product_over_positions(grad, from_rows(windows))
    return from_rows(product.view(channels_out, height, width, channels_in)).contiguous()


def _same_size_gradient(grad: Tensor, x: Tensor, weight: Tensor, by_input: bool) -> Tensor:
    """The gradient by ``x`` or by the weight of a convolution that keeps the size."""
    kernel = _kernel(weight, x)
    padding, groups = [kernel.shape[-1] // 2] * 2, x.shape[1] // kernel.shape[1]
    needs = by_input, not by_input
    return convolution_gradients(grad, x, kernel, needs, [1, 1], padding, groups)[not by_input]


def _kernel(weight: Tensor, like: Tensor) -> Tensor:
    """The weight as (K, C, height, width), in the dtype of ``like``."""
    return (weight if weight.dim() == 4 else weight[..., None, None]).to(like.dtype)


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


def _product_over_positions(a: Tensor, b: Tensor) -> Tensor:
    """The products of all pairs of channels, summed over images and positions, (channels of a,
    channels of b)."""
    positions = a.numel() // a.shape[1]
    # Fewer rows are faster, unless the transpose of the result takes longer.
    if 2 * positions > a.shape[1] > b.shape[1]:
        return _transposed(_product_over_positions(b, a))
    return _linear(_transposed(to_rows(a).flatten(0, 2)), to_rows(b).flatten(0, 2).t(), None)


def _transposed(matrix: Tensor) -> Tensor:
    """Contiguous. torch's own copy of a transpose takes one thread, a concatenation takes all."""
    return torch.cat([matrix.t()])
