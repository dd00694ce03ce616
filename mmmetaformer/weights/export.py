"""From one key layout to another, by names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from .convert import identify, unwrap
from .files import WeightsError
from .layouts import BASELINES, CLASSIFIER, LAYOUTS, Layout

_BY_NAME = {layout.name: layout for layout in (*LAYOUTS, BASELINES)}
# By what a state dict of ours holds: who has a layout for such networks, and its name and prefix.
_TARGETS: tuple[tuple[str, dict[str, tuple[str, str]]], ...] = (
    (r"downsample_layers\.0\.conv4\.", dict(published=("FFNet_seg", ""))),
    (r"downsample_layers\.0\.conv2\.", dict(published=("FFNet", ""))),
    (
        r"downsample_layers\.0\.post_norm\.",
        dict(published=(BASELINES.name, ""), timm=("timm MetaFormer", "")),
    ),
    (
        r"downsample_layers\.0\.conv\.",
        dict(
            published=("PoolFormer", ""),
            timm=("timm MetaFormer", ""),
            mmpretrain=("PoolFormer", "backbone."),
        ),
    ),
    (
        r"blocks\.0\.token_mixer\.fc1\.",
        dict(timm=("timm MLP-Mixer", ""), mmpretrain=("mmpretrain MLP-Mixer", "backbone.")),
    ),
    (
        r"blocks\.0\.token_mixer\.conv\.",
        dict(
            published=("ConvMixer", ""),
            timm=("timm ConvMixer", ""),
            mmpretrain=("mmpretrain ConvMixer", "backbone."),
        ),
    ),
)
TARGETS = ("mmmetaformer", "published", "timm", "mmpretrain")
_LINEAR = re.compile(r".*(mlp\.fc[12]|token_mixer\.pwconv[12])\.weight")
_SCALE = re.compile(r".*layer_scale[12]\.scale")
_OUTPUT = re.compile(r"norm[0-3]\.\w+|pyramid\..+")


def export_state_dict(
    state_dict: Mapping[str, Any], to: str, *, drop_outputs: bool = False
) -> dict[str, Tensor]:
    """Bring the weights of a backbone from any known layout into another.

    Nothing is built and no value is changed, so that there and back gives the same bits.

    Args:
        state_dict: What was read from a file, in any layout that :func:`convert_state_dict` takes.
        to: ``'mmmetaformer'``, or the ``'published'``, ``'timm'`` or ``'mmpretrain'`` layout of
            the network.
        drop_outputs: Leave out what dense prediction adds (output norms, a pyramid) where the
            layout has no place for it.

    Returns:
        Names of the layout with the tensors of the source; its classifier is left out.

    Raises:
        WeightsError: (a ``ValueError``) if the source is of no known layout or has names that it
            does not know, or if there is no such layout for the network or it lacks names.
    """
    if to not in TARGETS:
        raise WeightsError(f"unknown layout {to!r}: expected one of {TARGETS}")
    own = _to_own(state_dict)
    if to == "mmmetaformer":
        return own
    layout, prefix = _target(own, to)
    names = layout.restore(list(own))
    lost = [name for name, theirs in names.items() if theirs is None]
    if drop_outputs:
        lost = [name for name in lost if not _OUTPUT.fullmatch(name)]
    if lost:
        hint = ""
        if all(_OUTPUT.fullmatch(name) for name in lost):
            hint = ": drop_outputs leaves out what dense prediction adds"
        raise WeightsError(
            f"the {layout.name} layout has no names for {len(lost)} tensors of the source, such as "
            f"{lost[:3]}{hint}"
        )
    linear = _linear_there(layout, own)
    return {
        prefix + names[name]: _reshaped(
            tensor,
            name,
            2 if name in linear else 4,
            layout.scale_ndim,
        )
        for name, tensor in own.items()
        if names[name] is not None
    }


def _to_own(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors = unwrap(state_dict)
    layout, prefix = identify(tensors)
    inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    renamed = layout.rename(list(inside))
    unknown = [name for name, own in renamed.items() if own is None]
    kept = {name: own for name, own in renamed.items() if own not in (None, CLASSIFIER)}
    if unknown or len(set(kept.values())) < len(kept):
        twice = sorted(n for n, own in kept.items() if list(kept.values()).count(own) > 1)
        raise WeightsError(
            f"the {layout.name} layout does not have the names {(unknown or twice)[:5]}"
        )
    return {own: _reshaped(inside[name], own, 4, 1) for name, own in kept.items()}


def _target(own: Iterable[str], to: str) -> tuple[Layout, str]:
    for pattern, layouts in _TARGETS:
        if any(re.match(pattern, name) for name in own):
            if to not in layouts:
                raise WeightsError(
                    f"there is no {to} layout for this network, only {['mmmetaformer', *layouts]}"
                )
            name, prefix = layouts[to]
            return _BY_NAME[name], prefix
    raise WeightsError(f"only 'mmmetaformer' has a layout for this network, not {to!r}")


def _linear_there(layout: Layout, own: Iterable[str]) -> set[str]:
    """Which of the 1x1 convolutions are linear layers in a layout."""
    candidates = {name for name in own if _LINEAR.fullmatch(name)}
    if layout.linear == "none":
        return set()
    if layout.linear == "all":
        return candidates
    stages = {name.rpartition(".token_mixer.qkv.")[0] for name in own if ".qkv." in name}
    stages = {re.match(r"stages\.\d\.", f"{block}.").group() for block in stages}
    return {name for name in candidates if name.startswith(tuple(stages))}


def _reshaped(tensor: Tensor, own: str, linear_ndim: int, scale_ndim: int) -> Tensor:
    """A weight of a 1x1 convolution or a LayerScale with so many dimensions; else as it is."""
    if _SCALE.fullmatch(own):
        shape = (-1, *[1] * (scale_ndim - 1))
        fits = tensor.ndim > 0 and tensor.numel() == tensor.shape[0]
    elif _LINEAR.fullmatch(own):
        shape = (*tensor.shape[:2], *[1] * (linear_ndim - 2))
        fits = tensor.ndim in (2, 4) and tensor.numel() == tensor.shape[:2].numel()
    else:
        return tensor
    if not fits:
        raise WeightsError(f"{own} has the shape {tuple(tensor.shape)}: that fits no network")
    return tensor.reshape(shape)
