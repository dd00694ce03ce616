"""From one key layout to another, by names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .convert import identify, is_of_backbone, layout_named, unwrap, why_unusable
from .files import WeightsError
from .layouts import BASELINES, CLASSIFIER, Layout, Rules, around_backbone, is_classifier
from .parts import check_classifier, check_network

_OURS = "mmmetaformer"
TARGETS = (_OURS, "published", "timm", "mmpretrain")


@dataclass(frozen=True)
class Target:
    """Where someone has the tensors of a network.

    Attributes:
        layout: That of the backbone.
        around: Names of a classifier that stands around the backbone, which is below
            ``backbone.`` then; None if they are the layout's.
    """

    layout: Layout
    around: Rules | None = None

    @property
    def prefix(self) -> str:
        return "" if self.around is None else "backbone."

    def restore(self, names: list[str]) -> dict[str, str | None]:
        """From our names to the target's; None for those that it does not have."""
        if self.around is None:
            return self.layout.restore(names)
        restored = self.layout.restore([name for name in names if not is_classifier(name)])
        below = {name: theirs and self.prefix + theirs for name, theirs in restored.items()}
        return {n: self.around.restore_one(n) if is_classifier(n) else below[n] for n in names}


@dataclass(frozen=True)
class Kin:
    """Networks of which someone has the tensors in the same places.

    Attributes:
        mark: Pattern of a name that each of them has here.
        targets: Their layouts, by whose they are; ours is below.
        norm: Where our classifier has the norm in front of the logits; None if it has none.
        isotropic: Whether they have one stride.
    """

    mark: str
    targets: dict[str, Target] = field(default_factory=dict)
    norm: str | None = "backbone.norm3"
    isotropic: bool = False

    @property
    def ours(self) -> Target:
        layout = layout_named("mmmetaformer isotropic" if self.isotropic else "mmmetaformer")
        return Target(layout, around_backbone(self.norm))

    def target(self, to: str) -> Target:
        targets = {_OURS: self.ours, **self.targets}
        if to not in targets:
            raise WeightsError(f"there is no {to} layout for this network, only {[*targets]}")
        return targets[to]

    def around(self, layout: Layout) -> Rules:
        """The classifier around a backbone of a layout."""
        same = [t.around for t in self.targets.values() if t.layout is layout and t.around]
        return same[0] if same else self.ours.around


# The first whose mark is found.
_KINS = (
    Kin(
        r"downsample_layers\.0\.conv4\.",
        dict(published=Target(layout_named("FFNet_seg"))),
        norm=None,
    ),
    Kin(r"downsample_layers\.0\.conv2\.", dict(published=Target(layout_named("FFNet")))),
    Kin(
        r"downsample_layers\.0\.post_norm\.",
        dict(published=Target(BASELINES), timm=Target(layout_named("timm MetaFormer"))),
        norm="head.norm",
    ),
    Kin(
        r"downsample_layers\.0\.conv\.",
        dict(
            published=Target(layout_named("PoolFormer")),
            # The same tensors, but timm normalises behind the pooling what is normalised in front
            # of it everywhere else.
            timm=Target(layout_named("timm MetaFormer")),
            mmpretrain=Target(layout_named("PoolFormer"), around_backbone("backbone.norm6")),
        ),
    ),
    Kin(r"downsample_layers\."),
    Kin(
        r"blocks\.0\.token_mixer\.fc1\.",
        dict(
            timm=Target(layout_named("timm MLP-Mixer")),
            mmpretrain=Target(
                layout_named("mmpretrain MLP-Mixer"), around_backbone("backbone.ln1")
            ),
        ),
        isotropic=True,
    ),
    Kin(
        r"blocks\.0\.token_mixer\.conv\.",
        dict(
            published=Target(layout_named("ConvMixer")),
            timm=Target(layout_named("timm ConvMixer")),
            mmpretrain=Target(layout_named("mmpretrain ConvMixer"), around_backbone()),
        ),
        norm=None,
        isotropic=True,
    ),
    Kin(r"blocks\.", isotropic=True),
)
_LINEAR = re.compile(r".*(mlp\.fc[12]|token_mixer\.pwconv[12])\.weight")
_SCALE = re.compile(r".*layer_scale[12]\.scale")
_OUTPUT = re.compile(r"norm[0-3]\.\w+|pyramid\..+")


