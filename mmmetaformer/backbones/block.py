"""The MetaFormer block: two residuals, whatever stands in them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..fused import Half, resolve_fused, run_fused, run_plain_norm
from ..layers import ChannelScale, build_norm
from ..registry import CHANNEL_MIXERS, TOKEN_MIXERS, build_part, with_defaults


class MetaFormerBlock(BaseModule):
    """One block of the general architecture of `MetaFormer Is Actually What You Need for Vision
    <https://arxiv.org/abs/2111.11418>`_::

        x = res_scale1(x) + layer_scale1(drop_path(token_mixer(norm1(x))))
        x = res_scale2(x) + layer_scale2(drop_path(mlp(norm2(x))))

    Args:
        dim: Number of channels C.
        token_mixer: Config of the token mixer.
        channel_mixer: Config of the channel mixer; None leaves the second half out.
        norm_cfg: Config of both norms; None means no norm.
        part_defaults: Arguments of both mixers, where they take them and their own configs do not
            name them: ``act_cfg``, ``norm_cfg``.
        drop_path_rate: Probability of dropping a branch, per image.
        layer_scale_init_value: Initial LayerScale of both branches; None means no LayerScale.
        res_scale_init_value: Initial scale of both identity paths; None means no such scale.
        residual: False leaves both identity paths out; a pair says so for each half.
        fused: Whether halves run in their fused form where they have one (see
            :mod:`mmmetaformer.fused`): ``'auto'``, True, False or ``'triton'``.
        init_cfg: Initialisation config of mmengine.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
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
        fused: bool | str = "auto",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)

        def scale(init_value: float | None) -> nn.Module:
            return nn.Identity() if init_value is None else ChannelScale(dim, init_value)

        pair = (residual, residual) if isinstance(residual, bool) else tuple(residual)
        if len(pair) != 2 or not all(isinstance(item, bool) for item in pair):
            raise ValueError(f"residual must be a bool or a pair of them, got {residual!r}")
        self.residual1, self.residual2 = pair
        self.fused_path = resolve_fused(fused)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()

        # A scale of an identity path that is left out would be a parameter without a gradient.
        res_scale1, res_scale2 = (res_scale_init_value if path else None for path in pair)
        token_mixer = with_defaults(TOKEN_MIXERS, token_mixer, part_defaults)

        self.norm1 = build_norm(norm_cfg, dim)
        self.token_mixer = build_part(TOKEN_MIXERS, token_mixer, dim=dim)
        self.layer_scale1 = scale(layer_scale_init_value)
        self.res_scale1 = scale(res_scale1)

        self.mlp = None
        if channel_mixer is not None:
            self.norm2 = build_norm(norm_cfg, dim)
            channel_mixer = with_defaults(CHANNEL_MIXERS, channel_mixer, part_defaults)
            self.mlp = build_part(CHANNEL_MIXERS, channel_mixer, dim=dim)
            self.layer_scale2 = scale(layer_scale_init_value)
            self.res_scale2 = scale(res_scale2)

    def forward(self, x: Tensor) -> Tensor:
        halves = tuple(self.halves())
        while halves:
            fused = run_fused(halves, x, self.fused_path)
            done, x = (1, plain(halves[0], x)) if fused is None else fused
            halves = halves[done:]
        return x

    def halves(self) -> Iterator[Half]:
        """The token half, then the channel half if there is one."""
        yield Half(
            "token mixer",
            self.norm1,
            self.token_mixer,
            self.drop_path,
            self.layer_scale1,
            self.res_scale1,
            self.residual1,
        )
        if self.mlp is not None:
            yield Half(
                "channel mixer",
                self.norm2,
                self.mlp,
                self.drop_path,
                self.layer_scale2,
                self.res_scale2,
                self.residual2,
            )


def plain(half: Half, x: Tensor) -> Tensor:
    """What a half of a block computes: the definition of every fused form.

    Raises:
        ValueError: If the mixer does not keep (B, C, H, W).
    """
    branch = half.mixer(run_plain_norm(half.norm, x))
    if branch.shape != x.shape:  # it might broadcast, and train on
        raise ValueError(
            f"{half.name} {type(half.mixer).__name__} mapped {tuple(x.shape)} to "
            f"{tuple(branch.shape)}: it must keep (B, C, H, W)"
        )
    branch = half.layer_scale(half.drop_path(branch))
    return half.res_scale(x) + branch if half.residual else branch
