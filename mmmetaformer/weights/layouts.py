"""The key layouts in which weights are published, each a pure rename.

A layout maps every name it knows to the backbone's own name, or to ``CLASSIFIER`` for what a
backbone has no use for. The backbone's own names are those of the MetaFormer-baselines release:
``downsample_layers.i``, ``stages.i.j`` and, for dense prediction, ``norm0`` to ``norm3``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

CLASSIFIER = "<classifier>"


@dataclass(frozen=True)
class Layout:
    """One key layout.

    Attributes:
        name: What reports call it.
        signature: Patterns of full names that are all found in every state dict of this layout
            and together in no other's.
        rename: Maps a name to the backbone's own name, to ``CLASSIFIER``, or to None when the
            layout does not have such a name.
    """

    name: str
    signature: tuple[str, ...]
    rename: Callable[[str], str | None]

    def prefixes(self, names: Iterable[str]) -> list[str]:
        """The prefixes under which a whole network of this layout is found."""
        names = list(names)
        found: list[set[str]] = []
        for pattern in self.signature:
            regex = re.compile(rf"(|.*\.){pattern}")
            matches = (regex.fullmatch(name) for name in names)
            found.append({match.group(1) for match in matches if match})
        return sorted(set.intersection(*found))


def _rules(*rules: tuple[str, str]) -> Callable[[str], str | None]:
    """A rename from (pattern, replacement) pairs; the first that matches the whole name counts."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(name: str) -> str | None:
        for pattern, replacement in compiled:
            match = pattern.fullmatch(name)
            if match:
                return match.expand(replacement)
        return None

    return rename


_timm = _rules(
    (r"stem\.conv\.(\w+)", r"downsample_layers.0.conv.\1"),
    (r"stem\.norm\.(\w+)", r"downsample_layers.0.post_norm.\1"),
    (r"stages\.([1-3])\.downsample\.conv\.(\w+)", r"downsample_layers.\1.conv.\2"),
    (r"stages\.([1-3])\.downsample\.norm\.(\w+)", r"downsample_layers.\1.pre_norm.\2"),
    (r"stages\.([0-3])\.blocks\.(\d+)\.(.+)", r"stages.\1.\2.\3"),
    (r"head\..+", CLASSIFIER),
)


def _poolformer(name: str) -> str | None:
    """PoolFormer's release, and mmpretrain's and mmseg's copies of it.

    ``network`` is one list: even entries are stages, odd ones the downsamplings between them, and
    the output norms ``norm0/2/4/6`` are counted along with it. mmpretrain calls its classifier's
    norm ``norm6`` and has the same class emit it, so it becomes the norm of the last stage.
    """
    match = re.fullmatch(r"network\.([0-6])\.(.+)", name)
    if match:
        index, rest = int(match.group(1)), match.group(2)
        if index % 2:
            conv = re.fullmatch(r"proj\.(\w+)", rest)
            return f"downsample_layers.{index // 2 + 1}.conv.{conv.group(1)}" if conv else None
        rest = re.sub(r"\.layer_scale_([12])$", r".layer_scale\1.scale", rest)
        return f"stages.{index // 2}.{rest}"
    match = re.fullmatch(r"norm([0246])\.(\w+)", name)
    if match:
        return f"norm{int(match.group(1)) // 2}.{match.group(2)}"
    return _poolformer_rest(name)


_poolformer_rest = _rules(
    (r"patch_embed\.proj\.(\w+)", r"downsample_layers.0.conv.\1"),
    (r"norm\.\w+|head\..+", CLASSIFIER),
)

_own = _rules(
    (r"((downsample_layers|stages)\..+)", r"\1"),
    (r"(norm[0-3]\.\w+)", r"\1"),
    (r"norm\.\w+|head\..+", CLASSIFIER),
)

LAYOUTS = (
    Layout("mmmetaformer", (r"downsample_layers\.0\.conv\.weight", r"stages\.0\.0\..+"), _own),
    Layout("PoolFormer", (r"patch_embed\.proj\.weight", r"network\.0\.0\..+"), _poolformer),
    Layout("timm MetaFormer", (r"stem\.conv\.weight", r"stages\.0\.blocks\.0\..+"), _timm),
)
