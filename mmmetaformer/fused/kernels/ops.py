"""The primitives as launches of Triton kernels. No autograd.

Maps may be contiguous or channels_last and keep their memory format; others are copied to contiguous
memory first. All arithmetic is in float32. Functions of this module are opaque to ``torch.compile``
and do not break its graphs.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import device

INTERPRETED = device.INTERPRETED

#: Activations that :func:`activate` knows, and how many numbers of their own they have.
ACTIVATIONS = {
    "gelu": 0,
    "relu": 0,
    "silu": 0,
    "squared_relu": 0,
    "star_relu": 2,
    "identity": 0,
}
MAX_WINDOW = 15  # windows are unrolled when a kernel is compiled

# Elements a program works on at once: 16 for each of 128 threads, and half of it where more than one
# tensor is held.
_BLOCK = 2048
_MOMENTS_BLOCK = 4096  # fewer partial results
_TILE = 1024


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
    return torch.empty(
        x.shape, dtype=dtype, device=x.device, memory_format=_memory_format(x)
    )


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


def _check_activation(act: str, numbers: tuple[Tensor, ...]) -> None:
    if act not in ACTIVATIONS:
        raise ValueError(f"unknown activation {act!r}: expected one of {', '.join(ACTIVATIONS)}")
    if len(numbers) != ACTIVATIONS[act]:
        raise ValueError(f"{act} has {ACTIVATIONS[act]} numbers, got {len(numbers)}")


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


@torch.library.custom_op("mmmetaformer::moments", mutates_args=())
def moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) of each image, float32, accurate for any mean.

    Shape:
        (B, C, H, W) -> (B,), (B,)
    """
    x = _dense(x, _memory_format(x))
    size, blocks = _image_blocks(x, _MOMENTS_BLOCK)
    parts = _float32(x, len(x), 3, blocks)
    with torch.cuda.device_of(x):
        if len(x):
            grid = (len(x) * blocks,)
            device.block_moments[grid](x, parts, size, blocks, BLOCK=_MOMENTS_BLOCK)
        return _merge_moments(parts, size, eps)


