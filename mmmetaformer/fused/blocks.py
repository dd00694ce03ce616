"""The seam: modules whose forward pass is the fused form, and otherwise the literal one.

Each class is a subclass of the literal one that only overrides ``forward``. So :func:`fuse` only
changes the classes of existing modules: parameters, names, hooks and modes stay, and
:func:`unfuse` undoes it.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..backbones.metaformer import ConvDownsampling, MetaFormerBlock
from ..layers import GroupNorm, LayerNorm2d, ModifiedLayerNorm, PatchEmbedding
from .branches import (
    ResidualBranch,
    affine_norm,
    fused_form,
    is_known_norm,
    mlp,
    pooling,
    pooling_and_mlp,
    residual_branches,
)
from .conditions import fused_forms_may_run, is_untouched
from .functions import Contiguous, Convolution, Norm, has_fast_gradient
from .primitives import Implementation, find_implementation


class _Fused(nn.Module):
    """The base of the fused classes.

    Attributes:
        fused: As in :func:`fuse`: ``'auto'``, True or the name of an implementation; False after
            :func:`unfuse`.
    """

    fused: bool | str = "auto"

    def may_run_fused(self, x: Tensor) -> bool:
        """Whether the fused form may run on a map now. ``'auto'`` is the literal form on GPUs, for
        which there are no measurements."""
        if self.fused is False or not fused_forms_may_run(x):
            return False
        return self.fused != "auto" or not x.is_cuda

    @property
    def ops(self) -> Implementation:
        """The implementation of the primitives."""
        return find_implementation("torch" if self.fused in ("auto", True) else str(self.fused))


class FusedBlock(_Fused, MetaFormerBlock):
    """A block that runs its residual branches in their fused forms where it can."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.may_run_fused(x):
            return super().forward(x)
        branches = residual_branches(self)
        forms = [fused_form(b) if is_untouched(*b[:-1]) else None for b in branches]
        if forms == [pooling, mlp] and branches[1].residual:
            return pooling_and_mlp(branches[0], branches[1], x, self.ops)
        for branch, form in zip(branches, forms, strict=True):
            x = form(branch, x, self.ops) if form else _run_literally(branch, x)
        return x


def _run_literally(branch: ResidualBranch, x: Tensor) -> Tensor:
    """A residual branch by its own modules, and its identity path."""
    out = branch.layer_scale(branch.drop_path(branch.mixer(branch.norm(x))))
    return branch.res_scale(x) + out if branch.residual else out


class FusedPatchEmbedding(_Fused, PatchEmbedding):
    """A stem that takes the image in channels_last, the fast format of all later layers."""

    def forward(self, x: Tensor) -> Tensor:
        if self.may_run_fused(x):
            x = x.contiguous(memory_format=torch.channels_last)
        return super().forward(x)


class FusedDownsampling(_Fused, ConvDownsampling):
    """A stem or downsampling layer that takes maps in channels_last and has a faster backward
    pass."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.may_run_fused(x):
            return super().forward(x)
        x = self.pre_norm(x.contiguous(memory_format=torch.channels_last))
        conv = self.conv
        if torch.is_grad_enabled() and is_untouched(conv) and has_fast_gradient(conv, x):
            x = Convolution.apply(x, conv.weight, conv.bias, conv.stride, conv.padding)
        else:
            x = conv(x)
        return self.post_norm(x)


class _FusedOutput(_Fused):
    """An output norm, or none, that emits a contiguous map. Behind an ordinary ``contiguous`` the
    gradient would not be channels_last, and the whole backward pass would be slow."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.may_run_fused(x) or not is_untouched(self):
            return super().forward(x)
        if isinstance(self, nn.Identity):
            return x if x.is_contiguous() else Contiguous.apply(x)
        return Norm.apply(x, self.weight, self.bias, affine_norm(self, self.ops))


class FusedGroupNorm(_FusedOutput, GroupNorm):
    """A GroupNorm of one group behind a stage."""


class FusedModifiedLayerNorm(_FusedOutput, ModifiedLayerNorm):
    """A modified layer norm behind a stage."""


class FusedLayerNorm2d(_FusedOutput, LayerNorm2d):
    """A norm over channels behind a stage."""


class FusedIdentity(_FusedOutput, nn.Identity):
    """No norm behind a stage."""


_CLASSES: dict[type, type[_Fused]] = {
    MetaFormerBlock: FusedBlock,
    ConvDownsampling: FusedDownsampling,
    PatchEmbedding: FusedPatchEmbedding,
}
_OUTPUTS: dict[type, type[_Fused]] = {
    GroupNorm: FusedGroupNorm,
    ModifiedLayerNorm: FusedModifiedLayerNorm,
    LayerNorm2d: FusedLayerNorm2d,
    nn.Identity: FusedIdentity,
}
_LITERAL = {fused: literal for literal, fused in (_CLASSES | _OUTPUTS).items()}


def fuse(model: nn.Module, fused: bool | str = "auto") -> nn.Module:
    """Let the blocks of a model run in their fused forms, in place, and return the model.

    Parameters, state-dict keys and hooks stay, and so do, but for rounding, results and gradients.
    A model that is fused may be fused again, with another argument.

    Args:
        model: A block, a backbone, or a detector or segmentor with a backbone of this package.
        fused: ``'auto'`` for the CPU only, True for all devices, or the name of an implementation
            of the primitives for all devices (:func:`register_implementation`).

    Raises:
        ValueError: If there is no such implementation, or nothing can be fused and ``fused`` is not
            ``'auto'``.
    """
    if fused not in ("auto", True):
        find_implementation(cast(str, fused))
    modules = _fusable(model)
    for module, cls in modules:
        if not isinstance(module, _Fused):
            module.__class__ = cls  # type: ignore[assignment]  # a module's class
        cast(_Fused, module).fused = fused
    if not modules and fused != "auto":
        raise ValueError(
            f"fused={fused!r}, but nothing of {type(model).__name__} has a fused form: leave "
            "fused='auto'"
        )
    return model


def unfuse(model: nn.Module) -> nn.Module:
    """Undo :func:`fuse`, in place, and return the model."""
    for module in model.modules():
        if isinstance(module, _Fused):
            # A class that somebody made of it, as FSDP and parametrizations do, is theirs.
            module.fused = False
            module.__class__ = _LITERAL.get(type(module), type(module))
    return model


def _fusable(model: nn.Module) -> list[tuple[nn.Module, type[_Fused]]]:
    """The modules that are fused or may be, and their fused classes."""
    from ..backbones.base import Backbone  # which imports this module

    if not isinstance(model, Backbone):
        backbones = [module for module in model.modules() if isinstance(module, Backbone)]
        if backbones:
            return [pair for backbone in backbones for pair in _fusable(backbone)]
    blocks = [m for m in model.modules() if isinstance(m, FusedBlock) or type(m) is MetaFormerBlock]
    if not any(fused_form(branch) for b in blocks for branch in residual_branches(b)):
        return []
    found = [
        (module, _CLASSES.get(type(module), FusedBlock))
        for module in model.modules()
        if isinstance(module, _Fused) or type(module) in _CLASSES
    ]
    if isinstance(model, Backbone):
        norms = [getattr(model, f"norm{index}") for index in model.out_indices]
        emitting = [n for n in norms if type(n) is nn.Identity or is_known_norm(n)]
        found += [(norm, _OUTPUTS[type(norm)]) for norm in emitting]
    return found
