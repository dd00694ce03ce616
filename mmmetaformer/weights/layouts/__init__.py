"""The key layouts in which weights are published, a file for each family.

A layout maps every name it knows to the backbone's own name and back. The backbones' own names are
those of the MetaFormer-baselines release, ``downsample_layers.i`` and ``stages.i.j``, or ``stem``
and ``blocks.i``; dense prediction adds ``norm0`` to ``norm3`` and ``pyramid``. A new layout is a
:class:`Layout` in a file here, named in ``LAYOUTS``: loading, conversion and export know it then.
"""

from .base import CLASSIFIER, Layout, Rules, image_classifier, is_classifier, is_of_backbone
from .convmixer import CONVMIXER, MMPRETRAIN_CONVMIXER, TIMM_CONVMIXER
from .ffnet import FFNET, FFNET_HEAD, FFNET_SEG
from .mlp_mixer import MMPRETRAIN_MLP_MIXER, TIMM_MLP_MIXER
from .mmmetaformer import BASELINES, MMMETAFORMER, MMMETAFORMER_ISOTROPIC
from .poolformer import POOLFORMER
from .timm_metaformer import TIMM_METAFORMER

__all__ = [
    "CLASSIFIER",
    "HEAD_LAYOUTS",
    "LAYOUTS",
    "Layout",
    "Rules",
    "image_classifier",
    "is_classifier",
    "is_of_backbone",
]

LAYOUTS: tuple[Layout, ...] = (
    MMMETAFORMER,
    MMMETAFORMER_ISOTROPIC,
    BASELINES,
    POOLFORMER,
    TIMM_METAFORMER,
    FFNET,
    FFNET_SEG,
    CONVMIXER,
    TIMM_CONVMIXER,
    MMPRETRAIN_CONVMIXER,
    TIMM_MLP_MIXER,
    MMPRETRAIN_MLP_MIXER,
)
# Of decode heads.
HEAD_LAYOUTS: tuple[Layout, ...] = (FFNET_HEAD,)
