"""Residual branches as differentiable functions that keep little for the backward pass.

Each keeps its input and computes normalised maps, activations and depthwise convolutions once more
in the backward pass. Factors per channel (the norm's, LayerScale, drop path) become part of a pass
that is there anyway. LayerScale's gradient follows from that of the weights before it, so that the
map it scales is not kept. None of these functions can be differentiated twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import products
from .maps import (
    accumulation_dtype,
    compute_dtype,
    gradient_like,
    is_channels_last,
    match_format,
    per_channel,
    per_image,
)
from .norms import AffineNorm, Gradients
from .primitives import Scalars

# The largest map of an image that is kept, in values: for images of 512x512, PoolFormer-S12 keeps
# those of its second stage and of later ones. Few blocks, early in a network, have larger ones,
# which would be most of the memory that the network keeps.
_SMALL = 2**19

# Maps of at least this many bytes are taken in parts of about that many on the CPU: intermediate
# results then stay in the cache and take no new pages of memory.
_LARGE, _PART = 2**23, 2**21


class PoolTensors(NamedTuple):
    """Tensors of :class:`PoolResidual`: the norm's gamma and beta (C,), LayerScale (C,), the factor
    of the identity path (C,) and that of drop path (B,); those that are left out are None."""

    gamma: Tensor
    beta: Tensor | None
    layer_scale: Tensor | None
    identity: Tensor | None
    drop: Tensor | None

    def factor(self, rstd: Tensor) -> Tensor:
        """The factor of ``pool(x) - x``, (B, C), in the dtype of ``rstd``."""
        gamma = self.gamma.to(rstd.dtype)
        channels = gamma if self.layer_scale is None else gamma * self.layer_scale
        return torch.outer(self.drop_rstd(rstd), channels)

    def drop_rstd(self, rstd: Tensor) -> Tensor:
        """``drop * rstd``, (B,)."""
        return rstd if self.drop is None else rstd * self.drop

    def arguments(self, x: Tensor, rstd: Tensor, pool_size: int) -> tuple[Any, ...]:
        """The arguments of the primitive ``pool_residual``."""
        # On the CPU, GroupNorm gives the dtype of its map, under CUDA's autocast that of gamma.
        gamma = self.gamma if x.is_cuda else None
        dtype = _promoted(x.dtype, gamma, self.layer_scale, self.identity)
        return x, self.factor(rstd), self.identity, pool_size, dtype


class PoolResidual(Function):
    """``identity * x + drop * layer_scale * (pool(n) - n)`` with ``n`` the image's norm of ``x``.

    Mean and bias of the norm are constant over positions and cancel: ``x`` remains, and one factor
    per image and channel of ``pool(x) - x``. The bias has a gradient of zeros.
    The tensors are :class:`PoolTensors`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: AffineNorm, pool_size: int, *tensors: Any) -> Tensor:
        mean, rstd = norm.ops.moments(x, norm.eps)
        ctx.save_for_backward(x, mean, rstd, *tensors)
        ctx.settings = norm, pool_size
        return norm.ops.pool_residual(*PoolTensors(*tensors).arguments(x, rstd, pool_size))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, mean, rstd, *tensors = ctx.saved_tensors  # checkpoints hand them out only once
        return _pool_gradients(grad, (x, mean, rstd), PoolTensors(*tensors), *ctx.settings)


def _pool_gradients(
    grad: Tensor, saved: Sequence[Tensor], tensors: PoolTensors, norm: AffineNorm, pool_size: int
) -> Gradients:
    """Gradients by the arguments of :class:`PoolResidual`."""
    x, mean, rstd = saved
    gamma, beta, layer_scale, identity, _ = tensors
    grad_x, grad_factor, grad_identity = norm.ops.pool_residual_backward(
        match_format(grad, x), x, mean, rstd, tensors.factor(rstd), identity, pool_size
    )
    grad_scale = (grad_factor * tensors.drop_rstd(rstd)[:, None]).sum(0)  # gamma * layer_scale
    grad_gamma = grad_scale if layer_scale is None else grad_scale * layer_scale
    return (
        *(grad_x, None, None),
        gradient_like(gamma, grad_gamma),
        None if beta is None else torch.zeros_like(beta),
        gradient_like(layer_scale, grad_scale * gamma),
        gradient_like(identity, grad_identity),
        None,
    )


