"""mmengine's older training checkpoints under torch's safe loader.

``torch.load(weights_only=True)`` refuses everything but tensors and plain containers. mmengine
saves the history of the losses along with the weights, so that resuming and testing from its own
checkpoints fails. Instead of switching the check off, exactly what mmengine writes is allowed.
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

    Allowed are ``HistoryBuffer``, numpy arrays and scalars, and ``getattr`` for the four
    statistics methods of ``HistoryBuffer`` only; any other use of ``getattr`` in a file is
    refused. Importing :mod:`mmmetaformer.weights` does it. Nothing can be added to what
    torch < 2.6 allows, where mmengine itself loads without the check.
    """
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        return
    classes: list[Any] = [
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        *{type(np.dtype(k)) for k in "?bhilqBHILQefd"},
    ]
    # The functions that make arrays and scalars. numpy 1 and 2 have them under two names, and
    # either may have written the file.
    functions: list[Any] = [np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]]
    torch.serialization.add_safe_globals(
        [
            *classes,
            (_history_buffer_method, "builtins.getattr"),
            *[
                (function, f"numpy.{core}.multiarray.{function.__name__}")
                for function in functions
                for core in ("core", "_core")
            ],
        ]
    )


def _history_buffer_method(owner: Any, name: str) -> Callable:
    """Stand-in for ``getattr`` in a checkpoint."""
    if owner is HistoryBuffer and name in _HISTORY_METHODS:
        return getattr(HistoryBuffer, name)
    raise ValueError(f"the checkpoint asks for {name!r} of {owner!r}, which is not allowed")