@moments.register_fake
def _(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _float32(x, len(x)), _float32(x, len(x))


@torch.library.custom_op("mmmetaformer::normalize", mutates_args=())
def normalize(x: Tensor, mean: Tensor, rstd: Tensor, dtype: torch.dtype) -> Tensor:
    """``(x - mean[b]) * rstd[b]`` in ``dtype``, the memory format of ``x``.

    Shape:
        (B, C, H, W), (B,), (B,) -> (B, C, H, W)
    """
    x = _dense(x, _memory_format(x))
    n = _empty(x, dtype)
    size, blocks = _image_blocks(x, _BLOCK)
    if len(x):
        with torch.cuda.device_of(x):
            grid = (len(x) * blocks,)
            device.normalize[grid](
                x, mean.contiguous(), rstd.contiguous(), n, size, blocks, BLOCK=_BLOCK
            )
    return n


@normalize.register_fake
def _(x: Tensor, mean: Tensor, rstd: Tensor, dtype: torch.dtype) -> Tensor:
    return _empty(x, dtype)


@torch.library.custom_op("mmmetaformer::normalize_backward", mutates_args=())
def normalize_backward(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """The gradient of the input of :func:`normalize` with the moments of ``x``, in its dtype.

    Shape:
        (B, C, H, W), (B, C, H, W), (B,), (B,) -> (B, C, H, W)
    """
    memory_format = _memory_format(x)
    x, grad = _dense(x, memory_format), _dense(grad, memory_format)
    mean, rstd = mean.contiguous(), rstd.contiguous()
    grad_x = _empty(x, x.dtype)
    size, blocks = _image_blocks(x, _BLOCK)
    parts = _float32(x, len(x), 2, blocks)
    if len(x):
        with torch.cuda.device_of(x):
            grid = (len(x) * blocks,)
            device.normalize_backward_sums[grid](
                grad, x, mean, rstd, parts, size, blocks, BLOCK=_BLOCK
            )
            means = parts.sum(-1) / size
            device.normalize_backward[grid](
                grad, x, mean, rstd, means, grad_x, size, blocks, BLOCK=_BLOCK
            )
    return grad_x


@normalize_backward.register_fake
def _(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    return _empty(x, x.dtype)


# --------------------------------------------------------------------------------------- pooling


def _launch_pool_residual(
    x: Tensor,
    factor: Tensor,
    identity: Tensor | None,
    pool_size: int,
    dtype: torch.dtype,
    with_moments: bool,
) -> tuple[Tensor, Tensor | None]:
    """The result and, if asked for, the moments of its parts (B, 3, n)."""
    window = _window(pool_size, x)
    x = _dense(x, _memory_format(x))
    y = _empty(x, dtype)
    tiling = _PoolTiling(x)
    parts = _float32(x, len(x), 3, tiling.image_tiles) if with_moments else None
    if len(x):
        device.pool_residual[tiling.grid](
            x,
            factor.contiguous(),
            None if identity is None else identity.contiguous(),
            y,
            parts,
            *tiling.sizes(x),
            WINDOW=window,
            MOMENTS=with_moments,
            **tiling.blocks,
        )
    return y, parts


@torch.library.custom_op("mmmetaformer::pool_residual", mutates_args=())
def pool_residual(
    x: Tensor, factor: Tensor, identity: Tensor | None, pool_size: int, dtype: torch.dtype
) -> Tensor:
    """``identity[c] * x + factor[b, c] * (pool(x) - x)`` in ``dtype``; padding does not count.

    Args:
        x: Input.
        factor: Of the pooling branch.
        identity: Of the identity path; None means 1.
        pool_size: Side of the window; odd, at most 15.
        dtype: Of the result.

    Shape:
        (B, C, H, W), (B, C), (C,) -> (B, C, H, W)

    Raises:
        ValueError: If ``pool_size`` is none of those.
    """
    with torch.cuda.device_of(x):
        return _launch_pool_residual(x, factor, identity, pool_size, dtype, False)[0]


@pool_residual.register_fake
def _(
    x: Tensor, factor: Tensor, identity: Tensor | None, pool_size: int, dtype: torch.dtype
) -> Tensor:
    return _empty(x, dtype)


@torch.library.custom_op("mmmetaformer::pool_residual_moments", mutates_args=())
def pool_residual_moments(
    x: Tensor,
    factor: Tensor,
    identity: Tensor | None,
    pool_size: int,
    dtype: torch.dtype,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`pool_residual` and :func:`moments` of its result, which is not read again for them.

    Shape:
        (B, C, H, W), (B, C), (C,) -> (B, C, H, W), (B,), (B,)

    Raises:
        ValueError: If ``pool_size`` is not an odd number from 1 to 15.
    """
    with torch.cuda.device_of(x):
        y, parts = _launch_pool_residual(x, factor, identity, pool_size, dtype, True)
        return y, *_merge_moments(parts, x.shape[1:].numel(), eps)


@pool_residual_moments.register_fake
def _(
    x: Tensor,
    factor: Tensor,
    identity: Tensor | None,
    pool_size: int,
    dtype: torch.dtype,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(x, dtype), _float32(x, len(x)), _float32(x, len(x))


@torch.library.custom_op("mmmetaformer::pool_residual_backward", mutates_args=())
def _pool_residual_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    factor: Tensor,
    identity: Tensor | None,
    pool_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`pool_residual_backward`, with no elements for a gradient that there is not."""
    window = _window(pool_size, x)
    memory_format = _memory_format(x)
    x, grad = _dense(x, memory_format), _dense(grad, memory_format)
    mean, factor = mean.contiguous(), factor.contiguous()
    identity = None if identity is None else identity.contiguous()
    grad_x = _empty(x, x.dtype)
    batch, channels = factor.shape
    tiling = _PoolTiling(x)
    parts = _float32(x, 1 if identity is None else 2, batch, tiling.map_tiles, channels)

    def launch(sums: bool, slope: Tensor | None) -> None:
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

    with torch.cuda.device_of(x):
        if batch:
            launch(True, None)
        totals = parts.sum(2)
        slope = (totals[0] * factor).sum(-1) * rstd.square() * (-1 / x.shape[1:].numel())
        if batch:
            launch(False, slope)
        return grad_x, totals[0].clone(), totals[1:].sum((0, 1))[: 0 if identity is None else None]


@_pool_residual_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    factor: Tensor,
    identity: Tensor | None,
    pool_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels = factor.shape
    of_identity = 0 if identity is None else channels
    return _empty(x, x.dtype), _float32(x, batch, channels), _float32(x, of_identity)


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
        identity: Of the identity path; None means 1.
        pool_size: Side of the window; odd, at most 15.

    Returns:
        The gradients of ``x`` (in its dtype), factor and identity (None without one; both float32).
        That of ``x`` includes what reaches it through ``rstd`` in the factor.

    Shape:
        (B, C, H, W), (B, C, H, W), (B,), (B,), (B, C), (C,) -> (B, C, H, W), (B, C), (C,)

    Raises:
        ValueError: If ``pool_size`` is not an odd number from 1 to 15.
    """
    grad_x, grad_factor, grad_identity = _pool_residual_backward(
        grad, x, mean, rstd, factor, identity, pool_size
    )
    return grad_x, grad_factor, None if identity is None else grad_identity


# ------------------------------------------------------------------------------------ activation


def _all_blocks(x: Tensor) -> int:
    return triton.cdiv(x.numel(), _BLOCK)


@torch.library.custom_op("mmmetaformer::activate", mutates_args=())
def _activate(z: Tensor, act: str, numbers: list[Tensor]) -> Tensor:
    z = _dense(z, _memory_format(z))
    h = _empty(z, z.dtype)
    if z.numel():
        with torch.cuda.device_of(z):
            device.activate[(_all_blocks(z),)](
                z, *(numbers or (None, None)), h, z.numel(), ACT=act, BLOCK=_BLOCK
            )
    return h


@_activate.register_fake
def _(z: Tensor, act: str, numbers: list[Tensor]) -> Tensor:
    return _empty(z, z.dtype)


def activate(z: Tensor, act: str, numbers: tuple[Tensor, ...] = ()) -> Tensor:
    """The activation of ``z``, in its dtype.

    Args:
        z: Input.
        act: One of :data:`ACTIVATIONS`; ``'gelu'`` is the exact one.
        numbers: Of the activation: scale (1,) and bias (1,) of ``'star_relu'``.

    Shape:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: For an unknown activation, or another number of numbers than it has.
    """
    _check_activation(act, numbers)
    return _activate(z, act, list(numbers))


@torch.library.custom_op("mmmetaformer::activate_backward", mutates_args=())
def _activate_backward(
    grad: Tensor, z: Tensor, act: str, numbers: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`activate_backward`, with the gradients of the numbers in one tensor."""
    memory_format = _memory_format(z)
    z, grad = _dense(z, memory_format), _dense(grad, memory_format)
    grad_z, h = _empty(z, z.dtype), _empty(z, z.dtype)
    blocks = _all_blocks(z)
    parts = _float32(z, len(numbers), blocks)
    with torch.cuda.device_of(z):
        if z.numel():
            device.activate_backward[(blocks,)](
                grad,
                z,
                *(numbers or (None, None)),
                grad_z,
                h,
                parts,
                z.numel(),
                blocks,
                ACT=act,
                BLOCK=_BLOCK,
            )
        return grad_z, h, parts.sum(-1)


@_activate_backward.register_fake
def _(
    grad: Tensor, z: Tensor, act: str, numbers: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(z, z.dtype), _empty(z, z.dtype), _float32(z, len(numbers))


def activate_backward(
    grad: Tensor, z: Tensor, act: str, numbers: tuple[Tensor, ...] = ()
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The gradients of :func:`activate`, and its result once more.

    Args:
        grad: Gradient of the result.
        z: Input of the activation.
        act: One of :data:`ACTIVATIONS`.
        numbers: Of the activation.

    Returns:
        The gradient of ``z`` and the result, both in the dtype of ``z``, and the gradients of the
        numbers, (1,) each, float32.

    Raises:
        ValueError: For an unknown activation, or another number of numbers than it has.
    """
    _check_activation(act, numbers)
    grad_z, h, grad_numbers = _activate_backward(grad, z, act, list(numbers))
    return grad_z, h, tuple(grad_numbers.unsqueeze(1))
