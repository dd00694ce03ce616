"""The Triton kernels: what runs on the device. ``ops.py`` launches them.

All of them compute in float32, whatever the tensors hold, and reduce in two steps without atomics:
every program writes its part, a second step adds the parts in a fixed order.

A map is addressed by the strides of its channels, rows and columns, so that one kernel serves
both memory layouts. The stride that is 1 becomes a constant of the compiled kernel, which lets the
compiler find the dimension along which it can read whole vectors. Offsets within an image are
int32, between images int64.
"""

import torch
import triton
import triton.language as tl

from .capability import INTERPRETED


def _first_if_deterministic(configs: list[triton.Config], *_, **__) -> list[triton.Config]:
    # The number of warps decides in what order a program adds up.
    return configs[:1] if torch.are_deterministic_algorithms_enabled() else configs


def _tuned(key: list[str], num_warps: tuple[int, ...] = (4, 8)):
    """Find the best number of warps for each value of ``key``; the interpreter has nothing to tune.

    What a program covers is no part of the search: it fixes how many partial results there are.
    Image sizes are no part of the key: with images of changing sizes the search would not end.
    """
    warps = num_warps[:1] if INTERPRETED else num_warps
    return triton.autotune(
        [triton.Config({}, num_warps=n) for n in warps],
        key=key,
        prune_configs_by={"early_config_prune": _first_if_deterministic},
    )


# ----------------------------------------------------------------------------------- normalisation


@triton.jit
def _split(index, size):
    """Quotient and remainder."""
    return index // size, index % size


@triton.jit
def _block_of_image(size, blocks, BLOCK: tl.constexpr):
    """Which block of which image the program works on, images being dense.

    Returns:
        Image, block, where the image starts, offsets from there, which of them lie within.
    """
    image, block = _split(tl.program_id(0), blocks)
    offsets = block * BLOCK + tl.arange(0, BLOCK)
    return image, block, image.to(tl.int64) * size, offsets, offsets < size


@triton.jit
def _store_moments(parts_ptr, image, part, parts, count, mean, squares):
    """Write the moments of a part to ``parts`` (B, 3, parts)."""
    parts_ptr += image.to(tl.int64) * 3 * parts + part
    tl.store(parts_ptr, count)
    tl.store(parts_ptr + parts, mean)
    tl.store(parts_ptr + 2 * parts, squares)


@_tuned(["BLOCK"], num_warps=(8, 4, 16))
@triton.jit
def block_moments(x_ptr, parts_ptr, size, blocks, BLOCK: tl.constexpr):
    """Count, mean and sum of squared deviations of each block of an image.

    Two passes over a block that stays in registers: exact for a mean far above the spread.
    """
    image, block, start, offsets, inside = _block_of_image(size, blocks, BLOCK)
    x = tl.load(x_ptr + start + offsets, mask=inside, other=0.0).to(tl.float32)
    count = tl.sum(inside.to(tl.float32), axis=0)
    mean = tl.sum(x, axis=0) / count
    deviation = tl.where(inside, x - mean, 0.0)
    squares = tl.sum(deviation * deviation, axis=0)
    _store_moments(parts_ptr, image, block, blocks, count, mean, squares)