@dataclass(frozen=True)
class Export:
    """What became of a checkpoint in another layout.

    Attributes:
        state_dict: Names of the layout with the tensors of the source.
        dropped: Names of the source that are left out: what stands beside a backbone and its
            classifier, as the rest of a detector, and what was to be left out.
    """

    state_dict: dict[str, Tensor]
    dropped: list[str]


def export_state_dict(
    state_dict: Mapping[str, Any],
    to: str,
    *,
    drop_outputs: bool = False,
    drop_classifier: bool = False,
) -> dict[str, Tensor]:
    """Bring the weights of a backbone, and of its classifier, from any known layout into another.

    Nothing is built and no value is changed, so that there and back gives the same bits. A
    classifier goes with its backbone; ours is mmpretrain's ``ImageClassifier``, as in
    ``configs/imagenet``: ``backbone.*`` and ``head.*``. Without one our names are the backbone's.

    Args:
        state_dict: What was read from a file, in any layout that :func:`convert_state_dict` takes.
        to: ``'mmmetaformer'``, or the ``'published'``, ``'timm'`` or ``'mmpretrain'`` layout of
            the network.
        drop_outputs: Leave out what dense prediction adds (output norms, a pyramid) where the
            layout has no place for it.
        drop_classifier: Leave out the classifier and the norm in front of it.

    Returns:
        Names of the layout with the tensors of the source.

    Raises:
        WeightsError: (a ``ValueError``) if the source is of no known layout, is not whole, has
            names that no network has or values that are no numbers, or if there is no such layout
            for the network or it lacks names.
    """
    return export(
        state_dict, to, drop_outputs=drop_outputs, drop_classifier=drop_classifier
    ).state_dict


def export(
    state_dict: Mapping[str, Any],
    to: str,
    *,
    drop_outputs: bool = False,
    drop_classifier: bool = False,
) -> Export:
    """As :func:`export_state_dict`, with the account of what is left out."""
    if to not in TARGETS:
        raise WeightsError(f"unknown layout {to!r}: expected one of {TARGETS}")
    tensors = unwrap(state_dict)
    kin, ours = _ours(tensors, drop_classifier)
    if drop_classifier:
        ours = {own: name for own, name in ours.items() if not is_classifier(own)}
    _check_values({name: tensors[name] for name in ours.values()})
    weights = {own: _reshaped(tensors[name], own, 4, 1) for own, name in ours.items()}
    _check_whole(weights, kin)
    theirs = _names_there(list(weights), kin, to, drop_outputs)
    used = {ours[own] for own in theirs}
    linear = _linear_there(kin.target(to).layout, weights)
    scale_ndim = kin.target(to).layout.scale_ndim
    return Export(
        {
            name: _reshaped(weights[own], own, 2 if own in linear else 4, scale_ndim)
            for own, name in theirs.items()
        },
        dropped=[name for name in tensors if name not in used],
    )


def _ours(tensors: Mapping[str, Tensor], drop_classifier: bool) -> tuple[Kin, dict[str, str]]:
    """The network of a source and, by our names, the names in it."""
    layout, prefix = identify(tensors)
    inside = {name[len(prefix) :]: name for name in tensors if name.startswith(prefix)}
    renamed = layout.rename(list(inside))
    unknown = [inside[name] for name, own in renamed.items() if own is None]
    if unknown:
        raise WeightsError(f"the {layout.name} layout does not have the names {unknown[:5]}")
    _check_numbers(layout, renamed)
    kin = next(k for k in _KINS if any(own and re.match(k.mark, own) for own in renamed.values()))
    pairs = [(own, inside[name]) for name, own in renamed.items()]
    pairs = _with_classifier_around(pairs, tensors, kin.around(layout), prefix)
    if not drop_classifier and any(own == CLASSIFIER for own, _ in pairs):
        names = [name for own, name in pairs if own == CLASSIFIER]
        raise WeightsError(
            f"a classifier with {names[:5]} has no place in our layout: drop_classifier leaves it "
            "out"
        )
    ours: dict[str, str] = {}
    for own, name in pairs:
        if own in ours and own != CLASSIFIER:
            raise WeightsError(f"{ours[own]} and {name} are two names for the same tensor")
        ours[own] = name
    return kin, ours


