"""The conditions under which a fused form may replace the modules of a block.

With hooks, replaced modules, or anything that interprets operators, the literal forward pass runs.
A ``forward`` that somebody replaced in a class, not in a module, cannot be seen here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode

# Exact classes: a subclass may hold its values in another way, or intercept operators.
_PLAIN = (Tensor, nn.Parameter)


def fused_forms_may_run(x: Tensor) -> bool:
    """Whether fused forms may run on a map now.

    They may not run while a model is traced, compiled, exported or scripted, under a dispatch mode
    (operation counters, fake tensors), under a function mode other than a default device, under
    ``torch.func``, in forward-mode differentiation, with global module hooks, for a subclass of
    Tensor, and on devices other than CPU and CUDA.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) not in _PLAIN:
        return False
    if x.dim() != 4 or x.device.type not in ("cpu", "cuda"):
        return False
    if _get_current_dispatch_mode() is not None or _has_any_global_hook():
        return False
    if any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack()):
        return False
    return forward_ad._current_level < 0 and not torch._C._are_functorch_transforms_active()


def is_untouched(*modules: nn.Module) -> bool:
    """Whether modules and their submodules have no hooks, no ``forward`` of their own, no compiled
    call, and only ordinary tensors as parameters."""
    return all(
        not (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            or "forward" in module.__dict__
            or module._compiled_call_impl is not None
        )
        and all(p is None or type(p) in _PLAIN for p in module._parameters.values())
        for root in modules
        for module in root.modules()
    )
