"""The residual branches that have a fused form.

Another form is another row of ``_FORMS`` at the end of this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backbones.metaformer import MetaFormerBlock
from ..channel_mixers import Mlp
from ..compat import autocast_dtype
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
from .norms import AffineNorm
from .primitives import Implementation
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

    norm: Any
    mixer: Any
    drop_path: nn.Module
    layer_scale: nn.Module
    res_scale: nn.Module
    residual: bool


def residual_branches(block: MetaFormerBlock) -> list[ResidualBranch]:
    """The branch of the token mixer, then that of the channel mixer if there is one."""
    b = block
    first = b.norm1, b.token_mixer, b.drop_path, b.layer_scale1, b.res_scale1, b.residual1
    if b.mlp is None:
        return [ResidualBranch(*first)]
    second = b.norm2, b.mlp, b.drop_path, b.layer_scale2, b.res_scale2, b.residual2
    return [ResidualBranch(*first), ResidualBranch(*second)]


# The modules with a fused form. Somebody may have replaced or changed the parts of a mixer, and a
# subclass may compute something else: classes are compared exactly.

_ACTS: dict[type, str] = {
    nn.Identity: "identity",
    nn.GELU: "gelu",
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    SquaredReLU: "squared_relu",
    StarReLU: "star_relu",
}


def _is_exactly(module: nn.Module, cls: type, **attributes: Any) -> bool:
    """Whether a module is of exactly this class and has these values of its attributes."""
    return type(module) is cls and all(
        getattr(module, name) == value for name, value in attributes.items()
    )


def _is_image_norm(norm: nn.Module) -> bool:
    return any(_is_exactly(norm, cls, num_groups=1) for cls in (GroupNorm, ModifiedLayerNorm))


def is_known_norm(norm: nn.Module) -> bool:
    """Whether a norm has a fused form."""
    return type(norm) is LayerNorm2d or _is_image_norm(norm)


def affine_norm(norm: Any, ops: Implementation) -> AffineNorm:
    """The fused form of a norm that has one."""
    return AffineNorm(not isinstance(norm, LayerNorm2d), norm.eps, ops)


def _is_act(act: nn.Module) -> bool:
    return type(act) in _ACTS and getattr(act, "approximate", "none") == "none"


def _is_pointwise(conv: nn.Module) -> bool:
    return _is_exactly(conv, nn.Conv2d, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0), groups=1)


def _is_depthwise(conv: Any) -> bool:
    if type(conv) is not nn.Conv2d:
        return False
    side, channels = conv.kernel_size[0], conv.in_channels
    same_size = dict(kernel_size=(side, side), padding=(side // 2, side // 2))
    plain = dict(stride=(1, 1), dilation=(1, 1), padding_mode="zeros")
    return side % 2 == 1 and _is_exactly(
        conv, nn.Conv2d, out_channels=channels, groups=channels, **same_size, **plain
    )


def _is_centred_average(pool: Any) -> bool:
    side = getattr(pool, "kernel_size", None)
    same_size = isinstance(side, int) and side % 2 == 1 and pool.padding == side // 2
    return same_size and _is_exactly(
        pool, nn.AvgPool2d, stride=1, count_include_pad=False, divisor_override=None
    )


# The fused forms.


def pooling(branch: ResidualBranch, x: Tensor, ops: Implementation) -> Tensor:
    """The token mixer of PoolFormer."""
    return PoolResidual.apply(x, *_pool_arguments(branch, x, ops))


def mlp(branch: ResidualBranch, x: Tensor, ops: Implementation) -> Tensor:
    """An MLP, or a separable convolution."""
    return Branch.apply(x, *_branch_arguments(branch, x, ops))


def pooling_and_mlp(
    first: ResidualBranch, second: ResidualBranch, x: Tensor, ops: Implementation
) -> Tensor:
    """Both branches of a block of PoolFormer, with identity paths."""
    # The arguments, too, are made in this order: they have the random numbers of drop path.
    pool_arguments = _pool_arguments(first, x, ops)
    return PoolResidualBranch.apply(x, *pool_arguments, *_branch_arguments(second, x, ops))


def attention(branch: ResidualBranch, x: Tensor, ops: Implementation) -> Tensor:
    """Self-attention, whose norm and first linear map are fused."""
    norm, mixer = branch.norm, branch.mixer
    parameters = norm.weight, norm.bias, mixer.qkv.weight, mixer.qkv.bias
    qkv = NormLinear.apply(x, *parameters, affine_norm(norm, ops))
    out = mixer.attend(mixer.to_tokens(qkv), x)
    drop = _drop_factor(branch, x, out.dtype)
    out = branch.layer_scale(out)
    path = branch.res_scale(x) if branch.residual else None
    if drop is None:
        return out if path is None else path + out
    drop = per_image(drop.to(out.dtype))
    return out * drop if path is None else torch.addcmul(path, out, drop)


def _pool_arguments(branch: ResidualBranch, x: Tensor, ops: Implementation) -> tuple:
    """The arguments of :class:`PoolResidual` after ``x``."""
    # Under CUDA's autocast, norms give float32.
    autocast = x.is_cuda and autocast_dtype("cuda") is not None
    tensors = PoolTensors(**_factors(branch, x, torch.float32 if autocast else x.dtype))
    return affine_norm(branch.norm, ops), branch.mixer.pool.kernel_size, *tensors


def _branch_arguments(branch: ResidualBranch, x: Tensor, ops: Implementation) -> tuple:
    """The arguments of :class:`Branch` after ``x``."""
    mixer: Any = branch.mixer
    if type(mixer) is Mlp:
        first, act, depthwise, last = mixer.fc1, mixer.act, None, mixer.fc2
    else:
        first, act, depthwise, last = mixer.pwconv1, mixer.act1, mixer.dwconv, mixer.pwconv2
    settings = BranchSettings(
        norm=affine_norm(branch.norm, ops),
        act=_ACTS[type(act)],
        residual=branch.residual,
        differentiable=torch.is_grad_enabled(),
    )
    tensors = BranchTensors(
        **_factors(branch, x, compute_dtype(x, first.weight)),
        weight=first.weight,
        bias=first.bias,
        depthwise=getattr(depthwise, "weight", None),
        depthwise_bias=getattr(depthwise, "bias", None),
        weight2=last.weight,
        bias2=last.bias,
        act_scale=getattr(act, "scale", None),
        act_bias=getattr(act, "bias", None),
    )
    return settings, *tensors


def _factors(branch: ResidualBranch, x: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """What the functions of all branches have. ``dtype`` is that of the map before LayerScale."""
    return dict(
        gamma=branch.norm.weight,
        beta=branch.norm.bias,
        layer_scale=getattr(branch.layer_scale, "scale", None),
        identity=getattr(branch.res_scale, "scale", None) if branch.residual else None,
        drop=_drop_factor(branch, x, dtype),
    )


def _drop_factor(branch: ResidualBranch, x: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The factor that drop path multiplies each image's branch by, (B,); None for one. It takes
    the random numbers that the module would take for a branch of ``dtype`` before LayerScale."""
    drop_path = branch.drop_path
    if not isinstance(drop_path, DropPath) or not drop_path.training:
        return None
    kept = drop_path(torch.ones(x.shape[0], 1, 1, 1, dtype=dtype, device=x.device)) > 0
    return kept.flatten().to(accumulation_dtype(dtype)) / (1 - drop_path.drop_prob)


