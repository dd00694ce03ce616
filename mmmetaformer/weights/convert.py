"""From a published state dict to a backbone's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .files import WeightsError
from .layouts import LAYOUTS, Layout, is_classifier

__all__ = ["Conversion", "WeightsError", "convert", "convert_state_dict"]

# Under which keys training scripts wrap the weights of a model.
# Averaged weights count where there are no others.
_WRAPPERS = (
    *("state_dict", "model", "model_state_dict", "module"),
    *("model_ema", "state_dict_ema", "ema_state_dict"),
)
_SHOWN = 5
_DOT = re.compile(r"\.")


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


def convert_state_dict(state_dict: Mapping[str, Any], backbone: nn.Module) -> dict[str, Tensor]:
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
    backbone: nn.Module,
    prefix: str | None = None,
    new: Sequence[str] = (),
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
    if isinstance(new, str):
        new = [new]

    def is_new(name: str) -> bool:
        return _fits_any(new, name)

    tensors = unwrap(state_dict)
    layout, prefix = identify(tensors, prefix, backbone.layouts if layouts is None else layouts)
    result = Conversion(layout.name, prefix)
    expected = backbone.state_dict()
    outputs = {_output(name) for name in expected if backbone.is_for_outputs(name)}
    unexpected, wrong, unusable = [], [], []

    inside = {name: name[len(prefix) :] for name in tensors if name.startswith(prefix)}
    renamed = layout.rename(list(inside.values()))
    if layout.own:  # a class of somebody's own may have more names
        renamed |= {name: name for name in renamed if name in expected}
    for name, tensor in tensors.items():
        if name not in inside:
            result.dropped.setdefault("outside of the backbone", []).append(name)
            continue
        own = renamed[inside[name]]
        if is_of_backbone(own) and is_new(own):
            result.dropped.setdefault("declared new", []).append(name)
        elif own in result.state_dict:
            unexpected.append(name)  # a second name for the same parameter
        elif own in expected:
            reason = why_unusable(tensor, expected[own])
            if reason:
                unusable.append(f"{name} {reason}")
            elif reshapable(tensor, expected[own]):
                result.state_dict[own] = tensor.reshape(expected[own].shape)
            elif _fits_any(optional, own):
                result.dropped.setdefault("of another shape, which was allowed", []).append(name)
            else:
                wrong.append(
                    f"{name} is {tuple(tensor.shape)}, the backbone's {own} "
                    f"{tuple(expected[own].shape)}"
                )
        elif is_classifier(own):
            result.dropped.setdefault("classifier", []).append(name)
        elif own is not None and backbone.is_for_outputs(own) and _output(own) not in outputs:
            result.dropped.setdefault("for outputs that are not emitted", []).append(name)
        elif own is not None and backbone.is_behind_outputs(own):
            result.dropped.setdefault("behind the last emitted output", []).append(name)
        else:
            unexpected.append(name)

    # A part without parameters may stand in place of one with some, and the other way round.
    names = [*expected, *filter(is_of_backbone, renamed.values())]
    unmatched = [p for p in new if not any(re.search(p, name) for name in names)]
    if unmatched:
        raise WeightsError(
            f"new={unmatched} fits no parameter of this {type(backbone).__name__} nor of the source"
        )
    absent = [name for name in expected if name not in result.state_dict]
    # Of an output, all is there or nothing.
    loaded = {_output(name) for name in result.state_dict if backbone.is_for_outputs(name)}
    result.new = [
        name
        for name in absent
        if is_new(name)
        or _fits_any(optional, name)
        or (backbone.is_for_outputs(name) and _output(name) not in loaded)
    ]
    missing = [name for name in absent if name not in result.new]
    check_complete(layout.name, type(backbone).__name__, wrong, missing, unexpected, unusable)
    return result


def _fits_any(patterns: Sequence[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def check_complete(
    layout: str,
    target: str,
    wrong: list[str],
    missing: list[str],
    unexpected: list[str],
    unusable: Sequence[str] = (),
) -> None:
    """Raise ``WeightsError`` if anything is wrong; a wrong shape is not said to be missing, too."""
    problems = [
        f"{len(names)} {what}: {'; '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
        for what, names in (
            ("of another shape", wrong),
            ("of unusable values", unusable),
            ("missing", missing if not (wrong or unusable) else []),
            ("unexpected", unexpected),
        )
        if names
    ]
    if problems:
        raise WeightsError(
            f"weights in the {layout} layout do not fit this {target}: "
            + "; ".join(problems)
            + _if_fused(unexpected, missing)
        )


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
    raise WeightsError(
        f"unknown layout{under}: known are {', '.join(layout.name for layout in layouts)}; the "
        f"first keys are {list(tensors)[:_SHOWN]}{_nearest(tensors, layouts)}"
    )


def _if_fused(unexpected: Sequence[str], missing: Sequence[str]) -> str:
    """A hint for the end of a message when single convolutions stand for what has branches."""
    absent = set(missing)
    for name in unexpected:
        part = name.rpartition(".weight")[0]
        if {f"{part}.conv.weight", f"{part}.branches.0.conv.weight"} & absent:
            return "; the source is a fused network: call switch_to_deploy() on the backbone first"
    return ""


def _nearest(tensors: Mapping[str, Tensor], layouts: Sequence[Layout]) -> str:
    """The layout that knows most of the names, for the end of a message."""
    prefixes = {"", *(name[: match.end()] for name in tensors for match in _DOT.finditer(name))}
    # A prefix of a whole network is one of many names.
    prefixes = {p for p in prefixes if 2 * sum(n.startswith(p) for n in tensors) >= len(tensors)}
    best, most, unknown, lacking = "", 0, [], []
    # Ours last, for they let nearly any name of a block through.
    for layout in sorted(layouts, key=lambda layout: layout.own):
        for prefix in sorted(prefixes):
            inside = [name for name in tensors if name.startswith(prefix)]
            renamed = layout.rename([name.removeprefix(prefix) for name in inside])
            known = sum(map(is_of_backbone, renamed.values()))
            if known > most:
                best, most = layout.name, known
                unknown = [name for name in inside if renamed[name.removeprefix(prefix)] is None]
                lacking = layout.lacking(renamed)
    if not most:
        return ""
    return (
        f"; the nearest is {best}, which knows {most} of the {len(tensors)} keys and not "
        f"{unknown[:_SHOWN]}"
        + (f"; it has {' and '.join(lacking)}, which are not there" if lacking else "")
    )


def is_of_backbone(own: str | None) -> bool:
    """Whether a layout has made a name of a backbone's of a name."""
    return own is not None and not is_classifier(own)


def layout_named(name: str) -> Layout:
    """The layout that a :class:`Conversion` names."""
    return next(layout for layout in LAYOUTS if layout.name == name)


def _output(own: str) -> str:
    """``norm2`` or ``pyramid.levels.2``: the part that serves one output."""
    return re.match(r"(?:pyramid\.)?[a-z]+\.?\d*", own).group()


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
