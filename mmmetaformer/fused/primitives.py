"""The primitives of the fused path, in plain PyTorch operators and without autograd.

Another implementation of them (kernels for one kind of device) is a module with functions of the
same names and signatures (:func:`register_implementation`). Maps are (B, C, H, W) of any memory
format; channels_last is the fast one. Arithmetic is in float32, for float64 in float64, and
statistics and factors are of that dtype. Functions change nothing in place unless they say so.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .maps import accumulation_dtype, has_fast_products, per_channel, per_image

aten = torch.ops.aten

_POSITIONS = 2048  # that a sum in float32 runs over

Scalars = tuple[Tensor, ...]
_Maybe = Tensor | None
Implementation = Any  # a module with the public functions below

_IMPLEMENTATIONS: dict[str, Implementation] = {"torch": sys.modules[__name__]}


def register_implementation(name: str, module: ModuleType) -> None:
    """Make the functions of a module available to networks as ``fused=name``.

    Args:
        name: What users write.
        module: It has functions of the names and signatures of this module's.
    """
    _IMPLEMENTATIONS[name] = module


def find_implementation(name: str) -> Implementation:
    """The registered module with the primitives; ``'torch'`` is this one.

    Raises:
        ValueError: If no implementation has this name.
    """
    if name not in _IMPLEMENTATIONS:
        raise ValueError(
            f"fused={name!r} is no registered implementation: expected 'auto', True, False or one "
            f"of {sorted(_IMPLEMENTATIONS)} ('triton' is registered by the import of "
            "tools/triton_kernels)"
        )
    return _IMPLEMENTATIONS[name]


def moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and ``1 / sqrt(variance + eps)`` of each image, both (B,).

    Stays accurate where the mean is a thousand times the standard deviation.
    """
    x = x.to(accumulation_dtype(x.dtype))
    # On the CPU, var_mean runs without vector instructions, and GroupNorm's own statistics of a
    # channels_last map subtract squares, which leaves no digits when the mean is large.
    if x.device.type == "cpu" and x.numel():
        pairs = [_moments_of_image(image) for image in x.split(1)]
        mean, variance = (torch.stack(values) for values in zip(*pairs, strict=True))
    else:
        variance, mean = torch.var_mean(x, (1, 2, 3), correction=0)
    return mean, (variance + eps).rsqrt()