def _check_numbers(layout: Layout, renamed: Mapping[str, str | None]) -> None:
    """A layout that counts across stages must count on to what stands there."""
    restored = layout.restore([own for own in renamed.values() if own != CLASSIFIER])
    for name, own in renamed.items():
        if own != CLASSIFIER and restored[own] != name:
            raise WeightsError(
                f"the source is not whole: {name} would be {restored[own]} in the {layout.name} "
                "layout, if nothing was missing in front of it"
            )


def _with_classifier_around(
    pairs: list[tuple[str, str]], tensors: Mapping[str, Tensor], around: Rules, prefix: str
) -> list[tuple[str, str]]:
    """Our names with those of a classifier that stands around a backbone, if there is one."""
    if not f".{prefix}".endswith(".backbone."):
        return pairs
    root = prefix.removesuffix("backbone.")
    if not any(name.startswith(f"{root}head.") for name in tensors):
        return pairs
    beside = [name for name in tensors if name.startswith((f"{root}head.", f"{root}neck."))]
    names = {name: own for own, name in pairs} | dict.fromkeys(beside)
    of_classifier = around([name[len(root) :] for name in names])
    return [(of_classifier[name[len(root) :]] or own, name) for name, own in names.items()]


def _check_values(tensors: Mapping[str, Tensor]) -> None:
    """What no model of this package would load is not passed on."""
    for name, tensor in tensors.items():
        # Whole numbers count batches, and nothing else.
        counts = name.endswith("num_batches_tracked")
        reason = None if counts else why_unusable(tensor, torch.empty(0))
        if reason:
            raise WeightsError(f"unusable values in the source: {name} {reason}")


def _check_whole(weights: Mapping[str, Tensor], kin: Kin) -> None:
    channels = check_network({n: t for n, t in weights.items() if is_of_backbone(n)})
    classifier = {
        name.removeprefix(f"{CLASSIFIER}."): tensor
        for name, tensor in weights.items()
        if is_classifier(name)
    }
    if not classifier:
        return
    try:
        check_classifier(classifier, channels, normed=kin.norm is not None)
    except WeightsError as error:
        raise WeightsError(f"{error}; drop_classifier leaves it out") from error


def _names_there(own: list[str], kin: Kin, to: str, drop_outputs: bool) -> dict[str, str]:
    """By our names, those of a target."""
    target = kin.target(to)
    if to == _OURS and not any(map(is_classifier, own)):
        return {name: name for name in own}
    names = target.restore(own)
    lost = [name for name, theirs in names.items() if theirs is None]
    if drop_outputs:
        lost = [name for name in lost if not _OUTPUT.fullmatch(name)]
    if lost:
        raise WeightsError(
            f"the {target.layout.name} layout has no names for {len(lost)} tensors of the source, "
            f"such as {lost[:3]}{_hint(lost)}"
        )
    return {name: theirs for name, theirs in names.items() if theirs is not None}


def _hint(lost: list[str]) -> str:
    if all(_OUTPUT.fullmatch(name) for name in lost):
        return ": drop_outputs leaves out what dense prediction adds"
    if all(map(is_classifier, lost)):
        return ": drop_classifier leaves out the classifier"
    return ""


def _linear_there(layout: Layout, own: Mapping[str, Tensor]) -> set[str]:
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
        fits = tensor.ndim in (1, 3) and tensor.numel() == tensor.shape[0]
    elif _LINEAR.fullmatch(own):
        shape = (*tensor.shape[:2], *[1] * (linear_ndim - 2))
        fits = tensor.ndim in (2, 4) and tensor.numel() == tensor.shape[:2].numel()
    else:
        return tensor
    if not fits:
        raise WeightsError(f"{own} has the shape {tuple(tensor.shape)}: that fits no network")
    return tensor.reshape(shape)
