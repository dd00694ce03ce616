"""Whole image classifiers: the norm and the linear layers behind a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .convert import Placement, convert, own_names, unwrap
from .layouts import CLASSIFIER, LAYOUTS, image_classifier, is_classifier


def convert_classifier_state_dict(
    state_dict: Mapping[str, Any], model: nn.Module
) -> dict[str, Tensor]:
    """Turn a published state dict into that of mmpretrain's ``ImageClassifier``.

    As :func:`~mmmetaformer.weights.convert_state_dict`, with the norm and the classifier behind the
    last stage. A state dict in the model's own names stays as it is.

    Returns:
        The tensors of the source by all names of ``model.state_dict()``.

    Raises:
        TypeError: If the model has no backbone of this package or no head.
        WeightsError: (a ``ValueError``) if the layout is unknown, a parameter is missing, a shape
            differs, or the source holds what the model has no place for.
    """
    backbone: Any = getattr(model, "backbone", None)
    head = getattr(model, "head", None)
    if not hasattr(backbone, "is_for_outputs") or not isinstance(head, nn.Module):
        raise TypeError(
            "expected an ImageClassifier with a backbone of mmmetaformer and a head, got "
            f"{type(model).__name__}"
        )
    tensors = unwrap(state_dict)
    source = convert(tensors, backbone)
    expected = model.state_dict()
    placement = Placement(expected)
    for name, tensor in source.state_dict.items():
        placement.place(name, tensor, f"backbone.{name}")
    norm = f"backbone.norm{backbone.out_indices[-1]}"
    rules = image_classifier(norm if f"{norm}.weight" in expected else "head.norm")
    layout = next(layout for layout in LAYOUTS if layout.name == source.layout)
    names = own_names(tensors, layout, source.prefix)
    root = root_of_classifier(source.prefix)
    for name in (name for dropped in source.dropped.values() for name in dropped):
        own = names.get(name)
        if own is not None and is_classifier(own):
            own = rules.restore([own])[own]
        elif root is not None and name.startswith(f"{root}head."):
            own = name[len(root) :]  # as the model's own
        placement.place(name, tensors[name], own)
    placement.check(f"weights in the {source.layout} layout do not fit this {type(model).__name__}")
    return {name: placement.placed[name] for name in expected}


def root_of_classifier(prefix: str) -> str | None:
    """Prefix of the ``ImageClassifier`` around a backbone with a prefix; None without one."""
    return prefix.removesuffix("backbone.") if f".{prefix}".endswith(".backbone.") else None


def names_around_backbone(
    tensors: Iterable[str], names: Mapping[str, str | None], prefix: str, norm: str
) -> dict[str, str | None]:
    """Our names for a backbone's tensors, with those of the classifier around it, if any.

    ``tensors`` are the names of the source, and ``names`` has ours for those below the prefix of
    the backbone. ``norm`` is the norm in front of the logits in our ``ImageClassifier``.
    """
    root = root_of_classifier(prefix)
    if root is None or not any(name.startswith(f"{root}head.") for name in tensors):
        return dict(names)
    beside = (f"{root}head.", f"{root}neck.")
    full = {name: f"backbone.{own}" for name, own in names.items()}
    full |= {name: name[len(root) :] for name in tensors if name.startswith(beside)}
    of_classifier = image_classifier(norm).rename(full.values())
    return {name: of_classifier[own] or names.get(name) for name, own in full.items()}


def fit_classifier(
    tensors: Mapping[str, Tensor], names: Mapping[str, str | None], channels: int, has_norm: bool
) -> dict[str, Tensor]:
    """The tensors of a classifier by our names, which are below ``CLASSIFIER``.

    ``tensors`` are those of the source, and ``names`` has our names for the classifier's.

    Raises:
        WeightsError: If a tensor is missing, unexpected, unusable or of another shape than the
            rest.
    """
    short = {name: str(own).removeprefix(f"{CLASSIFIER}.") for name, own in names.items()}
    shapes = {own: tensors[name].shape for name, own in short.items()}

    def size(layer: str) -> int:
        shape = shapes.get(f"{layer}.bias") or shapes.get(f"{layer}.weight")
        return shape[0] if shape else 1

    with torch.device("meta"):
        layers = nn.ModuleDict()
        if has_norm:
            is_batch_norm = any(name.startswith("norm.running_") for name in shapes)
            layers["norm"] = (nn.BatchNorm1d if is_batch_norm else nn.LayerNorm)(channels)
        if any(name.startswith(("fc1.", "fc2.", "hidden_")) for name in shapes):
            layers["fc1"] = nn.Linear(channels, size("fc1"))
            layers["hidden_norm"] = nn.LayerNorm(size("fc1"))
            layers["fc2"] = nn.Linear(size("fc1"), size("fc2"))
        else:
            layers["fc"] = nn.Linear(channels, size("fc"))
    placement = Placement(layers.state_dict())
    for name, own in short.items():
        placement.place(name, tensors[name], own)
    placement.check("the classifier, which drop_classifier leaves out, does not fit its backbone")
    return {f"{CLASSIFIER}.{own}": tensor for own, tensor in placement.placed.items()}
