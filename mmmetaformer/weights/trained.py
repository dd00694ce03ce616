"""Whole detectors and segmentors that were trained with the published code.

Necks and heads of mmdet 2 and mmseg 0 have the names that they have today. What has others is a
part of this package in the place of a published one, and such a part renames its own tensors when
a state dict is copied into the model, whoever copies it: mmengine's runner, ``init_detector``,
``init_model``, the averaged copy of a model, or torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from mmengine.logging import print_log
from torch import Tensor, nn

from .convert import Conversion, convert
from .files import WeightsError
from .layouts import LAYOUTS, Layout
from .loading import LoadReport


class PublishedNames:
    """A module that is loaded under its own names and under published ones.

    To be named in front of the module's other base. Names of its own pass as they are, whether
    all are there or not; those of a published layout are renamed, and have to fit.

    Attributes:
        layouts: Those that are known of such a module.
    """

    layouts: ClassVar[tuple[Layout, ...]] = LAYOUTS

    def is_for_outputs(self, name: str) -> bool:
        """Whether a state dict may lack a name; see :func:`convert`."""
        return False

    def is_behind_outputs(self, name: str) -> bool:
        """Whether a name belongs to a part that was not built; see :func:`convert`."""
        return False

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # The state dict is a copy for this call, from which the submodules get theirs.
        conversion = rename_part(self, state_dict, prefix)
        if conversion is not None:
            report = LoadReport(
                f"{prefix}* of a checkpoint" if prefix else "state dict", conversion
            )
            print_log(str(report), logger="current")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def rename_part(part: nn.Module, state_dict: dict[str, Any], prefix: str) -> Conversion | None:
    """Give the tensors of one part of a model the part's own names, in place.

    Args:
        part: A module with ``PublishedNames``.
        state_dict: That of the model.
        prefix: Prefix of the part in it.

    Returns:
        The account of the names; None if they are the part's own or of no known layout, and stay.

    Raises:
        WeightsError: If the layout is known and its tensors do not fit.
    """
    inside = {name[len(prefix) :]: name for name in state_dict if name.startswith(prefix)}
    if inside.keys() <= part.state_dict().keys():  # as a rule, and found out sooner than layouts
        return None
    layouts = [
        layout for layout in part.layouts if not layout.own and "" in layout.prefixes(inside)
    ]
    if not layouts:
        return None
    try:
        conversion = convert({name: state_dict[full] for name, full in inside.items()}, part, "")
    except WeightsError as error:
        where = f"{prefix}* of the checkpoint: " if prefix else ""
        # What FFNet trains as branches is one convolution then.
        fused = not any(hasattr(module, "fused") for module in part.modules())
        hint = "; load them before switch_to_deploy" if fused and "FFNet" in layouts[0].name else ""
        raise WeightsError(f"{where}{error}{hint}") from error
    for full in inside.values():
        del state_dict[full]
    state_dict.update({prefix + name: tensor for name, tensor in conversion.state_dict.items()})
    return conversion


def rename_parts(model: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a whole model as loading will copy it: with the parts' own names.

    Raises:
        WeightsError: If a part's layout is known and its tensors do not fit.
    """
    renamed = dict(state_dict)
    for prefix, part in published_parts(model):
        rename_part(part, renamed, prefix)
    return renamed


def published_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules with ``PublishedNames`` of a model, and their prefixes in its state dict."""
    for name, part in model.named_modules():
        if isinstance(part, PublishedNames):
            yield f"{name}." if name else "", part
