"""This package's own names, and the release of the MetaFormer baselines, which has them, too."""

from .base import HEAD, Layout, Rules, pointwise_weights

_OURS, _ALL = ("mmmetaformer",), ("*",)
_STEM_AND_BLOCK = (r"downsample_layers\.0\.conv\d?\..*weight", r"stages\.0\.0\..+")
_hierarchical = Rules(
    "downsample_layers.{rest}", "stages.{rest}", "pos_embeds.{rest}", "norm{stage}.{leaf}", *HEAD
)
_isotropic = Rules("stem.{rest}", "blocks.{rest}", "pyramid.{rest}", "norm{stage}.{leaf}", *HEAD)
_BASELINES = ("identityformer_*", "randformer_*", "poolformerv2_*", "convformer_*", "caformer_*")

MMMETAFORMER = Layout("mmmetaformer", _OURS, _ALL, _STEM_AND_BLOCK, _hierarchical)
MMMETAFORMER_ISOTROPIC = Layout(
    "mmmetaformer isotropic", _OURS, _ALL, (r"stem\.conv\.weight", r"blocks\.0\..+"), _isotropic
)
# Read as our own; its 1x1 convolutions are linear.
BASELINES = Layout(
    "MetaFormer baselines", ("published",), _BASELINES, (), _hierarchical, linear=pointwise_weights
)
