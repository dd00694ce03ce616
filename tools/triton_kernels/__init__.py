"""The primitives of the fused path as Triton kernels, which have not run on a GPU yet.

Functions of the names and signatures of ``mmmetaformer/fused/primitives.py``. ``ops.py`` launches
the kernels of ``device.py``; ``capability.py`` says where they can run, and the functions raise
ValueError elsewhere.

The import of this package, which imports Triton, makes ``fused='triton'`` known to the backbones.
Without a GPU the kernels run in Triton's interpreter, slowly, for tests: set
``TRITON_INTERPRET=1`` before Python starts.

Raises:
    ImportError: If Triton is missing or too old.
"""

import sys

from mmmetaformer.fused import register_implementation

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

register_implementation("triton", sys.modules[__name__])
