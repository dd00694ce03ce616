"""The same network as several implementations have it: an image to the four maps of its stages,
without norms on the maps, and all from the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmetaformer.backbones.base import Backbone
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.engine.errors import UserError
from mmmetaformer.layers import switch_to_deploy
from mmmetaformer.registry import as_cfg
from mmmetaformer.variants import FAMILIES, find_variant, list_archs
from mmmetaformer.weights import export_state_dict

# Our own, by the backbone's argument ``fused``. "deploy" is the plain one with its branches folded.
OURS: dict[str, bool | str] = {
    "plain": False,
    "fused": True,
    "triton": "triton",
    "deploy": False,
}


@dataclass(frozen=True)
class Library:
    """Somebody else's networks.

    Attributes:
        find: From the name of an arch to what builds their network; None if they do not have it.
        maps: From such a network and an image to the four maps.
    """

    find: Callable[[str], Callable[[], nn.Module] | None]
    maps: Callable[[nn.Module, Tensor], list[Tensor]]


class FourMaps(nn.Module):
    """Somebody else's network up to the maps of its four stages.

    Args:
        network: The network.
        maps: From the network and an image to the maps.

    Shape:
        Image (B, 3, H, W) -> four maps (B, C_i, H_i, W_i).
    """

    def __init__(
        self, network: nn.Module, maps: Callable[[nn.Module, Tensor], list[Tensor]]
    ) -> None:
        super().__init__()
        self.network = network
        self._maps = maps

    def forward(self, x: Tensor) -> list[Tensor]:
        return self._maps(self.network, x)


def build_ours(arch: str, implementation: str) -> Backbone:
    """Our network in eval mode, with the maps as their last blocks leave them.

    Raises:
        ValueError: If nothing of it has a fused form and the implementation is one.
        UserError: If the environment has something against the fused path.
    """
    options: dict[str, Any] = dict(fused=OURS[implementation], out_norm_cfg=None)
    if FAMILIES[find_variant(arch)["family"]]["structure"] == "isotropic":
        options["pyramid"] = None
    ours = build_backbone(arch, **options).eval()
    require_own_path(ours, implementation)
    return ours


def require_own_path(backbone: Backbone, implementation: str) -> None:
    """Raise ``UserError`` if a backbone does not run as its implementation is meant to."""
    if backbone.fused_path != OURS[implementation]:
        raise UserError(
            f"{implementation} wants fused={OURS[implementation]!r} and the environment makes it "
            f"{backbone.fused_path!r}: unset MMMETAFORMER_FUSED"
        )


def build_network(arch: str, implementation: str, weights: Mapping[str, Tensor]) -> nn.Module:
    """A network in eval mode.

    Args:
        arch: Name of the network.
        implementation: Its name: whose code it is.
        weights: State dict of :func:`build_ours`.

    Raises:
        UserError: If that implementation does not have the network.
    """
    if implementation in OURS:
        ours = build_ours(arch, implementation)
        ours.load_state_dict(weights)
        return fold(ours, implementation)
    require_network(implementation, arch)
    library = LIBRARIES[implementation]
    theirs = library.find(arch)()
    _load_exported(theirs, weights, implementation)
    theirs.train(False)  # mmpretrain's returns None
    return FourMaps(theirs, library.maps)


def fold(model: nn.Module, implementation: str) -> nn.Module:
    """A model in eval mode with its branches folded, if that is what the implementation is."""
    return switch_to_deploy(model) if implementation == "deploy" else model


def _load_exported(theirs: nn.Module, weights: Mapping[str, Tensor], library: str) -> None:
    exported = {
        name.removeprefix("backbone."): tensor
        for name, tensor in export_state_dict(weights, library).items()
    }
    left = theirs.load_state_dict(exported, strict=False)
    # Behind the last stage, or on maps: nothing that is run here.
    missing = [n for n in left.missing_keys if not n.startswith(("head.", "norm", "ln1."))]
    if missing or left.unexpected_keys:
        raise RuntimeError(
            f"{library} has other parameters: {missing} have no weights, and "
            f"{left.unexpected_keys} no place"
        )


def has_network(implementation: str, arch: str) -> bool:
    """Whether an implementation has a network; builds nothing of any size."""
    if implementation in LIBRARIES:
        return LIBRARIES[implementation].find(arch) is not None
    try:
        with torch.device("meta"):
            build_ours(arch, implementation)
    except ValueError:  # nothing to fuse
        return False
    return True


def require_network(implementation: str, arch: str) -> None:
    """Raise ``UserError`` if an implementation does not have a network."""
    if not has_network(implementation, arch):
        known = ", ".join(name for name in list_archs() if has_network(implementation, name))
        raise UserError(
            f"{implementation} has no {arch}: leave {implementation} out (there are {known})"
        )


def require_ours(implementation: str, config: str) -> None:
    """Raise ``UserError`` if an implementation cannot be the backbone of a config."""
    if implementation not in OURS:
        raise UserError(
            f"{config} is a config: its backbone can be {', '.join(OURS)}, not {implementation}"
        )


def fill(module: nn.Module, seed: int = 0) -> None:
    """Weights of which each shows in the output: LayerScale starts so small that branches would
    not. Matrices keep the variance of what they mix; norms and scales are around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(1 + 0.1 * noise)
        for norm in module.modules():
            if isinstance(norm, _BatchNorm):
                norm.running_mean.normal_(0, 0.1, generator=generator)
                norm.running_var.uniform_(0.5, 2, generator=generator)


