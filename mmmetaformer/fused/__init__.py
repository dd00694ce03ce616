"""The fused path: what a block computes, with less memory and less time.

The plain path, in ``backbones/block.py``, is the definition. A half of a block that has a fused
form (``halves.py``) runs as a few differentiable functions (``functions.py``) made of primitives
(``primitives.py``) instead; ``select.py`` decides when. Parameters and state dict are the same.
"""

from .functions import Contiguous
from .halves import TABLE, Half
from .primitives import implementation
from .select import (
    check_fused,
    functions_run,
    has_fused_form,
    resolve_fused,
    run_fused,
    run_fused_downsampling,
    run_fused_norm,
    run_plain_norm,
)

__all__ = [
    "TABLE",
    "Contiguous",
    "Half",
    "check_fused",
    "functions_run",
    "has_fused_form",
    "implementation",
    "resolve_fused",
    "run_fused",
    "run_fused_downsampling",
    "run_fused_norm",
    "run_plain_norm",
]
