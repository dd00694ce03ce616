"""Which pixels the centre of a map depends on, and how much."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmmetaformer.backbones.base import Backbone

from .recording import evaluating

# The shares in the tables of RepLKNet and its successors.
SHARES = (0.2, 0.3, 0.5, 0.99)


@dataclass(frozen=True)
class Area:
    """The smallest centred rectangle that holds a share of the contributions.

    Attributes:
        share: The share t of the total contribution.
        rows: Height of the rectangle, in pixels.
        columns: Its width.
        ratio: Its area over that of the image, the "r" of RepLKNet's tables.
        top: Its first row.
        left: Its first column.
    """

    share: float
    rows: int
    columns: int
    ratio: float
    top: int
    left: int


def effective_receptive_fields(
    backbone: Backbone, images: Iterable[Tensor], stages: Sequence[int] | None = None
) -> dict[int, Tensor]:
    """Contribution of each pixel to the centre of the emitted maps, as `RepLKNet
    <https://arxiv.org/abs/2203.06717>`_ measures it.

    For the map M (C, h, w) of a stage and a normalised image I (3, H, W) that is::

        sum over colours of relu(d/dI sum over channels of relu(M[:, h // 2, w // 2]))

    averaged over the images. The inner relu leaves the channels that are active; it is in
    RepLKNet's code, and needed: behind a LayerNorm the plain sum over channels is a constant, whose
    gradient is zero. Maps are taken as they are emitted, with output norm and pyramid; a norm over
    positions (PoolFormer's) lets every pixel contribute a little.

    Args:
        backbone: The network; it is evaluated in eval mode and left as it was.
        images: Normalised images, (B, 3, H, W) or any iterable of (3, H, W) of one size.
        stages: Which of ``backbone.out_indices``; None means all.

    Returns:
        For each stage a map (H, W) in float64, on the CPU.

    Raises:
        ValueError: If a stage is not emitted, there is no image, or a gradient is not finite.
    """
    stages = tuple(backbone.out_indices if stages is None else stages)
    absent = [stage for stage in stages if stage not in backbone.out_indices]
    if absent or not stages:
        raise ValueError(
            f"stages must be some of those that are emitted, {backbone.out_indices}, got {stages}"
        )
    sums: dict[int, Tensor] = {}
    count = 0
    with evaluating(backbone), torch.enable_grad():
        for image in images:
            for stage, contributions in _contributions(backbone, image, stages).items():
                sums[stage] = sums.get(stage, 0) + contributions
            count += 1
    if not count:
        raise ValueError("an effective receptive field is an average over images, got none")
    return {stage: total / count for stage, total in sums.items()}


def _contributions(backbone: Backbone, image: Tensor, stages: tuple[int, ...]) -> dict[int, Tensor]:
    """The contributions (H, W) to each stage for one image (3, H, W)."""
    pixels = image.detach()[None].requires_grad_()
    levels = dict(zip(backbone.out_indices, backbone(pixels), strict=True))
    found = {}
    for stage in stages:
        height, width = levels[stage].shape[2:]
        active = levels[stage][:, :, height // 2, width // 2].relu().sum()
        (gradient,) = torch.autograd.grad(active, pixels, retain_graph=stage != stages[-1])
        if not gradient.isfinite().all():
            raise ValueError(f"the gradient of the centre of stage {stage} is not finite")
        found[stage] = gradient.relu().sum((0, 1), dtype=torch.float64).cpu()
    return found


def measured_pixels(backbone: Backbone, size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """The pixel in the middle of what the measured position of each emitted map sees, for
    :func:`contribution_areas`.

    Position i of a map of stride s looks at the pixels around i * s. Where the sides of the image
    are multiples of 2 * s that is the centre of the image, elsewhere up to s / 2 beside it.

    Args:
        backbone: The network; it is evaluated in eval mode and left as it was.
        size: Height and width of the images.
    """
    like = next(backbone.parameters())
    with evaluating(backbone), torch.no_grad():
        levels = backbone(like.new_zeros(1, 3, *size))
    return {
        stage: (level.shape[2] // 2 * stride, level.shape[3] // 2 * stride)
        for stage, stride, level in zip(
            backbone.out_indices, backbone.out_strides, levels, strict=True
        )
    }


def contribution_areas(
    contributions: Tensor,
    shares: Sequence[float] = SHARES,
    centre: tuple[int, int] | None = None,
) -> list[Area]:
    """How far contributions reach: for each share t the smallest centred rectangle that holds at
    least t of their sum, as in the tables of `RepLKNet <https://arxiv.org/abs/2203.06717>`_.

    Rectangles are centred at a pixel and have the aspect ratio of the image: the longer side
    reaches i pixels to both sides of the centre, the shorter one i times the ratio of the sides,
    rounded; so in a square image they are squares of 2i + 1 pixels, and one pixel for i = 0. What
    would lie outside of the image is cut off.

    The ratios do not change when all contributions are multiplied by a number. RepLKNet's own
    tables are of ``log10(contributions + 1)``, which gives larger ratios and does depend on the
    scale of the gradients: pass that to compare with them.

    Args:
        contributions: (H, W), not negative.
        shares: Each in (0, 1].
        centre: Row and column of that pixel; None means (H // 2, W // 2).

    Raises:
        ValueError: If the map is none, holds negative or not finite values or only zeros, a share
            is not in (0, 1], or the centre is outside of the map.
    """
    if contributions.ndim != 2 or not contributions.numel():
        raise ValueError(f"contributions must be a map (H, W), got {tuple(contributions.shape)}")
    wrong = [share for share in shares if not 0 < share <= 1]
    if wrong:
        raise ValueError(f"shares must be in (0, 1], got {wrong[0]!r}")
    if not contributions.isfinite().all() or (contributions < 0).any():
        raise ValueError("contributions must be finite and not negative")
    height, width = contributions.shape
    row, column = (height // 2, width // 2) if centre is None else centre
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"centre must be a pixel of the {height}x{width} map, got {centre}")
    longer, shorter = max(height, width), min(height, width)
    # Sums over everything above and left of a pixel: that of a rectangle is four of them.
    sums = contributions.new_zeros(height + 1, width + 1, dtype=torch.float64)
    sums[1:, 1:] = contributions.to(torch.float64).cumsum(0).cumsum(1)
    total = sums[-1, -1]
    if total == 0:
        raise ValueError("no pixel contributes: all contributions are zero")

    reach = torch.arange(longer + 1, device=sums.device)  # the last is all of the image
    short_reach = (2 * reach * shorter + longer) // (2 * longer)
    down, across = (reach, short_reach) if height == longer else (short_reach, reach)
    top, bottom = (row - down).clamp(min=0), (row + down + 1).clamp(max=height)
    left, right = (column - across).clamp(min=0), (column + across + 1).clamp(max=width)
    held = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    held[-1] = total  # whatever the differences have been rounded to
    areas = []
    for share in shares:
        first = int((held >= share * total).nonzero()[0])
        rows, columns = int(bottom[first] - top[first]), int(right[first] - left[first])
        ratio = rows * columns / (height * width)
        areas.append(Area(share, rows, columns, ratio, int(top[first]), int(left[first])))
    return areas
