"""mmengine's older training checkpoints under torch's safe loader.

mmengine saves the history of the losses along with the weights, which
``torch.load(weights_only=True)`` refuses. Exactly what mmengine writes is allowed here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_HISTORY_METHODS = ("min", "max", "current", "mean")


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(..., weights_only=True)`` read mmengine's training checkpoints.

    Allowed are ``HistoryBuffer``, numpy arrays and scalars, and ``getattr`` for the four statistics
    methods of ``HistoryBuffer`` only. Importing :mod:`mmmetaformer.weights` calls it. Nothing is
    added to torch < 2.6, where mmengine itself loads without the check.
    """
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        return
    dtypes = {type(np.dtype(k)) for k in "?bhilqBHILQefd"}
    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, *dtypes]
    allowed.append((_history_buffer_method, "builtins.getattr"))
    # What makes arrays and scalars has one name in numpy 1 and another in numpy 2.
    for function in (np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]):
        name = f"multiarray.{function.__name__}"  # type: ignore[union-attr]
        allowed += [(function, f"numpy.core.{name}"), (function, f"numpy._core.{name}")]
    torch.serialization.add_safe_globals(allowed)


def _history_buffer_method(owner: Any, name: str) -> Callable:
    """Stand-in for ``getattr`` in a checkpoint."""
    if owner is HistoryBuffer and name in _HISTORY_METHODS:
        return getattr(HistoryBuffer, name)
    raise ValueError(f"the checkpoint asks for {name!r} of {owner!r}, which is not allowed")
