"""What the fused path is made of, in plain PyTorch operators and without autograd.

Each function here may have a twin of the same name and signature elsewhere (kernels for one kind of
device); :func:`find_implementation` finds them. Tensors are maps (B, C, H, W) of any memory format;
channels_last is the fast one. Arithmetic is in float32, of float64 in float64, and statistics and
factors are of that dtype. Nothing is changed in place but where a function says so.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten

_POSITIONS = 2048  # that a sum in float32 runs over

# Modules with the functions below, by name.
_IMPLEMENTATIONS: dict[str, ModuleType] = {"torch": sys.modules[__name__]}


def register_implementation(name: str, module: ModuleType) -> None:
    """Make a module with twins of all functions below available as ``fused=name``."""
    _IMPLEMENTATIONS[name] = module


def find_implementation(name: str) -> ModuleType:
    """The module with the primitives of that name; ``'torch'`` is this one.

    Raises:
        ValueError: If none of that name is registered.
    """
    if name not in _IMPLEMENTATIONS:
        raise ValueError(
            f"fused={name!r} is no registered implementation: expected 'auto', True, False or one "
            f"of {sorted(_IMPLEMENTATIONS)} ('triton' is registered by the import of "
            "tools/triton_kernels)"
        )
    return _IMPLEMENTATIONS[name]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that values of a dtype are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def per_image(values: Tensor) -> Tensor:
    """(B,) or (B, C) against a map."""
    return values.view(*values.shape, *(1,) * (4 - values.dim()))


def moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and ``1 / sqrt(variance + eps)`` of each image, both (B,).

    Stays accurate where the mean is a thousand times the standard deviation.
    """
    x = x.to(accumulation_dtype(x.dtype))
    # On the CPU, var_mean runs without vector instructions, and GroupNorm's own statistics of a
    # channels_last map subtract squares, which leaves no digits when the mean is large.
    if x.device.type == "cpu" and x.numel() and not torch.compiler.is_compiling():
        pairs = [_moments_of_image(image) for image in x.split(1)]
        mean, variance = (torch.stack(values) for values in zip(*pairs, strict=True))
    else:
        variance, mean = torch.var_mean(x, (1, 2, 3), correction=0)
    return mean, (variance + eps).rsqrt()


