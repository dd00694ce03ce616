"""Mixers whose weights belong to one grid of positions, on maps of any size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from . import windows

SIZE_POLICIES = ("window", "resample_map", "resample_weights")


class GridMixer(BaseModule):
    """A mixer that was pre-trained on a fixed grid of positions.

    Three policies carry it to other sizes. On the grid itself all are the published function.

    - ``'window'``: the map is cut into windows of the grid, each mixed by itself, which is the
      weight as a block-diagonal matrix. Within a whole window the pre-trained function is kept
      exactly; information does not cross windows. Windows at the border are filled up with zeros.
    - ``'resample_map'``: the map is averaged to the grid (a smaller one is repeated), mixed there
      and interpolated back. Mixing is global, and blurred by ``map size / grid size``.
    - ``'resample_weights'``: what comes of interpolating the weight itself to the positions of the
      map, scaled so that the response to a constant map stays what it was. The interpolation is
      linear, so it is applied to the map before and behind the weight, in place of the average of
      ``'resample_map'``, and no large weight is ever made.

    Subclasses define :meth:`mix`.

    Args:
        grid_size: Rows and columns of the pre-training grid; an integer means both.
        size_policy: One of the above.
        init_cfg: Initialisation config of mmengine.

    Raises:
        ValueError: For an unknown policy or a wrong grid.
    """

    def __init__(
        self,
        grid_size: int | Sequence[int],
        size_policy: str = "window",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        grid = (grid_size, grid_size) if isinstance(grid_size, int) else tuple(grid_size)
        if len(grid) != 2 or any(type(side) is not int or side < 1 for side in grid):
            raise ValueError(f"grid_size must be one or two positive integers, got {grid_size!r}")
        if size_policy not in SIZE_POLICIES:
            raise ValueError(
                f"unknown size_policy {size_policy!r}: expected one of {', '.join(SIZE_POLICIES)}"
            )
        self.grid_size = grid
        self.size_policy = size_policy

    @property
    def num_positions(self) -> int:
        """Positions N of the grid."""
        return self.grid_size[0] * self.grid_size[1]

    @abstractmethod
    def mix(self, x: Tensor) -> Tensor:
        """The published function, (B, C, N) to (B, C, N)."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.grid_size
        if self.size_policy == "window":
            mixed = self.mix(windows.to_windows(x, rows, columns))
            return windows.from_windows(mixed, rows, columns, x)
        if self.size_policy == "resample_map":
            grid = F.adaptive_avg_pool2d(x, (rows, columns))
        else:
            grid = weigh_to_grid(x, rows, columns)
        grid = self.mix(grid.flatten(2)).unflatten(2, (rows, columns))
        return F.interpolate(grid, x.shape[2:], mode="bilinear", align_corners=False)

    def extra_repr(self) -> str:
        return f"grid_size={self.grid_size}, size_policy={self.size_policy!r}"


def weigh_to_grid(x: Tensor, rows: int, columns: int) -> Tensor:
    """The transpose of bilinear interpolation from a grid to a map, times the positions of the
    grid over those of the map: each position of the grid gets a weighted mean of what lies around
    it.

    Args:
        x: (B, C, H, W).
        rows: Rows of the grid.
        columns: Columns of the grid.

    Returns:
        (B, C, rows, columns).
    """
    height, width = x.shape[2], x.shape[3]
    down = _interpolation(rows, height, x) * (rows / height)
    across = _interpolation(columns, width, x) * (columns / width)
    return down @ x @ across.t()


def _interpolation(size: int, new_size: int, like: Tensor) -> Tensor:
    """Row i is what linear interpolation makes of the unit vector i, (size, new_size)."""
    units = torch.eye(size, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(units, new_size, mode="linear", align_corners=False)[0]


# One step for torch.fx, since it depends on the size of the map.
torch.fx.wrap("weigh_to_grid")