# ---------------------------------------------------------------- other libraries


def _as_map(x: Tensor) -> Tensor:
    """(B, N, C) of a square image to (B, C, H, W); maps as they are."""
    if x.ndim == 4:
        return x
    side = math.isqrt(x.shape[1])
    return x.transpose(1, 2).unflatten(2, (side, side))


def _behind(stages: Iterable[Iterable[nn.Module]], x: Tensor) -> list[Tensor]:
    maps = []
    for layers in stages:
        for layer in layers:
            x = layer(x)
        maps.append(_as_map(x))
    return maps


def _quarters(blocks: Iterable[nn.Module]) -> list[list[nn.Module]]:
    blocks = list(blocks)
    ends = [len(blocks) * quarter // 4 for quarter in range(5)]
    return [blocks[start:end] for start, end in zip(ends, ends[1:], strict=False)]


def _timm_maps(network: nn.Module, x: Tensor) -> list[Tensor]:
    hierarchical = hasattr(network, "stages")
    stages = [[stage] for stage in network.stages] if hierarchical else _quarters(network.blocks)
    return _behind(stages, network.stem(x))


def _find_timm(arch: str) -> Callable[[], nn.Module] | None:
    timm = _library("timm")
    name = arch
    if arch.startswith("mlp_mixer_"):
        name = f"{arch.removeprefix('mlp_')}_224"
    elif arch == "convmixer_1024_20":
        name = "convmixer_1024_20_ks9_p14"
    if not timm.is_model(name):
        return None
    return partial(timm.create_model, name, pretrained=False, num_classes=0)


def _mmpretrain_maps(network: nn.Module, x: Tensor) -> list[Tensor]:
    if hasattr(network, "network"):  # PoolFormer: stages and downsamplings in turn
        first, *others = network.network
        stages = [[first], *zip(others[::2], others[1::2], strict=True)]
        return _behind(stages, network.patch_embed(x))
    if hasattr(network, "stem"):
        return _behind(_quarters(network.stages), network.stem(x))
    return _behind(_quarters(network.layers), network.patch_embed(x)[0])


def _find_mmpretrain(arch: str) -> Callable[[], nn.Module] | None:
    models = _library("mmpretrain.models")
    variant = find_variant(arch)
    family = variant["family"]
    size = arch.removeprefix(f"{family}_")
    if family == "poolformer":
        return partial(models.PoolFormer, size, out_indices=(), frozen_stages=-1)
    if family == "convmixer":
        act_cfg = as_cfg("act_cfg", variant["act_cfg"])
        return partial(models.ConvMixer, size.replace("_", "/"), act_cfg=act_cfg)
    if family == "mlp_mixer" and size[0] in models.MlpMixer.arch_zoo:
        # Its default epsilon is not that of the released weights.
        norm_cfg = dict(type="LN", eps=1e-6)
        return partial(models.MlpMixer, size[0], patch_size=int(size[1:]), norm_cfg=norm_cfg)
    return None


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(
            f"{package} cannot be imported ({error}): install it or leave {package} out"
        ) from error


LIBRARIES = {
    "timm": Library(_find_timm, _timm_maps),
    "mmpretrain": Library(_find_mmpretrain, _mmpretrain_maps),
}
IMPLEMENTATIONS = (*OURS, *LIBRARIES)
