"""The MetaFormer, top down: downsampling, a block of two residuals, stages, the backbone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleDict, ModuleList, Sequential
from torch import Tensor, nn

from ..layers import ChannelScale, DropPath, PositionEmbedding, build_norm, checkpoint_block
from ..mixers.contract import check_shape_is_kept
from ..registry import CHANNEL_MIXERS, MODELS, TOKEN_MIXERS, build_part, with_defaults
from .arch import NUM_STAGES, ArchSettings, resolve_arch
from .base import Backbone, linear_drop_path, resolve_out_indices


@MODELS.register_module()
class ConvDownsampling(BaseModule):
    """A strided convolution, optionally with a norm before or after it.

    The stem of a network is the same layer as the three downsamplings between its stages, with
    another kernel and stride. Padding is the published one and the input is never cropped or
    padded to a multiple: a side of ``n`` becomes ``(n + 2 * padding - kernel_size) // stride + 1``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the square kernel.
        stride: Stride of the convolution. The backbone derives ``out_strides`` from this value.
        padding: Zero padding on each side.
        pre_norm_cfg: Norm on the input, or None.
        post_norm_cfg: Norm on the output, or None.
        init_cfg: Initialisation; None leaves torch's.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H', W')
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        pre_norm_cfg: dict | None = None,
        post_norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.pre_norm = build_norm(pre_norm_cfg, in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.post_norm = build_norm(post_norm_cfg, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.post_norm(self.conv(self.pre_norm(x)))


class MetaFormerBlock(BaseModule):
    """One block of the general architecture of `MetaFormer Is Actually What You Need for Vision
    <https://arxiv.org/abs/2111.11418>`_: a residual around a token mixer, then one around a
    channel mixer.

    Args:
        dim: Number of channels C.
        token_mixer: Config of the token mixer.
        channel_mixer: Config of the channel mixer; None leaves the second residual out.
        norm_cfg: Config of both norms; None means no norm.
        part_defaults: Arguments of both mixers, where they take them and their own configs do not
            name them: ``act_cfg``, ``norm_cfg``.
        drop_path_rate: Probability of dropping a branch, per image.
        layer_scale_init_value: Initial LayerScale of both branches; None means no LayerScale.
        res_scale_init_value: Initial scale of both identity paths; None means no such scale.
        residual: False leaves both identity paths out; a pair says so for each residual.
        init_cfg: Initialisation config of mmengine.

    Shape:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: If ``residual`` is neither a bool nor a pair of them.
    """

    def __init__(
        self,
        dim: int,
        token_mixer: Mapping[str, Any],
        channel_mixer: Mapping[str, Any] | None,
        norm_cfg: dict | None,
        part_defaults: Mapping[str, Any],
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
        res_scale_init_value: float | None = None,
        residual: bool | Sequence[bool] = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)

        def scale(init_value: float | None) -> nn.Module:
            return nn.Identity() if init_value is None else ChannelScale(dim, init_value)

        pair = (residual, residual) if isinstance(residual, bool) else tuple(residual)
        if len(pair) != 2 or not all(isinstance(item, bool) for item in pair):
            raise ValueError(f"residual must be a bool or a pair of them, got {residual!r}")
        self.residual1, self.residual2 = pair
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()

        # A scale of an identity path that is left out would be a parameter without a gradient.
        res_scale1, res_scale2 = (res_scale_init_value if path else None for path in pair)
        token_mixer = with_defaults(TOKEN_MIXERS, token_mixer, part_defaults)

        self.norm1 = build_norm(norm_cfg, dim)
        self.token_mixer = check_shape_is_kept(build_part(TOKEN_MIXERS, token_mixer, dim=dim))
        self.layer_scale1 = scale(layer_scale_init_value)
        self.res_scale1 = scale(res_scale1)

        self.mlp = None
        if channel_mixer is not None:
            self.norm2 = build_norm(norm_cfg, dim)
            channel_mixer = with_defaults(CHANNEL_MIXERS, channel_mixer, part_defaults)
            self.mlp = check_shape_is_kept(build_part(CHANNEL_MIXERS, channel_mixer, dim=dim))
            self.layer_scale2 = scale(layer_scale_init_value)
            self.res_scale2 = scale(res_scale2)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.layer_scale1(self.drop_path(self.token_mixer(self.norm1(x))))
        x = self.res_scale1(x) + branch if self.residual1 else branch
        if self.mlp is not None:
            branch = self.layer_scale2(self.drop_path(self.mlp(self.norm2(x))))
            x = self.res_scale2(x) + branch if self.residual2 else branch
        return x


class Stage(Sequential):
    """Blocks one behind another.

    Args:
        *blocks: The blocks.
        with_cp: Recompute the blocks in the backward pass instead of storing their activations.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, *blocks: nn.Module, with_cp: bool = False) -> None:
        super().__init__(*blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        recompute = self.with_cp and self.training and torch.is_grad_enabled()
        for block in self:
            x = checkpoint_block(block, x) if recompute else block(x)
        return x


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
        frozen_stages, norm_eval, with_cp, fused, pretrained, init_cfg: As for
            :class:`~mmmetaformer.backbones.base.Backbone`.
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
        super().__init__(
            arch, frozen_stages, norm_eval, with_cp, fused, pretrained=pretrained, init_cfg=init_cfg
        )
        settings = resolve_arch(arch, self.family, overrides, ArchSettings, "poolformer")
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
            rates = [next(drop_path_rates) for _ in range(stage.depth)]
            blocks = (
                MetaFormerBlock(stage.dim, **stage.block, drop_path_rate=rate) for rate in rates
            )
            self.stages.append(Stage(*blocks, with_cp=with_cp))
            if index in self.out_indices:
                self.add_module(f"norm{index}", build_norm(settings.out_norm_cfg, stage.dim))
            channels = stage.dim
        self._finish()

    @property
    def with_cp(self) -> bool:
        """Whether the stages recompute their blocks in the backward pass."""
        return self._with_cp

    @with_cp.setter
    def with_cp(self, value: bool) -> None:
        self._with_cp = value
        for stage in getattr(self, "stages", ()):
            stage.with_cp = value

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image (B, in_channels, H, W) to one map (B, C_i, H_i, W_i) per emitted stage."""
        maps = {}
        for index, stage in enumerate(self.stages):
            x = self.downsample_layers[index](x)
            if str(index) in self.pos_embeds:
                x = self.pos_embeds[str(index)](x)
            x = stage(x)
            if index in self.out_indices:
                norm = getattr(self, f"norm{index}")
                # mmcv's RoIAlign reads maps with the channels innermost in memory as noise.
                maps[index] = norm(x).contiguous()
        return tuple(maps[index] for index in self.out_indices)

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
            if index in self.out_indices:
                yield getattr(self, f"norm{index}")

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
