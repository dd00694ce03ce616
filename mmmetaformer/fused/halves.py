"""Which halves of a block have a fused form, and what it is made of.

A half is plain data (:class:`Half`); what it computes is said by ``MetaFormerBlock``. The table at
the end of this file says which halves are fused and how: to fuse another one is to add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ..channel_mixers import Mlp
from ..layers import (
    ChannelScale,
    ConvDownsampling,
    LayerNorm2d,
    ModifiedLayerNorm,
    SquaredReLU,
    StarReLU,
)
from ..mixers.attention import Attention
from ..mixers.pooling import Pooling
from ..mixers.sepconv import SepConv
from .functions import (
    Branch,
    BranchSettings,
    BranchTensors,
    Convolution,
    Norm,
    NormLinear,
    PoolResidual,
    PoolResidualBranch,
    compute_dtype,
    has_fast_convolution,
)
from .primitives import wide


class Half(NamedTuple):
    """One of the two residuals of a block."""

    name: str
    norm: nn.Module
    mixer: nn.Module
    drop_path: nn.Module
    layer_scale: nn.Module
    res_scale: nn.Module
    residual: bool


# Of one half or two, a map and the name of the implementation of the primitives.
Fused = Callable[..., Tensor]

# Windows of fewer channels take longer to gather than oneDNN takes for the gradient.
_FEWEST_CHANNELS = 16

# Classes are compared exactly here: a subclass may compute something else.

_ACTS = {
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
    """A key of ``functions.NORMS``."""
    if type(norm) in (nn.GroupNorm, ModifiedLayerNorm) and norm.num_groups == 1:
        return "image"
    return "position" if type(norm) is LayerNorm2d else None


# What the fused forms take for granted of parts that somebody may have replaced or changed.


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


def _has_known_scales(half: Half) -> bool:
    scales = half.layer_scale, half.res_scale
    return type(half.drop_path) in (nn.Identity, DropPath) and all(
        type(scale) in (nn.Identity, ChannelScale) for scale in scales
    )


def _is_pooling(half: Half) -> bool:
    return (
        type(half.mixer) is Pooling
        and _is_centred_average(half.mixer.pool)
        and norm_name(half.norm) == "image"
        and half.norm.weight is not None
        and half.residual
    )


def _is_mlp(half: Half) -> bool:
    mixer = half.mixer
    return (
        type(mixer) is Mlp
        and norm_name(half.norm) is not None
        and _is_pointwise(mixer.fc1, mixer.fc2)
        and _act_name(mixer.act) is not None
    )


def _is_residual_mlp(half: Half) -> bool:
    return half.residual and _is_mlp(half)


def _is_sepconv(half: Half) -> bool:
    mixer = half.mixer
    return (
        type(mixer) is SepConv
        and norm_name(half.norm) is not None
        and _is_pointwise(mixer.pwconv1, mixer.pwconv2)
        and _is_depthwise(mixer.dwconv)
        and _act_name(mixer.act1) is not None
    )


def _is_attention(half: Half) -> bool:
    return (
        type(half.mixer) is Attention
        and norm_name(half.norm) is not None
        and type(half.mixer.qkv) is nn.Linear
    )


def _pooling(half: Half, x: Tensor, backend: str) -> Tensor:
    return PoolResidual.apply(*_pool_arguments(half, x), backend)


def _pool_arguments(half: Half, x: Tensor) -> tuple:
    # Under CUDA's autocast, norms give float32.
    autocast = x.is_cuda and torch.is_autocast_enabled("cuda")
    drop = _drop_factor(half, x, torch.float32 if autocast else x.dtype)
    scales = _scale(half.layer_scale), _scale(half.res_scale)
    norm = half.norm
    return x, norm.weight, norm.bias, *scales, drop, norm.eps, half.mixer.pool.kernel_size


def _pooling_mlp(first: Half, second: Half, x: Tensor, backend: str) -> Tensor:
    return PoolResidualBranch.apply(*_pool_arguments(first, x), *_mlp_arguments(second, x, backend))


def _mlp(half: Half, x: Tensor, backend: str) -> Tensor:
    return Branch.apply(x, *_mlp_arguments(half, x, backend))


def _mlp_arguments(half: Half, x: Tensor, backend: str) -> tuple:
    mixer = half.mixer
    return _branch_arguments(half, x, mixer.fc1, None, mixer.fc2, mixer.act, backend)


def _sepconv(half: Half, x: Tensor, backend: str) -> Tensor:
    mixer = half.mixer
    parts = mixer.pwconv1, mixer.dwconv, mixer.pwconv2, mixer.act1
    return Branch.apply(x, *_branch_arguments(half, x, *parts, backend))


def _branch_arguments(
    half: Half,
    x: Tensor,
    linear: nn.Conv2d,
    depthwise: nn.Conv2d | None,
    linear2: nn.Conv2d,
    act: nn.Module,
    backend: str,
) -> tuple:
    """Of ``Branch``, those behind its map."""
    norm = half.norm
    settings = BranchSettings(
        norm_name(norm), norm.eps, _act_name(act), half.residual, torch.is_grad_enabled(), backend
    )
    tensors = BranchTensors(
        gamma=norm.weight,
        beta=norm.bias,
        weight=linear.weight,
        bias=linear.bias,
        depthwise=None if depthwise is None else depthwise.weight,
        depthwise_bias=None if depthwise is None else depthwise.bias,
        weight2=linear2.weight,
        bias2=linear2.bias,
        layer_scale=_scale(half.layer_scale),
        identity=_scale(half.res_scale) if half.residual else None,
        drop=_drop_factor(half, x, compute_dtype(x, linear.weight)),
    )
    return settings, *tensors, *act.parameters()


def _attention(half: Half, x: Tensor, backend: str) -> Tensor:
    norm, linear = half.norm, half.mixer.qkv
    parameters = norm.weight, norm.bias, linear.weight, linear.bias
    qkv = NormLinear.apply(x, *parameters, norm_name(norm), norm.eps, backend)
    branch = half.mixer.attend(*half.mixer.queried(qkv).chunk(3, dim=-1), None, x)
    drop = _drop_factor(half, x, branch.dtype)
    branch = half.layer_scale(branch)
    path = half.res_scale(x) if half.residual else None
    if drop is None:
        return branch if path is None else path + branch
    drop = drop.to(branch.dtype).view(-1, 1, 1, 1)
    return branch * drop if path is None else torch.addcmul(path, branch, drop)


def norm_map(norm: nn.Module, x: Tensor, backend: str) -> Tensor | None:
    """The norm of a map, contiguous; None for a norm without a fused form."""
    name = norm_name(norm)
    if name is None:
        return None
    return Norm.apply(x, norm.weight, norm.bias, name, norm.eps, backend)


def is_downsampling(layer: nn.Module) -> bool:
    """Whether :func:`downsampled` knows a layer."""
    return type(layer) is ConvDownsampling and type(layer.conv) is nn.Conv2d


def downsampled(layer: ConvDownsampling, x: Tensor) -> Tensor:
    """What a downsampling layer makes of a map, with a faster backward pass."""
    return layer.post_norm(_convolved(layer.conv, layer.pre_norm(x)))


def _convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    fits = (
        conv.in_channels >= _FEWEST_CHANNELS
        and max(conv.stride) > 1
        and conv.groups == max(conv.dilation) == 1
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and torch.is_grad_enabled()
        and has_fast_convolution(x, conv.weight)
    )
    if not fits:
        return conv(x)
    return Convolution.apply(x, conv.weight, conv.bias, conv.stride, conv.padding)


def _scale(module: nn.Module) -> Tensor | None:
    return module.scale if isinstance(module, ChannelScale) else None


def _drop_factor(half: Half, x: Tensor, dtype: torch.dtype) -> Tensor | None:
    """What drop path multiplies each image's branch by, (B,); None for one. It takes the random
    numbers that the module would take for a branch of ``dtype``, which is before LayerScale."""
    drop_path = half.drop_path
    if not isinstance(drop_path, DropPath) or not drop_path.training:
        return None
    kept = drop_path(torch.ones(x.shape[0], 1, 1, 1, dtype=dtype, device=x.device)) > 0
    return kept.flatten().to(wide(dtype)) / (1 - drop_path.drop_prob)


class Row(NamedTuple):
    """What can be fused.

    Attributes:
        matches: What has to hold of one half, or of each of two, one behind the other.
        run: The fused form.
        replaced: The modules of each half's mixer that then do not run.
    """

    matches: tuple[Callable[[Half], bool], ...]
    run: Fused
    replaced: tuple[tuple[str, ...], ...]

    def fits(self, halves: Sequence[Half]) -> bool:
        """Whether the first of the halves are of this kind."""
        count = len(self.matches)
        pairs = zip(self.matches, halves[:count], strict=False)
        return len(halves) >= count and all(
            _has_known_scales(half) and matches(half) for matches, half in pairs
        )


_MLP_PARTS = ("fc1", "act", "fc2")

# The first row that fits is taken.
TABLE = (
    Row((_is_pooling, _is_residual_mlp), _pooling_mlp, (("pool",), _MLP_PARTS)),
    Row((_is_pooling,), _pooling, (("pool",),)),
    Row((_is_mlp,), _mlp, (_MLP_PARTS,)),
    Row((_is_sepconv,), _sepconv, (("pwconv1", "act1", "dwconv", "pwconv2"),)),
    Row((_is_attention,), _attention, (("qkv",),)),
)
