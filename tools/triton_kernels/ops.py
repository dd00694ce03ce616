"""The primitives as launches of Triton kernels. No autograd.

Maps may be contiguous or channels_last and keep their memory format; others are copied to
contiguous memory first. All arithmetic is in float32, whatever the dtypes of maps and vectors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from . import device
from .capability import require

#: Activations that :func:`activate` knows, and how many learnable scalars they have.
ACTIVATIONS = {
    "gelu": 0,
    "relu": 0,
    "silu": 0,
    "squared_relu": 0,
    "star_relu": 2,
    "identity": 0,
}
MAX_WINDOW = 9  # windows are unrolled: compiling larger ones takes minutes

# Elements a program works on at once.
_BLOCK = 2048
_MOMENTS_BLOCK = 4096
_TILE = 1024  # of each row of a window


def _is_traced(x: Tensor) -> bool:
    """Whether ``torch.compile`` is at work, and operators must not change their arguments."""
    return torch.compiler.is_compiling() or type(x) is not Tensor


def _operator(fake: Callable) -> Callable[[Callable], Callable]:
    """Make of a function an operator of torch that ``torch.compile`` need not look into.

    Args:
        fake: The same function for tensors without data: shapes, dtypes and memory formats.
    """

    def decorate(function: Callable) -> Callable:
        def checked(*args: Any) -> Any:
            require(args[0])
            with torch.cuda.device_of(args[0]):  # kernels are launched on the current device
                return function(*args)

        functools.update_wrapper(checked, function)
        name = f"mmmetaformer::{function.__name__.strip('_')}"
        operator = torch.library.custom_op(name, checked, mutates_args=())
        operator.register_fake(fake)

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            # Torch's way to an operator takes as long as launching a kernel.
            return operator(*args) if _is_traced(args[0]) else checked(*args)

        call.operator = operator
        return call

    return decorate


# ------------------------------------------------------------------------------------- layouts


def _memory_format(x: Tensor) -> torch.memory_format:
    """The format in which the kernels read a map: its own if it has one of the two."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def _dense(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    return x.contiguous(memory_format=memory_format)


