"""What differs between versions of torch (2.1 to 2.14), and the private names of torch that
nothing public replaces. All of them are here."""

from __future__ import annotations

import codecs
import importlib
import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
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


_TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])


def add_safe_globals(allowed: Mapping[str, Any]) -> None:
    """Let ``torch.load(weights_only=True)`` take objects under the names of a checkpoint.

    Before torch 2.6, which does not take names, this does nothing.
    """
    if _TORCH >= (2, 6):
        torch.serialization.add_safe_globals([(value, name) for name, value in allowed.items()])


def load_plain(path: Path, allowed: Mapping[str, Any]) -> Any:
    """``torch.load(weights_only=True)`` to the CPU, with further objects allowed by name.

    Raises:
        UnpicklingError: If the file names an object that is not allowed.
    """
    if _TORCH >= (2, 6):
        return torch.load(path, map_location="cpu", weights_only=True)
    own = _private("torch._weights_only_unpickler", "_get_allowed_globals")()

    class Unpickler(_PlainUnpickler):
        known = {"_codecs.encode": codecs.encode, **own, **allowed}

    module: Any = ModuleType("plain_pickle")
    module.Unpickler = Unpickler
    # torch's legacy format is read by this.
    module.load = lambda file, **options: Unpickler(file, **options).load()
    return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)


_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _PlainUnpickler(_PythonUnpickler):
    """Finds only what is known by name, and changes no classes or functions."""

    known: Mapping[str, Any] = {}
    dispatch = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        # Names of Python 2, which pickle's older protocols use.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full not in self.known:
            raise pickle.UnpicklingError(
                f"WeightsUnpickler error: Unsupported global: GLOBAL {full} is not allowed"
            )
        return self.known[full]

    def load(self) -> Any:
        try:
            return super().load()
        except (pickle.UnpicklingError, OSError, ValueError):
            raise
        except Exception as error:  # of a damaged file, nearly any
            reason = f"WeightsUnpickler error: {type(error).__name__}: {error}"
            raise pickle.UnpicklingError(reason) from error

    def load_build(self) -> None:
        if callable(self.stack[-2]):
            raise pickle.UnpicklingError("WeightsUnpickler error: a class or function is changed")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build