@dataclass(frozen=True)  # not a tuple, which torch would take apart
class BranchSettings:
    """Settings of :class:`Branch`."""

    norm: AffineNorm  # with the implementation of all primitives
    act: str  # one of ``primitives.ACTIVATIONS``
    residual: bool  # whether there is an identity path
    differentiable: bool  # whether a backward pass may follow


class BranchTensors(NamedTuple):
    """Tensors of :class:`Branch`; those that are left out are None."""

    gamma: Tensor | None  # factor of the norm, (C,)
    beta: Tensor | None  # bias of the norm, (C,)
    weight: Tensor  # of the first linear map, (K, C) or (K, C, 1, 1)
    bias: Tensor | None  # (K,)
    depthwise: Tensor | None  # kernels of a convolution that keeps the size, (K, 1, k, k)
    depthwise_bias: Tensor | None  # (K,)
    weight2: Tensor  # of the second linear map, (C, K) or (C, K, 1, 1)
    bias2: Tensor | None  # (C,)
    layer_scale: Tensor | None  # (C,)
    identity: Tensor | None  # factor of the identity path, (C,); None for one
    drop: Tensor | None  # factor that drop path multiplies each image's branch by, (B,)
    act_scale: Tensor | None  # learnable scalars of the activation, (1,)
    act_bias: Tensor | None

    @property
    def scalars(self) -> Scalars:
        """The learnable scalars that there are."""
        return tuple(value for value in (self.act_scale, self.act_bias) if value is not None)

    def factor(self, dtype: torch.dtype) -> Tensor | None:
        """The factor of the branch, (B or 1, C or 1, 1, 1)."""
        if self.layer_scale is None:
            return None if self.drop is None else per_image(self.drop).to(dtype)
        scale = self.layer_scale.view(1, -1, 1, 1)
        return (scale if self.drop is None else scale * per_image(self.drop)).to(dtype)


class Branch(Function):
    """``identity * x + drop * layer_scale * (weight2 @ depthwise(act(z)) + bias2)`` with
    ``z = weight @ norm(x) + bias``, the linear maps at each position; keeps ``x`` and ``z``.

    The tensors are :class:`BranchTensors`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: BranchSettings, *tensors: Any) -> Tensor:
        result, saved = _branch_forward(x, settings, BranchTensors(*tensors))
        ctx.save_for_backward(x, *tensors, *saved)
        ctx.settings = settings
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, *saved = ctx.saved_tensors
        return _branch_gradients(grad, x, ctx.settings, ctx.needs_input_grad, saved)


class PoolResidualBranch(Function):
    """:class:`PoolResidual`, then :class:`Branch`; keeps ``x``, ``z`` and, where that is small, the
    map ``y`` between both. Otherwise it pools once more in the backward pass.

    The arguments are those of :class:`PoolResidual`, then those of :class:`Branch` but ``x``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: AffineNorm, pool_size: int, *rest: Any) -> Tensor:
        pool, settings = PoolTensors(*rest[:_POOL_COUNT]), rest[_POOL_COUNT]
        tensors = BranchTensors(*rest[_POOL_COUNT + 1 :])
        mean, rstd = norm.ops.moments(x, norm.eps)
        arguments = pool.arguments(x, rstd, pool_size)
        statistics: Sequence[Tensor] = ()
        if settings.norm.of_images:
            y, *statistics = norm.ops.pool_residual_moments(*arguments, settings.norm.eps)
        else:
            y = norm.ops.pool_residual(*arguments)
        result, saved = _branch_forward(y, settings, tensors, statistics)
        kept = y if y.shape[1:].numel() <= _SMALL else None
        ctx.save_for_backward(kept, x, mean, rstd, *pool, *tensors, *saved)
        ctx.settings = norm, pool_size, settings
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        y, x, mean, rstd, *saved = ctx.saved_tensors
        norm, pool_size, settings = ctx.settings
        pool = PoolTensors(*saved[:_POOL_COUNT])
        if y is None:
            y = norm.ops.pool_residual(*pool.arguments(x, rstd, pool_size))
        grad_y, *gradients = _branch_gradients(
            grad, y, settings, ctx.needs_input_grad, saved[_POOL_COUNT:]
        )
        return *_pool_gradients(grad_y, (x, mean, rstd), pool, norm, pool_size), *gradients


