"""The pieces of a block as differentiable functions that keep little for the backward pass.

Each keeps its input and recomputes in the backward pass what costs no matrix product: normalised
maps, activations, depthwise convolutions. Factors per channel (the norm's, LayerScale) are folded
into the weights beside them, each time anew, and get their gradients from those of the folded
weights. None of them can be differentiated twice: that is an error, and the plain path can.

Sums here are no matrix products, which autocast would take in its own dtype, also in the backward
pass where that runs inside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .primitives import implementation, wide

aten = torch.ops.aten

# Values of an image's map up to which keeping it pays: for an image of 512x512 those of
# PoolFormer-S12 from its second stage on.
_SMALL = 2**19


def compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype of matrix products: autocast's, else that of the weights."""
    device = x.device.type
    if (
        x.dtype != torch.float64
        and torch.amp.is_autocast_available(device)
        and torch.is_autocast_enabled(device)
    ):
        return torch.get_autocast_dtype(device)
    return weight.dtype


class PoolResidual(Function):
    """``identity * x + drop * layer_scale * (pool(n) - n)`` with ``n`` the image's norm of ``x``.

    The average keeps what is constant, so mean and bias of the norm cancel: what is left is ``x``
    and one factor per image and channel on ``pool(x) - x``. The bias has a gradient of zeros.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor | None,
        layer_scale: Tensor | None,
        identity: Tensor | None,
        drop: Tensor | None,
        eps: float,
        pool_size: int,
        backend: str,
    ) -> Tensor:
        ops = implementation(backend)
        mean, rstd = ops.moments(x, eps)
        parameters = gamma, beta, layer_scale, identity, drop
        ctx.save_for_backward(x, mean, rstd, *parameters)
        ctx.settings = pool_size, backend
        return _pool_residual(x, rstd, *parameters, pool_size, ops)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pool_size, backend = ctx.settings
        grads = _pool_residual_backward(
            grad, *ctx.saved_tensors, pool_size, implementation(backend)
        )
        return *grads, *(None,) * 4


def _pool_residual(
    x: Tensor,
    rstd: Tensor,
    gamma: Tensor,
    beta: Tensor | None,
    layer_scale: Tensor | None,
    identity: Tensor | None,
    drop: Tensor | None,
    pool_size: int,
    ops: Any,
) -> Tensor:
    dtype = x.dtype
    for parameter in (gamma, layer_scale, identity):
        dtype = dtype if parameter is None else torch.promote_types(dtype, parameter.dtype)
    factor = _factor(rstd, drop, gamma, layer_scale)
    return ops.pool_residual(x, factor, identity, pool_size, dtype)


def _pool_residual_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    gamma: Tensor,
    beta: Tensor | None,
    layer_scale: Tensor | None,
    identity: Tensor | None,
    drop: Tensor | None,
    pool_size: int,
    ops: Any,
) -> tuple[Tensor | None, ...]:
    """Gradients by x, gamma, beta, layer_scale and identity."""
    factor = _factor(rstd, drop, gamma, layer_scale)
    grad_x, grad_factor, grad_identity = ops.pool_residual_backward(
        _laid_out(grad, x), x, mean, rstd, factor, identity, pool_size
    )
    by_weight = (grad_factor * _factor(rstd, drop, torch.ones_like(gamma), None)).sum(0)
    return (
        grad_x,
        _like(gamma, by_weight if layer_scale is None else by_weight * layer_scale),
        None if beta is None else torch.zeros_like(beta),
        _like(layer_scale, by_weight * gamma),
        _like(identity, grad_identity),
    )


def _factor(rstd: Tensor, drop: Tensor | None, gamma: Tensor, layer_scale: Tensor | None) -> Tensor:
    """(B, C) in the dtype of ``rstd``."""
    rows = rstd if drop is None else rstd * drop
    channels = gamma.to(rstd.dtype)
    channels = channels if layer_scale is None else channels * layer_scale
    return torch.outer(rows, channels)


class _ImageNorm:
    """Over channels and positions of an image; what this file needs of a norm without factor and
    bias: to apply it, to apply it again to the same map, and its gradient."""

    @staticmethod
    def apply(x: Tensor, eps: float, dtype: torch.dtype, ops: Any) -> tuple[Tensor, ...]:
        mean, rstd = ops.moments(x, eps)
        return ops.normalize(x, mean, rstd, dtype), mean, rstd

    @staticmethod
    def again(x: Tensor, mean: Tensor, rstd: Tensor, dtype: torch.dtype, ops: Any) -> Tensor:
        return ops.normalize(x, mean, rstd, dtype)

    @staticmethod
    def backward(
        grad: Tensor, n: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, ops: Any
    ) -> Tensor:
        return ops.normalize_backward(grad, n, rstd, x.dtype)


class _PositionNorm:
    """Over the channels of each position. torch's own operator does it in one pass."""

    @staticmethod
    def apply(x: Tensor, eps: float, dtype: torch.dtype, ops: Any) -> tuple[Tensor, ...]:
        rows = _rows(x.to(wide(x.dtype)))
        n, mean, rstd = torch.native_layer_norm(rows, rows.shape[-1:], None, None, eps)
        return _map(n).to(dtype), mean, rstd

    @staticmethod
    def again(x: Tensor, mean: Tensor, rstd: Tensor, dtype: torch.dtype, ops: Any) -> Tensor:
        return _map(torch.sub(_rows(x), mean).mul_(rstd)).to(dtype)

    @staticmethod
    def backward(
        grad: Tensor, n: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, ops: Any
    ) -> Tensor:
        rows, grad_rows = (_rows(tensor.to(wide(tensor.dtype))) for tensor in (x, grad))
        grad_x, _, _ = torch.ops.aten.native_layer_norm_backward(
            grad_rows, rows, rows.shape[-1:], mean, rstd, None, None, [True, False, False]
        )
        return _map(grad_x).to(x.dtype)


