"""The pieces of a block as differentiable functions that keep little for the backward pass.

Each keeps its input and recomputes in the backward pass what costs no matrix product: normalised
maps, activations, depthwise convolutions. Factors per channel (the norm's, LayerScale, drop path)
become part of a pass that is there anyway. LayerScale's gradient follows from that of the weights
before it, so that the map it scales is not kept. None of these functions can be differentiated
twice: that is an error, and the plain path can.

Sums here are no matrix products, which autocast would take in its own dtype, also in the backward
pass where that runs inside of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .primitives import accumulation_dtype, find_implementation, has_fast_products, per_image

aten = torch.ops.aten

# Values of an image's map up to which keeping it pays: for an image of 512x512 those of
# PoolFormer-S12 from its second stage on.
_SMALL = 2**19

# Bytes of a map from which the CPU takes it in parts, and of such a part: what lies between two
# operators then stays in the cache and takes no new pages of memory.
_LARGE, _PART = 2**23, 2**21


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
        implementation: str,
    ) -> Tensor:
        ops = find_implementation(implementation)
        mean, rstd = ops.moments(x, eps)
        parameters = gamma, beta, layer_scale, identity, drop
        ctx.save_for_backward(x, mean, rstd, *parameters)
        ctx.settings = pool_size, implementation
        return ops.pool_residual(x, *_pool_residual_arguments(x, rstd, *parameters, pool_size))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pool_size, implementation = ctx.settings
        grads = _pool_residual_backward(
            grad, *ctx.saved_tensors, pool_size, find_implementation(implementation)
        )
        return *grads, *(None,) * 4


def _pool_residual_arguments(
    x: Tensor,
    rstd: Tensor,
    gamma: Tensor,
    beta: Tensor | None,
    layer_scale: Tensor | None,
    identity: Tensor | None,
    drop: Tensor | None,
    pool_size: int,
) -> tuple:
    """Of the primitive ``pool_residual`` behind its map."""
    # On the CPU, GroupNorm gives the dtype of its map, under CUDA's autocast that of its weight.
    dtype = x.dtype
    for parameter in (gamma if x.is_cuda else None, layer_scale, identity):
        dtype = dtype if parameter is None else torch.promote_types(dtype, parameter.dtype)
    return _factor(rstd, drop, gamma, layer_scale), identity, pool_size, dtype


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
        _in_format_of(grad, x), x, mean, rstd, factor, identity, pool_size
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


@dataclass(frozen=True)
class _AffineNorm:
    """What this file needs of a norm: to apply it, to apply it again to the same map, given what it
    found there, and its gradients by the map, gamma and beta.

    Attributes:
        gamma, beta: (C,) or None.
        ops: The primitives.
    """

    gamma: Tensor | None
    beta: Tensor | None
    ops: Any


class _ImageNorm(_AffineNorm):
    """Over channels and positions of an image."""

    def apply(self, x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
        mean, rstd = self.ops.moments(x, eps)
        return self.again(x, mean, rstd, dtype), mean, rstd

    def again(self, x: Tensor, mean: Tensor, rstd: Tensor, dtype: torch.dtype) -> Tensor:
        return self.ops.normalize(x, mean, rstd, self.gamma, self.beta, dtype)

    def backward(
        self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad_x, *by_affine = self.ops.normalize_backward(grad, x, mean, rstd, self.gamma)
        return grad_x, *map(_like, (self.gamma, self.beta), by_affine)


class _PositionNorm(_AffineNorm):
    """Over the channels of each position. torch's own operator does it in one pass."""

    def apply(self, x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
        rows = _rows(x.to(accumulation_dtype(x.dtype)))
        affine = _cast(self.gamma, rows), _cast(self.beta, rows)
        n, mean, rstd = torch.native_layer_norm(rows, rows.shape[-1:], *affine, eps)
        return _map(n).to(dtype), mean, rstd

    def again(self, x: Tensor, mean: Tensor, rstd: Tensor, dtype: torch.dtype) -> Tensor:
        n = torch.sub(_rows(x), mean).mul_(rstd)
        if self.gamma is not None:
            n.mul_(self.gamma)
        if self.beta is not None:
            n.add_(self.beta)
        return _map(n).to(dtype)

    def backward(
        self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor
    ) -> tuple[Tensor | None, ...]:
        rows, grad_rows = (
            _rows(tensor.to(accumulation_dtype(tensor.dtype))) for tensor in (x, grad)
        )
        parameters = self.gamma, self.beta
        affine = [_cast(parameter, rows) for parameter in parameters]
        needs = [True, *(parameter is not None for parameter in parameters)]
        grad_x, *by_affine = aten.native_layer_norm_backward(
            grad_rows, rows, rows.shape[-1:], mean, rstd, *affine, needs
        )
        return _map(grad_x).to(x.dtype), *map(_like, parameters, by_affine)


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
        implementation: str,
    ) -> Tensor:
        dtype = x.dtype if gamma is None else torch.promote_types(x.dtype, gamma.dtype)
        n, *saved = NORMS[norm](gamma, beta, find_implementation(implementation)).apply(
            x, eps, dtype
        )
        ctx.save_for_backward(x, *saved, gamma, beta)
        ctx.settings = norm, implementation
        # A copy also of what is contiguous: it may be a view, which could not change in place.
        return n.clone(memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, *affine = ctx.saved_tensors  # which checkpoints hand out once
        name, implementation = ctx.settings
        norm = NORMS[name](*affine, find_implementation(implementation))
        grads = norm.backward(_in_format_of(grad, x), x, mean, rstd)
        return *grads, *(None,) * 3


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
        return _to_channels_last(grad)


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
        ctx.save_for_backward(x, weight, bias)
        ctx.settings = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        grad = _in_format_of(grad, x)
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        fast = has_fast_products(grad, x)
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
        by_bias = _like(bias, _bias_gradient(grad, bias)) if of_bias else None
        return by_x, by_weight, by_bias, None, None


def has_fast_convolution(x: Tensor, weight: Tensor) -> bool:
    """Whether :class:`Convolution` has more to offer than torch for a map and a float32 weight."""
    return has_fast_products(x) and compute_dtype(x, weight) == x.dtype == weight.dtype


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
        implementation: str,
    ) -> Tensor:
        dtype = compute_dtype(x, weight)
        n, *saved = NORMS[norm](gamma, beta, find_implementation(implementation)).apply(
            x, eps, dtype
        )
        ctx.save_for_backward(x, *saved, gamma, beta, weight, bias)
        ctx.settings = norm, dtype, implementation
        return _pointwise(n, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, gamma, beta, weight, bias = ctx.saved_tensors
        name, dtype, implementation = ctx.settings
        norm = NORMS[name](gamma, beta, find_implementation(implementation))
        grad = _in_format_of(grad, x)
        n = norm.again(x, mean, rstd, dtype)
        by_norm, by_weight, by_bias = (None,) * 3, None, None
        if any(ctx.needs_input_grad[3:5]):
            by_weight = _like(weight, _pointwise_weight(grad, n, weight))
            by_bias = _like(bias, _bias_gradient(grad, bias))
        if any(ctx.needs_input_grad[:3]):
            by_norm = norm.backward(_pointwise_input(grad, n, weight), x, mean, rstd)
        return *by_norm, by_weight, by_bias, *(None,) * 3


class BranchTensors(NamedTuple):
    """Of :class:`Branch`; those that it does without are None.

    Attributes:
        gamma, beta: Of the norm, (C,).
        weight, bias: Of the first linear map, (K, C) or (K, C, 1, 1), and (K,).
        depthwise, depthwise_bias: Kernels (K, 1, k, k) of a convolution that keeps the size, and
            (K,).
        weight2, bias2: Of the second linear map, (C, K) or (C, K, 1, 1), and (C,).
        layer_scale: (C,).
        identity: Factor of the identity path, (C,); None for one.
        drop: What drop path multiplies each image's branch by, (B,).
    """

    gamma: Tensor | None
    beta: Tensor | None
    weight: Tensor
    bias: Tensor | None
    depthwise: Tensor | None
    depthwise_bias: Tensor | None
    weight2: Tensor
    bias2: Tensor | None
    layer_scale: Tensor | None
    identity: Tensor | None
    drop: Tensor | None

    @classmethod
    def split(cls, tensors: Sequence) -> tuple[BranchTensors, tuple]:
        """The first ones of a sequence, and the rest."""
        count = len(cls._fields)
        return cls(*tensors[:count]), tuple(tensors[count:])

    def factor(self, dtype: torch.dtype) -> Tensor | None:
        """Of the branch, (B or 1, C or 1, 1, 1)."""
        if self.layer_scale is None:
            return None if self.drop is None else self.drop.view(-1, 1, 1, 1).to(dtype)
        scale = self.layer_scale.view(1, -1, 1, 1)
        return (scale if self.drop is None else scale * per_image(self.drop)).to(dtype)


@dataclass(frozen=True)
class BranchSettings:
    """Of :class:`Branch`.

    Attributes:
        norm: Key of ``NORMS``.
        eps: The norm's.
        act: Name of the activation.
        residual: Whether there is an identity path.
        differentiable: Whether a backward pass may follow.
        implementation: Name of the implementation of the primitives.
    """

    norm: str
    eps: float
    act: str
    residual: bool
    differentiable: bool
    implementation: str


class Branch(Function):
    """``identity * x + drop * layer_scale * (weight2 @ depthwise(act(z)) + bias2)`` with
    ``z = weight @ norm(x) + bias``, the linear maps at each position; keeps ``x`` and ``z``.

    The tensors are :class:`BranchTensors`, then the activation's learnable scalars.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: BranchSettings, *tensors: Tensor | None) -> Tensor:
        result, *saved = _branch(x, settings, *tensors)
        ctx.save_for_backward(x, *tensors, *saved)
        ctx.settings, ctx.count = settings, len(tensors)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        tensors, saved = tensors[: ctx.count], tensors[ctx.count :]
        of_x, _, *needs = ctx.needs_input_grad
        grad_x, *by_tensors = _branch_backward(
            grad, x, saved, ctx.settings, (of_x, *needs), *tensors
        )
        return grad_x, None, *by_tensors


def _branch(
    x: Tensor, settings: BranchSettings, *tensors: Tensor | None, moments: Sequence[Tensor] = ()
) -> tuple[Tensor, ...]:
    """Its result and what of it is kept besides ``x``: mean, 1 / deviation, all parts of ``z``.
    The first two may be given as ``moments``."""
    of, scalars = BranchTensors.split(tensors)
    ops = find_implementation(settings.implementation)
    norm = NORMS[settings.norm](of.gamma, of.beta, ops)
    dtype = compute_dtype(x, of.weight)
    if moments:
        n, *kept = norm.again(x, *moments, dtype), *moments
    else:
        n, *kept = norm.apply(x, settings.eps, dtype)
    if of.layer_scale is not None:
        dtype = torch.promote_types(dtype, of.layer_scale.dtype)
    branch_dtype, factor = dtype, of.factor(dtype)

    def run(n: Tensor, x: Tensor, factor: Tensor | None) -> Tensor:
        z = _pointwise(n, of.weight, of.bias)
        if settings.differentiable:
            kept.append(z)
        hidden = ops.activate(z, settings.act, scalars, not settings.differentiable)
        if of.depthwise is not None:
            hidden = _depthwise(hidden, of.depthwise, of.depthwise_bias)
        branch = _pointwise(hidden, of.weight2, of.bias2).to(branch_dtype)
        return _joined(x if settings.residual else None, of.identity, branch, factor)

    if not _is_taken_in_parts(n, of):
        return run(n, x, factor), *kept
    for other in (x, of.identity) if settings.residual else ():
        dtype = dtype if other is None else torch.promote_types(dtype, other.dtype)
    result = torch.empty_like(n, dtype=dtype)
    for image, (of_n, of_x, of_result) in _parts(of.weight.shape[0], n, x, result):
        of_result.copy_(run(of_n, of_x, _of_image(factor, image)))
    return result, *kept


def _joined(
    x: Tensor | None, identity: Tensor | None, branch: Tensor, factor: Tensor | None
) -> Tensor:
    """``identity * x + factor * branch``; new memory."""
    if x is None:
        # The branch may be a view, and what a Function returns of these cannot change in place.
        return branch.clone() if factor is None else branch * factor
    if identity is not None:
        x = x * identity.view(-1, 1, 1)
    return x + branch if factor is None else torch.addcmul(x, branch, factor)


def _branch_backward(
    grad: Tensor,
    x: Tensor,
    saved: Sequence[Tensor],
    settings: BranchSettings,
    needs: Sequence[bool],
    *tensors: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients by x and by the tensors, those that ``needs`` names."""
    of, scalars = BranchTensors.split(tensors)
    of_x, (needed, _) = needs[0], BranchTensors.split(needs[1:])
    of_norm = of_x or any(needed[:2])
    of_first, of_depthwise, of_last = any(needed[2:4]), any(needed[4:6]), any(needed[6:9])
    ops = find_implementation(settings.implementation)
    norm = NORMS[settings.norm](of.gamma, of.beta, ops)
    mean, rstd, *hidden_inputs = saved
    dtype = hidden_inputs[0].dtype
    grad = _in_format_of(grad, x)
    unit = _unit(of.layer_scale, dtype)
    before_scale = of.drop
    if unit is not None:
        before_scale = unit.expand(x.shape[0]) if of.drop is None else of.drop * unit

    def run(n: Tensor, grad: Tensor, z: Tensor, after: Tensor | None, before: Tensor | None):
        """Gradient by ``n``, and what adds up to those by the parameters."""
        by_branch = _times_factor(grad, after, dtype)
        by_last = by_branch if of.layer_scale is None else _times_factor(grad, before, dtype)
        by_inner = _pointwise_input(by_branch, z, of.weight2)
        by_hidden = by_inner
        if of.depthwise is not None:
            by_hidden = _depthwise_input(by_inner, z, of.depthwise)
        grad_z, hidden, by_scalars = ops.activate_backward(by_hidden, z, settings.act, scalars)
        by_depthwise = None, None
        inner = hidden
        if of.depthwise is not None and (of_last or of_depthwise):
            inner = _depthwise(hidden, of.depthwise, of.depthwise_bias)
            by_depthwise = _depthwise_parameters(by_inner, hidden, of.depthwise, of.depthwise_bias)
        return _pointwise_input(grad_z, n, of.weight) if of_norm else None, [
            _pointwise_weight(grad_z, n, of.weight) if of_first else None,
            _bias_gradient(grad_z, of.bias) if of_first else None,
            *by_depthwise,
            _pointwise_weight(by_last, inner, of.weight2) if of_last else None,
            _bias_gradient(by_last, of.bias2) if of_last else None,
            *by_scalars,
        ]

    n = norm.again(x, mean, rstd, dtype)
    factors = (
        of.factor(accumulation_dtype(dtype)),
        None if before_scale is None else per_image(before_scale),
    )
    if len(hidden_inputs) == 1:
        grad_n, sums = run(n, grad, *hidden_inputs, *factors)
    else:
        grad_n, sums = torch.empty_like(n), None
        parts = _parts(of.weight.shape[0], n, grad, grad_n)
        for z, (image, (of_n, of_grad, of_grad_n)) in zip(hidden_inputs, parts, strict=True):
            of_factors = [_of_image(factor, image) for factor in factors]
            by_part, addends = run(of_n, of_grad, z, *of_factors)
            if by_part is not None:
                of_grad_n.copy_(by_part)
            sums = addends if sums is None else list(map(_sum, sums, addends))
    by_weight, by_bias, *by_depthwise, by_weight2, by_bias2 = sums[:6]
    by_scalars = [_like(*pair) for pair in zip(scalars, sums[6:], strict=True)]

    by_scale = by_identity = None
    if of_last and of.layer_scale is not None:
        by_scale, by_bias2 = _scale_gradients(by_weight2, by_bias2, of, unit)
    grad_x, by_gamma, by_beta = norm.backward(grad_n, x, mean, rstd) if of_norm else (None,) * 3
    if settings.residual:
        if of.identity is not None:
            by_identity = (grad * x).sum((0, 2, 3))
        if of_x:
            path = grad if of.identity is None else grad * of.identity.view(-1, 1, 1)
            grad_x = grad_x.add_(path)
    return (
        grad_x,
        by_gamma,
        by_beta,
        _like(of.weight, by_weight),
        _like(of.bias, by_bias),
        *by_depthwise,
        _like(of.weight2, by_weight2),
        _like(of.bias2, by_bias2),
        _like(of.layer_scale, by_scale),
        _like(of.identity, by_identity),
        None,
        *by_scalars,
    )


def _unit(layer_scale: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A factor that keeps the gradients before LayerScale, which are a small LayerScale's inverse
    times as large as those behind it, within the range of float16; None for one."""
    if layer_scale is None or dtype != torch.float16:
        return None
    largest = layer_scale.abs().amax()
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def _scale_gradients(
    by_weight2: Tensor, by_bias2: Tensor | None, of: BranchTensors, unit: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Gradients by LayerScale and by bias2, given those of weight2 and bias2 that do not count
    LayerScale, but ``unit``; the former is put right in place."""
    scale = of.layer_scale
    by_scale = (by_weight2 * of.weight2.flatten(1)).sum(1)
    if by_bias2 is not None:
        by_scale = by_scale + by_bias2 * of.bias2
    if unit is not None:
        scale, by_scale = scale / unit, by_scale / unit
    by_weight2.mul_(scale[:, None])
    return by_scale, None if by_bias2 is None else by_bias2 * scale


def _times_factor(grad: Tensor, factor: Tensor | None, dtype: torch.dtype) -> Tensor:
    return (grad if factor is None else grad * factor).to(dtype)


def _of_image(factor: Tensor | None, image: int) -> Tensor | None:
    """The part for an image of a factor for one image or all."""
    return factor if factor is None or len(factor) == 1 else factor[image : image + 1]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None else a.add_(b)


def _is_taken_in_parts(n: Tensor, of: BranchTensors) -> bool:
    size = n[:, :1].numel() * of.weight.shape[0] * n.element_size()
    return (
        of.depthwise is None
        and n.device.type == "cpu"
        and size >= _LARGE
        and size > n.shape[0] * _PART  # products of small images one by one are slow
        and n.is_contiguous(memory_format=torch.channels_last)
    )


def _parts(channels: int, *maps: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Some rows of an image at a time of maps of one size, and the image: so many rows that a map
    with a number of channels would take about ``_PART`` bytes there."""
    count = math.ceil(maps[0][0, 0].numel() * channels * maps[0].element_size() / _PART)
    rows = math.ceil(maps[0].shape[2] / count)
    for image, of_image in enumerate(zip(*(part.split(1) for part in maps), strict=True)):
        for parts in zip(*(part.split(rows, 2) for part in of_image), strict=True):
            yield image, parts


class PoolResidualBranch(Function):
    """:class:`PoolResidual`, then :class:`Branch`; keeps ``x``, ``z`` and, where that is small, the
    map between both. Else it pools once more in the backward pass.

    The first arguments are those of the former, the last ones those of the latter.
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
        settings: BranchSettings,
        *tensors: Tensor | None,
    ) -> Tensor:
        ops = find_implementation(settings.implementation)
        pool = gamma, beta, layer_scale, identity, drop
        mean, rstd = ops.moments(x, eps)
        arguments = _pool_residual_arguments(x, rstd, *pool, pool_size)
        if settings.norm == "image":
            y, *moments = ops.pool_residual_moments(x, *arguments, settings.eps)
        else:
            y, moments = ops.pool_residual(x, *arguments), ()
        result, *saved = _branch(y, settings, *tensors, moments=moments)
        kept = y if _is_small(y) else None
        ctx.save_for_backward(kept, x, mean, rstd, *pool, *tensors, *saved)
        ctx.settings, ctx.pool_size, ctx.count = settings, pool_size, len(tensors)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ops = find_implementation(ctx.settings.implementation)
        y, x, mean, rstd, *rest = ctx.saved_tensors
        pool, tensors, saved = rest[:5], rest[5 : 5 + ctx.count], rest[5 + ctx.count :]
        if y is None:
            y = ops.pool_residual(x, *_pool_residual_arguments(x, rstd, *pool, ctx.pool_size))
        needs = True, *ctx.needs_input_grad[9:]
        grad_y, *by_tensors = _branch_backward(grad, y, saved, ctx.settings, needs, *tensors)
        by_pool = _pool_residual_backward(grad_y, x, mean, rstd, *pool, ctx.pool_size, ops)
        return *by_pool, *(None,) * 4, *by_tensors


def _is_small(x: Tensor) -> bool:
    """Whether a map costs little memory when it is kept. Large ones come early in a network, few
    blocks have them, and they are most of what a network keeps."""
    return x.shape[1:].numel() <= _SMALL


# Products of float32 maps on the CPU are oneDNN's products of matrices, the others convolutions.
# These follow the same settings (TF32, determinism) as the plain path's.


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


def _kernel(weight: Tensor, like: Tensor) -> Tensor:
    return weight.to(like.dtype).view(*weight.shape[:2], 1, 1)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if has_fast_products(x):
        return _map(_product(_rows(x), weight.flatten(1).to(x.dtype), _cast(bias, x)))
    return F.conv2d(x, _kernel(weight, x), _cast(bias, x))


def _pointwise_input(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    if has_fast_products(grad):
        return _map(_product(_rows(grad), weight.flatten(1).to(grad.dtype).t(), None))
    return _convolution_backward(grad, x, _kernel(weight, grad), of_input=True)


def _pointwise_weight(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient by the weight, (K, C), in at least float32; new memory."""
    if has_fast_products(grad, x):
        return _product_over_positions(grad, x)
    by_weight = _convolution_backward(grad, x, _kernel(weight, x), of_input=False).flatten(1)
    return by_weight.to(accumulation_dtype(by_weight.dtype))


def _product_over_positions(a: Tensor, b: Tensor) -> Tensor:
    """Sum over images and positions of the products of the channels, (channels of a, of b)."""
    positions = a.numel() // a.shape[1]
    # The smaller number of rows is the faster, unless turning the result round takes longer.
    if 2 * positions > a.shape[1] > b.shape[1]:
        return _transposed(_product_over_positions(b, a))
    return _product(_transposed(_rows(a).flatten(0, 2)), _rows(b).flatten(0, 2).t(), None)


def _transposed(matrix: Tensor) -> Tensor:
    """Contiguous. torch's own copy of a transpose takes one thread, a concatenation takes all."""
    return torch.cat([matrix.t()])


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
    padding, groups = weight.shape[-1] // 2, weight.shape[0]
    # The backward pass may run inside of autocast when the forward pass did not.
    with _without_autocast(x.device.type):
        return F.conv2d(x, weight.to(x.dtype), _cast(bias, x), padding=padding, groups=groups)


def _without_autocast(device: str) -> AbstractContextManager:
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _depthwise_input(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return _convolution_backward(grad, x, weight.to(grad.dtype), of_input=True)


def _depthwise_parameters(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    by_weight = _convolution_backward(grad, x, weight.to(x.dtype), of_input=False)
    return _like(weight, by_weight), _like(bias, _bias_gradient(grad, bias))


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, of_input: bool) -> Tensor:
    """Gradient by input or by weight of a convolution that keeps the size and is pointwise or
    depthwise. For the former, of ``x`` only size, dtype and memory format count."""
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


def _bias_gradient(grad: Tensor, bias: Tensor | None) -> Tensor | None:
    """In at least float32; None for no bias."""
    # A sum of its own is faster than what the CPU's convolutions do for it.
    return None if bias is None else grad.sum((0, 2, 3), dtype=accumulation_dtype(grad.dtype))


def _in_format_of(grad: Tensor, x: Tensor) -> Tensor:
    """A gradient in the memory format of the map it belongs to, when that is channels_last."""
    return _to_channels_last(grad) if x.is_contiguous(memory_format=torch.channels_last) else grad


def _to_channels_last(x: Tensor) -> Tensor:
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
    """A gradient as its parameter has it; None where either is not there."""
    if parameter is None or grad is None:
        return None
    return grad.to(parameter.dtype).view(parameter.shape)
