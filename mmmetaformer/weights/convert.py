"""From a published state dict to a backbone's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .files import WeightsError
from .layouts import LAYOUTS, Layout, is_classifier, is_of_backbone

if TYPE_CHECKING:
    from .trained import PublishedNames

# Keys under which training scripts wrap the weights; averaged weights count without others only.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "module",
             "model_ema", "state_dict_ema", "ema_state_dict")  # fmt: skip
_SHOWN = 5
# Reasons for which tensors that serve outputs are dropped.
OF_OUTPUTS = ("for outputs that are not emitted", "behind the last emitted output")


@dataclass(frozen=True)
class Conversion:
    """A converted state dict and the account of every key that went into it."""

    layout: str
    #: Prefix of the backbone in the source.
    prefix: str
    #: The source's tensors by the backbone's own names.
    state_dict: dict[str, Tensor]
    #: Names that stay freshly initialised.
    new: list[str]
    #: Names of the source that the backbone has no use for, by reason.
    dropped: dict[str, list[str]]


class Placement:
    """Tensors of a source under the names of a model's state dict ``expected``: those that fit
    are ``placed``, in the model's shapes."""

    def __init__(self, expected: Mapping[str, Tensor]) -> None:
        self.expected = expected
        self.placed: dict[str, Tensor] = {}
        self._wrong: list[str] = []
        self._unusable: list[str] = []
        self._unexpected: list[str] = []

    def place(self, name: str, tensor: Tensor, own: str | None) -> None:
        """Put a tensor under its own name, or note why it does not fit."""
        if own is None or own not in self.expected or own in self.placed:
            self._unexpected.append(name)  # no place, or a second name for the same
            return
        target = self.expected[own]
        if reason := why_unusable(tensor, target):
            self._unusable.append(f"{name} {reason}")
        elif not reshapable(tensor, target):
            shapes = tuple(tensor.shape), tuple(target.shape)
            self._wrong.append(f"{name} is {shapes[0]}, the model's {own} {shapes[1]}")
        else:
            self.placed[own] = tensor.reshape(target.shape)

    def check(self, what: str, new: Collection[str] = ()) -> None:
        """Raise ``WeightsError``, with ``what`` in front, unless all but ``new`` is placed."""
        missing = [n for n in self.expected if n not in self.placed and n not in new]
        problems = {
            "of another shape": self._wrong,
            "of unusable values": self._unusable,
            # A tensor that does not fit is not said to be missing, too.
            "missing": [] if self._wrong or self._unusable else missing,
            "unexpected": self._unexpected,
        }
        found = [
            f"{len(names)} {problem}: {'; '.join(names[:_SHOWN])}{' ...' * (len(names) > _SHOWN)}"
            for problem, names in problems.items()
            if names
        ]
        # A fused network has single convolutions for the model's branches.
        fused = [name.removesuffix("weight") for name in self._unexpected]
        branches = {f"{part}{end}.weight" for part in fused for end in ("conv", "branches.0.conv")}
        if not branches.isdisjoint(missing):
            found.append(
                "the source is a fused network: call switch_to_deploy() on the backbone first"
            )
        if found:
            raise WeightsError(f"{what}: {'; '.join(found)}")


def convert_state_dict(
    state_dict: Mapping[str, Any], backbone: PublishedNames
) -> dict[str, Tensor]:
    """Turn a published state dict, as read from a file, into the backbone's own.

    The layout (published, timm's, mmpretrain's or our own), wrappers (``state_dict``, ``model``)
    and prefixes (``backbone.``, ``module.``) are recognised.

    Returns:
        The tensors of the source by the names of ``backbone.state_dict()``. Only what dense
        prediction adds (output norms, a pyramid) may be absent.

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
        state_dict: As read from a file.
        backbone: The backbone that the weights are for.
        prefix: Prefix of the backbone in the source; None finds it.
        new: Regular expressions that are searched for in the backbone's own names, such as
            ``'token_mixer'``. What matches is not taken from the source, where it may be missing
            or of another shape.
        optional: As ``new``, but taken from the source if it is there and fits.
        layouts: Layouts to look for; None for the backbone's.
    """
    tensors = unwrap(state_dict)
    layout, prefix = identify(tensors, prefix, backbone.layouts if layouts is None else layouts)
    names = own_names(tensors, layout, prefix, backbone.state_dict())
    new = [new] if isinstance(new, str) else new
    return fit(tensors, names, backbone, layout.name, prefix, new, optional)


def own_names(
    tensors: Iterable[str], layout: Layout, prefix: str, expected: Collection[str] = ()
) -> dict[str, str | None]:
    """Our names for those of a source below a prefix; None for those unknown to the layout.

    ``expected`` are the backbone's own, of which somebody's own class may have more than ours.
    """
    inside = {name: name[len(prefix) :] for name in tensors if name.startswith(prefix)}
    renamed = layout.rules.rename(inside.values())
    if layout.own:
        renamed |= {name: name for name in renamed if name in expected}
    return {name: renamed[short] for name, short in inside.items()}


