"""mmengine's training checkpoints under torch's safe loader.

From torch 2.6 on ``torch.load`` refuses everything but tensors and plain containers. mmengine
saves the loss history along with the weights, so resuming and testing from its own checkpoints
fails. Instead of switching the check off, exactly what mmengine writes is allowed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_HISTORY_METHODS = ("min", "max", "current", "mean")


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(..., weights_only=True)`` read mmengine's training checkpoints.

    Allowed are ``HistoryBuffer``, numpy arrays and scalars, and ``getattr`` for the four
    statistics methods of ``HistoryBuffer`` only; any other use of ``getattr`` in a file is
    refused. Does nothing under torch < 2.6, which has no such default.
    """
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        return
    multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray
    # The pickled name of a module may be numpy's old or its new one, whichever numpy wrote it.
    numpy_functions = [
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for function in (multiarray._reconstruct, multiarray.scalar)
        for core in ("core", "_core")
    ]
    dtypes = {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            (_history_buffer_method, "builtins.getattr"),
            *numpy_functions,
            np.ndarray,
            np.dtype,
            *dtypes,
        ]
    )


def _history_buffer_method(owner: object, name: str) -> Callable:
    """Stand-in for ``getattr`` in a checkpoint."""
    if owner is HistoryBuffer and name in _HISTORY_METHODS:
        return getattr(HistoryBuffer, name)
    raise ValueError(f"the checkpoint asks for {name!r} of {owner!r}, which is not allowed")