@triton.jit
def merge_moments(parts_ptr, mean_ptr, rstd_ptr, parts, size, eps, BLOCK: tl.constexpr):
    """Mean and 1 / sqrt(variance + eps) of each image from the moments of its parts."""
    image = tl.program_id(0)
    counts_ptr = parts_ptr + image.to(tl.int64) * 3 * parts
    means_ptr = counts_ptr + parts
    squares_ptr = means_ptr + parts
    # Means are merged as differences from one of them, which keeps a large mean exact.
    first = tl.load(means_ptr)
    total = tl.zeros([BLOCK], tl.float32)
    start = 0
    while start < parts:  # the interpreter has no ``range`` up to an argument with NumPy 2.4
        offsets = start + tl.arange(0, BLOCK)
        inside = offsets < parts
        start += BLOCK
        count = tl.load(counts_ptr + offsets, mask=inside, other=0.0)
        total += count * (tl.load(means_ptr + offsets, mask=inside, other=0.0) - first)
    shift = tl.sum(total, axis=0) / size
    total = tl.zeros([BLOCK], tl.float32)
    start = 0
    while start < parts:
        offsets = start + tl.arange(0, BLOCK)
        inside = offsets < parts
        start += BLOCK
        count = tl.load(counts_ptr + offsets, mask=inside, other=0.0)
        distance = tl.load(means_ptr + offsets, mask=inside, other=0.0) - first - shift
        total += tl.load(squares_ptr + offsets, mask=inside, other=0.0)
        total += count * distance * distance
    tl.store(mean_ptr + image, first + shift)
    tl.store(rstd_ptr + image, 1.0 / tl.sqrt(tl.sum(total, axis=0) / size + eps))


@triton.jit
def _per_channel(pointer, channels, in_channels):
    """One number for each channel; ``in_channels`` says which of them there are."""
    return tl.load(pointer + channels, mask=in_channels, other=0.0).to(tl.float32)


