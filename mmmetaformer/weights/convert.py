"""From a published state dict to a backbone's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .files import WeightsError
from .layouts import LAYOUTS, Layout, is_classifier, is_of_backbone

if TYPE_CHECKING:
    from .trained import PublishedNames

# Under which keys training scripts wrap the weights of a model.
# Averaged weights count where there are no others.
_WRAPPERS = (
    *("state_dict", "model", "model_state_dict", "module"),
    *("model_ema", "state_dict_ema", "ema_state_dict"),
)
_SHOWN = 5
# Why what serves outputs is left out.
OF_OUTPUTS = ("for outputs that are not emitted", "behind the last emitted output")


@dataclass
class Conversion:
    """A converted state dict and the account of every key that went into it.

    Attributes:
        layout: Layout of the source.
        prefix: Prefix of the backbone in the source.
        state_dict: The backbone's own names and the source's tensors.
        new: What stays freshly initialised: what dense prediction adds (output norms, pyramid) and
            the source lacks, and what was declared new.
        dropped: What the source holds beyond this backbone, by reason.
    """

    layout: str
    prefix: str
    state_dict: dict[str, Tensor] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Problems:
    """What of a source does not fit a model."""

    wrong: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def fitted(self, name: str, tensor: Tensor, own: str, target: Tensor) -> Tensor | None:
        """A tensor in the shape of the model's; None, with a note, if it cannot take its place."""
        if reason := why_unusable(tensor, target):
            self.unusable.append(f"{name} {reason}")
        elif not reshapable(tensor, target):
            shapes = tuple(tensor.shape), tuple(target.shape)
            self.wrong.append(f"{name} is {shapes[0]}, the model's {own} {shapes[1]}")
        else:
            return tensor.reshape(target.shape)
        return None

    def check(self, layout: str, model: object) -> None:
        """Raise ``WeightsError`` if there are any; a wrong shape is not said to be missing, too."""
        found = [
            f"{len(names)} {what}: {'; '.join(names[:_SHOWN])}"
            f"{' ...' if len(names) > _SHOWN else ''}"
            for what, names in (
                ("of another shape", self.wrong),
                ("of unusable values", self.unusable),
                ("missing", self.missing if not (self.wrong or self.unusable) else []),
                ("unexpected", self.unexpected),
            )
            if names
        ]
        if found:
            raise WeightsError(
                f"weights in the {layout} layout do not fit this {type(model).__name__}: "
                f"{'; '.join(found)}{self._if_fused()}"
            )

    def _if_fused(self) -> str:
        """A hint when single convolutions stand for what has branches."""
        absent = set(self.missing)
        for name in self.unexpected:
            part = name.rpartition(".weight")[0]
            if {f"{part}.conv.weight", f"{part}.branches.0.conv.weight"} & absent:
                return (
                    "; the source is a fused network: call switch_to_deploy() on the backbone first"
                )
        return ""


def convert_state_dict(
    state_dict: Mapping[str, Any], backbone: PublishedNames
) -> dict[str, Tensor]:
    """Turn a published state dict into the backbone's own.

    The layout (published, timm's, mmpretrain's or our own) is found out by itself, as are
    wrappers (``state_dict``, ``model``) and prefixes (``backbone.``, ``module.``).

    Args:
        state_dict: What was read from the file.
        backbone: The backbone that the weights are for.

    Returns:
        Names of ``backbone.state_dict()`` with the tensors of the source. All are there but,
        possibly, what dense prediction adds (output norms, a pyramid).

    Raises:
        WeightsError: (a ``ValueError``) if the layout is unknown, a parameter is missing, a shape
            differs, or the source holds parameters that the backbone has no place for.
    """
    return convert(state_dict, backbone).state_dict


