"""Four levels from the maps of an isotropic network."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule, ModuleDict, Sequential
from torch import Tensor, nn

from ..registry import MODELS
from .norm import LayerNorm2d

LEVEL_STRIDES = (4, 8, 16, 32)


@MODELS.register_module()
class ScalePyramid(BaseModule):
    """Bring one map per level, all of the same stride, to the strides 4, 8, 16 and 32.

    The shallower of four block depths become the finer levels, as `BEiT
    <https://arxiv.org/abs/2106.08254>`_ and `XCiT <https://arxiv.org/abs/2106.09681>`_ do it. Each
    doubling is a 2x2 transposed convolution to half of the channels, with a LayerNorm and a GELU
    between two of them, as in `ViTDet <https://arxiv.org/abs/2203.16527>`_; each halving is a max
    pooling, which has no parameters. The sizes are exact: level ``s`` has ``ceil(H / s)`` rows,
    whatever the image was padded to.

    Args:
        in_channels: Channels C of all maps.
        in_stride: Their stride, a power of two.
        levels: Which of the four levels to build, 0 to 3, in the order of the maps. Each keeps its
            name in the state dict, whichever others are built.
        init_cfg: Initialisation; the default is a normal distribution with standard deviation
            0.02 for the transposed convolutions.

    Shape:
        One (B, C, h, w) per level -> (B, out_channels[i], ceil(H / s_i), ceil(W / s_i))

    Raises:
        ValueError: If ``in_stride`` is no power of two.
    """

    def __init__(
        self,
        in_channels: int,
        in_stride: int,
        levels: Sequence[int] = (0, 1, 2, 3),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type="TruncNormal", layer="ConvTranspose2d", std=0.02))
        if not isinstance(in_stride, int) or in_stride < 1 or in_stride & (in_stride - 1):
            raise ValueError(
                f"a pyramid of strides 4, 8, 16, 32 starts from a power of two, got {in_stride!r}"
            )
        self.strides = tuple(LEVEL_STRIDES[level] for level in levels)
        self.order = tuple(str(level) for level in levels)
        self.levels = ModuleDict()
        channels = []
        for name, stride in zip(self.order, self.strides, strict=True):
            layers: list[nn.Module] = []
            dim = in_channels
            current = in_stride
            while current > stride:
                if layers:
                    layers += [LayerNorm2d(dim), nn.GELU()]
                layers.append(nn.ConvTranspose2d(dim, dim // 2, 2, 2))
                dim //= 2
                current //= 2
            while current < stride:
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
                current *= 2
            self.levels[name] = Sequential(*layers)
            channels.append(dim)
        self.out_channels = tuple(channels)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
        """Maps (B, C, h, w), one per level, and the size (H, W) of the image."""
        outs = []
        for index, (name, stride) in enumerate(zip(self.order, self.strides)):  # noqa: B905
            # Not ``-(-side // stride)``: ONNX divides negative numbers in another way than Python.
            height, width = (size[0] + stride - 1) // stride, (size[1] + stride - 1) // stride
            outs.append(self.levels[name](maps[index])[:, :, :height, :width])
        return outs