def _moments_of_image(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of (1, C, H, W), by BatchNorm's statistics of each channel."""
    rows = image.shape[2]
    # Of a channels_last map these add up position after position, and lose digits in long sums.
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
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """``(x - mean) * rstd`` of each image, times ``gamma`` (C,), plus ``beta`` (C,), each None for
    none. It is centred before it is cast to ``dtype``."""
    centred = torch.sub(x, per_image(mean))
    factor = per_image(_norm_factor(rstd, gamma))
    if beta is None:
        return centred.mul_(factor).to(dtype)
    beta = beta.to(centred.dtype).view(-1, 1, 1)
    return torch.addcmul(beta, centred, factor, out=centred).to(dtype)


def normalize_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`normalize` by ``x``, through the statistics, too, and in its dtype, and
    by factor and bias of each channel, (C,)."""
    dtype, grad = x.dtype, grad.to(accumulation_dtype(grad.dtype))
    centred = torch.sub(x, per_image(mean))
    factor = _norm_factor(rstd, gamma)
    by_beta = grad.sum((2, 3))
    by_gamma = (grad * centred).sum((2, 3)) * rstd[:, None]
    # What goes through mean and deviation, the same for all channels of an image.
    level, along = (
        (by_channel * factor).sum(1, keepdim=True) / -x.shape[1:].numel()
        for by_channel in (by_beta, by_gamma)
    )
    along = per_image((along * rstd[:, None]).expand_as(factor))
    level = per_image(level.expand_as(factor))
    grad_x = torch.addcmul(level, centred, along, out=centred).addcmul_(grad, per_image(factor))
    return grad_x.to(dtype), by_gamma.sum(0), by_beta.sum(0)


def _norm_factor(rstd: Tensor, gamma: Tensor | None) -> Tensor:
    """(B, C or 1)"""
    return rstd[:, None] if gamma is None else rstd[:, None] * gamma


def pool_residual(
    x: Tensor, factor: Tensor, identity: Tensor | None, pool_size: int, dtype: torch.dtype
) -> Tensor:
    """``identity * x + factor * (pool(x) - x)`` in ``dtype``.

    Args:
        x: Map (B, C, H, W).
        factor: (B, C).
        identity: (C,); None for one.
        pool_size: Side of the window of the average, in which padding does not count.
        dtype: Of the result.
    """
    x = x.to(accumulation_dtype(x.dtype))
    difference = _window_sums(x, pool_size).mul_(_one_over_window(x, pool_size)).sub_(x)
    return torch.addcmul(_scaled(x, identity), difference, per_image(factor)).to(dtype)


def pool_residual_moments(
    x: Tensor,
    factor: Tensor,
    identity: Tensor | None,
    pool_size: int,
    dtype: torch.dtype,
    eps: float,
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
    identity: Tensor | None,
    pool_size: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of :func:`pool_residual` by ``x``, ``factor`` (B, C) and ``identity`` (C,).

    ``factor`` is proportional to ``rstd``, which depends on ``x``: the first gradient includes
    that.
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
    return x if scale is None else x * scale.view(-1, 1, 1)


def _window_sums(x: Tensor, pool_size: int) -> Tensor:
    """Of the window of each pixel, of which what is outside of the map counts as zero."""
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


def has_fast_products(*maps: Tensor) -> bool:
    """Whether oneDNN can work on the maps as they are, and as matrices of float32. torch's own
    products of matrices go to another library, which is slower on some processors."""
    return (
        _has_onednn()
        and torch.backends.mkldnn.enabled
        and all(
            part.dtype == torch.float32
            and part.device.type == "cpu"
            and part.numel() > 0
            and part.is_contiguous(memory_format=torch.channels_last)
            for part in maps
        )
    )


@functools.cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


Scalars = tuple[Tensor, ...]


class _Activation(NamedTuple):
    """``forward(z, scalars, inplace)`` and ``backward(grad, z, scalars)``, which gives the
    gradients by ``z`` and by each of the scalars, and may overwrite ``grad``."""

    forward: Callable[[Tensor, Scalars, bool], Tensor]
    backward: Callable[[Tensor, Tensor, Scalars], tuple[Tensor, Scalars]]


def _squared_relu(z: Tensor, scalars: Scalars, inplace: bool) -> Tensor:
    rectified = F.relu(z.to(accumulation_dtype(z.dtype)), inplace)
    return (rectified.mul_(rectified) if inplace else rectified * rectified).to(z.dtype)


def _squared_relu_backward(grad: Tensor, z: Tensor, scalars: Scalars) -> tuple[Tensor, Scalars]:
    return F.relu(z.to(accumulation_dtype(z.dtype))).mul_(2).mul_(grad).to(grad.dtype), ()


def _star_relu(z: Tensor, scalars: Scalars, inplace: bool) -> Tensor:
    scale, bias = scalars
    rectified = F.relu(z.to(accumulation_dtype(z.dtype)), inplace)
    return torch.addcmul(bias.to(rectified.dtype), rectified, rectified * scale).to(z.dtype)


def _star_relu_backward(grad: Tensor, z: Tensor, scalars: Scalars) -> tuple[Tensor, Scalars]:
    scale, _ = scalars
    weighted = F.relu(z.to(accumulation_dtype(z.dtype)))
    by_bias = grad.sum(dtype=weighted.dtype).view(1)
    slope = weighted * grad
    by_scale = (weighted.mul_(slope)).sum().view(1)
    return slope.mul_(2 * scale).to(grad.dtype), (by_scale, by_bias)


# torch's own activations compute bfloat16 and float16 in float32.
ACTIVATIONS = {
    "identity": _Activation(
        lambda z, scalars, inplace: z,
        lambda grad, z, scalars: (grad, ()),
    ),
    "gelu": _Activation(
        lambda z, scalars, inplace: aten.gelu_(z) if inplace else F.gelu(z),
        lambda grad, z, scalars: (aten.gelu_backward.grad_input(grad, z, grad_input=grad), ()),
    ),
    "relu": _Activation(
        lambda z, scalars, inplace: F.relu(z, inplace),
        lambda grad, z, scalars: (grad.mul_(z > 0), ()),
    ),
    "silu": _Activation(
        lambda z, scalars, inplace: F.silu(z, inplace),
        lambda grad, z, scalars: (aten.silu_backward.grad_input(grad, z, grad_input=grad), ()),
    ),
    "squared_relu": _Activation(_squared_relu, _squared_relu_backward),
    "star_relu": _Activation(_star_relu, _star_relu_backward),
}


def activate(z: Tensor, act: str, scalars: Scalars, inplace: bool = False) -> Tensor:
    """An activation, one of ``ACTIVATIONS``, in the dtype of ``z``.

    Args:
        z: Map.
        act: Its name.
        scalars: Its learnable scalars: scale (1,) and bias (1,) of StarReLU, of others none.
        inplace: Whether ``z`` may be overwritten.
    """
    return ACTIVATIONS[act].forward(z, scalars, inplace)


def activate_backward(
    grad: Tensor, z: Tensor, act: str, scalars: Scalars
) -> tuple[Tensor, Tensor, Scalars]:
    """Gradient of :func:`activate` by ``z``, the activated ``z`` once more, and the gradients by
    the scalars. ``grad`` may be overwritten: new memory is not free."""
    grad_z, grad_scalars = ACTIVATIONS[act].backward(grad, z, scalars)
    return grad_z, activate(z, act, scalars), grad_scalars
