"""Whole image classifiers: the norm and the linear layers behind a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from .convert import Problems, convert, names_here, unwrap
from .files import WeightsError
from .layouts import CLASSIFIER, LAYOUTS, image_classifier, is_classifier


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
    backbone: Any = getattr(model, "backbone", None)
    if not hasattr(backbone, "is_for_outputs") or not isinstance(
        getattr(model, "head", None), nn.Module
    ):
        raise TypeError(
            "expected an ImageClassifier with a backbone of mmmetaformer and a head, got "
            f"{type(model).__name__}"
        )
    tensors = unwrap(state_dict)
    source = convert(tensors, backbone)
    result = {f"backbone.{name}": tensor for name, tensor in source.state_dict.items()}

    expected = model.state_dict()
    norm = f"backbone.norm{backbone.out_indices[-1]}"
    rules = image_classifier(norm if f"{norm}.weight" in expected else "head.norm")
    layout = next(layout for layout in LAYOUTS if layout.name == source.layout)
    names = names_here(tensors, layout, source.prefix)
    root = root_of_classifier(source.prefix)
    problems = Problems()
    for name in (name for names_ in source.dropped.values() for name in names_):
        own = names.get(name)
        if own is not None and is_classifier(own):
            own = rules.restore([own])[own]
        elif root is not None and name.startswith(f"{root}head."):
            own = name[len(root) :]  # as the model's own
        if own is None or own not in expected or own in result:
            problems.unexpected.append(name)
        elif (fitted := problems.fitted(name, tensors[name], own, expected[own])) is not None:
            result[own] = fitted
    problems.missing = [name for name in expected if name not in result]
    problems.check(source.layout, model)
    return {name: result[name] for name in expected}


def root_of_classifier(prefix: str) -> str | None:
    """Prefix of an ``ImageClassifier`` in a state dict, by that of its backbone; None if the
    backbone stands in none."""
    return prefix.removesuffix("backbone.") if f".{prefix}".endswith(".backbone.") else None


def names_around_backbone(
    tensors: Iterable[str], names: Mapping[str, str | None], prefix: str, norm: str
) -> dict[str, str | None]:
    """Our names with those of the classifier around a backbone, if there is one.

    Args:
        tensors: The names of a source.
        names: By these, our names for what is below the prefix.
        prefix: That of the backbone.
        norm: Name of the norm in front of the logits in our ``ImageClassifier``.
    """
    root = root_of_classifier(prefix)
    if root is None or not any(name.startswith(f"{root}head.") for name in tensors):
        return dict(names)
    beside = (f"{root}head.", f"{root}neck.")
    full = {name: f"backbone.{own}" for name, own in names.items()}
    full |= {name: name[len(root) :] for name in tensors if name.startswith(beside)}
    of_classifier = image_classifier(norm).rename(full.values())
    return {name: of_classifier[own] or names.get(name) for name, own in full.items()}


def check_classifier(classifier: Mapping[str, Tensor], channels: int, *, has_norm: bool) -> None:
    """See to it that a classifier is whole and that its shapes belong together.

    Args:
        classifier: The tensors by their own names, below ``CLASSIFIER``.
        channels: Channels of the last stage.
        has_norm: Whether there is a norm in front of the logits.

    Raises:
        WeightsError: If something is missing, too much, or of a wrong shape.
    """
    shapes = {name.removeprefix(f"{CLASSIFIER}."): tuple(t.shape) for name, t in classifier.items()}
    last = "fc2" if any(name.startswith(("fc1.", "fc2.", "hidden_")) for name in shapes) else "fc"
    features: int | None = channels
    expected: dict[str, tuple[int | None, ...]] = {}
    if has_norm:
        expected |= {f"norm.{leaf}": (channels,) for leaf in ("weight", "bias")}
        if any(name.startswith("norm.running_") for name in shapes):
            expected |= {f"norm.running_{leaf}": (channels,) for leaf in ("mean", "var")}
            expected["norm.num_batches_tracked"] = ()
    if last == "fc2":
        features = (shapes.get("fc1.bias") or (None,))[0]
        expected |= {"fc1.weight": (features, channels), "fc1.bias": (features,)}
        expected |= {f"hidden_norm.{leaf}": (features,) for leaf in ("weight", "bias")}
    classes = (shapes.get(f"{last}.bias") or (None,))[0]
    expected |= {f"{last}.weight": (classes, features), f"{last}.bias": (classes,)}
    problems = {
        "lacks": sorted(expected.keys() - shapes.keys()),
        "has": sorted(shapes.keys() - expected.keys()),
        "has in another shape than the rest": [
            f"{name} {shapes[name]}"
            for name in sorted(expected.keys() & shapes.keys())
            if shapes[name] != expected[name]
        ],
    }
    for problem, found in problems.items():
        if found:
            raise WeightsError(
                f"the classifier {problem} {found[:5]}; drop_classifier leaves it out"
            )
