"""timm's MetaFormers: PoolFormer and the MetaFormer baselines.

timm normalises PoolFormer's features behind the pooling; everywhere else they are normalised in
front of it. The tensors are the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from .base import CLASSIFIER, OTHER_HEAD, Layout, Rules, pointwise_weights

_rules = Rules(
    ("stem.conv.{leaf}", "downsample_layers.0.conv.{leaf}"),
    ("stem.norm.{leaf}", "downsample_layers.0.post_norm.{leaf}"),
    ("stages.{later}.downsample.conv.{leaf}", "downsample_layers.{later}.conv.{leaf}"),
    ("stages.{later}.downsample.norm.{leaf}", "downsample_layers.{later}.pre_norm.{leaf}"),
    ("stages.{stage}.blocks.{block}.{rest}", "stages.{stage}.{block}.{rest}"),
    ("head.norm.{leaf}", f"{CLASSIFIER}.norm.{{leaf}}"),
    ("head.fc.{param}", f"{CLASSIFIER}.fc.{{param}}"),
    ("head.fc.fc{n}.{param}", f"{CLASSIFIER}.fc{{n}}.{{param}}"),
    ("head.fc.norm.{param}", f"{CLASSIFIER}.hidden_norm.{{param}}"),
    OTHER_HEAD,
)


def _linear(own: Collection[str]) -> set[str]:
    """Where the map is a sequence of tokens: in stages of attention."""
    stages = {match[0] for name in own if (match := re.match(r"stages\.\d\.(?=.*\.qkv\.)", name))}
    return {name for name in pointwise_weights(own) if name.startswith(tuple(stages))}


_ARCHS = ("poolformer*", "metaformer_*", "identityformer_*", "randformer_*", "convformer_*",
          "caformer_*")  # fmt: skip
_SIGNATURE = (r"stem\.conv\.weight", r"stages\.0\.blocks\.0\..+")
TIMM_METAFORMER = Layout("timm MetaFormer", ("timm",), _ARCHS, _SIGNATURE, _rules, linear=_linear)
