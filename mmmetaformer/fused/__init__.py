"""The fused path: what blocks compute, with less memory and less time.

The literal forward passes, in ``backbones/metaformer.py``, are the definition. :func:`fuse` gives
the blocks, downsamplings and output norms of a network fused classes (``blocks.py``), which run
residual branches (``branches.py``) as a few differentiable functions (``functions.py``) of
primitives (``primitives.py``). They fall back to the literal form whenever something watches,
replaces or interprets what they would leave out (``conditions.py``).
"""

from .blocks import fuse, unfuse
from .primitives import register_implementation

__all__ = ["fuse", "register_implementation", "unfuse"]