def convert(
    state_dict: Mapping[str, Any],
    backbone: PublishedNames,
    prefix: str | None = None,
    new: str | Sequence[str] = (),
    optional: Sequence[str] = (),
    layouts: Sequence[Layout] | None = None,
) -> Conversion:
    """As :func:`convert_state_dict`, with the account of what became of each key.

    Args:
        state_dict: What was read from the file.
        backbone: The backbone that the weights are for.
        prefix: Prefix of the backbone in the source; None finds it out.
        new: Regular expressions, searched for in the backbone's own names, such as
            ``'token_mixer'``. What fits one is not taken from the source: it may be missing, and
            of another shape, and what the source has in its place is dropped.
        optional: As ``new``, of what is taken from the source where it is there and fits.
        layouts: Those that may be found; None for the backbone's.
    """
    tensors = unwrap(state_dict)
    layout, prefix = identify(tensors, prefix, backbone.layouts if layouts is None else layouts)
    names = names_here(tensors, layout, prefix, backbone.state_dict())
    new = [new] if isinstance(new, str) else new
    return fit(tensors, names, backbone, Conversion(layout.name, prefix), new, optional)


def names_here(
    tensors: Iterable[str], layout: Layout, prefix: str, expected: Collection[str] = ()
) -> dict[str, str | None]:
    """Our names for those of a source below a prefix; None for what the layout does not have.

    Args:
        tensors: Names of the source.
        layout: That of the source.
        prefix: That of the backbone in the source.
        expected: The backbone's own names: a class of somebody's own may have more than ours.
    """
    inside = {name: name[len(prefix) :] for name in tensors if name.startswith(prefix)}
    renamed = layout.rename(inside.values())
    if layout.own:
        renamed |= {name: name for name in renamed if name in expected}
    return {name: renamed[short] for name, short in inside.items()}


def fit(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str | None],
    backbone: PublishedNames,
    result: Conversion,
    new: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> Conversion:
    """Fill an empty conversion with tensors whose own names are known.

    Args:
        tensors: Those of the source.
        names: By the names of the source the backbone's own; it may lack what stands outside.
        backbone: As of :func:`convert`.
        result: What is filled and returned.
        new: As of :func:`convert`.
        optional: As of :func:`convert`.
    """
    expected = backbone.state_dict()
    problems = Problems()
    for name, tensor in tensors.items():
        own = names.get(name)
        reason = _why_left_out(name, names, expected, backbone, new)
        if reason is not None:
            result.dropped.setdefault(reason, []).append(name)
        elif own is None or own not in expected or own in result.state_dict:
            problems.unexpected.append(name)  # no place, or a second name for the same
        elif not reshapable(tensor, expected[own]) and _fits_any(optional, own):
            reason = "of another shape, which was allowed"
            result.dropped.setdefault(reason, []).append(name)
        elif (fitted := problems.fitted(name, tensor, own, expected[own])) is not None:
            result.state_dict[own] = fitted

    # A part without parameters may stand in place of one with some, and the other way round.
    known = [*expected, *(own for own in names.values() if own and is_of_backbone(own))]
    if unmatched := [p for p in new if not any(re.search(p, name) for name in known)]:
        raise WeightsError(
            f"new={unmatched} fits no parameter of this {type(backbone).__name__} nor of the source"
        )
    absent = [name for name in expected if name not in result.state_dict]
    # Of an output, all is there or nothing.
    loaded = {_output(name) for name in result.state_dict if backbone.is_for_outputs(name)}
    result.new = [
        name
        for name in absent
        if _fits_any((*new, *optional), name)
        or (backbone.is_for_outputs(name) and _output(name) not in loaded)
    ]
    problems.missing = [name for name in absent if name not in result.new]
    problems.check(result.layout, backbone)
    return result


def _why_left_out(
    name: str,
    names: Mapping[str, str | None],
    expected: Mapping[str, Tensor],
    backbone: PublishedNames,
    new: Sequence[str],
) -> str | None:
    """Why a tensor of a source has no place in a backbone, as it should be; None if it has one, or
    should have."""
    if name not in names:
        return "outside of the backbone"
    own = names[name]
    if own is None:
        return None
    if is_classifier(own):
        return "classifier"
    if _fits_any(new, own):
        return "declared new"
    if own in expected:
        return None
    built = {_output(known) for known in expected if backbone.is_for_outputs(known)}
    if backbone.is_for_outputs(own) and _output(own) not in built:
        return OF_OUTPUTS[0]
    return OF_OUTPUTS[1] if backbone.is_behind_outputs(own) else None


