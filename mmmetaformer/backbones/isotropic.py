"""The isotropic MetaFormer: blocks of one stride, then a pyramid."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from mmengine.model import ModuleList
from torch import Tensor, nn

from ..layers import build_norm, checkpoint_block
from ..registry import MODELS, build_part, with_defaults
from .arch import NUM_STAGES, IsotropicSettings, resolve_arch
from .base import Backbone, linear_drop_path, resolve_out_indices
from .metaformer import MetaFormerBlock


@MODELS.register_module()
class IsotropicMetaFormer(Backbone):
    """MetaFormer blocks on patches of one size, as a backbone for dense prediction.

    Maps are taken behind blocks n/4, n/2, 3n/4 and n, normalised where the family has an output
    norm, and brought to the strides 4, 8, 16 and 32 by a
    :class:`~mmmetaformer.layers.ScalePyramid`. Patches of 7 and 14 pixels become patches of 8 and
    16 for that, with resampled kernels (:class:`~mmmetaformer.layers.PatchEmbedding`), so that
    every stride is a true one. With ``pyramid=None`` the maps are emitted as they are, at the
    network's published stride.

    Args:
        arch: Name of a network (``mmmetaformer.list_archs()``), or a dict with ``depth``, ``dim``
            and any other field of :class:`~mmmetaformer.backbones.arch.IsotropicSettings`, on top
            of the family's settings; here, where there is no family, MLP-Mixer's.
        in_channels: Channels of the image.
        out_indices: Levels to emit, 0 to 3 or negative, in the order of emission. Blocks behind
            the last of them are not built.
        patch_stride: Stride of the patches. None means: with a pyramid the next power of two
            from the patch size, without one the patch size itself.
        drop_path_rate: Stochastic depth of the last block; the rate grows linearly from zero at
            the first.
        frozen_stages, norm_eval, with_cp, fused, pretrained, init_cfg: As for
            :class:`~mmmetaformer.backbones.base.Backbone`.
        **overrides: Fields of ``IsotropicSettings`` that replace the arch's own:
            ``token_mixers``, ``channel_mixers``, ``norm_cfg``, ``act_cfg``, ``inner_norm_cfg``,
            ``out_norm_cfg``, ``pyramid``, ...

    Shape:
        Image (B, in_channels, H, W) of any size -> one map (B, out_channels[i], H_i, W_i) per
        emitted level, H_i and W_i being H and W over ``out_strides[i]``, rounded up.

    Raises:
        ValueError: For an unknown arch or a wrong value.
        TypeError: For an unknown argument or a value of a wrong type.

    Example:
        >>> import torch
        >>> backbone = IsotropicMetaFormer('mlp_mixer_s16')
        >>> [tuple(level.shape) for level in backbone(torch.rand(1, 3, 224, 160))]
        [(1, 128, 56, 40), (1, 256, 28, 20), (1, 512, 14, 10), (1, 512, 7, 5)]
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        *,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        patch_stride: int | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        fused: bool | str = "auto",
        pretrained: str | bool | None = None,
        init_cfg: dict | Sequence[dict] | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__(
            arch, frozen_stages, norm_eval, with_cp, fused, pretrained=pretrained, init_cfg=init_cfg
        )
        settings = resolve_arch(arch, self.family, overrides, IsotropicSettings, "mlp_mixer")
        self.settings = settings
        self.out_indices = resolve_out_indices(out_indices)
        depths = settings.depths()[: max(self.out_indices) + 1]
        # Behind which block each level is taken.
        self._ends = {end - 1: index for index, end in enumerate(accumulate(depths))}

        patch_size = settings.stem["patch_size"]
        if patch_stride is None:
            patch_stride = patch_size
            if settings.pyramid is not None:
                patch_stride = 1 << (patch_size - 1).bit_length()
        stem = {**settings.stem, "stride": patch_stride}
        stem = with_defaults(MODELS, stem, settings.part_defaults())
        self.stem = build_part(MODELS, stem, in_channels=in_channels, out_channels=settings.dim)
        drop_path_rates = linear_drop_path(drop_path_rate, settings.depth)
        self.blocks = ModuleList(
            MetaFormerBlock(settings.dim, **block, drop_path_rate=next(drop_path_rates))
            for depth, block in zip(
                depths, settings.blocks([patch_size] * NUM_STAGES), strict=False
            )
            for _ in range(depth)
        )
        for index in self.out_indices:
            self.add_module(f"norm{index}", build_norm(settings.out_norm_cfg, settings.dim))
        if settings.pyramid is None:
            self.pyramid = None
            self.out_channels = (settings.dim,) * len(self.out_indices)
            self.out_strides = (patch_stride,) * len(self.out_indices)
        else:
            self.pyramid = build_part(
                MODELS,
                settings.pyramid,
                in_channels=settings.dim,
                in_stride=patch_stride,
                levels=self.out_indices,
            )
            self.out_channels = self.pyramid.out_channels
            self.out_strides = self.pyramid.strides
        self._finish()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image (B, in_channels, H, W) to one map (B, C_i, H_i, W_i) per emitted level."""
        size = x.shape[2:]
        recompute = self.with_cp and self.training and torch.is_grad_enabled()
        x = self.stem(x)
        levels = {}
        for number, block in enumerate(self.blocks):
            x = checkpoint_block(block, x) if recompute else block(x)
            index = self._ends.get(number)
            if index in self.out_indices:
                levels[index] = getattr(self, f"norm{index}")(x)
        maps = [levels[index] for index in self.out_indices]
        if self.pyramid is not None:
            maps = self.pyramid(maps, size)
        # mmcv's RoIAlign reads maps with the channels innermost in memory as noise.
        return tuple(level.contiguous() for level in maps)

    def numbered_blocks(self) -> Iterator[tuple[int, int, nn.Module]]:
        """As in :class:`Backbone`; the stages are the quarters."""
        built = 0
        for end, stage in self._ends.items():
            for number, block in enumerate(self.blocks[built : end + 1]):
                yield stage, number, block
            built = end + 1

    def frozen_modules(self) -> Iterator[nn.Module]:
        """The patch embedding for ``frozen_stages >= 0``; then quarter by quarter its blocks and
        its output norm."""
        if self.frozen_stages < 0:
            return
        yield self.stem
        built = 0
        for end, index in self._ends.items():
            if index < self.frozen_stages:
                yield from self.blocks[built : end + 1]
                if index in self.out_indices:
                    yield getattr(self, f"norm{index}")
            built = end + 1

    def is_for_outputs(self, name: str) -> bool:
        return name.startswith("pyramid.") or super().is_for_outputs(name)

    def is_behind_outputs(self, name: str) -> bool:
        match = re.match(r"blocks\.(\d+)\.", name)
        last = self.settings.depth
        return match is not None and len(self.blocks) <= int(match.group(1)) < last

    def _num_layers(self) -> int:
        return self.settings.depth

    def _locate(self, name: str) -> tuple[int, int] | None:
        """Each block is a layer; the stages are the quarters of the blocks."""
        if name.startswith("stem."):
            return 0, 0
        match = re.match(r"blocks\.(\d+)\.", name)
        if match is None:
            return None
        block = int(match.group(1))
        quarter = bisect_right(list(accumulate(self.settings.depths())), block)
        return block + 1, quarter + 1
