"""The norms of the fused path and their gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .maps import accumulation_dtype, cast_like, from_rows, gradient_like, to_rows
from .primitives import Implementation

Gradients = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class AffineNorm(ABC):
    """``gamma * (x - mean) * rstd + beta`` for maps (B, C, H, W).

    Attributes:
        gamma, beta: (C,); None for one and zero.
        ops: The primitives.
    """

    gamma: Tensor | None
    beta: Tensor | None
    ops: Implementation

    @abstractmethod
    def forward(self, x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The normalised map in ``dtype``, mean, and one over the standard deviation."""

    @abstractmethod
    def normalize(self, x: Tensor, mean: Tensor, rstd: Tensor, dtype: torch.dtype) -> Tensor:
        """The normalised map, given the statistics of ``x``."""

    @abstractmethod
    def backward(self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Gradients:
        """Gradients by ``x``, gamma and beta."""


class ImageNorm(AffineNorm):
    """The norm over channels and positions of each image."""

    def forward(self, x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        mean, rstd = self.ops.moments(x, eps)
        return self.normalize(x, mean, rstd, dtype), mean, rstd

    def normalize(self, x: Tensor, mean: Tensor, rstd: Tensor, dtype: torch.dtype) -> Tensor:
        return self.ops.normalize(x, mean, rstd, self.gamma, self.beta, dtype)

    def backward(self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Gradients:
        grad_x, *grads = self.ops.normalize_backward(grad, x, mean, rstd, self.gamma)
        return grad_x, *map(gradient_like, (self.gamma, self.beta), grads)


class PositionNorm(AffineNorm):
    """The norm over the channels of each position. torch's own operator does it in one pass."""

    def forward(self, x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        rows = to_rows(x.to(accumulation_dtype(x.dtype)))
        affine = cast_like(self.gamma, rows), cast_like(self.beta, rows)
        n, mean, rstd = torch.native_layer_norm(rows, rows.shape[-1:], *affine, eps)
        return from_rows(n).to(dtype), mean, rstd

    def normalize(self, x: Tensor, mean: Tensor, rstd: Tensor, dtype: torch.dtype) -> Tensor:
        n = torch.sub(to_rows(x), mean).mul_(rstd)
        if self.gamma is not None:
            n.mul_(self.gamma)
        if self.beta is not None:
            n.add_(self.beta)
        return from_rows(n).to(dtype)

    def backward(self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Gradients:
        rows = to_rows(x.to(accumulation_dtype(x.dtype)))
        grad_rows = to_rows(grad.to(accumulation_dtype(grad.dtype)))
        parameters = self.gamma, self.beta
        affine = [cast_like(parameter, rows) for parameter in parameters]
        needs = [True, *(parameter is not None for parameter in parameters)]
        grad_x, *grads = torch.ops.aten.native_layer_norm_backward(
            grad_rows, rows, rows.shape[-1:], mean, rstd, *affine, needs
        )
        return from_rows(grad_x).to(x.dtype), *map(gradient_like, parameters, grads)


NORMS: dict[str, type[AffineNorm]] = {"image": ImageNorm, "position": PositionNorm}
