"""mmengine's older training checkpoints under torch's safe loader.

mmengine saves the history of the losses along with the weights, which
``torch.load(weights_only=True)`` refuses. Exactly what mmengine writes is allowed here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..compat import add_safe_globals

_HISTORY_METHODS = ("min", "max", "current", "mean")


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(..., weights_only=True)`` read mmengine's training checkpoints.

    Importing :mod:`mmmetaformer.weights` calls it. Nothing is added to torch < 2.6, where mmengine
    itself loads without the check.
    """
    add_safe_globals(mmengine_globals())


@cache
def mmengine_globals() -> dict[str, Any]:
    """What mmengine's training checkpoints name, and what is allowed under each name.

    Those are ``HistoryBuffer``, numpy arrays and scalars, and ``getattr`` for the four statistics
    methods of ``HistoryBuffer`` only.
    """
    kinds: list[type] = [np.ndarray, np.dtype, *(type(np.dtype(k)) for k in "?bhilqBHILQefd")]
    allowed: dict[str, Any] = {f"{kind.__module__}.{kind.__name__}": kind for kind in kinds}
    # What makes arrays and scalars has one name in numpy 1 and another in numpy 2.
    for function in (np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]):
        name = f"multiarray.{function.__name__}"  # type: ignore[union-attr]
        allowed |= {f"numpy.core.{name}": function, f"numpy._core.{name}": function}
    try:
        from mmengine.logging import HistoryBuffer
    except ModuleNotFoundError:
        return allowed
    allowed[f"{HistoryBuffer.__module__}.HistoryBuffer"] = HistoryBuffer
    allowed["builtins.getattr"] = _history_buffer_method
    return allowed


def _history_buffer_method(owner: Any, name: str) -> Callable:
    """Stand-in for ``getattr`` in a checkpoint."""
    from mmengine.logging import HistoryBuffer

    if owner is HistoryBuffer and name in _HISTORY_METHODS:
        return getattr(HistoryBuffer, name)
    raise ValueError(f"the checkpoint asks for {name!r} of {owner!r}, which is not allowed")