def _moments_of_image(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of (1, C, H, W), by BatchNorm's statistics of each channel."""
    rows = image.shape[2]
    # For channels_last maps they add up position after position, and lose digits in long sums.
    if not image.is_contiguous():
        rows = max(1, _POSITIONS // image.shape[3])
    if rows >= image.shape[2]:
        means, variances = torch.batch_norm_update_stats(image, None, None, 0.0)
        between, mean = torch.var_mean(means, correction=0)
        return mean, variances.mean() + between
    parts = image.split(rows, 2)
    channels = [torch.batch_norm_update_stats(part, None, None, 0.0) for part in parts]
    means, variances = (torch.stack(values) for values in zip(*channels, strict=True))
    weights = means.new_tensor([part.shape[2] / image.shape[2] for part in parts])
    mean = (weights * means.mean(1)).sum()  # no product of matrices: autocast would take it
    return mean, (weights * (variances + (means - mean).square()).mean(1)).sum()


def normalize(
    x: Tensor, mean: Tensor, rstd: Tensor, gamma: _Maybe, beta: _Maybe, dtype: torch.dtype
) -> Tensor:
    """``gamma * (x - mean) * rstd + beta``, centred before it is cast to ``dtype``.

    Mean and rstd are (B,), gamma and beta are (C,) or None.
    """
    centred = torch.sub(x, per_image(mean))
    factor = per_image(_norm_factor(rstd, gamma))
    if beta is None:
        return centred.mul_(factor).to(dtype)
    bias = per_channel(beta.to(centred.dtype))
    return torch.addcmul(bias, centred, factor, out=centred).to(dtype)


def normalize_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`normalize` by ``x``, in its dtype and including those through the
    statistics, by gamma and by beta."""
    dtype, grad = x.dtype, grad.to(accumulation_dtype(grad.dtype))
    centred = torch.sub(x, per_image(mean))
    factor = _norm_factor(rstd, gamma)
    grad_beta = grad.sum((2, 3))
    grad_gamma = (grad * centred).sum((2, 3)) * rstd[:, None]
    # The gradients through the statistics are the same for all channels of an image.
    by_mean, by_rstd = (
        (by_channel * factor).sum(1, keepdim=True) / -x.shape[1:].numel()
        for by_channel in (grad_beta, grad_gamma)
    )
    by_rstd = per_image((by_rstd * rstd[:, None]).expand_as(factor))
    by_mean = per_image(by_mean.expand_as(factor))
    grad_x = torch.addcmul(by_mean, centred, by_rstd, out=centred).addcmul_(grad, per_image(factor))
    return grad_x.to(dtype), grad_gamma.sum(0), grad_beta.sum(0)


def _norm_factor(rstd: Tensor, gamma: Tensor | None) -> Tensor:
    """(B, C or 1)"""
    return rstd[:, None] if gamma is None else rstd[:, None] * gamma


def pool_residual(
    x: Tensor, factor: Tensor, identity: Tensor | None, pool_size: int, dtype: torch.dtype
) -> Tensor:
    """``identity * x + factor * (pool(x) - x)`` in ``dtype``.

    ``factor`` is (B, C), ``identity`` is (C,), or None for one, and ``pool_size`` is the side of
    the window of the average, in which padding does not count.
    """
    x = x.to(accumulation_dtype(x.dtype))
    difference = _window_sums(x, pool_size).mul_(_one_over_window(x, pool_size)).sub_(x)
    return torch.addcmul(_scaled(x, identity), difference, per_image(factor)).to(dtype)


def pool_residual_moments(
    x: Tensor, factor: Tensor, identity: _Maybe, pool_size: int, dtype: torch.dtype, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`pool_residual` and the :func:`moments` of its result."""
    y = pool_residual(x, factor, identity, pool_size, dtype)
    return y, *moments(y, eps)


def pool_residual_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    factor: Tensor,
    identity: _Maybe,
    pool_size: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of :func:`pool_residual` by ``x``, ``factor`` (B, C) and ``identity`` (C,).

    ``factor`` is proportional to ``rstd``, which depends on ``x``: the first gradient includes it.
    """
    dtype, count = x.dtype, x.shape[1:].numel()
    grad, x = grad.to(accumulation_dtype(grad.dtype)), x.to(accumulation_dtype(x.dtype))
    # The transposed average: each pixel hands its gradient to its window in equal parts.
    spread = _window_sums(grad * _one_over_window(x, pool_size), pool_size).sub_(grad)
    centred = x - per_image(mean)
    grad_factor = (spread * centred).sum((2, 3))
    grad_identity = None if identity is None else (grad * x).sum((0, 2, 3))
    slope = (grad_factor * factor).sum(1) * rstd.square() / -count
    grad_x = torch.addcmul(_scaled(grad, identity), spread, per_image(factor))
    return grad_x.addcmul_(centred, per_image(slope)).to(dtype), grad_factor, grad_identity


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * per_channel(scale)


def _window_sums(x: Tensor, pool_size: int) -> Tensor:
    """The sum over the window of each pixel; positions outside of the map count as zero."""
    reach = pool_size // 2
    if not has_fast_products(x):
        return F.avg_pool2d(x, pool_size, 1, reach, divisor_override=1)
    # oneDNN's depthwise convolution takes half the time of torch's pooling.
    ones, sides = x.new_ones(x.shape[1], 1, pool_size, pool_size), [reach, reach]
    return aten.mkldnn_convolution(x, ones, None, sides, [1, 1], [1, 1], x.shape[1])


def _one_over_window(x: Tensor, pool_size: int) -> Tensor:
    """One over the number of pixels inside of the map of each window, (H, W)."""

    def inside(side: int) -> Tensor:
        ones = x.new_ones(1, side)
        return F.avg_pool1d(ones, pool_size, 1, pool_size // 2).mul_(pool_size).flatten()

    return torch.outer(inside(x.shape[2]), inside(x.shape[3])).reciprocal_()


# torch's own activations compute bfloat16 and float16 in float32.
ACTIVATIONS = ("identity", "gelu", "relu", "silu", "squared_relu", "star_relu")


def activate(z: Tensor, act: str, scalars: Scalars, inplace: bool = False) -> Tensor:
    """The activated map, in the dtype of ``z``, which may be overwritten if ``inplace``.

    ``act`` is one of ``ACTIVATIONS``, and ``scalars`` are the learnable scale (1,) and bias (1,) of
    StarReLU; others have none.
    """
    if act == "identity":
        return z
    if act == "gelu":
        return aten.gelu_(z) if inplace else F.gelu(z)
    if act == "silu":
        return F.silu(z, inplace)
    if act == "relu":
        return F.relu(z, inplace)
    rectified = F.relu(z.to(accumulation_dtype(z.dtype)), inplace)
    if act == "squared_relu":
        return (rectified.mul_(rectified) if inplace else rectified * rectified).to(z.dtype)
    scale, bias = scalars
    return torch.addcmul(bias.to(rectified.dtype), rectified, rectified * scale).to(z.dtype)


def activate_backward(
    grad: Tensor, z: Tensor, act: str, scalars: Scalars
) -> tuple[Tensor, Tensor, Scalars]:
    """Gradient of :func:`activate` by ``z``, the activated map, and the gradients by the scalars.
    ``grad`` may be overwritten: new memory is not free."""
    grad_scalars: Scalars = ()
    if act == "gelu":
        aten.gelu_backward.grad_input(grad, z, grad_input=grad)
    elif act == "silu":
        aten.silu_backward.grad_input(grad, z, grad_input=grad)
    elif act == "relu":
        grad.mul_(z > 0)
    elif act != "identity":
        rectified = F.relu(z.to(accumulation_dtype(z.dtype)))
        slope = rectified * grad
        if act == "star_relu":
            grad_bias = grad.sum(dtype=rectified.dtype).view(1)
            grad_scalars = rectified.mul_(slope).sum().view(1), grad_bias
        grad = slope.mul_(2 * scalars[0] if act == "star_relu" else 2).to(grad.dtype)
    return grad, activate(z, act, scalars), grad_scalars
