"""PoolFormer's release, its hybrids, and mmpretrain's and mmseg's copies of it.

``network`` is one list of stages, of downsamplings between them and, in the hybrids, of a position
embedding in front of the first attention stage, which shifts the later indices; what an entry is,
its names tell. The output norms ``norm0/2/4/6`` are counted along with the list of a PoolFormer.
mmpretrain calls its classifier's norm ``norm6`` and has the same class emit it, so it becomes the
norm of the last stage.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from .base import HEAD, Layout, Names, Rules

_in_entry = Rules(
    ("downsample_layers.{stage}.proj.{leaf}", "downsample_layers.{stage}.conv.{leaf}"),
    ("stages.{stage}.{block}.layer_scale_{n}", "stages.{stage}.{block}.layer_scale{n}.scale"),
    "stages.{stage}.{rest}",
    "downsample_layers.{rest}",
    "pos_embeds.{rest}",
)
_ENTRY = re.compile(r"network\.(\d+)\.((?:(proj)\.|(pos_embed)$)?.*)")


def _entries(names: Iterable[str]) -> dict[int, str]:
    """What each entry of ``network`` is here; no two are the same."""
    kinds: dict[int, str] = {}
    sizes: Counter[int] = Counter()
    for name in names:
        if match := _ENTRY.fullmatch(name):
            index, kind = int(match[1]), match[3] or match[4]
            # One telling name is enough, whatever else an entry is said to hold.
            kinds[index] = kind or kinds.get(index, "stage")
            sizes[index] += 1
    entries: dict[int, str] = {}
    stage = 0
    for index in sorted(kinds):
        stage += kinds[index] == "proj"
        prefix = dict(stage="stages", proj="downsample_layers", pos_embed="pos_embeds")
        entries[index] = f"{prefix[kinds[index]]}.{stage}"
    # No network has two entries for one stage: what is not in the fuller, or else the first, is
    # unknown.
    by_size = sorted(entries, key=lambda index: (sizes[index], -index))
    chosen = {entries[index]: index for index in by_size}
    return {index: entry for index, entry in entries.items() if chosen[entry] == index}


class _PoolFormerRules(Rules):
    """The rules are for what is outside of ``network``; what is in it goes by its entries."""

    def rename(self, names: Iterable[str]) -> Names:
        names = list(names)
        entries = _entries(names)
        renamed = super().rename(names)
        for name in names:
            match = _ENTRY.fullmatch(name)
            if match and int(match[1]) in entries:
                inside = f"{entries[int(match[1])]}.{match[2]}"
                renamed[name] = _in_entry.rename([inside])[inside]
        return renamed

    def restore(self, names: Iterable[str]) -> Names:
        names = list(names)
        built = {".".join(name.split(".")[:2]) for name in names}
        kinds = ("downsample_layers", "pos_embeds", "stages")
        entries = [f"{kind}.{stage}" for stage in range(4) for kind in kinds][1:]
        # A stage is counted where it is not built, a position embedding where there is one.
        entries = [entry for entry in entries if entry in built or not entry.startswith("pos")]
        restored = super().restore(names)
        for name, inside in _in_entry.restore(names).items():
            match = re.fullmatch(r"(\w+\.\d+)\.(.+)", inside or "")
            if match and match[1] in entries:
                restored[name] = f"network.{entries.index(match[1])}.{match[2]}"
        return restored


_rules = _PoolFormerRules(
    ("patch_embed.proj.{leaf}", "downsample_layers.0.conv.{leaf}"),
    *((f"norm{2 * stage}.{{leaf}}", f"norm{stage}.{{leaf}}") for stage in range(4)),
    *HEAD,
)
POOLFORMER = Layout(
    "PoolFormer", ("published", "mmpretrain"), ("poolformer_*", "metaformer_*"),
    (r"patch_embed\.proj\.weight", r"network\.0\.0\..+"), _rules,
    norm_in_mmpretrain="backbone.norm6",
)  # fmt: skip
