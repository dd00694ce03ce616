"""From a published classifier's state dict to that of a whole image classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .convert import (
    WeightsError,
    check_complete,
    convert,
    layout_named,
    reshapable,
    unwrap,
    why_unusable,
)
from .layouts import CLASSIFIER


def convert_classifier_state_dict(
    state_dict: Mapping[str, Any], model: nn.Module
) -> dict[str, Tensor]:
    """Turn a published state dict into that of mmpretrain's ``ImageClassifier``.

    As :func:`~mmmetaformer.weights.convert_state_dict`, with the norm and the classifier behind the
    last stage, which a backbone has no use for. What is in the model's own names stays as it is.

    Args:
        state_dict: What was read from the file.
        model: An ``ImageClassifier`` with a backbone of this package.

    Returns:
        All names of ``model.state_dict()`` with the tensors of the source.

    Raises:
        TypeError: If the model has no backbone of this package or no head.
        WeightsError: (a ``ValueError``) if the layout is unknown, a parameter is missing, a shape
            differs, or the source holds what the model has no place for.

    Example:
        >>> state = read_checkpoint('poolformer_s12.pth.tar')  # doctest: +SKIP
        >>> model.load_state_dict(convert_classifier_state_dict(state, model))  # doctest: +SKIP
    """
    backbone, head = getattr(model, "backbone", None), getattr(model, "head", None)
    if not hasattr(backbone, "is_for_outputs") or not isinstance(head, nn.Module):
        raise TypeError(
            "expected an ImageClassifier with a backbone of mmmetaformer and a head, got "
            f"{type(model).__name__}"
        )
    tensors = unwrap(state_dict)
    source = convert(tensors, backbone)
    result = {f"backbone.{name}": tensor for name, tensor in source.state_dict.items()}

    expected = model.state_dict()
    last = f"backbone.norm{backbone.out_indices[-1]}."
    norm = last if any(name.startswith(last) for name in expected) else "head.norm."
    prefix = source.prefix
    classifier = source.dropped.pop("classifier", [])
    inside = layout_named(source.layout).rename(
        [name[len(prefix) :] for name in tensors if name.startswith(prefix)]
    )
    # In a checkpoint of an ImageClassifier the head stands beside the backbone.
    beside = f"{prefix.removesuffix('backbone.')}head." if prefix.endswith("backbone.") else None
    wrong, unexpected, unusable = [], [], []
    for name in (*classifier, *(name for names in source.dropped.values() for name in names)):
        own = None
        if name in classifier:
            own = inside[name[len(prefix) :]].removeprefix(f"{CLASSIFIER}.")
            own = own.replace("norm.", norm, 1) if own.startswith("norm.") else f"head.{own}"
        elif beside is not None and name.startswith(beside):
            own = f"head.{name[len(beside) :]}"
        if own not in expected or own in result:
            unexpected.append(name)
        elif reason := why_unusable(tensors[name], expected[own]):
            unusable.append(f"{name} {reason}")
        elif not reshapable(tensors[name], expected[own]):
            wrong.append(
                f"{name} is {tuple(tensors[name].shape)}, the model's {own} "
                f"{tuple(expected[own].shape)}"
            )
        else:
            result[own] = tensors[name].reshape(expected[own].shape)
    missing = [name for name in expected if name not in result]
    check_complete(source.layout, type(model).__name__, wrong, missing, unexpected, unusable)
    return {name: result[name] for name in expected}


__all__ = ["WeightsError", "convert_classifier_state_dict"]