NORMS = {"image": _ImageNorm, "position": _PositionNorm}


def _rows(x: Tensor) -> Tensor:
    """(B, H, W, C)"""
    return x.permute(0, 2, 3, 1).contiguous()


def _map(rows: Tensor) -> Tensor:
    """(B, C, H, W)"""
    return rows.permute(0, 3, 1, 2)


class Norm(Function):
    """``gamma * norm(x) + beta``; keeps ``x`` and its statistics. The result is contiguous."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        norm: str,
        eps: float,
        backend: str,
    ) -> Tensor:
        dtype = x.dtype if gamma is None else torch.promote_types(x.dtype, gamma.dtype)
        n, mean, rstd = NORMS[norm].apply(x, eps, wide(x.dtype), implementation(backend))
        ctx.save_for_backward(x, mean, rstd, gamma, beta)
        ctx.settings = norm, backend
        if gamma is not None:
            n = n * gamma.view(-1, 1, 1)
        if beta is not None:
            n = n + beta.view(-1, 1, 1)
        return n.to(dtype).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, gamma, beta = ctx.saved_tensors
        norm, backend = ctx.settings
        ops = implementation(backend)
        grad = _laid_out(grad, x)
        n = NORMS[norm].again(x, mean, rstd, wide(x.dtype), ops)
        by_gamma = None if gamma is None else _like(gamma, (grad * n).sum((0, 2, 3)))
        by_beta = None if beta is None else _like(beta, grad.sum((0, 2, 3)))
        if gamma is not None:
            grad = grad * gamma.view(-1, 1, 1)
        grad_x = NORMS[norm].backward(grad, n, x, mean, rstd, ops)
        return grad_x, by_gamma, by_beta, *(None,) * 3


class Contiguous(Function):
    """The map as it is, but contiguous, with a gradient that is channels_last again.

    Behind an ordinary ``contiguous`` it would not be, nor would sums that it is part of, and the
    whole backward pass would run in the slow format.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _channels_last(grad)


class Convolution(Function):
    """A convolution. Its gradient by the weight is, on the CPU, a matrix product over windows: for
    strided convolutions that is up to twice as fast as what oneDNN has for them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = _laid_out(grad, x)
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        fast = _has_fast_product(grad, x)
        stride, padding = ctx.settings
        by_x, by_weight, _ = aten.convolution_backward(
            grad,
            x,
            weight,
            None,
            stride,
            padding,
            [1, 1],
            False,
            [0, 0],
            1,
            [of_x, of_weight and not fast, False],
        )
        if of_weight and fast:
            by_weight = _product_over_windows(grad, x, weight.shape, stride, padding)
        by_bias = _bias_gradient(grad, weight.dtype) if of_bias else None
        return by_x, by_weight, by_bias, None, None


def has_fast_convolution(x: Tensor, weight: Tensor) -> bool:
    """Whether :class:`Convolution` has more to offer than torch for a map and a float32 weight."""
    return _has_fast_product(x) and compute_dtype(x, weight) == x.dtype == weight.dtype


class NormLinear(Function):
    """``weight @ norm(x) + bias`` at each position; keeps ``x`` and its statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        norm: str,
        eps: float,
        backend: str,
    ) -> Tensor:
        dtype = compute_dtype(x, weight)
        n, mean, rstd = NORMS[norm].apply(x, eps, dtype, implementation(backend))
        ctx.save_for_backward(x, mean, rstd, gamma, beta, weight, bias)
        ctx.settings = norm, dtype, backend
        return _pointwise(n, _times(weight, gamma), _shift(weight, bias, beta))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        norm, dtype, backend = ctx.settings
        grads = _norm_linear_backward(
            grad, *ctx.saved_tensors, norm, dtype, implementation(backend), ctx.needs_input_grad
        )
        return *grads, *(None,) * 3