def _empty(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A new map like ``x``, in the format in which ``x`` is read."""
    return torch.empty(x.shape, dtype=dtype, device=x.device, memory_format=_memory_format(x))


def _float32(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def _padded_power(size: int, smallest: int, largest: int) -> int:
    """The largest power of two whose multiples cover ``size`` with at most a fifth of waste.

    Args:
        size: What to cover.
        smallest: Used where no power from here on wastes that little.
        largest: Upper limit.
    """
    power = min(largest, triton.next_power_of_2(size))
    while power > smallest and triton.cdiv(size, power) * power > 1.2 * size:
        power //= 2
    return power


class _PoolTiling:
    """How a map is cut into tiles of channels, columns and rows, one for each program.

    It depends on shape and memory format alone, so that results do not depend on the batch.
    """

    def __init__(self, x: Tensor) -> None:
        batch, channels, height, width = x.shape
        if _memory_format(x) is torch.channels_last:
            block_c = _padded_power(channels, 16, 64)
            block_w = min(_TILE // block_c, triton.next_power_of_2(width))
        else:
            block_w = _padded_power(width, 16, 128)
            block_c = min(_TILE // block_w, triton.next_power_of_2(channels))
        rows = 8 if height >= 48 else 4
        tiles_c = triton.cdiv(channels, block_c)
        self.tiles_h = triton.cdiv(height, rows)
        self.tiles_w = triton.cdiv(width, block_w)
        #: Tiles of a channel, and of an image.
        self.map_tiles = self.tiles_h * self.tiles_w
        self.image_tiles = self.map_tiles * tiles_c
        self.grid = (batch * self.image_tiles,)
        self.blocks = dict(BLOCK_C=block_c, BLOCK_W=block_w, ROWS=rows)

    def sizes(self, x: Tensor) -> tuple[int, ...]:
        """The kernels' arguments from ``C`` to ``tiles_w``."""
        return (*x.shape[1:], *x.stride(), self.tiles_h, self.tiles_w)


def _window(pool_size: int, x: Tensor) -> int:
    if not isinstance(pool_size, int) or pool_size % 2 == 0 or not 1 <= pool_size <= MAX_WINDOW:
        raise ValueError(
            f"pool_size must be an odd integer from 1 to {MAX_WINDOW} for the Triton kernels, got "
            f"{pool_size!r}; the implementation 'torch' has no upper limit"
        )
    # A window that reaches over the whole map from everywhere may as well end there.
    return min(pool_size, 2 * max(x.shape[2:]) - 1)


def _check_activation(act: str, scalars: tuple[Tensor, ...]) -> None:
    if act not in ACTIVATIONS:
        raise ValueError(f"unknown activation {act!r}: expected one of {', '.join(ACTIVATIONS)}")
    if len(scalars) != ACTIVATIONS[act]:
        raise ValueError(f"{act} has {ACTIVATIONS[act]} scalars, got {len(scalars)}")


# --------------------------------------------------------------------------------- normalisation


def _image_blocks(x: Tensor, block: int) -> tuple[int, int]:
    """Elements of an image, and how many blocks cover it."""
    size = x.shape[1:].numel()
    return size, triton.cdiv(size, block)


def _merge_moments(parts: Tensor, size: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps), each (B,), of parts (B, 3, n): count, mean and squares."""
    batch, _, count = parts.shape
    mean, rstd = _float32(parts, batch), _float32(parts, batch)
    if batch:
        device.merge_moments[(batch,)](parts, mean, rstd, count, float(size), eps, BLOCK=1024)
    return mean, rstd


@_operator(lambda x, eps: (_float32(x, len(x)), _float32(x, len(x))))
def moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and ``1 / sqrt(variance + eps)`` of each image, float32, accurate for any mean.

    Shape:
        (B, C, H, W) -> (B,), (B,)

    Raises:
        ValueError: If the kernels cannot work on ``x``, as all functions here.
    """
    x = _dense(x, _memory_format(x))
    size, blocks = _image_blocks(x, _MOMENTS_BLOCK)
    parts = _float32(x, len(x), 3, blocks)
    if len(x):
        grid = (len(x) * blocks,)
        device.block_moments[grid](x, parts, size, blocks, BLOCK=_MOMENTS_BLOCK)
    return _merge_moments(parts, size, eps)


def _contiguous(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()


def _channel_stride(x: Tensor) -> int:
    """Distance between neighbouring channels of a map as the kernels read it."""
    return 1 if _memory_format(x) is torch.channels_last else x.shape[2:].numel()


@_operator(lambda x, mean, rstd, gamma, beta, dtype: _empty(x, dtype))
def normalize(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """``(x - mean[b]) * rstd[b] * gamma[c] + beta[c]`` in ``dtype``; gamma and beta may be None.

    Shape:
        (B, C, H, W), (B,), (B,), (C,), (C,) -> (B, C, H, W)
    """
    stride_c = _channel_stride(x)
    x = _dense(x, _memory_format(x))
    n = _empty(x, dtype)
    size, blocks = _image_blocks(x, _BLOCK)
    if len(x):
        device.normalize[(len(x) * blocks,)](
            x,
            *(mean.contiguous(), rstd.contiguous(), _contiguous(gamma), _contiguous(beta)),
            n,
            x.shape[1],
            stride_c,
            size,
            blocks,
            BLOCK=_BLOCK,
        )
    return n


@_operator(
    lambda grad, x, mean, rstd, gamma: (
        _empty(x, x.dtype),
        _float32(x, x.shape[1]),
        _float32(x, x.shape[1]),
    )
)
def normalize_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of :func:`normalize` by ``x``, gamma and beta.

    Args:
        grad: Gradient of the result.
        x: The map.
        mean: Of each image of the map.
        rstd: Of each image of the map.
        gamma: The factor that the result has; None for one.

    Returns:
        The gradient of ``x`` (in its dtype; what reaches it through the statistics is included),
        those of gamma and beta, whether there are any or not (float32).

    Shape:
        (B, C, H, W), (B, C, H, W), (B,), (B,), (C,) -> (B, C, H, W), (C,), (C,)
    """
    memory_format, stride_c = _memory_format(x), _channel_stride(x)
    x, grad = _dense(x, memory_format), _dense(grad, memory_format)
    mean, grad_x = mean.contiguous(), _empty(x, x.dtype)
    batch, channels = x.shape[:2]
    positions = x.shape[2:].numel()
    stride_p = channels if stride_c == 1 else 1
    block_c = min(64 if stride_c == 1 else 8, triton.next_power_of_2(channels))
    block_p = _BLOCK // block_c
    tiles_p = triton.cdiv(positions, block_p)
    parts = _float32(x, 2, batch, tiles_p, channels)
    if batch:
        device.normalize_backward_sums[(batch * tiles_p * triton.cdiv(channels, block_c),)](
            grad,
            x,
            mean,
            parts,
            channels,
            positions,
            stride_c,
            stride_p,
            tiles_p,
            parts.stride(0),
            BLOCK_C=block_c,
            BLOCK_P=block_p,
        )
    by_beta, by_gamma = parts.sum(2)
    rstd = rstd[:, None]
    by_gamma = by_gamma * rstd
    factor = (
        rstd * x.new_ones(channels, dtype=rstd.dtype) if gamma is None else rstd * gamma
    ).float()
    size, blocks = _image_blocks(x, _BLOCK)
    along, level = ((sums * factor).sum(1) / -size for sums in (by_gamma, by_beta))
    if batch:
        device.normalize_backward[(batch * blocks,)](
            grad,
            x,
            mean,
            factor,
            along * rstd[:, 0],
            level,
            grad_x,
            channels,
            stride_c,
            size,
            blocks,
            BLOCK=_BLOCK,
        )
    return grad_x, by_gamma.sum(0), by_beta.sum(0)


# --------------------------------------------------------------------------------------- pooling


def _launch_pool_residual(
    x: Tensor,
    factor: Tensor,
    identity: Tensor | None,
    pool_size: int,
    dtype: torch.dtype,
    parts_of: Callable[[int], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The result and, if asked for, the moments of its parts (B, 3, n)."""
    window = _window(pool_size, x)
    x = _dense(x, _memory_format(x))
    y = _empty(x, dtype)
    tiling = _PoolTiling(x)
    parts = None if parts_of is None else parts_of(tiling.image_tiles)
    if len(x):
        device.pool_residual[tiling.grid](
            x,
            factor.contiguous(),
            None if identity is None else identity.contiguous(),
            y,
            parts,
            *tiling.sizes(x),
            WINDOW=window,
            MOMENTS=parts is not None,
            **tiling.blocks,
        )
    return y, parts


@_operator(lambda x, factor, identity, pool_size, dtype: _empty(x, dtype))
def pool_residual(
    x: Tensor, factor: Tensor, identity: Tensor | None, pool_size: int, dtype: torch.dtype
) -> Tensor:
    """``identity[c] * x + factor[b, c] * (pool(x) - x)`` in ``dtype``; padding does not count.

    Args:
        x: Input.
        factor: Of the pooling branch.
        identity: Of the identity path; None for one.
        pool_size: Side of the window; odd, at most 9.
        dtype: Of the result.

    Shape:
        (B, C, H, W), (B, C), (C,) -> (B, C, H, W)

    Raises:
        ValueError: If ``pool_size`` is none of those.
    """
    return _launch_pool_residual(x, factor, identity, pool_size, dtype)[0]


@_operator(
    lambda x, factor, identity, pool_size, dtype, eps: (
        _empty(x, dtype),
        _float32(x, len(x)),
        _float32(x, len(x)),
    )
)
def pool_residual_moments(
    x: Tensor,
    factor: Tensor,
    identity: Tensor | None,
    pool_size: int,
    dtype: torch.dtype,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`pool_residual` and the :func:`moments` of its result, which is not read for them.

    Shape:
        (B, C, H, W), (B, C), (C,) -> (B, C, H, W), (B,), (B,)

    Raises:
        ValueError: If ``pool_size`` is not an odd number from 1 to 9.
    """
    y, parts = _launch_pool_residual(
        x, factor, identity, pool_size, dtype, lambda count: _float32(x, len(x), 3, count)
    )
    return y, *_merge_moments(parts, x.shape[1:].numel(), eps)


def _fake_pool_residual_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, factor: Tensor, identity: Any, _: int
) -> tuple[Tensor, Tensor, Tensor]:
    of_identity = 0 if identity is None else len(identity)
    return _empty(x, x.dtype), _float32(x, *factor.shape), _float32(x, of_identity)


@_operator(_fake_pool_residual_backward)
def _pool_residual_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    factor: Tensor,
    identity: Tensor | None,
    pool_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`pool_residual_backward`, with an empty tensor in place of None."""
    window = _window(pool_size, x)
    memory_format = _memory_format(x)
    x, grad = _dense(x, memory_format), _dense(grad, memory_format)
    mean, factor = mean.contiguous(), factor.contiguous()
    identity = None if identity is None else identity.contiguous()
    grad_x = _empty(x, x.dtype)
    batch, channels = factor.shape
    tiling = _PoolTiling(x)
    factors = 1 if identity is None else 2
    parts = _float32(x, factors, batch, tiling.map_tiles, channels)

    def launch(sums: bool, slope: Tensor | None) -> None:
        if batch:
            device.pool_residual_backward[tiling.grid](
                grad,
                x,
                mean,
                slope,
                factor,
                identity,
                grad_x,
                parts,
                *tiling.sizes(x),
                parts.stride(0),
                SUMS=sums,
                WINDOW=window,
                **tiling.blocks,
            )

    launch(sums=True, slope=None)
    grad_factor = parts[0].sum(1)
    # What the factors' share of rstd hands to every value of the image, times x - mean.
    slope = (grad_factor * factor).sum(1) * rstd.square() / -x.shape[1:].numel()
    launch(sums=False, slope=slope)
    return grad_x, grad_factor, _float32(x, 0) if identity is None else parts[1].sum((0, 1))


def pool_residual_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    factor: Tensor,
    identity: Tensor | None,
    pool_size: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of :func:`pool_residual` with a factor that is proportional to ``rstd``.

    Args:
        grad: Gradient of the result.
        x: Input.
        mean: Of each image of ``x``.
        rstd: Of each image of ``x``.
        factor: Of the pooling branch.
        identity: Of the identity path; None for one.
        pool_size: Side of the window; odd, at most 9.

    Returns:
        The gradients of ``x`` (in its dtype), factor and identity (None without one; both float32).
        That of ``x`` includes what reaches it through ``rstd`` in the factor.

    Shape:
        (B, C, H, W), (B, C, H, W), (B,), (B,), (B, C), (C,) -> (B, C, H, W), (B, C), (C,)

    Raises:
        ValueError: If ``pool_size`` is not an odd number from 1 to 9.
    """
    grad_x, grad_factor, grad_identity = _pool_residual_backward(
        grad, x, mean, rstd, factor, identity, pool_size
    )
    return grad_x, grad_factor, None if identity is None else grad_identity


# ------------------------------------------------------------------------------------ activation


def _all_blocks(x: Tensor) -> int:
    return triton.cdiv(x.numel(), _BLOCK)


@_operator(lambda z, act, scalars, inplace: _empty(z, z.dtype))
def _activate(z: Tensor, act: str, scalars: list[Tensor], inplace: bool) -> Tensor:
    z = _dense(z, _memory_format(z))
    h = z if inplace else _empty(z, z.dtype)
    if len(z):
        device.activate[(_all_blocks(z),)](
            z, *(scalars or (None, None)), h, z.numel(), ACT=act, BLOCK=_BLOCK
        )
    return h


def activate(
    z: Tensor, act: str, scalars: tuple[Tensor, ...] = (), inplace: bool = False
) -> Tensor:
    """The activation of ``z``, in its dtype.

    Args:
        z: Input.
        act: One of :data:`ACTIVATIONS`; ``'gelu'`` is the exact one.
        scalars: Of the activation: scale (1,) and bias (1,) of ``'star_relu'``.
        inplace: Whether ``z`` may be overwritten.

    Shape:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: For an unknown activation, or another number of learnable scalars than it has.
    """
    _check_activation(act, scalars)
    return _activate(z, act, list(scalars), inplace and not _is_traced(z))


@_operator(
    lambda grad, z, act, scalars, inplace: (
        _empty(z, grad.dtype),
        _empty(z, z.dtype),
        _float32(z, len(scalars)),
    )
)
def _activate_backward(
    grad: Tensor, z: Tensor, act: str, scalars: list[Tensor], inplace: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`activate_backward`, with the gradients of the scalars in one tensor."""
    memory_format = _memory_format(z)
    z, grad = _dense(z, memory_format), _dense(grad, memory_format)
    grad_z, h = grad if inplace else _empty(z, grad.dtype), _empty(z, z.dtype)
    blocks = _all_blocks(z)
    parts = _float32(z, len(scalars), blocks)
    if len(z):
        device.activate_backward[(blocks,)](
            grad,
            z,
            *(scalars or (None, None)),
            grad_z,
            h,
            parts,
            z.numel(),
            blocks,
            ACT=act,
            BLOCK=_BLOCK,
        )
    return grad_z, h, parts.sum(1)


def activate_backward(
    grad: Tensor, z: Tensor, act: str, scalars: tuple[Tensor, ...] = ()
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The gradients of :func:`activate`, and its result once more.

    Args:
        grad: Gradient of the result; may be overwritten.
        z: Input of the activation.
        act: One of :data:`ACTIVATIONS`.
        scalars: Of the activation.

    Returns:
        The gradient of ``z`` (in the dtype of ``grad``), the result, and the gradients of the
        scalars, (1,) each, float32.

    Shape:
        (B, C, H, W), (B, C, H, W) -> (B, C, H, W), (B, C, H, W)

    Raises:
        ValueError: For an unknown activation, or another number of learnable scalars than it has.
    """
    _check_activation(act, scalars)
    grad_z, h, grad_scalars = _activate_backward(grad, z, act, list(scalars), not _is_traced(grad))
    return grad_z, h, tuple(grad_scalars[i : i + 1] for i in range(len(scalars)))