Form = Callable[[ResidualBranch, Tensor, Implementation], Tensor]

# The form of each mixer, and the conditions on its parts.
_FORMS: dict[type, tuple[Form, dict[str, Callable[[Any], bool]]]] = {
    Pooling: (pooling, dict(pool=_is_centred_average)),
    Mlp: (mlp, dict(fc1=_is_pointwise, act=_is_act, fc2=_is_pointwise)),
    SepConv: (
        mlp,
        dict(pwconv1=_is_pointwise, act1=_is_act, dwconv=_is_depthwise, pwconv2=_is_pointwise),
    ),
    Attention: (attention, dict(qkv=lambda qkv: type(qkv) is nn.Linear)),
}


def fused_form(branch: ResidualBranch) -> Form | None:
    """The fused form of a residual branch; None if it has none."""
    norm, mixer, drop_path, layer_scale, res_scale, residual = branch
    form, parts = _FORMS.get(type(mixer), (None, {}))
    if form is pooling and not (residual and _is_image_norm(norm) and norm.weight is not None):
        return None
    known = (
        is_known_norm(norm)
        and type(drop_path) in (nn.Identity, DropPath)
        and all(type(scale) in (nn.Identity, ChannelScale) for scale in (layer_scale, res_scale))
        and all(is_known(getattr(mixer, name)) for name, is_known in parts.items())
    )
    return form if known else None