def _norm_linear_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm: str,
    dtype: torch.dtype,
    ops: Any,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients by x, gamma, beta, weight and bias, of which those that ``needs`` names."""
    grad = _laid_out(grad, x)
    n = NORMS[norm].again(x, mean, rstd, dtype, ops)
    folded = _times(weight, gamma)
    grad_x = by_gamma = by_beta = by_weight = by_bias = None
    if any(needs[1:5]):
        by_weight = _pointwise_weight(grad, n, folded)
        flat = weight.flatten(1).to(folded.dtype)
        if gamma is not None:
            by_gamma = _like(gamma, (by_weight * flat).sum(0))
            by_weight.mul_(gamma)
        if bias is not None or beta is not None:
            by_bias = _bias_gradient(grad, folded.dtype)
        if beta is not None:
            by_beta = _like(beta, _vector_product(flat.t(), by_bias))
            by_weight.addcmul_(by_bias[:, None], beta.to(flat.dtype))
        by_weight, by_bias = _like(weight, by_weight), _like(bias, by_bias)
    if needs[0]:
        grad_x = NORMS[norm].backward(_pointwise_input(grad, n, folded), n, x, mean, rstd, ops)
    return grad_x, by_gamma, by_beta, by_weight, by_bias


class PoolResidualNormLinear(Function):
    """:class:`PoolResidual`, then :class:`NormLinear`. Its two results are the latter's and
    ``identity2 * y``, the ``y`` of the former being between both; it keeps ``x``, and ``y`` where
    that is small. Else it pools once more in the backward pass.

    The first arguments are those of the former, then come those of the latter.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor | None,
        layer_scale: Tensor | None,
        identity: Tensor | None,
        drop: Tensor | None,
        eps: float,
        pool_size: int,
        gamma2: Tensor | None,
        beta2: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        identity2: Tensor | None,
        norm: str,
        eps2: float,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        ops = implementation(backend)
        pool = gamma, beta, layer_scale, identity, drop
        mean, rstd = ops.moments(x, eps)
        y = _pool_residual(x, rstd, *pool, pool_size, ops)
        dtype = compute_dtype(y, weight)
        n, mean2, rstd2 = NORMS[norm].apply(y, eps2, dtype, ops)
        kept = y if _is_small(y) else None
        ctx.save_for_backward(
            x, mean, rstd, *pool, kept, mean2, rstd2, gamma2, beta2, weight, bias, identity2
        )
        ctx.settings = pool_size, norm, dtype, backend
        path = y if identity2 is None else y * identity2.view(-1, 1, 1)
        return _pointwise(n, _times(weight, gamma2), _shift(weight, bias, beta2)), path

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_path: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, *pool, y, mean2, rstd2, gamma2, beta2, weight, bias, identity2 = (
            ctx.saved_tensors
        )
        pool_size, norm, dtype, backend = ctx.settings
        ops = implementation(backend)
        if y is None:
            y = _pool_residual(x, rstd, *pool, pool_size, ops)
        linear = gamma2, beta2, weight, bias
        needs = True, *ctx.needs_input_grad[8:12]
        grad_y, *by_linear = _norm_linear_backward(
            grad, y, mean2, rstd2, *linear, norm, dtype, ops, needs
        )
        by_identity2 = None
        if identity2 is not None:
            by_identity2 = _like(identity2, (grad_path * y).sum((0, 2, 3)))
            grad_path = grad_path * identity2.view(-1, 1, 1)
        by_pool = _pool_residual_backward(grad_y + grad_path, x, mean, rstd, *pool, pool_size, ops)
        return *by_pool, *(None,) * 3, *by_linear, by_identity2, *(None,) * 3


def _is_small(x: Tensor) -> bool:
    """Whether a map costs little memory when it is kept. Large ones come early in a network, few
    blocks have them, and they are most of what a network keeps."""
    return x.shape[1:].numel() <= _SMALL


def _times(weight: Tensor, gamma: Tensor | None) -> Tensor:
    """Weight (K, C) that does what this and the norm's factor do."""
    weight = weight.flatten(1).to(wide(weight.dtype))
    return weight if gamma is None else weight * gamma