@triton.jit
def _channel_of(offsets, stride_c, C):
    """The channel of places within an image, in either memory layout."""
    return (offsets // stride_c) % C


@_tuned(["BLOCK"])
@triton.jit
def normalize(
    x_ptr,
    mean_ptr,
    rstd_ptr,
    gamma_ptr,
    beta_ptr,
    n_ptr,
    C,
    stride_c,
    size,
    blocks,
    BLOCK: tl.constexpr,
):
    """(x - mean[b]) * rstd[b] * gamma[c] + beta[c]."""
    image, block, start, offsets, inside = _block_of_image(size, blocks, BLOCK)
    mean = tl.load(mean_ptr + image).to(tl.float32)
    rstd = tl.load(rstd_ptr + image).to(tl.float32)
    x = tl.load(x_ptr + start + offsets, mask=inside, other=0.0).to(tl.float32)
    n = (x - mean) * rstd
    channels = _channel_of(offsets, stride_c, C)
    if gamma_ptr is not None:
        n *= _per_channel(gamma_ptr, channels, inside)
    if beta_ptr is not None:
        n += _per_channel(beta_ptr, channels, inside)
    tl.store(n_ptr + start + offsets, n.to(n_ptr.dtype.element_ty), mask=inside)


@_tuned(["C", "BLOCK_C", "BLOCK_P"])
@triton.jit
def normalize_backward_sums(
    grad_ptr,
    x_ptr,
    mean_ptr,
    parts_ptr,
    C,
    positions,
    stride_c,
    stride_p,
    tiles_p,
    part_stride,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Each tile's part of the sums over positions of grad and of grad * (x - mean[b]), to
    ``parts`` (2, B, tiles_p, C)."""
    rest, tile_c = _split(tl.program_id(0), tl.cdiv(C, BLOCK_C))
    image, tile_p = _split(rest, tiles_p)
    channels = tile_c * BLOCK_C + tl.arange(0, BLOCK_C)[:, None]
    places = tile_p * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    in_channels = channels < C
    inside = in_channels & (places < positions)
    start = image.to(tl.int64) * C * positions
    offsets = channels * stride_c + places * stride_p
    mean = tl.load(mean_ptr + image).to(tl.float32)
    # Zero outside of the map, and with it both products.
    grad = tl.load(grad_ptr + start + offsets, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + start + offsets, mask=inside, other=0.0).to(tl.float32)
    parts_ptr += (image * tiles_p + tile_p).to(tl.int64) * C + channels
    tl.store(parts_ptr, tl.sum(grad, axis=1)[:, None], mask=in_channels)
    products = tl.sum(grad * (x - mean), axis=1)[:, None]
    tl.store(parts_ptr + part_stride, products, mask=in_channels)


@_tuned(["BLOCK"])
@triton.jit
def normalize_backward(
    grad_ptr,
    x_ptr,
    mean_ptr,
    factor_ptr,
    along_ptr,
    level_ptr,
    grad_x_ptr,
    C,
    stride_c,
    size,
    blocks,
    BLOCK: tl.constexpr,
):
    """factor[b, c] * grad + along[b] * (x - mean[b]) + level[b]."""
    image, block, start, offsets, inside = _block_of_image(size, blocks, BLOCK)
    mean = tl.load(mean_ptr + image).to(tl.float32)
    along = tl.load(along_ptr + image)
    level = tl.load(level_ptr + image)
    channels = _channel_of(offsets, stride_c, C)
    factor = _per_channel(factor_ptr + image * C, channels, inside)
    grad = tl.load(grad_ptr + start + offsets, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + start + offsets, mask=inside, other=0.0).to(tl.float32)
    grad_x = factor * grad + along * (x - mean) + level
    tl.store(grad_x_ptr + start + offsets, grad_x.to(grad_x_ptr.dtype.element_ty), mask=inside)


# ----------------------------------------------------------------------------------------- pooling


@triton.jit
def _pool_tile(
    C, W, tiles_h, tiles_w, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr, ROWS: tl.constexpr
):
    """Which channels, columns and rows of which image the program works on.

    Returns:
        Image, number of the tile within its channels, channels (BLOCK_C, 1), columns (1, BLOCK_W),
        first row.
    """
    # Channels vary fastest: in channels_last memory they are neighbours.
    rest, tile_c = _split(tl.program_id(0), tl.cdiv(C, BLOCK_C))
    rest, tile_w = _split(rest, tiles_w)
    image, tile_h = _split(rest, tiles_h)
    channels = tile_c * BLOCK_C + tl.arange(0, BLOCK_C)[:, None]
    columns = tile_w * BLOCK_W + tl.arange(0, BLOCK_W)[None, :]
    return image, tile_h * tiles_w + tile_w, channels, columns, tile_h * ROWS


@triton.jit
def _share(position, size, HALF: tl.constexpr):
    """1 / the number of places, of ``size``, that a window around ``position`` covers."""
    last = tl.minimum(position + HALF, size - 1)
    covered = last - tl.maximum(position - HALF, 0) + 1
    return 1.0 / tl.maximum(covered, 1).to(tl.float32)


@triton.jit
def _difference_row(
    x_ptr, row, columns, in_channels, reference, H, W, stride_h, stride_w, WINDOW: tl.constexpr
):
    """One row of the window: the sum of its values minus a reference, and the value in its middle.

    Places outside of the map count as the reference, so they add nothing.
    """
    HALF: tl.constexpr = WINDOW // 2
    total = 0.0
    middle = 0.0
    for i in tl.static_range(WINDOW):
        column = columns + (i - HALF)
        inside = in_channels & (column >= 0) & (column < W) & (row >= 0) & (row < H)
        value = tl.load(x_ptr + (row * stride_h + column * stride_w), mask=inside, other=0.0)
        value = value.to(tl.float32)
        total += tl.where(inside, value - reference, 0.0)
        if i == HALF:
            middle = value
    return total, middle


@triton.jit
def _weighted_row(
    grad_ptr, row, columns, in_channels, H, W, stride_h, stride_w, WINDOW: tl.constexpr
):
    """One row of the transposed window: the sum of its values, each divided by the number of places
    that its own window covers, and the value in its middle."""
    HALF: tl.constexpr = WINDOW // 2
    total = 0.0
    middle = 0.0
    for i in tl.static_range(WINDOW):
        column = columns + (i - HALF)
        inside = in_channels & (column >= 0) & (column < W) & (row >= 0) & (row < H)
        value = tl.load(grad_ptr + (row * stride_h + column * stride_w), mask=inside, other=0.0)
        value = value.to(tl.float32)
        total += value * _share(column, W, HALF)
        if i == HALF:
            middle = value
    return total * _share(row, H, HALF), middle


@triton.jit
def _total(values, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """The sum of ``COUNT`` of the values."""
    total = values[FIRST]
    for i in tl.static_range(1, COUNT):
        total += values[FIRST + i]
    return total


@_tuned(["C", "BLOCK_C", "BLOCK_W", "ROWS", "WINDOW", "MOMENTS"], num_warps=(8, 4, 16))
@triton.jit
def pool_residual(
    x_ptr,
    factor_ptr,
    identity_ptr,
    y_ptr,
    parts_ptr,
    C,
    H,
    W,
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    tiles_h,
    tiles_w,
    WINDOW: tl.constexpr,
    MOMENTS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
):
    """identity[c] * x + factor[b, c] * (pool(x) - x), with the moments of the result if asked for.

    A program walks down ROWS rows, so that a row of the window is summed once and not WINDOW times.
    """
    HALF: tl.constexpr = WINDOW // 2
    image, tile, channels, columns, first_row = _pool_tile(
        C, W, tiles_h, tiles_w, BLOCK_C, BLOCK_W, ROWS
    )
    in_channels = channels < C
    in_map = in_channels & (columns < W)
    start = image.to(tl.int64) * stride_b
    x_ptr += start + channels * stride_c
    y_ptr += start + channels * stride_c + columns * stride_w
    factor = _per_channel(factor_ptr + image * C, channels, in_channels)
    if identity_ptr is not None:
        identity = _per_channel(identity_ptr, channels, in_channels)
    # Averaging differences from a value nearby, and not the values, keeps a large mean exact.
    reference = tl.load(
        x_ptr + (first_row * stride_h + columns * stride_w), mask=in_map, other=0.0
    ).to(tl.float32)
    share_w = _share(columns, W, HALF)

    sums = ()
    middles = ()
    mean = tl.zeros([BLOCK_C, BLOCK_W], tl.float32)
    squares = tl.zeros([BLOCK_C, BLOCK_W], tl.float32)
    for i in tl.static_range(ROWS + WINDOW - 1):
        row_sum, middle = _difference_row(
            x_ptr,
            first_row - HALF + i,
            columns,
            in_channels,
            reference,
            H,
            W,
            stride_h,
            stride_w,
            WINDOW,
        )
        sums = sums + (row_sum,)
        middles = middles + (middle,)
        if i >= WINDOW - 1:
            row = first_row + (i - WINDOW + 1)
            x = middles[i - HALF]
            pooled = _total(sums, i - WINDOW + 1, WINDOW) * (share_w * _share(row, H, HALF))
            y = factor * (pooled - (x - reference))
            if identity_ptr is not None:
                y += identity * x
            else:
                y += x
            y = y.to(y_ptr.dtype.element_ty)
            tl.store(y_ptr + row * stride_h, y, mask=in_map & (row < H))
            if MOMENTS:
                # Welford's update, in each place by itself, with what has been stored.
                y = y.to(tl.float32)
                step = tl.where(row < H, y - mean, 0.0)
                mean += step / (i - WINDOW + 2)
                squares += step * (y - mean)
    if MOMENTS:
        rows = tl.minimum(H - first_row, ROWS).to(tl.float32)
        places = tl.sum(tl.sum(in_map.to(tl.float32), axis=1), axis=0)
        tile_mean = tl.sum(tl.sum(tl.where(in_map, mean, 0.0), axis=1), axis=0) / places
        distance = mean - tile_mean
        squares = tl.where(in_map, squares + rows * distance * distance, 0.0)
        tiles = tl.cdiv(C, BLOCK_C) * tiles_h * tiles_w
        _store_moments(
            parts_ptr,
            image,
            tl.program_id(0) % tiles,
            tiles,
            rows * places,
            tile_mean,
            tl.sum(tl.sum(squares, axis=1), axis=0),
        )


@_tuned(["C", "BLOCK_C", "BLOCK_W", "ROWS", "WINDOW", "SUMS"], num_warps=(8, 4, 16))
@triton.jit
def pool_residual_backward(
    grad_ptr,
    x_ptr,
    mean_ptr,
    slope_ptr,
    factor_ptr,
    identity_ptr,
    grad_x_ptr,
    parts_ptr,
    C,
    H,
    W,
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    tiles_h,
    tiles_w,
    part_stride,
    SUMS: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The sums over the map for the gradients of factor and identity, or the gradient of x, which
    needs their totals.

    With P for the pooling and P' for its transpose, the gradient of a factor is the sum of
    grad * (P x - x), which is that of (P' grad - grad) * (x - m) for any number m, since P keeps
    constants. One pooling, of grad, serves all gradients.
    """
    HALF: tl.constexpr = WINDOW // 2
    image, tile, channels, columns, first_row = _pool_tile(
        C, W, tiles_h, tiles_w, BLOCK_C, BLOCK_W, ROWS
    )
    in_channels = channels < C
    in_map = in_channels & (columns < W)
    start = image.to(tl.int64) * stride_b + channels * stride_c
    grad_ptr += start
    x_ptr += start + columns * stride_w
    mean = tl.load(mean_ptr + image).to(tl.float32)
    if SUMS:
        sum_difference = tl.zeros([BLOCK_C, BLOCK_W], tl.float32)
        sum_identity = tl.zeros([BLOCK_C, BLOCK_W], tl.float32)
    else:
        grad_x_ptr += start + columns * stride_w
        slope = tl.load(slope_ptr + image).to(tl.float32)
        factor = _per_channel(factor_ptr + image * C, channels, in_channels)
        if identity_ptr is not None:
            identity = _per_channel(identity_ptr, channels, in_channels)

    sums = ()
    middles = ()
    for i in tl.static_range(ROWS + WINDOW - 1):
        row_sum, middle = _weighted_row(
            grad_ptr, first_row - HALF + i, columns, in_channels, H, W, stride_h, stride_w, WINDOW
        )
        sums = sums + (row_sum,)
        middles = middles + (middle,)
        if i >= WINDOW - 1:
            row = first_row + (i - WINDOW + 1)
            inside = in_map & (row < H)
            grad = middles[i - HALF]
            difference = _total(sums, i - WINDOW + 1, WINDOW) - grad
            x = tl.load(x_ptr + row * stride_h, mask=inside, other=0.0).to(tl.float32)
            if SUMS:
                sum_difference += tl.where(inside, difference * (x - mean), 0.0)
                if identity_ptr is not None:
                    sum_identity += tl.where(inside, grad * x, 0.0)
            else:
                grad_x = factor * difference + slope * (x - mean)
                if identity_ptr is not None:
                    grad_x += identity * grad
                else:
                    grad_x += grad
                grad_x = grad_x.to(grad_x_ptr.dtype.element_ty)
                tl.store(grad_x_ptr + row * stride_h, grad_x, mask=inside)

    if SUMS:
        parts_ptr += (image * tiles_h * tiles_w + tile).to(tl.int64) * C + channels
        tl.store(parts_ptr, tl.sum(sum_difference, axis=1)[:, None], mask=in_channels)
        if identity_ptr is not None:
            identity_part = tl.sum(sum_identity, axis=1)[:, None]
            tl.store(parts_ptr + part_stride, identity_part, mask=in_channels)


# -------------------------------------------------------------------------------------- activation


@triton.jit
def _relu(u):
    """As torch's, it keeps NaN; ``tl.maximum`` does not."""
    return tl.where(u <= 0, 0.0, u)


@triton.jit
def _normal_cdf(u):
    return 0.5 * (1.0 + tl.erf(u * 0.7071067811865476))


@triton.jit
def _activation(u, star_scale, star_bias, ACT: tl.constexpr):
    if ACT == "gelu":
        u = u * _normal_cdf(u)
    elif ACT == "relu":
        u = _relu(u)
    elif ACT == "silu":
        u = u * tl.sigmoid(u)
    elif ACT == "squared_relu":
        positive = _relu(u)
        u = positive * positive
    elif ACT == "star_relu":
        positive = _relu(u)
        u = star_scale * (positive * positive) + star_bias
    else:
        tl.static_assert(ACT == "identity")
    return u


@triton.jit
def _activation_slope(u, star_scale, ACT: tl.constexpr):
    """The derivative of the activation."""
    if ACT == "gelu":
        slope = _normal_cdf(u) + u * (0.3989422804014327 * tl.exp(-0.5 * u * u))
    elif ACT == "relu":
        slope = tl.where(u <= 0, 0.0, 1.0)
    elif ACT == "silu":
        gate = tl.sigmoid(u)
        slope = gate * (1.0 + u * (1.0 - gate))
    elif ACT == "squared_relu":
        slope = 2.0 * _relu(u)
    elif ACT == "star_relu":
        slope = (2.0 * star_scale) * _relu(u)
    else:
        tl.static_assert(ACT == "identity")
        slope = tl.full(u.shape, 1.0, tl.float32)
    return slope


@triton.jit
def _star_scalars(scale_ptr, bias_ptr, ACT: tl.constexpr):
    """StarReLU's scale and bias; for other activations two scalars that nothing reads."""
    if ACT == "star_relu":
        scale = tl.load(scale_ptr).to(tl.float32)
        bias = tl.load(bias_ptr).to(tl.float32)
    else:
        scale = 1.0
        bias = 0.0
    return scale, bias


@triton.jit
def _block_of_all(size, BLOCK: tl.constexpr):
    """Offsets of the program's block of a whole tensor, and which of them lie within."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return offsets, offsets < size


# The two below may write where they read, and so are not run again and again to be tuned.


@triton.jit
def activate(
    z_ptr, star_scale_ptr, star_bias_ptr, h_ptr, size, ACT: tl.constexpr, BLOCK: tl.constexpr
):
    """act(z)."""
    offsets, inside = _block_of_all(size, BLOCK)
    star_scale, star_bias = _star_scalars(star_scale_ptr, star_bias_ptr, ACT)
    z = tl.load(z_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    h = _activation(z, star_scale, star_bias, ACT)
    tl.store(h_ptr + offsets, h.to(h_ptr.dtype.element_ty), mask=inside)


@triton.jit
def activate_backward(
    grad_ptr,
    z_ptr,
    star_scale_ptr,
    star_bias_ptr,
    grad_z_ptr,
    h_ptr,
    parts_ptr,
    size,
    blocks,
    ACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of z, act(z) once more, and each block's part of the gradients of StarReLU's
    scale and bias, to ``parts`` (2, blocks)."""
    offsets, inside = _block_of_all(size, BLOCK)
    star_scale, star_bias = _star_scalars(star_scale_ptr, star_bias_ptr, ACT)
    # Zero outside of the tensor, and with it all that is added up.
    grad = tl.load(grad_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(z_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    h = _activation(z, star_scale, star_bias, ACT)
    tl.store(h_ptr + offsets, h.to(h_ptr.dtype.element_ty), mask=inside)
    grad_z = grad * _activation_slope(z, star_scale, ACT)
    tl.store(grad_z_ptr + offsets, grad_z.to(grad_z_ptr.dtype.element_ty), mask=inside)
    if ACT == "star_relu":
        positive = _relu(z)
        parts_ptr += tl.program_id(0)
        tl.store(parts_ptr, tl.sum(grad * (positive * positive), axis=0))
        tl.store(parts_ptr + blocks, tl.sum(grad, axis=0))
