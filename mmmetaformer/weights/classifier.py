"""Whole image classifiers: the norm and the linear layers behind a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from .convert import Problems, convert, own_names, unwrap
from .files import WeightsError
from .layouts import CLASSIFIER, LAYOUTS, image_classifier, is_classifier


def convert_classifier_state_dict(
    state_dict: Mapping[str, Any], model: nn.Module
) -> dict[str, Tensor]:
    """Turn a published state dict into that of mmpretrain's ``ImageClassifier``.

    As :func:`~mmmetaformer.weights.convert_state_dict`, with the norm and the classifier behind the
    last stage. A state dict in the model's own names stays as it is.

    Args:
        state_dict: What was read from the file.
        model: An ``ImageClassifier`` with a backbone of this package.

    Returns:
        The tensors of the source by all names of ``model.state_dict()``.

    Raises:
        TypeError: If the model has no backbone of this package or no head.
        WeightsError: (a ``ValueError``) if the layout is unknown, a parameter is missing, a shape
            differs, or the source holds what the model has no place for.

    Example:
        >>> state = read_checkpoint('poolformer_s12.pth.tar')  # doctest: +SKIP
        >>> model.load_state_dict(convert_classifier_state_dict(state, model))  # doctest: +SKIP
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
    result = {f"backbone.{name}": tensor for name, tensor in source.state_dict.items()}

    expected = model.state_dict()
    norm = f"backbone.norm{backbone.out_indices[-1]}"
    rules = image_classifier(norm if f"{norm}.weight" in expected else "head.norm")
    layout = next(layout for layout in LAYOUTS if layout.name == source.layout)
    names = own_names(tensors, layout, source.prefix)
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
    """Prefix of the ``ImageClassifier`` around a backbone with a prefix; None without one."""
    return prefix.removesuffix("backbone.") if f".{prefix}".endswith(".backbone.") else None


def names_around_backbone(
    tensors: Iterable[str], names: Mapping[str, str | None], prefix: str, norm: str
) -> dict[str, str | None]:
    """Our names for a backbone's tensors, with those of the classifier around it, if any.

    Args:
        tensors: The names of a source.
        names: Our names for those below the prefix of the backbone.
        prefix: That prefix.
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
    """Check that a classifier is whole and that its shapes belong together.

    Args:
        classifier: Its tensors by their own names, below ``CLASSIFIER``.
        channels: Channels of the last stage.
        has_norm: Whether there is a norm in front of the logits.

    Raises:
        WeightsError: If a tensor is missing, unexpected or of a wrong shape.
    """
    shapes = {name.removeprefix(f"{CLASSIFIER}."): tuple(t.shape) for name, t in classifier.items()}

    def size(name: str) -> int | None:
        return (shapes.get(f"{name}.bias") or (None,))[0]

    is_mlp = any(name.startswith(("fc1.", "fc2.", "hidden_")) for name in shapes)
    last, features = ("fc2", size("fc1")) if is_mlp else ("fc", channels)
    expected: dict[str, tuple[int | None, ...]] = {
        f"{last}.weight": (size(last), features),
        f"{last}.bias": (size(last),),
    }
    vectors: dict[str, int | None] = (
        {"norm.weight": channels, "norm.bias": channels} if has_norm else {}
    )
    if has_norm and any(name.startswith("norm.running_") for name in shapes):
        vectors |= {"norm.running_mean": channels, "norm.running_var": channels}
        expected["norm.num_batches_tracked"] = ()
    if is_mlp:
        expected["fc1.weight"] = (features, channels)
        vectors |= dict.fromkeys(("fc1.bias", "hidden_norm.weight", "hidden_norm.bias"), features)
    expected |= {name: (length,) for name, length in vectors.items()}
    wrong = [n for n in sorted(expected.keys() & shapes.keys()) if shapes[n] != expected[n]]
    problems = {
        "lacks": sorted(expected.keys() - shapes.keys()),
        "has": sorted(shapes.keys() - expected.keys()),
        "has in another shape than the rest": [f"{name} {shapes[name]}" for name in wrong],
    }
    for problem, found in problems.items():
        if found:
            raise WeightsError(
                f"the classifier {problem} {found[:5]}; drop_classifier leaves it out"
            )