_COUNT, _POOL_COUNT = len(BranchTensors._fields), len(PoolTensors._fields)


def _branch_forward(
    x: Tensor,
    settings: BranchSettings,
    tensors: BranchTensors,
    statistics: Sequence[Tensor] = (),
) -> tuple[Tensor, list[Tensor]]:
    """The result, and what is kept besides ``x``: mean, rstd and all parts of ``z``.

    ``statistics`` are mean and rstd where they are known.
    """
    norm, differentiable = settings.norm, settings.differentiable
    dtype = compute_dtype(x, tensors.weight)
    n, *saved = norm.forward(x, tensors.gamma, tensors.beta, dtype, statistics)
    branch_dtype = _promoted(dtype, tensors.layer_scale)
    factor = tensors.factor(branch_dtype)

    def run(n: Tensor, x: Tensor, factor: Tensor | None) -> Tensor:
        z = products.pointwise(n, tensors.weight, tensors.bias)
        if differentiable:
            saved.append(z)
        hidden = norm.ops.activate(z, settings.act, tensors.scalars, not differentiable)
        hidden = products.depthwise(hidden, tensors.depthwise, tensors.depthwise_bias)
        branch = products.pointwise(hidden, tensors.weight2, tensors.bias2).to(branch_dtype)
        if not settings.residual:
            # The branch may be a view, and views that a Function returns cannot change in place.
            return branch.clone() if factor is None else branch * factor
        if tensors.identity is not None:
            x = x * per_channel(tensors.identity)
        return x + branch if factor is None else torch.addcmul(x, branch, factor)

    parts = _parts(n, tensors)
    if not parts:
        return run(n, x, factor), saved
    identity_path = (x, tensors.identity) if settings.residual else ()
    result = torch.empty_like(n, dtype=_promoted(branch_dtype, *identity_path))
    for part in parts:
        result[part] = run(n[part], x[part], _of_part(factor, part))
    return result, saved


