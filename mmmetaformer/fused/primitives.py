"""What the fused path is made of, in plain PyTorch operators and without autograd.

Each function here may have a twin of the same name and signature elsewhere (kernels for one kind of
device); :func:`implementation` finds them. Tensors are maps (B, C, H, W) of any memory format;
channels_last is the fast one. Arithmetic is in float32, of float64 in float64, and statistics and
factors are of that dtype. Nothing is changed in place but where a function says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten

# Modules with the functions below.
_IMPLEMENTATIONS = {"torch": __name__, "triton": "mmmetaformer.fused.kernels"}


def implementation(name: str) -> ModuleType:
    """The module with the primitives: ``'torch'`` (this one) or ``'triton'``.

    Raises:
        ValueError: For another name, or one that this installation does not have.
    """
    path = _IMPLEMENTATIONS.get(name)
    if path is None:
        raise ValueError(
            f"unknown implementation {name!r}: expected one of {sorted(_IMPLEMENTATIONS)}"
        )
    if path in sys.modules:
        return sys.modules[path]
    try:
        return import_module(path)
    except ImportError as error:
        raise ValueError(
            f"the fused path has no implementation {name!r} here ({error}): use 'auto'"
        ) from error


def wide(dtype: torch.dtype) -> torch.dtype:
    """What a dtype is computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def per_image(values: Tensor) -> Tensor:
    """(B,) or (B, C) against a map."""
    return values.view(*values.shape, *(1,) * (4 - values.dim()))


def moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and ``1 / sqrt(variance + eps)`` of each image, both (B,).

    Stays accurate where the mean is a thousand times the standard deviation.
    """
    x = x.to(wide(x.dtype))
    # On the CPU, var_mean runs without vector instructions, and GroupNorm's own statistics of a
    # channels_last map subtract squares, which leaves no digits when the mean is large.
    if x.device.type == "cpu" and x.numel() and not torch.compiler.is_compiling():
        channels = [torch.batch_norm_update_stats(image, None, None, 0.0) for image in x.split(1)]
        means, variances = (torch.stack(parts) for parts in zip(*channels, strict=True))
        mean = means.mean(1)
        variance = variances.mean(1) + means.var(1, correction=0)
    else:
        variance, mean = torch.var_mean(x, (1, 2, 3), correction=0)
    return mean, (variance + eps).rsqrt()


def normalize(x: Tensor, mean: Tensor, rstd: Tensor, dtype: torch.dtype) -> Tensor:
    """``(x - mean) * rstd`` of each image. It is centred before it is cast to ``dtype``."""
    return torch.sub(x, per_image(mean)).mul_(per_image(rstd)).to(dtype)


def normalize_backward(grad: Tensor, n: Tensor, rstd: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient by the ``x`` of :func:`normalize`, of which ``n`` is the result, through the
    statistics, too; in ``dtype``."""
    grad, n = grad.to(wide(grad.dtype)), n.to(wide(n.dtype))
    along = per_image(_dot(grad, n) / n[0].numel() * rstd)
    level = per_image(grad.mean((1, 2, 3)) * rstd)
    return (n * -along).addcmul_(grad, per_image(rstd)).sub_(level).to(dtype)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product of each image, (B,)."""
    return (a * b).sum((1, 2, 3))


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
    x = x.to(wide(x.dtype))
    difference = F.avg_pool2d(x, pool_size, 1, pool_size // 2, count_include_pad=False).sub_(x)
    return torch.addcmul(_scaled(x, identity), difference, per_image(factor)).to(dtype)


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
    dtype, count = x.dtype, x[0].numel()
    grad, x = grad.to(wide(grad.dtype)), x.to(wide(x.dtype))
    # The transposed average: each pixel hands its gradient to its window in equal parts.
    spread = grad * _one_over_window(x, pool_size)
    spread = F.avg_pool2d(spread, pool_size, 1, pool_size // 2, divisor_override=1).sub_(grad)
    centred = x - per_image(mean)
    grad_factor = (spread * centred).sum((2, 3))
    grad_identity = None if identity is None else (grad * x).sum((0, 2, 3))
    slope = (grad_factor * factor).sum(1) * rstd.square() / -count
    grad_x = torch.addcmul(_scaled(grad, identity), spread, per_image(factor))
    return grad_x.addcmul_(centred, per_image(slope)).to(dtype), grad_factor, grad_identity


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale.view(-1, 1, 1)


def _one_over_window(x: Tensor, pool_size: int) -> Tensor:
    """One over the number of pixels inside of the map of each window, (H, W)."""
    reach = pool_size // 2

    def inside(side: int) -> Tensor:
        at = torch.arange(side, device=x.device)
        return (at + reach).clamp(max=side - 1) - (at - reach).clamp(min=0) + 1

    return 1 / torch.outer(inside(x.shape[2]), inside(x.shape[3])).to(x.dtype)


Numbers = tuple[Tensor, ...]


class _Activation(NamedTuple):
    """``forward(z, numbers, inplace)`` and ``backward(grad, z, numbers)``, which gives the
    gradients by ``z`` and by each of the numbers, and may overwrite ``grad``."""

    forward: Callable[[Tensor, Numbers, bool], Tensor]
    backward: Callable[[Tensor, Tensor, Numbers], tuple[Tensor, Numbers]]


def _squared_relu(z: Tensor, numbers: Numbers, inplace: bool) -> Tensor:
    rectified = F.relu(z.to(wide(z.dtype)), inplace)
    return (rectified.mul_(rectified) if inplace else rectified * rectified).to(z.dtype)


def _squared_relu_backward(grad: Tensor, z: Tensor, numbers: Numbers) -> tuple[Tensor, Numbers]:
    return F.relu(z.to(wide(z.dtype))).mul_(2).mul_(grad).to(grad.dtype), ()


def _star_relu(z: Tensor, numbers: Numbers, inplace: bool) -> Tensor:
    scale, bias = numbers
    rectified = F.relu(z.to(wide(z.dtype)), inplace)
    return torch.addcmul(bias.to(rectified.dtype), rectified, rectified * scale).to(z.dtype)


def _star_relu_backward(grad: Tensor, z: Tensor, numbers: Numbers) -> tuple[Tensor, Numbers]:
    scale, _ = numbers
    weighted = F.relu(z.to(wide(z.dtype)))
    by_bias = grad.sum(dtype=weighted.dtype).view(1)
    slope = weighted * grad
    by_scale = (weighted.mul_(slope)).sum().view(1)
    return slope.mul_(2 * scale).to(grad.dtype), (by_scale, by_bias)


# torch's own activations compute bfloat16 and float16 in float32.
ACTIVATIONS = {
    "identity": _Activation(
        lambda z, numbers, inplace: z,
        lambda grad, z, numbers: (grad, ()),
    ),
    "gelu": _Activation(
        lambda z, numbers, inplace: aten.gelu_(z) if inplace else F.gelu(z),
        lambda grad, z, numbers: (aten.gelu_backward.grad_input(grad, z, grad_input=grad), ()),
    ),
    "relu": _Activation(
        lambda z, numbers, inplace: F.relu(z, inplace),
        lambda grad, z, numbers: (grad.mul_(z > 0), ()),
    ),
    "silu": _Activation(
        lambda z, numbers, inplace: F.silu(z, inplace),
        lambda grad, z, numbers: (aten.silu_backward.grad_input(grad, z, grad_input=grad), ()),
    ),
    "squared_relu": _Activation(_squared_relu, _squared_relu_backward),
    "star_relu": _Activation(_star_relu, _star_relu_backward),
}


def activate(z: Tensor, act: str, numbers: Numbers, inplace: bool = False) -> Tensor:
    """An activation, one of ``ACTIVATIONS``, in the dtype of ``z``.

    Args:
        z: Map.
        act: Its name.
        numbers: Its learnable numbers: scale (1,) and bias (1,) of StarReLU, of others none.
        inplace: Whether ``z`` may be overwritten.
    """
    return ACTIVATIONS[act].forward(z, numbers, inplace)


def activate_backward(
    grad: Tensor, z: Tensor, act: str, numbers: Numbers
) -> tuple[Tensor, Tensor, Numbers]:
    """Gradient of :func:`activate` by ``z``, the activated ``z`` once more, and the gradients by
    the numbers. ``grad`` may be overwritten: new memory is not free."""
    grad_z, grad_numbers = ACTIVATIONS[act].backward(grad, z, numbers)
    return grad_z, activate(z, act, numbers), grad_numbers
