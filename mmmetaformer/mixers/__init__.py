"""Token mixers: how a block moves information between positions. One file each.

The contract: a module built as ``Mixer(dim=C, **options)`` that maps (B, C, H, W) to
(B, C, H, W) for every H and W, registered in ``TOKEN_MIXERS``. The residual, the norm before it,
LayerScale and drop path belong to the block.
"""

from .identity import Identity
from .pooling import Pooling

__all__ = ["Identity", "Pooling"]
