"""ConvMixer: the release, timm's and mmpretrain's copies.

All three are ``nn.Sequential`` and differ in how they reach the blocks. The release is one list of
the stem's three layers, the blocks, pooling, flattening and the classifier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .base import CLASSIFIER, LINEAR_HEAD, OTHER_HEAD, Layout, Names, Rules

_FIRST_BLOCK, _CLASSIFIER_BEHIND_LAST_BLOCK = 3, 3


def _templates(stem: str, blocks: str) -> list[tuple[str, str]]:
    return [
        (f"{stem}0.{{leaf}}", "stem.conv.{leaf}"),
        (f"{stem}2.{{leaf}}", "stem.norm.{leaf}"),
        (f"{blocks}{{block}}.0.fn.0.{{leaf}}", "blocks.{block}.token_mixer.conv.{leaf}"),
        (f"{blocks}{{block}}.0.fn.2.{{leaf}}", "blocks.{block}.token_mixer.norm.{leaf}"),
        (f"{blocks}{{block}}.1.{{leaf}}", "blocks.{block}.mlp.conv.{leaf}"),
        (f"{blocks}{{block}}.3.{{leaf}}", "blocks.{block}.mlp.norm.{leaf}"),
    ]


def _shift(name: str, by: int) -> str:
    return re.sub(r"^blocks\.(\d+)\.", lambda match: f"blocks.{int(match[1]) + by}.", name)


def _classifier_entry(own: Iterable[str | None]) -> int:
    blocks = (re.match(r"blocks\.(\d+)\.", name) for name in own if name)
    last = max((int(match[1]) for match in blocks if match), default=-1)
    return _FIRST_BLOCK + last + _CLASSIFIER_BEHIND_LAST_BLOCK


class _ReleaseRules(Rules):
    def rename(self, names: Iterable[str]) -> Names:
        renamed = {
            n: own and _shift(own, -_FIRST_BLOCK) for n, own in super().rename(names).items()
        }
        entry = _classifier_entry(renamed.values())
        for name, own in renamed.items():
            match = re.fullmatch(r"(\d+)\.(weight|bias)", name)
            if own is None and match:
                is_behind = int(match[1]) == entry
                renamed[name] = f"{CLASSIFIER}.fc.{match[2]}" if is_behind else CLASSIFIER
        return renamed

    def restore(self, names: Iterable[str]) -> Names:
        shifted = {name: _shift(name, _FIRST_BLOCK) for name in names}
        restored = super().restore(shifted.values())
        entry = _classifier_entry(shifted)
        classifier = Rules((f"{entry}.{{param}}", f"{CLASSIFIER}.fc.{{param}}")).restore(shifted)
        return {name: classifier[name] or restored[shifted[name]] for name in shifted}


_release = _ReleaseRules(*_templates("", ""))
_timm = Rules(*_templates("stem.", "blocks."), LINEAR_HEAD, OTHER_HEAD)
_mmpretrain = Rules(*_templates("stem.", "stages."), OTHER_HEAD)


def _layout(name: str, owner: str, stem: str, block: str, rules: Rules) -> Layout:
    signature = (rf"{stem}\.weight", rf"{block}\.0\.fn\.0\.weight")
    return Layout(name, (owner,), ("convmixer_*",), signature, rules, has_norm=False)


CONVMIXER = _layout("ConvMixer", "published", "0", "3", _release)
TIMM_CONVMIXER = _layout("timm ConvMixer", "timm", r"stem\.0", r"blocks\.0", _timm)
MMPRETRAIN_CONVMIXER = _layout(
    "mmpretrain ConvMixer", "mmpretrain", r"stem\.0", r"stages\.0", _mmpretrain
)
