"""When the fused form of a half runs in place of the plain one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from .halves import TABLE, Half, Row, downsampled, is_downsampling, norm_map
from .primitives import implementation

VARIABLE = "MMMETAFORMER_FUSED"
CHOICES = ("auto", True, False, "triton")
# What of a half itself the fused form replaces.
_PARTS = ("norm", "mixer", "drop_path", "layer_scale", "res_scale")


def resolve_fused(fused: bool | str) -> bool | str:
    """The argument ``fused`` of a backbone, after the environment variable ``MMMETAFORMER_FUSED``.

    ``MMMETAFORMER_FUSED=0`` turns the fused path off whatever the argument is;
    ``MMMETAFORMER_FUSED=triton`` is what ``'auto'`` means then.

    Returns:
        One of ``CHOICES``.

    Raises:
        ValueError: For another value of the argument or the variable, or where there is no Triton
            for ``'triton'``.
    """
    if not isinstance(fused, bool) and fused not in ("auto", "triton"):
        raise ValueError(f"fused must be one of {CHOICES}, got {fused!r}")
    variable = os.environ.get(VARIABLE, "")
    if variable not in ("", "0", "1", "auto", "triton"):
        raise ValueError(
            f"the environment variable {VARIABLE} must be 0 (off), 1 or auto (as the argument "
            f"fused says) or triton, got {variable!r}"
        )
    if variable == "0":
        return False
    if variable == "triton" and fused == "auto":
        fused = "triton"
    if fused == "triton":
        implementation("triton")
    return fused


def check_fused(halves: Iterable[Half], fused: bool | str, name: str) -> None:
    """That somebody who asks for the fused path gets some of it.

    Raises:
        ValueError: If ``fused`` is True or ``'triton'`` and no half has a fused form.
    """
    if fused in (True, "triton") and not any(has_fused_form(half) for half in halves):
        raise ValueError(
            f"fused={fused!r}, but nothing of {name} has a fused form: leave fused='auto'"
        )


def has_fused_form(half: Half) -> bool:
    """Whether a half by itself can be fused."""
    return any(row.fits([half]) for row in TABLE)


def run_fused(halves: Sequence[Half], x: Tensor, fused: bool | str) -> tuple[int, Tensor] | None:
    """The first of some halves of a block in their fused form.

    Returns:
        How many halves that is and what they make of ``x``; None where the first has to run plain.
        That is where it has no fused form; where a hook or a replaced ``forward`` waits for a
        module that the fused form leaves out; where :func:`functions_run` says no.
    """
    if not fused or x.dim() != 4 or not functions_run():
        return None
    for row in TABLE:
        if row.fits(halves) and not any(map(_is_watched, _left_out(halves, row))):
            count = len(row.matches)
            return count, row.run(*halves[:count], x, _backend(fused))
    return None


def run_fused_norm(norm: nn.Module, x: Tensor, fused: bool | str) -> Tensor | None:
    """The norm of a map, contiguous, as :func:`run_fused` does it for a half."""
    if not fused or not functions_run() or _is_watched(norm):
        return None
    return norm_map(norm, x, _backend(fused))


def run_plain_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """A norm by its own module, of a map as the fused path lays it out.

    Of a channels_last map on the CPU, torch's GroupNorm

    - subtracts squares, which leaves no digits when the mean is large. A number that all values of
      an image share changes nothing of the result, so that the mean is taken off first;
    - crashes in the backward pass when the map itself needs no gradient, as behind frozen layers.
    """
    if not isinstance(norm, nn.GroupNorm) or x.device.type != "cpu" or not functions_run():
        return norm(x)
    if x.is_contiguous():
        return norm(x)
    trained = torch.is_grad_enabled() and any(part.requires_grad for part in norm.parameters())
    if trained and not x.requires_grad:
        return norm(x.contiguous())
    if x.dtype == torch.float32 and not _is_watched(norm):
        x = x - x.detach().mean((1, 2, 3), keepdim=True)
    return norm(x)


def run_fused_downsampling(layer: nn.Module, x: Tensor, fused: bool | str) -> Tensor | None:
    """What a layer between stages makes of a map, as :func:`run_fused` does it for a half."""
    if not fused or x.dim() != 4 or not is_downsampling(layer) or not functions_run():
        return None
    return None if _is_watched(layer) or _is_watched(layer.conv) else downsampled(layer, x)


def _backend(fused: bool | str) -> str:
    return "triton" if fused == "triton" else "torch"


def _left_out(halves: Sequence[Half], row: Row) -> Iterator[nn.Module]:
    for half, names in zip(halves, row.replaced, strict=False):
        yield from (getattr(half, part) for part in _PARTS)
        yield from (getattr(half.mixer, name) for name in names)


def _is_watched(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def functions_run() -> bool:
    """Whether autograd's custom functions may stand in for operators now: not while a model is
    traced, exported, transformed by ``torch.func`` or differentiated in forward mode, nor while
    hooks wait for all modules; nor under ``torch.compile``, which fuses the plain path itself."""
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    if torch.jit.is_tracing() or _has_any_global_hook():
        return False
    return forward_ad._current_level < 0 and not torch._C._are_functorch_transforms_active()
