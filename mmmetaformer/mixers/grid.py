"""Mixers whose weights belong to one grid of positions, on maps of any size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from .windows import from_windows, to_windows

SIZE_POLICIES = ("window", "resample_map", "resample_weights")
# A resampled weight of this many entries takes 1 GiB in float32, for each block.
_MAX_ENTRIES = 2**28


class GridMixer(BaseModule):
    """A mixer that was pre-trained on a fixed grid of positions.

    Three policies carry it to other sizes. On the grid itself all are the published function.

    - ``'window'``: the map is cut into windows of the grid, each mixed by itself, which is the
      weight as a block-diagonal matrix. Within a whole window the pre-trained function is kept
      exactly; information does not cross windows. At the border windows are filled up with zeros.
    - ``'resample_map'``: the map is averaged to the grid (a smaller one is repeated), mixed there
      and interpolated back. Mixing is global, and blurred by ``map size / grid size``.
    - ``'resample_weights'``: the weight itself is interpolated to the map's size. Global and
      sharp, but the cost grows with the square of the number of positions, so it is for crops of
      moderate size; beyond 2**28 entries it is refused.

    Subclasses define :meth:`mix` and :meth:`mix_resampled`.

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
    def mix(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """The published function, (B, C, N) to (B, C, N).

        ``valid`` (B, N) is False at positions outside of the image, where ``x`` is zero.
        """

    @abstractmethod
    def mix_resampled(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """With weights resampled to maps of ``size`` (H, W): (B, C, H * W) to the same."""

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        if size == self.grid_size:
            return self.mix(x.flatten(2)).unflatten(2, size)
        if self.size_policy == "window":
            windows, valid = to_windows(x, self.grid_size)
            return from_windows(self.mix(windows, valid), self.grid_size, size)
        if self.size_policy == "resample_map":
            x = F.adaptive_avg_pool2d(x, self.grid_size)
            x = self.mix(x.flatten(2)).unflatten(2, self.grid_size)
            return F.interpolate(x, size, mode="bilinear", align_corners=False)
        return self.mix_resampled(x.flatten(2), size).unflatten(2, size)

    def resample_inputs(self, weight: Tensor, size: tuple[int, int]) -> Tensor:
        """A weight (M, N) over the positions of the grid for those of a map, (M, H * W).

        Scaled by ``N / (H * W)``: the sum over a smooth map stays what it was.
        """
        return self.resample_outputs(weight.T, size).T * (self.num_positions / _area(size))

    def resample_outputs(self, weight: Tensor, size: tuple[int, int]) -> Tensor:
        """A weight (N, M) whose rows are positions of the grid for those of a map, (H * W, M)."""
        _check_entries(weight.shape[1], size)
        grid = weight.T.unflatten(1, self.grid_size)
        return F.interpolate(grid[None], size, mode="bilinear", align_corners=False)[0].flatten(1).T

    def resample_matrix(self, weight: Tensor, size: tuple[int, int]) -> Tensor:
        """A square weight (N, N) for the positions of a map, (H * W, H * W)."""
        _check_entries(_area(size), size)  # before the first step allocates anything
        return self.resample_outputs(self.resample_inputs(weight, size), size)

    def extra_repr(self) -> str:
        return f"grid_size={self.grid_size}, size_policy={self.size_policy!r}"


def _check_entries(columns: int, size: tuple[int, int]) -> None:
    if _area(size) * columns > _MAX_ENTRIES:
        raise ValueError(
            f"size_policy='resample_weights' cannot serve a map of {size[0]}x{size[1]}: the "
            f"resampled weight would have {_area(size)}x{columns} entries (at most "
            f"{_MAX_ENTRIES}); use 'window' or 'resample_map', or smaller crops"
        )


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
