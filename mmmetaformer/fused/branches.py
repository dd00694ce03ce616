"""The residual branches that have a fused form.

Another form is another row of the table at the end of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..backbones.metaformer import MetaFormerBlock
from ..channel_mixers import Mlp
from ..layers import (
    ChannelScale,
    DropPath,
    GroupNorm,
    LayerNorm2d,
    ModifiedLayerNorm,
    SquaredReLU,
    StarReLU,
)
from ..mixers.attention import Attention
from ..mixers.pooling import Pooling
from ..mixers.sepconv import SepConv
from .functions import NormLinear
from .maps import accumulation_dtype, compute_dtype, per_image
from .residual_functions import (
    Branch,
    BranchSettings,
    BranchTensors,
    PoolResidual,
    PoolResidualBranch,
    PoolTensors,
)


class ResidualBranch(NamedTuple):
    """A residual branch of a block: its modules, and whether it has an identity path."""

    norm: nn.Module
    mixer: nn.Module
    drop_path: nn.Module
    layer_scale: nn.Module
    res_scale: nn.Module
    residual: bool

    def modules(self) -> tuple[nn.Module, ...]:
        """The modules alone."""
        return self[:-1]

    @property
    def affine_norm(self) -> GroupNorm | LayerNorm2d:
        """The norm, one of those that :func:`norm_name` knows."""
        return cast(GroupNorm, self.norm)


def residual_branches(block: MetaFormerBlock) -> list[ResidualBranch]:
    """The branch of the token mixer, then that of the channel mixer if there is one."""
    b = block
    branches = [
        ResidualBranch(
            b.norm1, b.token_mixer, b.drop_path, b.layer_scale1, b.res_scale1, b.residual1
        )
    ]
    if b.mlp is not None:
        branches.append(
            ResidualBranch(b.norm2, b.mlp, b.drop_path, b.layer_scale2, b.res_scale2, b.residual2)
        )
    return branches


# Classes are compared exactly here: a subclass may compute something else.

_ACTS: dict[type, str] = {
    nn.Identity: "identity",
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    SquaredReLU: "squared_relu",
    StarReLU: "star_relu",
}


def _act_name(act: nn.Module) -> str | None:
    if type(act) is nn.GELU and act.approximate == "none":
        return "gelu"
    return _ACTS.get(type(act))


def norm_name(norm: nn.Module) -> str | None:
    """The key of ``norms.NORMS`` for a norm; None if it has none."""
    if type(norm) in (GroupNorm, ModifiedLayerNorm) and norm.num_groups == 1:
        return "image"
    return "position" if type(norm) is LayerNorm2d else None


# Somebody may have replaced or changed the parts of a mixer.


def _is_pointwise(*modules: nn.Module) -> bool:
    return all(
        type(conv) is nn.Conv2d
        and (conv.kernel_size, conv.stride, conv.padding) == ((1, 1), (1, 1), (0, 0))
        and conv.groups == 1
        for conv in modules
    )


def _is_depthwise(conv: nn.Module) -> bool:
    if type(conv) is not nn.Conv2d:
        return False
    side = conv.kernel_size[0]
    return (
        conv.in_channels == conv.out_channels == conv.groups
        and conv.kernel_size == (side, side)
        and conv.padding == (side // 2, side // 2)
        and conv.padding_mode == "zeros"
        and (conv.stride, conv.dilation) == ((1, 1), (1, 1))
        and side % 2 == 1
    )


def _is_centred_average(pool: nn.Module) -> bool:
    return (
        type(pool) is nn.AvgPool2d
        and isinstance(pool.kernel_size, int)
        and (pool.stride, pool.padding) == (1, pool.kernel_size // 2)
        and pool.kernel_size % 2 == 1
        and not pool.count_include_pad
        and pool.divisor_override is None
    )


def _has_known_scales(branch: ResidualBranch) -> bool:
    scales = branch.layer_scale, branch.res_scale
    return type(branch.drop_path) in (nn.Identity, DropPath) and all(
        type(scale) in (nn.Identity, ChannelScale) for scale in scales
    )


def _is_pooling(branch: ResidualBranch) -> bool:
    return (
        type(branch.mixer) is Pooling
        and _is_centred_average(branch.mixer.pool)
        and norm_name(branch.norm) == "image"
        and branch.norm.weight is not None
        and branch.residual
    )


def _is_mlp(branch: ResidualBranch) -> bool:
    mixer = branch.mixer
    return (
        type(mixer) is Mlp
        and norm_name(branch.norm) is not None
        and _is_pointwise(mixer.fc1, mixer.fc2)
        and _act_name(mixer.act) is not None
    )


def _is_residual_mlp(branch: ResidualBranch) -> bool:
    return branch.residual and _is_mlp(branch)


def _is_sepconv(branch: ResidualBranch) -> bool:
    mixer = branch.mixer
    return (
        type(mixer) is SepConv
        and norm_name(branch.norm) is not None
        and _is_pointwise(mixer.pwconv1, mixer.pwconv2)
        and _is_depthwise(mixer.dwconv)
        and _act_name(mixer.act1) is not None
    )


def _is_attention(branch: ResidualBranch) -> bool:
    return (
        type(branch.mixer) is Attention
        and norm_name(branch.norm) is not None
        and type(branch.mixer.qkv) is nn.Linear
    )


def _pooling(branch: ResidualBranch, x: Tensor, implementation: str) -> Tensor:
    eps, pool_size, *tensors = _pool_arguments(branch, x)
    return PoolResidual.apply(x, eps, pool_size, implementation, *tensors)


def _pooling_mlp(
    first: ResidualBranch, second: ResidualBranch, x: Tensor, implementation: str
) -> Tensor:
    eps, pool_size, *pool_tensors = _pool_arguments(first, x)
    settings, *tensors = _branch_arguments(second, x, implementation)
    return PoolResidualBranch.apply(x, eps, pool_size, settings, *pool_tensors, *tensors)


def _mlp_or_sepconv(branch: ResidualBranch, x: Tensor, implementation: str) -> Tensor:
    settings, *tensors = _branch_arguments(branch, x, implementation)
    return Branch.apply(x, settings, *tensors)


def _attention(branch: ResidualBranch, x: Tensor, implementation: str) -> Tensor:
    norm, mixer = branch.affine_norm, cast(Attention, branch.mixer)
    parameters = norm.weight, norm.bias, mixer.qkv.weight, mixer.qkv.bias
    qkv = NormLinear.apply(x, *parameters, norm_name(norm), norm.eps, implementation)
    out = mixer.attend(mixer.to_tokens(qkv), x)
    drop = _drop_factor(branch, x, out.dtype)
    out = branch.layer_scale(out)
    path = branch.res_scale(x) if branch.residual else None
    if drop is None:
        return out if path is None else path + out
    drop = per_image(drop.to(out.dtype))
    return out * drop if path is None else torch.addcmul(path, out, drop)


def _pool_arguments(branch: ResidualBranch, x: Tensor) -> tuple:
    """eps, the side of the window and the tensors of a pooling."""
    norm, pool = branch.affine_norm, cast(Pooling, branch.mixer).pool
    # Under CUDA's autocast, norms give float32.
    autocast = x.is_cuda and torch.is_autocast_enabled("cuda")
    drop = _drop_factor(branch, x, torch.float32 if autocast else x.dtype)
    scales = _scale(branch.layer_scale), _scale(branch.res_scale)
    return norm.eps, pool.kernel_size, *PoolTensors(norm.weight, norm.bias, *scales, drop)


def _branch_arguments(branch: ResidualBranch, x: Tensor, implementation: str) -> tuple:
    """The settings and the tensors of an MLP or a SepConv."""
    norm, mixer = branch.affine_norm, branch.mixer
    depthwise: nn.Conv2d | None = None
    if isinstance(mixer, Mlp):
        first, act, last = mixer.fc1, mixer.act, mixer.fc2
    else:
        mixer = cast(SepConv, mixer)
        first, act, depthwise, last = mixer.pwconv1, mixer.act1, mixer.dwconv, mixer.pwconv2
    act_scale, act_bias = (act.scale, act.bias) if isinstance(act, StarReLU) else (None, None)
    settings = BranchSettings(
        norm=cast(str, norm_name(norm)),
        eps=norm.eps,
        act=cast(str, _act_name(act)),
        residual=branch.residual,
        differentiable=torch.is_grad_enabled(),
        implementation=implementation,
    )
    tensors = BranchTensors(
        gamma=norm.weight,
        beta=norm.bias,
        weight=first.weight,
        bias=first.bias,
        depthwise=None if depthwise is None else depthwise.weight,
        depthwise_bias=None if depthwise is None else depthwise.bias,
        weight2=last.weight,
        bias2=last.bias,
        layer_scale=_scale(branch.layer_scale),
        identity=_scale(branch.res_scale) if branch.residual else None,
        drop=_drop_factor(branch, x, compute_dtype(x, first.weight)),
        act_scale=act_scale,
        act_bias=act_bias,
    )
    return settings, *tensors


def _scale(module: nn.Module) -> Tensor | None:
    return module.scale if isinstance(module, ChannelScale) else None


def _drop_factor(branch: ResidualBranch, x: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The factor that drop path multiplies each image's branch by, (B,); None for one. It takes
    the random numbers that the module would take for a branch of ``dtype`` before LayerScale."""
    drop_path = branch.drop_path
    if not isinstance(drop_path, DropPath) or not drop_path.training:
        return None
    kept = drop_path(torch.ones(x.shape[0], 1, 1, 1, dtype=dtype, device=x.device)) > 0
    return kept.flatten().to(accumulation_dtype(dtype)) / (1 - drop_path.drop_prob)


class Row(NamedTuple):
    """A pattern of one or two successive residual branches with a fused form.

    Attributes:
        matches: A condition for each branch.
        run: The fused form: takes the branches, a map and the name of an implementation.
    """

    matches: tuple[Callable[[ResidualBranch], bool], ...]
    run: Callable[..., Tensor]

    def fits(self, branches: Sequence[ResidualBranch]) -> bool:
        """Whether the first of the branches match."""
        return len(branches) >= len(self.matches) and all(
            _has_known_scales(branch) and matches(branch)
            for matches, branch in zip(self.matches, branches, strict=False)
        )


# The first row that fits is taken.
TABLE = (
    Row((_is_pooling, _is_residual_mlp), _pooling_mlp),
    Row((_is_pooling,), _pooling),
    Row((_is_mlp,), _mlp_or_sepconv),
    Row((_is_sepconv,), _mlp_or_sepconv),
    Row((_is_attention,), _attention),
)


def has_fused_form(branch: ResidualBranch) -> bool:
    """Whether a branch by itself can be fused."""
    return any(row.fits([branch]) for row in TABLE)
