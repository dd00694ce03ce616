"""ConvMixer: the release, timm's and mmpretrain's copies.

All three are ``nn.Sequential`` and differ in how they reach the blocks. The release is one list of
the stem's three layers, the blocks, pooling, flattening and the classifier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .base import CLASSIFIER, LINEAR_HEAD, OTHER_HEAD, Layout, Names, Rules


def _templates(stem: str, block: str) -> list[tuple[str, str]]:
    return [
        (f"{stem}0.{{leaf}}", "stem.conv.{leaf}"),
        (f"{stem}2.{{leaf}}", "stem.norm.{leaf}"),
        (f"{block}.0.fn.0.{{leaf}}", "blocks.{block}.token_mixer.conv.{leaf}"),
        (f"{block}.0.fn.2.{{leaf}}", "blocks.{block}.token_mixer.norm.{leaf}"),
        (f"{block}.1.{{leaf}}", "blocks.{block}.mlp.conv.{leaf}"),
        (f"{block}.3.{{leaf}}", "blocks.{block}.mlp.norm.{leaf}"),
    ]


class _ReleaseRules(Rules):
    """The classifier is known by its number, which follows from that of the last block."""

    def rename(self, names: Iterable[str]) -> Names:
        renamed = super().rename(names)
        unknown = [name for name, own in renamed.items() if own is None]
        return renamed | _classifier(renamed.values()).rename(unknown)

    def restore(self, names: Iterable[str]) -> Names:
        restored = super().restore(names)
        unknown = [own for own, name in restored.items() if name is None]
        return restored | _classifier(restored).restore(unknown)


def _classifier(own: Iterable[str | None]) -> Rules:
    blocks = (re.match(r"blocks\.(\d+)\.", name) for name in own if name)
    last = max((int(match[1]) for match in blocks if match), default=-1)
    # Behind the stem's three layers, the blocks, pooling and flattening.
    number = 3 + last + 3
    fc = f"{CLASSIFIER}.fc.{{param}}"
    return Rules((f"{number}.{{param}}", fc), ("{block}.{param}", CLASSIFIER))


_release = _ReleaseRules(*_templates("", "{block+3}"))
_timm = Rules(*_templates("stem.", "blocks.{block}"), LINEAR_HEAD, OTHER_HEAD)
_mmpretrain = Rules(*_templates("stem.", "stages.{block}"), OTHER_HEAD)


def _layout(name: str, owner: str, stem: str, block: str, rules: Rules) -> Layout:
    signature = (rf"{stem}\.weight", rf"{block}\.0\.fn\.0\.weight")
    return Layout(name, (owner,), ("convmixer_*",), signature, rules, has_norm=False)


CONVMIXER = _layout("ConvMixer", "published", "0", "3", _release)
TIMM_CONVMIXER = _layout("timm ConvMixer", "timm", r"stem\.0", r"blocks\.0", _timm)
MMPRETRAIN_CONVMIXER = _layout(
    "mmpretrain ConvMixer", "mmpretrain", r"stem\.0", r"stages\.0", _mmpretrain
)
