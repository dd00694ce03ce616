"""This package's own names, and the release of the MetaFormer baselines, which has them, too."""

from .base import HEAD, Layout, Rules, pointwise_weights

_hierarchical = Rules(
    "downsample_layers.{rest}", "stages.{rest}", "pos_embeds.{rest}", "norm{stage}.{leaf}", *HEAD
)
_isotropic = Rules("stem.{rest}", "blocks.{rest}", "pyramid.{rest}", "norm{stage}.{leaf}", *HEAD)

MMMETAFORMER = Layout(
    "mmmetaformer",
    owners=("mmmetaformer",),
    archs=("*",),
    signature=(r"downsample_layers\.0\.conv\d?\..*weight", r"stages\.0\.0\..+"),
    rename=_hierarchical.rename,
    restore=_hierarchical.restore,
)
MMMETAFORMER_ISOTROPIC = Layout(
    "mmmetaformer isotropic",
    owners=("mmmetaformer",),
    archs=("*",),
    signature=(r"stem\.conv\.weight", r"blocks\.0\..+"),
    rename=_isotropic.rename,
    restore=_isotropic.restore,
)
# Read as our own; its 1x1 convolutions are linear.
BASELINES = Layout(
    "MetaFormer baselines",
    owners=("published",),
    archs=("identityformer_*", "randformer_*", "poolformerv2_*", "convformer_*", "caformer_*"),
    signature=(),
    rename=_hierarchical.rename,
    restore=_hierarchical.restore,
    linear=pointwise_weights,
)
