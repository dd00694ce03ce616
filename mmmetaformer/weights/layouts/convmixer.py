"""ConvMixer: the release, timm's and mmpretrain's copies.

All three are ``nn.Sequential`` and differ in how they reach the blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .base import CLASSIFIER, LINEAR_HEAD, OTHER_HEAD, Layout, Names, Rules

_ARCHS = ("convmixer_*",)
# Of the release: one list of the stem's three layers, the blocks, pooling, flattening, classifier.
_FIRST_BLOCK = 3
_CLASSIFIER_BEHIND_LAST_BLOCK = 3


def _rules(stem: str, blocks: str, *head: tuple[str, str]) -> Rules:
    return Rules(
        (f"{stem}0.{{leaf}}", "stem.conv.{leaf}"),
        (f"{stem}2.{{leaf}}", "stem.norm.{leaf}"),
        (f"{blocks}{{block}}.0.fn.0.{{leaf}}", "blocks.{block}.token_mixer.conv.{leaf}"),
        (f"{blocks}{{block}}.0.fn.2.{{leaf}}", "blocks.{block}.token_mixer.norm.{leaf}"),
        (f"{blocks}{{block}}.1.{{leaf}}", "blocks.{block}.mlp.conv.{leaf}"),
        (f"{blocks}{{block}}.3.{{leaf}}", "blocks.{block}.mlp.norm.{leaf}"),
        *head,
    )


_release = _rules("", "")
_timm = _rules("stem.", "blocks.", LINEAR_HEAD, OTHER_HEAD)
_mmpretrain = _rules("stem.", "stages.", OTHER_HEAD)


def _shift(name: str, by: int) -> str:
    return re.sub(r"^blocks\.(\d+)\.", lambda match: f"blocks.{int(match[1]) + by}.", name)


def _classifier_entry(own: Iterable[str | None]) -> int:
    blocks = (re.match(r"blocks\.(\d+)\.", name) for name in own if name)
    last = max((int(match[1]) for match in blocks if match), default=-1)
    return _FIRST_BLOCK + last + _CLASSIFIER_BEHIND_LAST_BLOCK


def _rename(names: Iterable[str]) -> Names:
    renamed: Names = {
        name: own and _shift(own, -_FIRST_BLOCK) for name, own in _release.rename(names).items()
    }
    entry = _classifier_entry(renamed.values())
    for name, own in renamed.items():
        match = re.fullmatch(r"(\d+)\.(weight|bias)", name)
        if own is None and match:
            renamed[name] = f"{CLASSIFIER}.fc.{match[2]}" if int(match[1]) == entry else CLASSIFIER
    return renamed


def _restore(names: Iterable[str]) -> Names:
    names = list(names)
    entry = _classifier_entry(names)
    classifier = Rules((f"{entry}.{{param}}", f"{CLASSIFIER}.fc.{{param}}")).restore(names)
    shifted = {name: _shift(name, _FIRST_BLOCK) for name in names}
    backbone = _release.restore(shifted.values())
    return {name: classifier[name] or backbone[shifted[name]] for name in names}


CONVMIXER = Layout(
    "ConvMixer",
    owners=("published",),
    archs=_ARCHS,
    signature=(r"0\.weight", r"3\.0\.fn\.0\.weight"),
    rename=_rename,
    restore=_restore,
    has_norm=False,
)
TIMM_CONVMIXER = Layout(
    "timm ConvMixer",
    owners=("timm",),
    archs=_ARCHS,
    signature=(r"stem\.0\.weight", r"blocks\.0\.0\.fn\.0\.weight"),
    rename=_timm.rename,
    restore=_timm.restore,
    has_norm=False,
)
MMPRETRAIN_CONVMIXER = Layout(
    "mmpretrain ConvMixer",
    owners=("mmpretrain",),
    archs=_ARCHS,
    signature=(r"stem\.0\.weight", r"stages\.0\.0\.fn\.0\.weight"),
    rename=_mmpretrain.rename,
    restore=_mmpretrain.restore,
    has_norm=False,
)
