"""What differs between versions of torch (2.1 to 2.14), and the private names of torch that
nothing public replaces. All of them are here."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

if hasattr(torch.compiler, "is_compiling"):
    is_compiling = torch.compiler.is_compiling
else:  # torch 2.1, whose compiler takes this function for True
    is_compiling = torch._utils.is_compiling


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The dtype of autocast on a kind of device (``'cpu'``, ``'cuda'``), None where it is off."""
    if hasattr(torch, "get_autocast_dtype"):
        enabled = torch.is_autocast_enabled(device_type)
        return torch.get_autocast_dtype(device_type) if enabled else None
    if device_type == "cpu":  # before torch 2.4
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def _private(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name, None)


_MODULES = "torch.nn.modules.module"
_GLOBAL_HOOKS = [
    _private(_MODULES, f"_global_{kind}_hooks")
    for kind in ("forward_pre", "forward", "backward_pre", "backward")
]
_dispatch_mode = _private("torch.utils._python_dispatch", "_get_current_dispatch_mode")
_has_transforms = _private("torch._C", "_are_functorch_transforms_active")
_forward_ad: Any = importlib.import_module("torch.autograd.forward_ad")
# A torch that lacks one of these names is taken to interpret operators at all times.
_KNOWN = None not in (*_GLOBAL_HOOKS, _dispatch_mode, _has_transforms)


def interprets_operators() -> bool:
    """Whether something looks at, or replaces, operators or calls of modules one by one.

    That is a tracer, a compiler, a dispatch mode (operation counters, fake tensors), a function
    mode other than a default device, ``torch.func``, forward-mode differentiation, or a global
    hook of modules.
    """
    if is_compiling() or torch.jit.is_tracing() or not _KNOWN:
        return True
    if _dispatch_mode() is not None or any(_GLOBAL_HOOKS):
        return True
    if any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack()):
        return True
    return getattr(_forward_ad, "_current_level", 0) >= 0 or _has_transforms()