def fit(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str | None],
    backbone: PublishedNames,
    layout: str,
    prefix: str,
    new: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> Conversion:
    """As :func:`convert`, for tensors whose own names are known.

    Names of the source that are not in ``names`` stand outside of the backbone.

    Raises:
        WeightsError: If the tensors do not fit.
    """
    expected = backbone.state_dict()
    placement = Placement(expected)
    dropped: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        own = names.get(name)
        reason = None if name in names else "outside of the backbone"
        if own is not None:
            reason = _why_dropped(own, tensor, expected, backbone, new, optional)
        if reason is not None:
            dropped.setdefault(reason, []).append(name)
        else:
            placement.place(name, tensor, own)

    # A part without parameters may replace one with some, and the other way round.
    known = [*expected, *(own for own in names.values() if own and is_of_backbone(own))]
    if unmatched := [p for p in new if not any(re.search(p, name) for name in known)]:
        raise WeightsError(
            f"new={unmatched} fits no parameter of this {type(backbone).__name__} nor of the source"
        )
    # The parameters of one output are loaded all or not at all.
    loaded = {_output(name) for name in placement.placed if backbone.is_for_outputs(name)}
    fresh = [
        name
        for name in expected
        if name not in placement.placed
        and (
            _fits_any((*new, *optional), name)
            or (backbone.is_for_outputs(name) and _output(name) not in loaded)
        )
    ]
    what = f"weights in the {layout} layout do not fit this {type(backbone).__name__}"
    placement.check(what, fresh)
    return Conversion(layout, prefix, placement.placed, fresh, dropped)


def _why_dropped(
    own: str,
    tensor: Tensor,
    expected: Mapping[str, Tensor],
    backbone: PublishedNames,
    new: Sequence[str],
    optional: Sequence[str],
) -> str | None:
    """Why a tensor is rightly left out; None if the backbone should have it."""
    if is_classifier(own):
        return "classifier"
    if _fits_any(new, own):
        return "declared new"
    if own in expected:
        is_allowed = _fits_any(optional, own) and not reshapable(tensor, expected[own])
        return "of another shape, which was allowed" if is_allowed else None
    built = {_output(known) for known in expected if backbone.is_for_outputs(known)}
    if backbone.is_for_outputs(own) and _output(own) not in built:
        return OF_OUTPUTS[0]
    return OF_OUTPUTS[1] if backbone.is_behind_outputs(own) else None


def _fits_any(patterns: Sequence[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def innermost(checkpoint: Any) -> Any:
    """What is inside of the wrappers of a checkpoint, or the checkpoint if it has none."""
    if isinstance(checkpoint, Mapping):
        for key in _WRAPPERS:
            if isinstance(checkpoint.get(key), Mapping):
                return innermost(checkpoint[key])
    return checkpoint


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
    """The layout of a state dict and the prefix under which it lies.

    Raises:
        WeightsError: If there is none, or more than one.
    """
    if prefix and not prefix.endswith("."):
        prefix += "."
    found = [(layout, p) for layout in layouts for p in layout.prefixes(tensors)]
    found = [(layout, p) for layout, p in found if prefix in (None, p)]
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
    # Most of the names are below the prefix of a whole network.
    prefixes = {p for p in prefixes if 2 * sum(n.startswith(p) for n in tensors) >= len(tensors)}
    most, nearest = 0, ""
    # Ours last, for they let nearly any name of a block through.
    for layout in sorted((o for o in layouts if o.signature), key=lambda o: o.own):
        for prefix in sorted(prefixes):
            renamed = own_names(tensors, layout, prefix)
            known = sum(map(is_of_backbone, renamed.values()))
            if known > most:
                unknown = [name for name, own in renamed.items() if own is None]
                nearest = (
                    f"; the nearest is {layout.name}, which knows {known} of the {len(tensors)} "
                    f"keys and not {unknown[:_SHOWN]}"
                )
                if lacking := layout.lacking(name[len(prefix) :] for name in renamed):
                    nearest += f"; it has {' and '.join(lacking)}, which are not there"
                most = known
    return nearest


def _output(own: str) -> str:
    """The part that serves one output: ``norm2`` or ``pyramid.levels.2``."""
    return re.sub(r"^((?:pyramid\.)?[a-z]+\.?\d*).*", r"\1", own)


def reshapable(source: Tensor, target: Tensor) -> bool:
    """Equal shapes, or a linear weight for a 1x1 convolution or the other way round."""
    short, long = sorted((tuple(source.shape), tuple(target.shape)), key=len)
    # (C, 1, 1) is how some write a factor per channel, and (out, in, 1, 1) a linear weight.
    return short == long or (len(short) > 0 and (*short, 1, 1) == long)


def why_unusable(source: Tensor, target: Tensor) -> str | None:
    """Why values cannot be loaded: integers for floating point, NaN or infinity; else None."""
    if not target.is_floating_point():
        return None
    if not source.is_floating_point():
        return f"is of {source.dtype}, where numbers of {target.dtype} belong"
    if source.is_meta:  # names and shapes are all that there is
        return None
    # torch.isfinite does not take float8.
    values = source.float() if source.element_size() == 1 else source
    return None if torch.isfinite(values).all() else "holds NaN or infinite values"
