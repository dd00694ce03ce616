"""The conditions under which a fused form may replace the modules of a block.

With hooks, replaced modules, or anything that interprets operators, the literal forward pass runs.
A ``forward`` that somebody replaced in a class, not in a module, cannot be seen here.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..compat import interprets_operators

# Exact classes: a subclass may hold its values in another way, or intercept operators.
_PLAIN = (Tensor, nn.Parameter)


def fused_forms_may_run(x: Tensor) -> bool:
    """Whether fused forms may run on a map now.

    They may not run while something watches or replaces operators
    (:func:`~mmmetaformer.compat.interprets_operators`), for a subclass of Tensor, and on devices
    other than CPU and CUDA.
    """
    if interprets_operators():  # asked first: torch 2.1's compiler does not know ``type(x)``
        return False
    return type(x) in _PLAIN and x.dim() == 4 and x.device.type in ("cpu", "cuda")


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
