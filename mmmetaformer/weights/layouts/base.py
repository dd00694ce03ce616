"""What a key layout is: a rename in both directions, and whose it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

# Where a layout maps what a backbone has no use for: ``norm`` is the norm in front of the logits,
# ``fc`` a linear classifier, ``fc1``, ``hidden_norm`` and ``fc2`` are an MLP. Alone it stands for
# what belongs to a classifier of another form.
CLASSIFIER = "<classifier>"

Names = dict[str, str | None]

# What the fields of a template stand for.
_FIELDS = dict(
    stage="[0-3]", later="[1-3]", n=r"\d", block=r"\d+", leaf=r"\w+", param="weight|bias", rest=".+"
)
# The 1x1 convolutions that others have as linear layers.
_POINTWISE = re.compile(r".*\.(mlp\.fc[12]|token_mixer\.pwconv[12])\.weight")


class _Template:
    """One side of a pair of names: a pattern, and how to write a name."""

    def __init__(self, text: str) -> None:
        self._counts_from = {field: int(n) for field, n in re.findall(r"\{(\w+)\+(\d)\}", text)}
        self._text = re.sub(r"\+\d\}", "}", text)
        parts = re.split(r"\{(\w+)\}", self._text)
        fields = (f"(?P<{field}>{_FIELDS[field]})" for field in parts[1::2])
        self._pattern = re.compile("".join(re.escape(p) + next(fields, "") for p in parts[::2]))

    def read(self, name: str) -> dict[str, Any] | None:
        match = self._pattern.fullmatch(name)
        if match is None:
            return None
        numbers = {field: int(match[field]) - n for field, n in self._counts_from.items()}
        return match.groupdict() | numbers

    def write(self, fields: dict[str, Any]) -> str:
        numbers = {field: int(fields[field]) + n for field, n in self._counts_from.items()}
        return self._text.format(**fields | numbers)


class Rules:
    """A rename from pairs of templates, theirs and ours; the first that fits a name counts.

    Args:
        *pairs: Names with fields: ``{stage}``, ``{later}`` (stages 1 to 3), ``{block}`` and
            ``{n}`` (a digit) for numbers, ``{leaf}`` for a last part, ``{param}`` for ``weight``
            or ``bias``, ``{rest}`` for all that follows; ``{block+1}`` is larger by 1 than the
            other side's ``{block}``. A pair with equal names may be given as one string; one that
            ends in ``CLASSIFIER`` has no way back.

    Example:
        >>> rules = Rules(('stem.conv.{leaf}', 'downsample_layers.0.conv.{leaf}'))
        >>> rules.rename(['stem.conv.bias', 'head.bias'])
        {'stem.conv.bias': 'downsample_layers.0.conv.bias', 'head.bias': None}
        >>> rules.restore(['downsample_layers.0.conv.bias'])
        {'downsample_layers.0.conv.bias': 'stem.conv.bias'}
    """

    def __init__(self, *pairs: tuple[str, str] | str) -> None:
        both = [(pair, pair) if isinstance(pair, str) else pair for pair in pairs]
        self._forward = [(_Template(theirs), _Template(ours)) for theirs, ours in both]
        self._backward = [(_Template(b), _Template(a)) for a, b in both if b != CLASSIFIER]

    def rename(self, names: Iterable[str]) -> Names:
        """Our names by theirs; None where no pair fits."""
        return {name: _apply(self._forward, name) for name in names}

    def restore(self, names: Iterable[str]) -> Names:
        """Their names by ours; None where no pair fits."""
        return {name: _apply(self._backward, name) for name in names}


def _apply(pairs: Iterable[tuple[_Template, _Template]], name: str) -> str | None:
    for source, target in pairs:
        fields = source.read(name)
        if fields is not None:
            return target.write(fields)
    return None


def pointwise_weights(own: Collection[str]) -> set[str]:
    """The weights of 1x1 convolutions that stand for linear layers."""
    return {name for name in own if _POINTWISE.fullmatch(name)}


@dataclass(frozen=True)
class Layout:
    """One key layout: all that this package knows of it.

    Attributes:
        name: What reports call it.
        owners: Whose it is, of ``'published'``, ``'timm'``, ``'mmpretrain'`` and
            ``'mmmetaformer'``.
        archs: Shell patterns of the names of the networks that it is for.
        signature: Patterns of full names that are all found in every state dict of this layout
            and together in no other's; empty for one that is read as another.
        rules: The rename, to the backbone's own names and to a classifier's below ``CLASSIFIER``.
        linear: Which of our names are weights of linear layers there, (out, in), and of 1x1
            convolutions here, (out, in, 1, 1); None where none are.
        scale_ndim: Dimensions of LayerScale there, the first of which are the channels.
        has_norm: Whether its classifiers have a norm in front of the logits.
        norm_in_mmpretrain: Name of that norm in mmpretrain's ``ImageClassifier``.
    """

    name: str
    owners: tuple[str, ...]
    archs: tuple[str, ...]
    signature: tuple[str, ...]
    rules: Rules
    linear: Callable[[Collection[str]], set[str]] | None = None
    scale_ndim: int = 1
    has_norm: bool = True
    norm_in_mmpretrain: str | None = None

    @property
    def own(self) -> bool:
        """Whether its names are those of this package's modules."""
        return "mmmetaformer" in self.owners

    def serves(self, arch: str) -> bool:
        """Whether it is one of a network of ``list_archs()``."""
        return any(fnmatchcase(arch, pattern) for pattern in self.archs)

    def prefixes(self, names: Iterable[str]) -> list[str]:
        """The prefixes under which a whole network of this layout is found."""
        names = list(names)
        found = [
            {match[1] for name in names if (match := re.fullmatch(rf"(|.*\.){pattern}", name))}
            for pattern in self.signature
        ]
        return sorted(set.intersection(*found)) if found else []

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Which of the signature is not among the names of a network, as shell patterns."""
        names = list(names)
        return [
            re.sub(r"\\d\?|\.[*+]", "*", pattern).replace("\\", "")
            for pattern in self.signature
            if not any(re.fullmatch(pattern, name) for name in names)
        ]


def is_classifier(own: str | None) -> bool:
    """Whether a renamed name belongs to a classifier."""
    return own is not None and own.startswith(CLASSIFIER)


def is_of_backbone(own: str | None) -> bool:
    """Whether a renamed name is one of a backbone."""
    return own is not None and not is_classifier(own)


# Classifiers that stand beside the backbone's names.
OTHER_HEAD = ("head.{rest}", CLASSIFIER)
LINEAR_HEAD = ("head.{param}", f"{CLASSIFIER}.fc.{{param}}")
HEAD = (
    ("norm.{leaf}", f"{CLASSIFIER}.norm.{{leaf}}"),
    LINEAR_HEAD,
    ("head.fc{n}.{param}", f"{CLASSIFIER}.fc{{n}}.{{param}}"),
    ("head.norm.{param}", f"{CLASSIFIER}.hidden_norm.{{param}}"),
    OTHER_HEAD,
)


def image_classifier(norm: str | None) -> Rules:
    """The full names of OpenMMLab's ``ImageClassifier``, for what is no part of a backbone.

    Args:
        norm: Name of the norm in front of the logits, which may be the backbone's; None for a
            classifier without one.
    """
    of_norm = [(f"{norm}.{{leaf}}", f"{CLASSIFIER}.norm.{{leaf}}")] if norm else []
    return Rules(
        *of_norm,
        ("head.fc.{param}", f"{CLASSIFIER}.fc.{{param}}"),
        ("head.fc{n}.{param}", f"{CLASSIFIER}.fc{{n}}.{{param}}"),
        ("head.hidden_norm.{param}", f"{CLASSIFIER}.hidden_norm.{{param}}"),
        OTHER_HEAD,
        ("neck.{rest}", CLASSIFIER),
    )
