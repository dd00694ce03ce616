"""The norms of the fused path and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .maps import accumulation_dtype, cast_like, from_rows, gradient_like, to_rows
from .primitives import Implementation

Gradients = tuple[Any, ...]  # tensors, or None
_Maybe = Tensor | None


@dataclass(frozen=True)  # not a tuple, which torch would take apart
class AffineNorm:
    """``gamma * (x - mean) * rstd + beta``, with gamma and beta (C,), or None for one and zero.

    The statistics are those of each image, by the primitives, or those of the channels of each
    position, for which torch has an operator.
    """

    of_images: bool
    eps: float
    ops: Implementation

    def forward(
        self,
        x: Tensor,
        gamma: _Maybe,
        beta: _Maybe,
        dtype: torch.dtype,
        statistics: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The normalised map in ``dtype``, mean, and one over the standard deviation. These are
        ``statistics`` where those of images are known."""
        if self.of_images:
            mean, rstd = statistics or self.ops.moments(x, self.eps)
            return self.ops.normalize(x, mean, rstd, gamma, beta, dtype), mean, rstd
        rows = to_rows(x.to(accumulation_dtype(x.dtype)))
        affine = cast_like(gamma, rows), cast_like(beta, rows)
        n, mean, rstd = torch.native_layer_norm(rows, rows.shape[-1:], *affine, self.eps)
        return from_rows(n).to(dtype), mean, rstd

    def normalize(
        self, x: Tensor, mean: Tensor, rstd: Tensor, gamma: _Maybe, beta: _Maybe, dtype: torch.dtype
    ) -> Tensor:
        """The normalised map, given the statistics of ``x``."""
        if self.of_images:
            return self.ops.normalize(x, mean, rstd, gamma, beta, dtype)
        n = torch.sub(to_rows(x), mean).mul_(rstd)
        if gamma is not None:
            n.mul_(gamma)
        if beta is not None:
            n.add_(beta)
        return from_rows(n).to(dtype)

    def backward(
        self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gamma: _Maybe, beta: _Maybe
    ) -> Gradients:
        """Gradients by ``x``, gamma and beta."""
        if self.of_images:
            grad_x, *grads = self.ops.normalize_backward(grad, x, mean, rstd, gamma)
            return grad_x, *map(gradient_like, (gamma, beta), grads)
        rows = to_rows(x.to(accumulation_dtype(x.dtype)))
        grad_rows = to_rows(grad.to(accumulation_dtype(grad.dtype)))
        affine = cast_like(gamma, rows), cast_like(beta, rows)
        needs = [True, gamma is not None, beta is not None]
        grad_x, *grads = torch.ops.aten.native_layer_norm_backward(
            grad_rows, rows, rows.shape[-1:], mean, rstd, *affine, needs
        )
        return from_rows(grad_x).to(x.dtype), *map(gradient_like, (gamma, beta), grads)
