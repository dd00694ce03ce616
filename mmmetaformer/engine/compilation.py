"""``torch.compile`` for the backbone of a model and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..backbones.base import Backbone
from .errors import UserError


def compile_backbones(
    model: nn.Module, backend: str = "inductor", dynamic: bool | None = True
) -> list[Backbone]:
    """Compile the forward pass of each backbone of this package inside of a model, in place.

    Heads stay as they are: their work depends on what is in the images. A backbone compiles when it
    first runs. No module is replaced, so that names in the state dict, hooks and copies stay as
    they are (a copy is not compiled). With ``dynamic`` the graph holds for all sizes of images;
    where a mixer does different things for different sizes (windows that fit or not) it is compiled
    again, eight times at the most (``torch._dynamo.config.recompile_limit``), and further sizes
    run uncompiled.

    Args:
        model: A backbone, detector, segmentor or classifier, also inside of a wrapper.
        backend: One of ``torch.compiler.list_backends(exclude_tags=())``.
        dynamic: True for one graph for all sizes, False for one per size, None for torch's choice.

    Returns:
        The backbones that were compiled.

    Raises:
        UserError: If there is no such backend, the model has no backbone of this package, or one
            cannot be compiled.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise UserError(f"unknown backend {backend!r}: expected one of {', '.join(known)}")
    backbones = [module for module in model.modules() if isinstance(module, Backbone)]
    if not backbones:
        raise UserError(
            f"{type(model).__name__} has no backbone of mmmetaformer, and nothing else is compiled"
        )
    for backbone in backbones:
        if backbone.with_cp and any(_keeps_statistics(module) for module in backbone.modules()):
            raise UserError(
                f"{type(backbone).__name__} with with_cp=True and BatchNorm cannot be compiled: "
                "leave out one of them"
            )
    options: dict[str, Any] = dict(backend=backend, dynamic=dynamic)
    for backbone in backbones:
        backbone.compile(**options)
    return backbones


def _keeps_statistics(module: nn.Module) -> bool:
    # Their recomputation changes attributes (layers/checkpoint.py), which dynamo does not follow.
    return isinstance(module, _NormBase) and module.track_running_stats