def _shift(weight: Tensor, bias: Tensor | None, beta: Tensor | None) -> Tensor | None:
    """Bias (K,) that does what this and the norm's bias do."""
    if beta is None:
        return bias
    weight = weight.flatten(1).to(wide(weight.dtype))
    shift = _vector_product(weight, beta.to(weight.dtype))
    return shift if bias is None else shift + bias


def _vector_product(matrix: Tensor, vector: Tensor) -> Tensor:
    """In one pass over the matrix, and in its own dtype also inside of autocast."""
    device = matrix.device.type
    if not torch.amp.is_autocast_available(device):
        return matrix.mv(vector)
    with torch.autocast(device, enabled=False):
        return matrix.mv(vector)


class ActLinear(Function):
    """``(weight @ depthwise(act(z)) + bias) * layer_scale / unit``; keeps ``z``.

    Args:
        z: Map (B, K, H, W).
        depthwise: Kernels (K, 1, k, k) of a convolution that keeps the size; None for none.
        depthwise_bias: (K,) or None.
        weight: (C, K), or (C, K, 1, 1).
        bias: (C,) or None.
        layer_scale: (C,) or None.
        unit: A number (tensor without dimensions), by which the caller multiplies the result;
            None for one. It keeps a small LayerScale within the range of float16.
        act: Name of the activation.
        inplace: Whether ``z`` may be overwritten, which gradients forbid.
        backend: Name of the implementation of the primitives.
        *numbers: The activation's learnable numbers.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        depthwise: Tensor | None,
        depthwise_bias: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        layer_scale: Tensor | None,
        unit: Tensor | None,
        act: str,
        inplace: bool,
        backend: str,
        *numbers: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(
            z, depthwise, depthwise_bias, weight, bias, layer_scale, unit, *numbers
        )
        ctx.settings = act, backend
        hidden = implementation(backend).activate(z, act, numbers, inplace)
        if depthwise is not None:
            hidden = _depthwise(hidden, depthwise, depthwise_bias)
        return _pointwise(hidden, *_fold_scale(weight, bias, _per_unit(layer_scale, unit)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, depthwise, depthwise_bias, weight, bias, layer_scale, unit, *numbers = ctx.saved_tensors
        act, backend = ctx.settings
        grad = _laid_out(grad, z)
        scale = _per_unit(layer_scale, unit)
        folded, _ = _fold_scale(weight, None, scale)
        by_depthwise = by_depthwise_bias = by_weight = by_bias = by_scale = None

        by_inner = _pointwise_input(grad, z, folded)
        by_hidden = by_inner
        if depthwise is not None:
            by_hidden = _depthwise_input(by_inner, z, depthwise)
        grad_z, hidden, by_numbers = implementation(backend).activate_backward(
            by_hidden, z, act, tuple(numbers)
        )
        inner = hidden
        if depthwise is not None:
            inner = _depthwise(hidden, depthwise, depthwise_bias)
            if any(ctx.needs_input_grad[1:3]):
                by_depthwise, by_depthwise_bias = _depthwise_parameters(
                    by_inner, hidden, depthwise, depthwise_bias
                )
        if any(ctx.needs_input_grad[3:6]):
            by_weight = _pointwise_weight(grad, inner, folded)
            by_bias = None if bias is None else _bias_gradient(grad, folded.dtype)
            if scale is not None:
                by_scale = (by_weight * weight.flatten(1)).sum(1)
                by_scale = by_scale if bias is None else by_scale + by_bias * bias
                by_scale = _like(layer_scale, by_scale if unit is None else by_scale / unit)
                by_weight.mul_(scale[:, None])
                by_bias = None if bias is None else by_bias * scale
            by_weight, by_bias = _like(weight, by_weight), _like(bias, by_bias)
        by_numbers = [_like(*pair) for pair in zip(numbers, by_numbers, strict=True)]
        return (
            grad_z,
            by_depthwise,
            by_depthwise_bias,
            by_weight,
            by_bias,
            by_scale,
            *(None,) * 4,
            *by_numbers,
        )


def _per_unit(layer_scale: Tensor | None, unit: Tensor | None) -> Tensor | None:
    return layer_scale if layer_scale is None or unit is None else layer_scale / unit


def _fold_scale(
    weight: Tensor, bias: Tensor | None, scale: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Weight (C, K) and bias (C,) of which each row is scaled."""
    weight = weight.flatten(1).to(wide(weight.dtype))
    if scale is None:
        return weight, bias
    return weight * scale[:, None], None if bias is None else bias * scale


