"""From one key layout to another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .classifier import fit_classifier, names_around_backbone
from .convert import OF_OUTPUTS, fit, identify, own_names, unwrap
from .files import WeightsError
from .layouts import CLASSIFIER, LAYOUTS, Layout, image_classifier, is_classifier, is_of_backbone
from .networks import Network, find_network

if TYPE_CHECKING:  # the backbones import the weights
    from ..backbones.base import Backbone

_OURS = "mmmetaformer"
# Ours, then every owner of a layout.
TARGETS = tuple(dict.fromkeys([_OURS, *(o for layout in LAYOUTS for o in layout.owners)]))
_SCALE = re.compile(r".*layer_scale[12]\.scale")
_OUTPUT = re.compile(r"norm[0-3]\.\w+|pyramid\..+")


@dataclass(frozen=True)
class Export:
    """A checkpoint in another layout."""

    state_dict: dict[str, Tensor]
    #: Names of the source that are left out, such as the rest of a detector.
    dropped: list[str]


def export_state_dict(
    state_dict: Mapping[str, Any],
    to: str,
    *,
    drop_outputs: bool = False,
    drop_classifier: bool = False,
    model: Backbone | None = None,
) -> dict[str, Tensor]:
    """Bring the weights of a backbone, and of its classifier, from any known layout into another.

    No value is changed: there and back gives the same bits. With a classifier, our names are those
    of mmpretrain's ``ImageClassifier``, ``backbone.*`` and ``head.*``; without, the backbone's.

    Args:
        state_dict: What was read from a file, in any layout that :func:`convert_state_dict` takes.
        to: ``'mmmetaformer'``, or the ``'published'``, ``'timm'`` or ``'mmpretrain'`` layout of
            the network.
        drop_outputs: Leave out what dense prediction adds (output norms, a pyramid) where the
            layout has no place for it.
        drop_classifier: Leave out the classifier and the norm in front of it.
        model: The backbone that the weights are of, if its parts are those of no network of
            ``list_archs()``.

    Returns:
        The tensors of the source by the names of the layout.

    Raises:
        WeightsError: (a ``ValueError``) if the source is of no known layout, is not whole, has
            unexpected names or unusable values, or if there is no such layout for the network or
            it has no place for a tensor.
    """
    return export(
        state_dict, to, drop_outputs=drop_outputs, drop_classifier=drop_classifier, model=model
    ).state_dict


def export(
    state_dict: Mapping[str, Any],
    to: str,
    *,
    drop_outputs: bool = False,
    drop_classifier: bool = False,
    model: Backbone | None = None,
) -> Export:
    """As :func:`export_state_dict`, with the account of what is left out."""
    if to not in TARGETS:
        raise WeightsError(f"unknown layout {to!r}: expected one of {TARGETS}")
    tensors = unwrap(state_dict)
    layout, prefix = identify(tensors)
    names = own_names(tensors, layout, prefix, () if model is None else model.state_dict())
    own = {name: theirs for theirs, name in names.items() if name and is_of_backbone(name)}
    network = find_network({name: tensors[theirs] for name, theirs in own.items()}, model)
    target = _target(network, to)
    names = names_around_backbone(tensors, names, prefix, network.norm)
    try:
        conversion = fit(tensors, names, network.backbone, layout.name, prefix)
    except WeightsError as error:
        hint = ""
        if model is None and (not network.is_known or "of another shape" in str(error)):
            hint = (
                f"; {network.arch} is the nearest of list_archs(), another network is given with "
                "model= or --config"
            )
        raise WeightsError(f"the source is not whole: {error}{hint}") from error
    lost = [name for reason in OF_OUTPUTS for name in conversion.dropped.get(reason, [])]
    if lost and not drop_outputs:
        raise WeightsError(
            f"the given network has no place for {len(lost)} tensors of the source, such as "
            f"{lost[:3]}: drop_outputs leaves them out"
        )
    weights = conversion.state_dict
    if not drop_classifier:
        classified = {name: names[name] for name in conversion.dropped.get("classifier", [])}
        if other := [name for name, own in classified.items() if own == CLASSIFIER]:
            raise WeightsError(
                f"a classifier with {other[:5]} has no place in our layout: drop_classifier leaves "
                "it out"
            )
        if classified:
            weights |= fit_classifier(tensors, classified, network.channels, network.has_norm)
    theirs = _names_there(list(weights), network, to, target, drop_outputs)
    used = {name for name, ours in names.items() if ours in theirs}
    shaped = weights if target is None else _shaped(weights, target)
    return Export(
        {theirs[ours]: tensor for ours, tensor in shaped.items() if ours in theirs},
        dropped=[name for name in tensors if name not in used],
    )


def _target(network: Network, to: str) -> Layout | None:
    """The layout of an owner that serves a network; None for our own."""
    if to == _OURS:
        return None
    serving = [layout for layout in LAYOUTS if layout.serves(network.arch)]
    fitting = [layout for layout in serving if to in layout.owners]
    if not fitting:
        owners = dict.fromkeys(owner for layout in serving for owner in layout.owners)
        raise WeightsError(f"there is no {to} layout for {network.arch}, only {[*owners]}")
    if len(fitting) > 1:
        names = [layout.name for layout in fitting]
        raise ValueError(
            f"several layouts of {to!r} serve {network.arch}, {names}: give each another owner or "
            "other networks"
        )
    return fitting[0]


def _names_there(
    own: list[str], network: Network, to: str, target: Layout | None, drop_outputs: bool
) -> dict[str, str]:
    """The names of a target by ours."""
    classifier = [name for name in own if is_classifier(name)]
    names: dict[str, str | None] = {name: name for name in own}
    norm: str | None = network.norm
    if target is not None:
        names, norm = target.rules.restore(own), target.norm_in_mmpretrain
    if to == "mmpretrain" or (target is None and classifier):
        names = {name: theirs and f"backbone.{theirs}" for name, theirs in names.items()}
        names |= image_classifier(norm).restore(classifier)
    lost = [name for name, theirs in names.items() if theirs is None]
    if drop_outputs:
        lost = [name for name in lost if not _OUTPUT.fullmatch(name)]
    if lost:
        hint = ""
        if all(map(_OUTPUT.fullmatch, lost)):
            hint = ": drop_outputs leaves out what dense prediction adds"
        elif all(map(is_classifier, lost)):
            hint = ": drop_classifier leaves out the classifier"
        raise WeightsError(
            f"the {target.name if target else to} layout has no names for {len(lost)} tensors of "
            f"the source, such as {lost[:3]}{hint}"
        )
    return {name: theirs for name, theirs in names.items() if theirs is not None}


def _shaped(weights: dict[str, Tensor], target: Layout) -> dict[str, Tensor]:
    """The tensors in the shapes that they have in a target."""
    linear = target.linear(weights) if target.linear else set()
    ones = [1] * (target.scale_ndim - 1)
    shaped = {own: t.flatten(1) if own in linear else t for own, t in weights.items()}
    scales = {own: t.reshape(-1, *ones) for own, t in weights.items() if _SCALE.fullmatch(own)}
    return shaped | scales
