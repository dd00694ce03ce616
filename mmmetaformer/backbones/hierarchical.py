"""The hierarchical MetaFormer: four stages of blocks, each behind a downsampling."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.model import ModuleDict, ModuleList, Sequential
from torch import Tensor, nn

from ..fused import run_fused_downsampling
from ..layers import PositionEmbedding
from ..registry import MODELS, build_part, with_defaults
from .arch import NUM_STAGES, resolve_arch
from .base import (
    Backbone,
    linear_drop_path,
    resolve_init_cfg,
    resolve_out_indices,
)
from .block import MetaFormerBlock


@MODELS.register_module()
class MetaFormer(Backbone):
    """The general MetaFormer of `MetaFormer Is Actually What You Need for Vision
    <https://arxiv.org/abs/2111.11418>`_ as a backbone for dense prediction.

    Stages behind the last emitted one are not built, and output norms exist only for emitted
    stages, so that no parameter is left without a gradient under DDP.

    Args:
        arch: Name of a network (``mmmetaformer.list_archs()``), or a dict with ``depths``,
            ``dims`` and any other field of :class:`~mmmetaformer.backbones.arch.ArchSettings`, on
            top of the family's settings; here, where there is no family, PoolFormer's.
        in_channels: Channels of the image.
        out_indices: Stages to emit, 0 to 3 or negative, in the order of emission.
        drop_path_rate: Stochastic depth of the last block; the rate grows linearly from zero at
            the first.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages with
            their output norms.
        norm_eval: Keep BatchNorm layers in eval mode while training.
        with_cp: Recompute the blocks in the backward pass instead of storing their activations.
        fused: Whether blocks run in their fused form where they have one, with the same
            parameters and, but for rounding, the same results: ``'auto'``, True, False or
            ``'triton'`` (:class:`~mmmetaformer.backbones.base.Backbone`).
        pretrained: Tag of published weights of the arch, such as ``'384_in21ft1k'``
            (:func:`mmmetaformer.list_checkpoints`), True for the default; in place of ``init_cfg``.
        init_cfg: Initialisation config; ``dict(type='Pretrained', checkpoint=...)`` takes any
            published layout and raises unless every parameter but the output norms is loaded.
        **overrides: Fields of ``ArchSettings`` that replace the arch's own: ``token_mixers``,
            ``channel_mixers``, ``norm_cfg``, ``act_cfg``, ``inner_norm_cfg``, ``out_norm_cfg``
            (None emits the raw stage outputs), ``layer_scale_init_value``,
            ``res_scale_init_value``, ``pos_embed_sizes``, ...

    Shape:
        Image (B, in_channels, H, W) -> one map (B, out_channels[i], H_i, W_i) per emitted stage,
        H_i and W_i being H and W over ``out_strides[i]``, rounded as the convolutions of the
        published network do. Any size from 32x32 up.

    Raises:
        ValueError: For an unknown arch or a wrong value.
        TypeError: For an unknown argument or a value of a wrong type.

    Example:
        >>> import torch
        >>> backbone = MetaFormer('poolformer_s12', token_mixers='identity')
        >>> [tuple(level.shape) for level in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    family: str | None = None

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        *,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        fused: bool | str = "auto",
        pretrained: str | bool | None = None,
        init_cfg: dict | Sequence[dict] | None = None,
        **overrides: Any,
    ) -> None:
        init_cfg = resolve_init_cfg(init_cfg, pretrained, arch, self.family)
        super().__init__(frozen_stages, norm_eval, with_cp, fused, init_cfg)
        settings = resolve_arch(arch, self.family, overrides)
        stages = settings.stages()
        self.settings = settings
        self.out_indices = resolve_out_indices(out_indices)
        strides = settings.strides()
        self.out_channels = tuple(stages[i].dim for i in self.out_indices)
        self.out_strides = tuple(strides[i] for i in self.out_indices)

        drop_path_rates = linear_drop_path(drop_path_rate, sum(settings.depths))
        self.downsample_layers = ModuleList()
        self.pos_embeds = ModuleDict()
        self.stages = ModuleList()
        channels = in_channels
        for index, stage in enumerate(stages[: max(self.out_indices) + 1]):
            downsampling = with_defaults(MODELS, stage.downsampling, settings.part_defaults())
            self.downsample_layers.append(
                build_part(MODELS, downsampling, in_channels=channels, out_channels=stage.dim)
            )
            if stage.pos_embed_size is not None:
                self.pos_embeds[str(index)] = PositionEmbedding(stage.dim, stage.pos_embed_size)
            self.stages.append(
                Sequential(
                    *(
                        MetaFormerBlock(
                            stage.dim,
                            **stage.block,
                            drop_path_rate=next(drop_path_rates),
                            fused=self.fused_path,
                        )
                        for _ in range(stage.depth)
                    )
                )
            )
            if index in self.out_indices:
                self.add_out_norm(index, settings.out_norm_cfg, stage.dim)
            channels = stage.dim
        self._use_fused()
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image (B, in_channels, H, W) to one map (B, C_i, H_i, W_i) per emitted stage."""
        x = self.lay_out(x)
        levels = {}
        for index, (downsampling, blocks) in enumerate(
            zip(self.downsample_layers, self.stages, strict=True)
        ):
            fused = run_fused_downsampling(downsampling, x, self.fused_path)
            x = downsampling(x) if fused is None else fused
            if str(index) in self.pos_embeds:
                x = self.pos_embeds[str(index)](x)
            for block in blocks:
                x = self.run(block, x)
            if index in self.out_indices:
                levels[index] = self.normalized(index, x)
        return self.emit(levels[index] for index in self.out_indices)

    def numbered_blocks(self) -> Iterator[tuple[int, int, nn.Module]]:
        for stage, blocks in enumerate(self.stages):
            for number, block in enumerate(blocks):
                yield stage, number, block

    def frozen_modules(self) -> Iterator[nn.Module]:
        """The stem for ``frozen_stages >= 0``; then stage by stage its downsampling, its
        position embedding, its blocks and its output norm."""
        if self.frozen_stages < 0:
            return
        yield self.downsample_layers[0]
        for index in range(min(self.frozen_stages, len(self.stages))):
            yield self.downsample_layers[index]
            if str(index) in self.pos_embeds:
                yield self.pos_embeds[str(index)]
            yield self.stages[index]
            yield self.out_norm(index)

    def is_behind_outputs(self, name: str) -> bool:
        match = re.match(r"(?:downsample_layers|pos_embeds|stages)\.(\d+)\.", name)
        return match is not None and len(self.stages) <= int(match.group(1)) < NUM_STAGES

    def _num_layers(self) -> int:
        # Stage 3 is the layer behind the last block of stage 2.
        return _layer_of_stage_2(self.settings.depths[2]) + 1

    def _locate(self, name: str) -> tuple[int, int] | None:
        """Stages 0, 1 and 3 are a layer each, with their downsampling; stage 2, by far the
        deepest, is one for every three of its entries, the downsampling being the first (as in
        the recipes of `FFNet <https://arxiv.org/abs/2406.02021>`_)."""
        match = re.match(r"(downsample_layers|pos_embeds|stages)\.([0-3])\.(\d*)", name)
        if match is None:
            return None
        part, stage, block = match.group(1), int(match.group(2)), match.group(3)
        if part == "downsample_layers" and stage == 0:
            return 0, 0
        if stage == 2:
            # A position embedding belongs to the map that the downsampling gives.
            layer = _layer_of_stage_2(int(block) + 1 if part == "stages" else 0)
        else:
            layer = self._num_layers() if stage == 3 else stage + 1
        return layer, stage + 1


def _layer_of_stage_2(entry: int) -> int:
    """Entry 0 is the downsampling, entry i the block i - 1."""
    return 3 + entry // 3
