"""Single layers as differentiable functions that keep little for the backward pass.

Like the functions of residual branches (``residual_functions.py``), they keep their inputs and
recompute whatever costs no matrix product. A second derivative is an error; the literal path has
it. Sums are not written as matrix products, because autocast would compute these in its own dtype,
also in a backward pass that runs inside of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from . import products
from .maps import compute_dtype, gradient_like, has_fast_products, match_format, to_channels_last
from .norms import AffineNorm, Gradients

# Windows of fewer channels take longer to gather than oneDNN takes for the gradient.
_FEWEST_CHANNELS = 16


class Norm(Function):
    """``gamma * norm(x) + beta``; keeps ``x`` and its statistics. The result is contiguous."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None, norm: AffineNorm
    ) -> Tensor:
        dtype = x.dtype
        if gamma is not None and x.is_cuda:  # on the CPU, norms give the dtype of their map
            dtype = torch.promote_types(dtype, gamma.dtype)
        n, mean, rstd = norm.forward(x, gamma, beta, dtype)
        ctx.save_for_backward(x, mean, rstd, gamma, beta)
        ctx.norm = norm
        # A copy also of what is contiguous: it may be a view, which could not change in place.
        return n.clone(memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, *rest = ctx.saved_tensors  # checkpoints hand them out only once
        return *ctx.norm.backward(match_format(grad, x), x, *rest), None


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
        norm: AffineNorm,
    ) -> Tensor:
        ctx.settings = norm, compute_dtype(x, weight)
        n, mean, rstd = norm.forward(x, gamma, beta, compute_dtype(x, weight))
        ctx.save_for_backward(x, mean, rstd, gamma, beta, weight, bias)
        return products.pointwise(n, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, mean, rstd, gamma, beta, weight, bias = ctx.saved_tensors
        norm, dtype = ctx.settings
        grad = match_format(grad, x)
        n = norm.normalize(x, mean, rstd, gamma, beta, dtype)
        grad_weight = grad_bias = None
        if any(ctx.needs_input_grad[3:5]):
            grad_weight, grad_bias = products.pointwise_gradients(grad, n, weight, bias)
        grad_n = products.pointwise_input_gradient(grad, n, weight)
        norm_gradients = norm.backward(grad_n, x, mean, rstd, gamma, beta)
        linear_gradients = gradient_like(weight, grad_weight), gradient_like(bias, grad_bias)
        return *norm_gradients, *linear_gradients, None


class Contiguous(Function):
    """The map as it is, but contiguous, with a gradient that is channels_last again: the rest of
    the backward pass is slow in the other format."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return to_channels_last(grad)


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
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, weight, bias = ctx.saved_tensors
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        grad = match_format(grad, x)
        in_windows = needs_weight and has_fast_products(grad, x)
        needs = needs_x, needs_weight and not in_windows
        grad_x, grad_weight = products.convolution_gradients(grad, x, weight, needs, *ctx.settings)
        if in_windows:
            grad_weight = products.windowed_weight_gradient(grad, x, weight.shape, *ctx.settings)
        grad_bias = gradient_like(bias, products.bias_gradient(grad, bias))
        return grad_x, grad_weight, grad_bias, None, None


def has_fast_gradient(conv: Any, x: Tensor) -> bool:
    """Whether :class:`Convolution` is faster than a convolution of torch for a map."""
    return (
        type(conv) is nn.Conv2d
        and conv.in_channels >= _FEWEST_CHANNELS
        and max(conv.stride) > 1
        and conv.groups == max(conv.dilation) == 1
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and has_fast_products(x)
        and compute_dtype(x, conv.weight) == x.dtype == conv.weight.dtype
    )