def _fits_any(patterns: Sequence[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def innermost(checkpoint: Any) -> Any:
    """What is inside of the wrappers of a checkpoint, or the checkpoint if it has none."""
    content = checkpoint
    while isinstance(content, Mapping):
        wrapped = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if not wrapped:
            break
        content = content[wrapped[0]]
    return content


def unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """The name-to-tensor mapping inside of a checkpoint.

    Raises:
        WeightsError: If there is none.
    """
    content = innermost(checkpoint)
    if not isinstance(content, Mapping):
        raise WeightsError(f"expected a mapping of names to tensors, got {type(content).__name__}")
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise WeightsError(f"no tensors in the checkpoint; its keys are {list(content)[:_SHOWN]}")
    return tensors


def identify(
    tensors: Mapping[str, Tensor],
    prefix: str | None = None,
    layouts: Sequence[Layout] = LAYOUTS,
) -> tuple[Layout, str]:
    """The layout of a state dict, one of some, and the prefix under which it lies.

    Raises:
        WeightsError: If there is none, or more than one.
    """
    if prefix and not prefix.endswith("."):
        prefix += "."
    found = []
    for layout in layouts:
        for candidate in layout.prefixes(tensors):
            if prefix is None or candidate == prefix:
                found.append((layout, candidate))
    if len(found) == 1:
        return found[0]
    if found:
        where = ", ".join(f"{layout.name} under {candidate!r}" for layout, candidate in found)
        raise WeightsError(
            f"the checkpoint holds several networks ({where}): name one with "
            "init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)"
        )
    under = f" under the prefix {prefix!r}" if prefix else ""
    known = ", ".join(layout.name for layout in layouts if layout.signature)
    raise WeightsError(
        f"unknown layout{under}: known are {known}; the first keys are {list(tensors)[:_SHOWN]}"
        f"{_nearest(tensors, layouts)}"
    )


def _nearest(tensors: Mapping[str, Tensor], layouts: Sequence[Layout]) -> str:
    """The layout that knows most of the names, for the end of a message."""
    prefixes = {"", *(p for name in tensors for p in accumulate(re.findall(r"[^.]*\.", name)))}
    # A prefix of a whole network is one of many names.
    prefixes = {p for p in prefixes if 2 * sum(n.startswith(p) for n in tensors) >= len(tensors)}
    best, most, unknown, lacking = "", 0, [], []
    # Ours last, for they let nearly any name of a block through.
    for layout in sorted(filter(lambda layout: layout.signature, layouts), key=lambda o: o.own):
        for prefix in sorted(prefixes):
            renamed = names_here(tensors, layout, prefix)
            known = sum(map(is_of_backbone, renamed.values()))
            if known > most:
                best, most = layout.name, known
                unknown = [name for name, own in renamed.items() if own is None]
                lacking = layout.lacking(name[len(prefix) :] for name in renamed)
    if not most:
        return ""
    return (
        f"; the nearest is {best}, which knows {most} of the {len(tensors)} keys and not "
        f"{unknown[:_SHOWN]}"
        + (f"; it has {' and '.join(lacking)}, which are not there" if lacking else "")
    )


def _output(own: str) -> str:
    """``norm2`` or ``pyramid.levels.2``: the part that serves one output."""
    return re.sub(r"^((?:pyramid\.)?[a-z]+\.?\d*).*", r"\1", own)


def reshapable(source: Tensor, target: Tensor) -> bool:
    """Equal shapes, or a linear weight for a 1x1 convolution or the other way round."""
    short, long = sorted((tuple(source.shape), tuple(target.shape)), key=len)
    # (C, 1, 1) is how some write a factor per channel, and (out, in, 1, 1) a linear weight.
    return short == long or (len(short) > 0 and (*short, 1, 1) == long)


def why_unusable(source: Tensor, target: Tensor) -> str | None:
    """Why a tensor's values cannot become those of another: half precision and double can, whole
    numbers where fractions belong, NaN and infinity cannot."""
    if not target.is_floating_point():
        return None
    if not source.is_floating_point():
        return f"is of {source.dtype}, where numbers of {target.dtype} belong"
    if source.is_meta:  # names and shapes are all that there is
        return None
    # float8 has no test of its own.
    values = source.float() if source.element_size() == 1 else source
    return None if torch.isfinite(values).all() else "holds NaN or infinite values"
