"""mmengine's training checkpoints, read safely.

``torch.load(weights_only=True)`` refuses everything but tensors and plain containers. mmengine
saves the loss history along with the weights, so resuming and testing from its own checkpoints
fails. Instead of switching the check off, exactly what mmengine writes is allowed. Before torch 2.6
nothing can be added to what torch allows, and an unpickler here keeps the same rule.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_HISTORY_METHODS = ("min", "max", "current", "mean")


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(..., weights_only=True)`` read mmengine's training checkpoints.

    Allowed are ``HistoryBuffer``, numpy arrays and scalars, and ``getattr`` for the four
    statistics methods of ``HistoryBuffer`` only; any other use of ``getattr`` in a file is
    refused. Does nothing under torch < 2.6, to which nothing can be added.

    :func:`~mmmetaformer.weights.read_checkpoint` and, once this package is imported, mmengine read
    them without it.
    """
    if _is_extensible():
        torch.serialization.add_safe_globals(
            [(value, name) for name, value in _mmengine_globals().items()]
        )


def load_safely(path: Path) -> Any:
    """What is in a file that torch or mmengine saved, on the CPU.

    Raises:
        pickle.UnpicklingError: If the file asks for anything but tensors, plain containers and what
            mmengine writes; nothing of it is run.
        Exception: Of nearly any kind, if the file is damaged.
    """
    if _is_extensible():
        allow_mmengine_checkpoints()
        return torch.load(path, map_location="cpu", weights_only=True)
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_RESTRICTED)


def _is_extensible() -> bool:
    return tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)


@cache
def _mmengine_globals() -> dict[str, Any]:
    """What mmengine's files ask for, by the pickled names."""
    classes = [HistoryBuffer, np.ndarray, np.dtype, *{type(np.dtype(k)) for k in "?bhilqBHILQefd"}]
    return {
        **{f"{cls.__module__}.{cls.__qualname__}": cls for cls in classes},
        "builtins.getattr": _history_buffer_method,
        # What arrays and numbers are made by. The pickled name of the module may be numpy's old or
        # its new one, whichever numpy wrote it.
        **{
            f"numpy.{core}.multiarray.{function.__name__}": function
            for function in (np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0])
            for core in ("core", "_core")
        },
    }


def _history_buffer_method(owner: object, name: str) -> Callable:
    """Stand-in for ``getattr`` in a checkpoint."""
    if owner is HistoryBuffer and name in _HISTORY_METHODS:
        return getattr(HistoryBuffer, name)
    raise ValueError(f"the checkpoint asks for {name!r} of {owner!r}, which is not allowed")


# ---------------------------------------------------------------- torch < 2.6


class _RestrictedUnpickler(pickle.Unpickler):
    """Finds what torch itself allows and what mmengine's files ask for, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        # As Python 2, and so the protocol that torch writes, calls the module.
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        allowed = _allowed_globals()
        if full not in allowed:
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {full} is not allowed")
        return allowed[full]


@cache
def _allowed_globals() -> dict[str, Any]:
    from torch import _weights_only_unpickler

    return {
        **_weights_only_unpickler._get_allowed_globals(),
        **_mmengine_globals(),
        # How that protocol writes bytes, those of numpy's numbers for one.
        "_codecs.encode": codecs.encode,
    }


def _load(file: IO[bytes], **options: Any) -> Any:
    return _RestrictedUnpickler(file, **options).load()


# As much of the pickle module as torch asks for.
_RESTRICTED = SimpleNamespace(__name__="pickle", Unpickler=_RestrictedUnpickler, load=_load)