# Products at each position run as convolutions: on channels_last maps these are the fastest that
# the CPU has, and they follow the same settings (TF32, determinism) as the plain path's.


def _kernel(weight: Tensor, like: Tensor) -> Tensor:
    return weight.to(like.dtype)[:, :, None, None]


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, _kernel(weight, x), _cast(bias, x))


def _pointwise_input(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return _convolution_backward(grad, x, _kernel(weight, grad), of_input=True)


def _pointwise_weight(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient by the weight (K, C), in its dtype; new memory."""
    if _has_fast_product(grad, x):
        by_weight = _product_over_positions(grad, x)
    else:
        by_weight = _convolution_backward(grad, x, _kernel(weight, x), of_input=False).flatten(1)
    return by_weight.to(weight.dtype)


def _has_fast_product(*maps: Tensor) -> bool:
    """Whether oneDNN can multiply the maps as matrices of float32. Else these go to another
    library, which is slower than oneDNN's convolutions on some processors."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and all(
            part.device.type == "cpu"
            and part.numel() > 0
            and part.dtype == torch.float32
            and part.is_contiguous(memory_format=torch.channels_last)
            for part in maps
        )
    )


def _product_over_positions(a: Tensor, b: Tensor) -> Tensor:
    """Sum over images and positions of the products of the channels, (channels of a, of b)."""
    positions = a.numel() // a.shape[1]
    # The smaller number of rows is the faster, unless turning the result round takes longer.
    if 2 * positions > a.shape[1] > b.shape[1]:
        return _product_over_positions(b, a).t().contiguous()
    rows = [part.permute(0, 2, 3, 1).flatten(0, 2).t() for part in (a, b)]
    return torch.ops.mkldnn._linear_pointwise(*rows, None, "none", [], "")


def _product_over_windows(
    grad: Tensor,
    x: Tensor,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """Gradient by the weight, of ``shape``, of a convolution of ``x``."""
    channels_out, channels_in, height, width = shape
    rows = F.pad(_rows(x), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    windows = rows.unfold(1, height, stride[0]).unfold(2, width, stride[1])
    windows = windows.permute(0, 1, 2, 4, 5, 3).flatten(3)
    product = _product_over_positions(grad, _map(windows))
    return _map(product.view(channels_out, height, width, channels_in)).contiguous()


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padding = weight.shape[-1] // 2
    return F.conv2d(x, weight.to(x.dtype), _cast(bias, x), padding=padding, groups=weight.shape[0])


def _depthwise_input(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return _convolution_backward(grad, x, weight.to(grad.dtype), of_input=True)


def _depthwise_parameters(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    by_weight = _convolution_backward(grad, x, weight.to(x.dtype), of_input=False)
    return _like(weight, by_weight), None if bias is None else _bias_gradient(grad, weight.dtype)


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, of_input: bool) -> Tensor:
    """Gradient by input or by weight of a convolution that keeps the size and is pointwise or
    depthwise. For the former, of ``x`` only size and memory format count."""
    padding = weight.shape[-1] // 2
    groups = x.shape[1] // weight.shape[1]
    by_input, by_weight, _ = aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        [1, 1],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        groups,
        [of_input, not of_input, False],
    )
    return by_input if of_input else by_weight


def _bias_gradient(grad: Tensor, dtype: torch.dtype) -> Tensor:
    # A sum of its own is faster than what the CPU's convolutions do for it.
    return grad.sum((0, 2, 3), dtype=dtype)


def _laid_out(grad: Tensor, x: Tensor) -> Tensor:
    """A gradient in the memory format of the map it belongs to, when that is channels_last."""
    return _channels_last(grad) if x.is_contiguous(memory_format=torch.channels_last) else grad


def _channels_last(x: Tensor) -> Tensor:
    """The map in that memory format."""
    if x.device.type != "cpu" or not x.is_contiguous():
        return x.contiguous(memory_format=torch.channels_last)
    if x.is_contiguous(memory_format=torch.channels_last):
        return x
    # For the transpose of a matrix the CPU has a loop that takes a quarter of the time.
    result = torch.empty_like(x, memory_format=torch.channels_last)
    for image, rows in zip(x, _rows(result), strict=True):
        rows.flatten(0, 1).copy_(image.flatten(1).t())
    return result


def _cast(value: Tensor | None, like: Tensor) -> Tensor | None:
    return None if value is None else value.to(like.dtype)


def _like(parameter: Tensor | None, grad: Tensor | None) -> Tensor | None:
    """A gradient as its parameter has it; None for a parameter that is not there."""
    return None if parameter is None else grad.to(parameter.dtype).view(parameter.shape)
