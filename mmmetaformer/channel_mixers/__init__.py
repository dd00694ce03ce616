"""Channel mixers: what the second residual of a block is around.

The contract: a module built as ``Mixer(dim=C, **options)`` that maps (B, C, H, W) to
(B, C, H, W), registered in ``CHANNEL_MIXERS``. Unless its config says otherwise, a mixer with an
argument ``act_cfg`` is given the activation of the network, and one with an argument ``norm_cfg``
its ``inner_norm_cfg``, if there is one.
"""

from .convnext import ConvNeXt
from .mlp import Mlp
from .pointwise import Pointwise

__all__ = ["ConvNeXt", "Mlp", "Pointwise"]
