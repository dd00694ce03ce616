"""Channel mixers: the second half of a block, which mixes the channels of each position.

The contract: a module built as ``Mixer(dim=C, act_cfg=..., **options)`` that maps (B, C, H, W)
to (B, C, H, W), registered in ``CHANNEL_MIXERS``.
"""

from .convnext import ConvNeXt
from .mlp import Mlp
from .pointwise import Pointwise

__all__ = ["ConvNeXt", "Mlp", "Pointwise"]