def _branch_gradients(
    grad: Tensor,
    x: Tensor,
    settings: BranchSettings,
    needs_input_grad: Sequence[bool],
    saved: Sequence[Tensor],
) -> Gradients:
    """Gradients by the arguments of :class:`Branch`, the last of those that ``needs_input_grad`` is
    of. ``saved`` are the tensors, mean, rstd and all parts of ``z``."""
    tensors = BranchTensors(*saved[:_COUNT])
    needs = BranchTensors._make(needs_input_grad[-_COUNT:])  # a bool for each tensor
    mean, rstd, *z_parts = saved[_COUNT:]
    norm, dtype = settings.norm, z_parts[0].dtype
    grad = match_format(grad, x)
    n = norm.normalize(x, mean, rstd, tensors.gamma, tensors.beta, dtype)
    unit = _unit(tensors.layer_scale, dtype)
    factor = tensors.factor(accumulation_dtype(dtype))
    unscaled = tensors._replace(layer_scale=unit).factor(accumulation_dtype(dtype))

    def run(
        n: Tensor, grad: Tensor, z: Tensor, factor: Tensor | None, unscaled: Tensor | None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Gradients by ``n`` and, in new memory, by the tensors between norm and LayerScale. For
        those by ``weight2`` and ``bias2`` the branch has the factor ``unscaled``."""
        grad_branch = _times(grad, factor, dtype)
        grad_last = grad_branch if tensors.layer_scale is None else _times(grad, unscaled, dtype)
        grad_inner = products.pointwise_input_gradient(grad_branch, z, tensors.weight2)
        grad_hidden = products.depthwise_input_gradient(grad_inner, z, tensors.depthwise)
        grad_z, hidden, grad_scalars = norm.ops.activate_backward(
            grad_hidden, z, settings.act, tensors.scalars
        )
        grads = dict(zip(("act_scale", "act_bias"), grad_scalars, strict=False))
        if tensors.depthwise is not None and (needs.depthwise or needs.depthwise_bias):
            grads["depthwise"], grads["depthwise_bias"] = products.depthwise_gradients(
                grad_inner, hidden, tensors.depthwise, tensors.depthwise_bias
            )
        if needs.weight2 or needs.bias2 or needs.layer_scale:
            inner = products.depthwise(hidden, tensors.depthwise, tensors.depthwise_bias)
            grads["weight2"], grads["bias2"] = products.pointwise_gradients(
                grad_last, inner, tensors.weight2, tensors.bias2
            )
        if needs.weight or needs.bias:
            grads["weight"], grads["bias"] = products.pointwise_gradients(
                grad_z, n, tensors.weight, tensors.bias
            )
        return products.pointwise_input_gradient(grad_z, n, tensors.weight), grads

    if len(z_parts) == 1:
        grad_n, gradients = run(n, grad, z_parts[0], factor, unscaled)
    else:
        grad_n, gradients = torch.empty_like(n), {}
        for z, part in zip(z_parts, _parts(n, tensors), strict=True):
            factors = _of_part(factor, part), _of_part(unscaled, part)
            grad_n[part], addends = run(n[part], grad[part], z, *factors)
            for name, addend in addends.items():
                total = gradients.get(name)
                gradients[name] = addend if total is None else total.add_(addend)
    _apply_layer_scale(gradients, tensors, unit)
    grad_x, gradients["gamma"], gradients["beta"] = norm.backward(
        grad_n, x, mean, rstd, tensors.gamma, tensors.beta
    )
    if settings.residual:
        scale = tensors.identity
        gradients["identity"] = None if scale is None else (grad * x).sum((0, 2, 3))
        grad_x.add_(grad if scale is None else grad * per_channel(scale))
    named = tensors._asdict().items()
    return grad_x, None, *(gradient_like(tensor, gradients.get(name)) for name, tensor in named)


def _apply_layer_scale(
    gradients: dict[str, Any], tensors: BranchTensors, unit: Tensor | None
) -> None:
    """Multiply the gradients by ``weight2`` and ``bias2`` by LayerScale, and add its own."""
    scale, bias2 = tensors.layer_scale, tensors.bias2
    grad_weight2, grad_bias2 = gradients.get("weight2"), gradients.get("bias2")
    if scale is None or grad_weight2 is None:
        return
    grad_scale = (grad_weight2 * tensors.weight2.flatten(1)).sum(1)
    if bias2 is not None and grad_bias2 is not None:
        grad_scale = grad_scale + grad_bias2 * bias2
    if unit is not None:
        scale, grad_scale = scale / unit, grad_scale / unit
    grad_weight2.mul_(scale[:, None])
    gradients["bias2"] = None if grad_bias2 is None else grad_bias2 * scale
    gradients["layer_scale"] = grad_scale


def _unit(layer_scale: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A factor that keeps gradients within the range of float16 when LayerScale, which may be
    small, is left out of them; None for one."""
    if layer_scale is None or dtype != torch.float16:
        return None
    largest = layer_scale.abs().amax()
    return largest + (largest == 0)


def _times(grad: Tensor, factor: Tensor | None, dtype: torch.dtype) -> Tensor:
    return (grad if factor is None else grad * factor).to(dtype)


def _promoted(dtype: torch.dtype, *tensors: Tensor | None) -> torch.dtype:
    for tensor in tensors:
        dtype = dtype if tensor is None else torch.promote_types(dtype, tensor.dtype)
    return dtype


def _parts(n: Tensor, tensors: BranchTensors) -> list[tuple[slice, ...]]:
    """Indices of a map, each of some rows of an image, so many that ``z`` takes about ``_PART``
    bytes; none for a map that is taken at once."""
    height, size = n.shape[2], n[:, :1].numel() * len(tensors.weight) * n.element_size()
    # Products of small images one by one are slow.
    if size < _LARGE or size <= len(n) * _PART or n.device.type != "cpu":
        return []
    if tensors.depthwise is not None or not is_channels_last(n):
        return []
    rows = math.ceil(height / math.ceil(size / len(n) / _PART))
    return [
        (slice(image, image + 1), slice(None), slice(top, top + rows))
        for image in range(len(n))
        for top in range(0, height, rows)
    ]


def _of_part(factor: Tensor | None, part: tuple[slice, ...]) -> Tensor | None:
    """What a factor (B or 1, ...) is for one of the parts."""
    return factor if factor is None or len(factor) == 1 else factor[part[0]]
