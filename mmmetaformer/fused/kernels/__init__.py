"""The primitives of the fused path as Triton kernels, opt-in (``fused='triton'``).

Functions of the names and signatures of ``fused/primitives.py``. ``ops.py`` launches the kernels
of ``device.py``; ``capability.py`` says where they can run, and the functions raise ValueError
elsewhere.

Importing this package imports Triton. Without a GPU the kernels run in Triton's interpreter,
slowly, for tests: set ``TRITON_INTERPRET=1`` before Python starts.

Raises:
    ImportError: If Triton is missing or too old.
"""

from .capability import available, require, unavailable_reason
from .ops import (
    ACTIVATIONS,
    activate,
    activate_backward,
    moments,
    normalize,
    normalize_backward,
    pool_residual,
    pool_residual_backward,
    pool_residual_moments,
)

__all__ = [
    "ACTIVATIONS",
    "activate",
    "activate_backward",
    "available",
    "moments",
    "normalize",
    "normalize_backward",
    "pool_residual",
    "pool_residual_backward",
    "pool_residual_moments",
    "require",
    "unavailable_reason",
]
