"""Token mixers: how a block moves information between positions. One file each.

The contract: a module built as ``Mixer(dim=C, **options)`` that maps (B, C, H, W) to
(B, C, H, W) for every H and W, registered in ``TOKEN_MIXERS``. The residual, the norm before it,
LayerScale and drop path belong to the block. A mixer with an argument ``grid_size`` is given the
side of its stage's map at the pre-training resolution, unless its config says otherwise.
"""

from .attention import Attention, SpatialReductionAttention, WindowAttention
from .depthwise import DepthwiseConv
from .fourier import Fourier
from .grid import SIZE_POLICIES, GridMixer
from .identity import Identity
from .pooling import Pooling
from .random_matrix import RandomMatrix
from .sepconv import SepConv
from .spatial_fc import SpatialFC
from .token_mlp import TokenMlp

__all__ = [
    "Attention",
    "DepthwiseConv",
    "Fourier",
    "GridMixer",
    "Identity",
    "Pooling",
    "RandomMatrix",
    "SIZE_POLICIES",
    "SepConv",
    "SpatialFC",
    "SpatialReductionAttention",
    "TokenMlp",
    "WindowAttention",
]
