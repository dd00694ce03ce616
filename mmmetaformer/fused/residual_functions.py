"""Residual branches as differentiable functions that keep little for the backward pass.

Each keeps its input and computes normalised maps, activations and depthwise convolutions once more
in the backward pass. Factors per channel (the norm's, LayerScale, drop path) become part of a pass
that is there anyway. LayerScale's gradient follows from that of the weights before it, so that the
map it scales is not kept. None of these functions can be differentiated twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
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
from .norms import NORMS, Gradients
from .primitives import Implementation, Scalars, find_implementation

# The largest map of an image that is kept, in values: for images of 512x512, PoolFormer-S12 keeps
# those of its second stage and of later ones.
_SMALL = 2**19

# Maps of at least this many bytes are taken in parts of about that many on the CPU: intermediate
# results then stay in the cache and take no new pages of memory.
_LARGE, _PART = 2**23, 2**21


NamedGradients = dict[str, Tensor | None]


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


def _promoted(dtype: torch.dtype, *tensors: Tensor | None) -> torch.dtype:
    for tensor in tensors:
        dtype = dtype if tensor is None else torch.promote_types(dtype, tensor.dtype)
    return dtype


class PoolResidual(Function):
    """``identity * x + drop * layer_scale * (pool(n) - n)`` with ``n`` the image's norm of ``x``.

    Mean and bias of the norm are constant over positions and cancel: ``x`` remains, and one factor
    per image and channel of ``pool(x) - x``. The bias has a gradient of zeros.
    The tensors are :class:`PoolTensors`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, eps: float, pool_size: int, implementation: str, *tensors: Any
    ) -> Tensor:
        ops = find_implementation(implementation)
        mean, rstd = ops.moments(x, eps)
        ctx.save_for_backward(x, mean, rstd, *tensors)
        ctx.settings = pool_size, implementation
        return ops.pool_residual(x, *_pool_arguments(x, rstd, pool_size, PoolTensors(*tensors)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, mean, rstd, *tensors = ctx.saved_tensors
        pool_size, implementation = ctx.settings
        ops = find_implementation(implementation)
        grad_x, *gradients = _pool_gradients(
            grad, x, mean, rstd, pool_size, PoolTensors(*tensors), ops
        )
        return grad_x, None, None, None, *gradients


def _pool_arguments(
    x: Tensor, rstd: Tensor, pool_size: int, tensors: PoolTensors
) -> tuple[Tensor, Tensor | None, int, torch.dtype]:
    """The arguments of the primitive ``pool_residual`` after its map."""
    # On the CPU, GroupNorm gives the dtype of its map, under CUDA's autocast that of gamma.
    gamma = tensors.gamma if x.is_cuda else None
    dtype = _promoted(x.dtype, gamma, tensors.layer_scale, tensors.identity)
    return tensors.factor(rstd), tensors.identity, pool_size, dtype


def _pool_gradients(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    pool_size: int,
    tensors: PoolTensors,
    ops: Implementation,
) -> Gradients:
    """Gradients by x and by the tensors."""
    gamma, beta, layer_scale, identity, _ = tensors
    grad_x, grad_factor, grad_identity = ops.pool_residual_backward(
        match_format(grad, x), x, mean, rstd, tensors.factor(rstd), identity, pool_size
    )
    grad_scale = (grad_factor * tensors.drop_rstd(rstd)[:, None]).sum(0)  # gamma * layer_scale
    return (
        grad_x,
        gradient_like(gamma, grad_scale if layer_scale is None else grad_scale * layer_scale),
        None if beta is None else torch.zeros_like(beta),
        gradient_like(layer_scale, grad_scale * gamma),
        gradient_like(identity, grad_identity),
        None,
    )


@dataclass(frozen=True)
class BranchSettings:
    """Settings of :class:`Branch`.

    Attributes:
        norm: A key of ``NORMS``.
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


class BranchTensors(NamedTuple):
    """Tensors of :class:`Branch`; those that are left out are None.

    Attributes:
        gamma, beta: Factor and bias of the norm, (C,).
        weight, bias: First linear map, (K, C) or (K, C, 1, 1), and (K,).
        depthwise, depthwise_bias: Kernels (K, 1, k, k) of a convolution that keeps the size, and
            (K,).
        weight2, bias2: Second linear map, (C, K) or (C, K, 1, 1), and (C,).
        layer_scale: (C,).
        identity: Factor of the identity path, (C,); None for one.
        drop: Factor that drop path multiplies each image's branch by, (B,).
        act_scale, act_bias: Learnable scalars of the activation, (1,).
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
    act_scale: Tensor | None
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
        x, *rest = ctx.saved_tensors
        tensors, saved = rest[:_COUNT], rest[_COUNT:]
        needs_x, _, *needs = ctx.needs_input_grad
        backward = _BranchBackward(ctx.settings, BranchTensors(*tensors), _names(needs_x, *needs))
        grad_x, *gradients = backward.gradients(grad, x, *saved)
        return grad_x, None, *gradients


_COUNT = len(BranchTensors._fields)


def _names(*needs: bool) -> set[str]:
    """Names of x and the tensors, those that need a gradient."""
    return {name for name, need in zip(("x", *BranchTensors._fields), needs, strict=True) if need}


def _branch_forward(
    x: Tensor,
    settings: BranchSettings,
    tensors: BranchTensors,
    statistics: Sequence[Tensor] = (),
) -> tuple[Tensor, list[Tensor]]:
    """The result, and what is kept besides ``x``: mean, rstd and all parts of ``z``.

    ``statistics`` are mean and rstd where they are known.
    """
    ops = find_implementation(settings.implementation)
    norm = NORMS[settings.norm](tensors.gamma, tensors.beta, ops)
    dtype = compute_dtype(x, tensors.weight)
    if statistics:
        mean, rstd = statistics
        n = norm.normalize(x, mean, rstd, dtype)
    else:
        n, mean, rstd = norm.forward(x, settings.eps, dtype)
    saved = [mean, rstd]
    branch_dtype = _promoted(dtype, tensors.layer_scale)
    factor = tensors.factor(branch_dtype)

    def run(n: Tensor, x: Tensor, factor: Tensor | None) -> Tensor:
        z = products.pointwise(n, tensors.weight, tensors.bias)
        if settings.differentiable:
            saved.append(z)
        hidden = ops.activate(z, settings.act, tensors.scalars, not settings.differentiable)
        if tensors.depthwise is not None:
            hidden = products.depthwise(hidden, tensors.depthwise, tensors.depthwise_bias)
        branch = products.pointwise(hidden, tensors.weight2, tensors.bias2).to(branch_dtype)
        return _add_identity(branch, factor, x if settings.residual else None, tensors.identity)

    if not _is_taken_in_parts(n, tensors):
        return run(n, x, factor), saved
    identity_path = (x, tensors.identity) if settings.residual else ()
    result = torch.empty_like(n, dtype=_promoted(branch_dtype, *identity_path))
    for image, (n_part, x_part, result_part) in _parts(len(tensors.weight), n, x, result):
        result_part.copy_(run(n_part, x_part, _factor_of_image(factor, image)))
    return result, saved


def _add_identity(
    branch: Tensor, factor: Tensor | None, x: Tensor | None, identity: Tensor | None
) -> Tensor:
    """``identity * x + factor * branch``; new memory."""
    if x is None:
        # The branch may be a view, and views that a Function returns cannot change in place.
        return branch.clone() if factor is None else branch * factor
    if identity is not None:
        x = x * per_channel(identity)
    return x + branch if factor is None else torch.addcmul(x, branch, factor)


@dataclass(frozen=True)
class _BranchBackward:
    """The backward pass of :class:`Branch`. Gradients are dicts by the names of the tensors.

    Attributes:
        settings, tensors: As in the forward pass.
        needed: Names of the tensors that need a gradient, and ``"x"``.
    """

    settings: BranchSettings
    tensors: BranchTensors
    needed: AbstractSet[str]

    def _needs(self, *names: str) -> bool:
        return not self.needed.isdisjoint(names)

    @property
    def _needs_norm(self) -> bool:
        return self._needs("x", "gamma", "beta")

    def gradients(
        self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, *z_parts: Tensor
    ) -> Gradients:
        """Gradients by x and by the tensors, those that are needed."""
        tensors, settings, dtype = self.tensors, self.settings, z_parts[0].dtype
        ops = find_implementation(settings.implementation)
        norm = NORMS[settings.norm](tensors.gamma, tensors.beta, ops)
        grad = match_format(grad, x)
        unit = _unit(tensors.layer_scale, dtype)
        n = norm.normalize(x, mean, rstd, dtype)
        grad_n, gradients = self._linear_gradients(n, grad, z_parts, unit)
        if tensors.layer_scale is not None and self._needs("weight2", "bias2", "layer_scale"):
            self._apply_layer_scale(gradients, tensors.layer_scale, unit)
        grad_x = None
        if grad_n is not None:
            grad_x, gradients["gamma"], gradients["beta"] = norm.backward(grad_n, x, mean, rstd)
        if settings.residual and tensors.identity is not None:
            gradients["identity"] = (grad * x).sum((0, 2, 3))
        if settings.residual and "x" in self.needed:
            assert grad_x is not None
            identity = tensors.identity
            grad_x.add_(grad if identity is None else grad * per_channel(identity))
        pairs = zip(BranchTensors._fields, tensors, strict=True)
        return grad_x, *(gradient_like(tensor, gradients.get(name)) for name, tensor in pairs)

    def _linear_gradients(
        self, n: Tensor, grad: Tensor, z_parts: Sequence[Tensor], unit: Tensor | None
    ) -> tuple[Tensor | None, NamedGradients]:
        """Gradients by ``n`` and by the tensors between norm and LayerScale, in as many parts as
        the forward pass had."""
        tensors = self.tensors
        factor = tensors.factor(accumulation_dtype(z_parts[0].dtype))
        unscaled = tensors.drop  # the factor without LayerScale, but in its unit
        if unit is not None:
            unscaled = unit.expand(len(n)) if unscaled is None else unscaled * unit
        factors = factor, None if unscaled is None else per_image(unscaled)
        if len(z_parts) == 1:
            return self._gradients_of_part(n, grad, z_parts[0], *factors)
        grad_n, sums = torch.empty_like(n), NamedGradients()
        parts = _parts(len(tensors.weight), n, grad, grad_n)
        for z, (image, (n_part, grad_part, grad_n_part)) in zip(z_parts, parts, strict=True):
            factors_of_image = (_factor_of_image(each, image) for each in factors)
            part_grad_n, addends = self._gradients_of_part(n_part, grad_part, z, *factors_of_image)
            if part_grad_n is not None:
                grad_n_part.copy_(part_grad_n)
            for name, addend in addends.items():
                total = sums.get(name)
                sums[name] = addend if total is None or addend is None else total.add_(addend)
        return grad_n if self._needs_norm else None, sums

    def _gradients_of_part(
        self, n: Tensor, grad: Tensor, z: Tensor, factor: Tensor | None, unscaled: Tensor | None
    ) -> tuple[Tensor | None, NamedGradients]:
        """Gradients by a part of ``n`` and, in new memory, by the tensors. For those by ``weight2``
        and ``bias2`` the branch has the factor ``unscaled``."""
        tensors, dtype = self.tensors, z.dtype
        ops = find_implementation(self.settings.implementation)
        grad_branch = _times(grad, factor, dtype)
        grad_last = grad_branch if tensors.layer_scale is None else _times(grad, unscaled, dtype)
        grad_inner = products.pointwise_input_gradient(grad_branch, z, tensors.weight2)
        grad_hidden = grad_inner
        if tensors.depthwise is not None:
            grad_hidden = products.depthwise_input_gradient(grad_inner, z, tensors.depthwise)
        grad_z, hidden, grad_scalars = ops.activate_backward(
            grad_hidden, z, self.settings.act, tensors.scalars
        )
        gradients: NamedGradients = dict(zip(("act_scale", "act_bias"), grad_scalars, strict=False))
        if tensors.depthwise is not None and self._needs("depthwise", "depthwise_bias"):
            gradients["depthwise"], gradients["depthwise_bias"] = products.depthwise_gradients(
                grad_inner, hidden, tensors.depthwise, tensors.depthwise_bias
            )
        if self._needs("weight2", "bias2", "layer_scale"):
            inner = hidden
            if tensors.depthwise is not None:
                inner = products.depthwise(hidden, tensors.depthwise, tensors.depthwise_bias)
            gradients["weight2"], gradients["bias2"] = products.pointwise_gradients(
                grad_last, inner, tensors.weight2, tensors.bias2
            )
        if self._needs("weight", "bias"):
            gradients["weight"], gradients["bias"] = products.pointwise_gradients(
                grad_z, n, tensors.weight, tensors.bias
            )
        if not self._needs_norm:
            return None, gradients
        return products.pointwise_input_gradient(grad_z, n, tensors.weight), gradients

    def _apply_layer_scale(
        self, gradients: NamedGradients, scale: Tensor, unit: Tensor | None
    ) -> None:
        """Multiply the gradients by ``weight2`` and ``bias2`` by LayerScale, and add its own."""
        weight2, bias2 = self.tensors.weight2, self.tensors.bias2
        grad_weight2, grad_bias2 = gradients["weight2"], gradients["bias2"]
        assert grad_weight2 is not None
        grad_scale = (grad_weight2 * weight2.flatten(1)).sum(1)
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
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def _times(grad: Tensor, factor: Tensor | None, dtype: torch.dtype) -> Tensor:
    return (grad if factor is None else grad * factor).to(dtype)


def _factor_of_image(factor: Tensor | None, image: int) -> Tensor | None:
    """The part for an image of a factor (B or 1, ...)."""
    return factor if factor is None or len(factor) == 1 else factor[image : image + 1]


def _is_taken_in_parts(n: Tensor, tensors: BranchTensors) -> bool:
    size = n[:, :1].numel() * len(tensors.weight) * n.element_size()
    return (
        tensors.depthwise is None
        and n.device.type == "cpu"
        and size >= _LARGE
        and size > len(n) * _PART  # products of small images one by one are slow
        and is_channels_last(n)
    )


def _parts(channels: int, *maps: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """The index of an image and some rows of it in each of the maps, which are of one size. The
    number of rows is such that a map of ``channels`` takes about ``_PART`` bytes."""
    count = math.ceil(maps[0][0, 0].numel() * channels * maps[0].element_size() / _PART)
    rows = math.ceil(maps[0].shape[2] / count)
    for index, images in enumerate(zip(*(x.split(1) for x in maps), strict=True)):
        for parts in zip(*(image.split(rows, 2) for image in images), strict=True):
            yield index, parts


class PoolResidualBranch(Function):
    """:class:`PoolResidual`, then :class:`Branch`; keeps ``x``, ``z`` and, where that is small, the
    map ``y`` between both. Otherwise it pools once more in the backward pass.

    The tensors are :class:`PoolTensors`, then :class:`BranchTensors`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, eps: float, pool_size: int, settings: BranchSettings, *tensors: Any
    ) -> Tensor:
        ops = find_implementation(settings.implementation)
        pool = PoolTensors(*tensors[:_POOL_COUNT])
        mean, rstd = ops.moments(x, eps)
        arguments = _pool_arguments(x, rstd, pool_size, pool)
        statistics: Sequence[Tensor] = ()
        if settings.norm == "image":
            y, *statistics = ops.pool_residual_moments(x, *arguments, settings.eps)
        else:
            y = ops.pool_residual(x, *arguments)
        result, saved = _branch_forward(
            y, settings, BranchTensors(*tensors[_POOL_COUNT:]), statistics
        )
        ctx.save_for_backward(y if _is_small(y) else None, x, mean, rstd, *tensors, *saved)
        ctx.settings = pool_size, settings
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        y, x, mean, rstd, *rest = ctx.saved_tensors
        pool, rest = PoolTensors(*rest[:_POOL_COUNT]), rest[_POOL_COUNT:]
        tensors, saved = BranchTensors(*rest[:_COUNT]), rest[_COUNT:]
        pool_size, settings = ctx.settings
        ops = find_implementation(settings.implementation)
        if y is None:
            y = ops.pool_residual(x, *_pool_arguments(x, rstd, pool_size, pool))
        needed = _names(True, *ctx.needs_input_grad[-_COUNT:])
        grad_y, *gradients = _BranchBackward(settings, tensors, needed).gradients(grad, y, *saved)
        assert grad_y is not None
        grad_x, *pool_gradients = _pool_gradients(grad_y, x, mean, rstd, pool_size, pool, ops)
        return grad_x, None, None, None, *pool_gradients, *gradients


_POOL_COUNT = len(PoolTensors._fields)


def _is_small(x: Tensor) -> bool:
    """Whether a map is kept. Few blocks, early in a network, have larger ones, which would be most
    of the memory that the network keeps."""
    return x.shape[1:].numel() <= _SMALL
