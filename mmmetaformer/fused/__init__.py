"""The fused path: the computation of the literal blocks in less memory and less time.

The literal forward passes, in ``backbones/metaformer.py``, are the definition. :func:`fuse` gives
the blocks, downsamplings and output norms of a network fused classes (``blocks.py``). These run
residual branches (``branches.py``) and single layers as differentiable functions
(``residual_functions.py``, ``functions.py``), which are made of norms, products and primitives.
They fall back to the literal form when hooks, wrappers, tracers or tensor subclasses are present
(``conditions.py``).
"""

from .blocks import fuse, unfuse
from .primitives import register_implementation

__all__ = ["fuse", "register_implementation", "unfuse"]
