"""Token mixers: how a block moves information between positions. One file each.

The contract: a module built as ``Mixer(dim=C, **options)`` that maps (B, C, H, W) to
(B, C, H, W) for every H and W, registered in ``TOKEN_MIXERS``. The residual, the norm before it,
LayerScale and drop path belong to the block. Unless its config says otherwise, a mixer with an
argument ``act_cfg`` is given the activation of the network, one with an argument ``norm_cfg`` its
``inner_norm_cfg``, if there is one, and one with an argument ``grid_size`` the side of its stage's
map at the pre-training resolution.
"""

from .attention import Attention, SpatialReductionAttention, WindowAttention
from .depthwise import DepthwiseActNorm, DepthwiseConv
from .ffnified_attention import FFNifiedAttention
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
    "DepthwiseActNorm",
    "DepthwiseConv",
    "FFNifiedAttention",
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
