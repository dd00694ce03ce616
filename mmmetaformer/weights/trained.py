"""Whole detectors and segmentors that were trained with the published code.

Necks and heads of mmdet 2 and mmseg 0 have the names that they have today. A part of this package
in the place of a published one renames its own tensors when a state dict is loaded into the model,
whoever loads it: mmengine's runner, ``init_detector``, ``init_model``, an averaged model, or torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from .convert import Conversion, convert, why_unusable
from .files import WeightsError
from .layouts import LAYOUTS, Layout, Rules
from .loading import LoadReport, pretrained_cfgs


class PublishedNames(nn.Module):
    """A module that is loaded under its own names and under published ones.

    Name it in front of the module's other base. Names of a published layout are renamed, and have
    to fit. Own names are left to torch, unless mmengine loads them (``load_from``, ``--resume``,
    ``init_detector``, ``init_model``, inferencers): mmengine only logs what does not fit, so there
    the module is loaded as a whole or refused.

    Exempt is what dense prediction adds (an output norm, a pyramid), what depends on the number of
    classes, and what ``new`` of a ``Pretrained`` in the module's ``init_cfg`` names.

    Attributes:
        layouts: The layouts known of such a module.
        class_names: Patterns of names whose shapes follow the number of classes.
    """

    layouts: ClassVar[tuple[Layout, ...]] = LAYOUTS
    class_names: ClassVar[tuple[str, ...]] = ()

    def is_for_outputs(self, name: str) -> bool:
        """Whether a state dict may lack a name; see :func:`convert`."""
        return False

    def is_behind_outputs(self, name: str) -> bool:
        """Whether a name belongs to a part that was not built; see :func:`convert`."""
        return False

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        # The state dict is a copy for this call, from which the submodules get theirs.
        conversion = rename_part(self, state_dict, prefix, whole=_is_loaded_by_mmengine())
        if conversion is not None:
            where = f"{prefix}* of the checkpoint" if prefix else "the checkpoint"
            LoadReport(where, conversion).log()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)


def _is_loaded_by_mmengine() -> bool:
    """Whether mmengine's ``load_state_dict`` is loading the module whose method called this.

    torch and mmengine call ``_load_from_state_dict`` with the same arguments. torch then raises
    unless ``strict=False``; mmengine logs, and calls no other method that could refuse. Only the
    caller tells them apart.
    """
    frame = sys._getframe(1)
    # The methods of subclasses stand between.
    while frame.f_back is not None and frame.f_code.co_name == "_load_from_state_dict":
        frame = frame.f_back
    return frame.f_globals.get("__name__") == "mmengine.runner.checkpoint"


# For a part whose own names are in none of its layouts.
_OWN_NAMES = Layout("mmmetaformer", ("mmmetaformer",), (), (r".+",), Rules("{rest}"))


def rename_part(
    part: PublishedNames, state_dict: dict[str, Any], prefix: str, *, whole: bool
) -> Conversion | None:
    """Give the tensors of one part of a model the part's own names, in place.

    ``prefix`` is that of the part in the model's ``state_dict``, and ``whole`` says whether tensors
    under the part's own names have to be complete, too.

    Returns:
        The account of the names; None if nothing had to be changed.

    Raises:
        WeightsError: If the tensors do not fit.
    """
    inside = {name[len(prefix) :]: name for name in state_dict if name.startswith(prefix)}
    tensors = {name: state_dict[full] for name, full in inside.items()}
    own = part.state_dict()
    # The usual case, and cheaper to find out than the layout.
    if _is_whole(tensors, own) if whole else inside.keys() <= own.keys():
        return None
    found = [layout for layout in part.layouts if "" in layout.prefixes(inside)]
    layouts = [layout for layout in found if whole or not layout.own]
    if not whole and not layouts:
        return None
    declared = [cfg.get("new", ()) for cfg in pretrained_cfgs(getattr(part, "init_cfg", None))]
    new = [n for names in declared for n in ([names] if isinstance(names, str) else names)]
    try:
        if not inside:
            raise WeightsError("there is none of its tensors")
        if not layouts and inside.keys() & own.keys():
            layouts = [_OWN_NAMES]
        optional = (*part.class_names, *new)
        conversion = convert(tensors, part, "", (), optional, layouts or part.layouts)
    except WeightsError as error:
        where = f"{prefix}* of the checkpoint: " if prefix else ""
        layout = layouts[0].name if layouts else ""
        raise WeightsError(f"{where}{error}{_remedy(own, layout, whole, inside)}") from error
    for full in inside.values():
        del state_dict[full]
    state_dict.update({prefix + name: tensor for name, tensor in conversion.state_dict.items()})
    return conversion


def _remedy(own: Iterable[str], layout: str, whole: bool, inside: Mapping[str, str]) -> str:
    """What can be done about a part that does not fit, for the end of a message."""
    # What FFNet trains as branches is one convolution once it is fused.
    if "FFNet" in layout and not any(".branches." in name for name in own):
        return "; load them before switch_to_deploy"
    if not whole:
        return ""
    what, new = "A file of a backbone alone or of a classifier is for the backbone's", ""
    if inside:
        what, new = "What is to start anew is named by this part's", ", new=['token_mixer']"
    return f". {what} init_cfg=dict(type='Pretrained', checkpoint=...{new})"


def _is_whole(tensors: Mapping[str, Any], own: Mapping[str, Tensor]) -> bool:
    return tensors.keys() == own.keys() and all(
        isinstance(tensor, Tensor)
        and tensor.shape == own[name].shape
        and not why_unusable(tensor, own[name])
        for name, tensor in tensors.items()
    )


def rename_parts(model: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a whole model as mmengine will load it: with the parts' own names.

    Raises:
        WeightsError: If a part's tensors do not fit.
    """
    renamed = dict(state_dict)
    for name, part in model.named_modules():
        if isinstance(part, PublishedNames):
            rename_part(part, renamed, f"{name}." if name else "", whole=True)
    return renamed
