"""FFNet, FFNet_seg and the decode head of FFNet_seg.

The patch merging is the first entry of a stage from stage 1 on, convolution and norm of a pair are
called ``c`` and ``bn``, and LayerScale is (C, 1, 1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .base import CLASSIFIER, HEAD, Layout, Names, Rules

Pair = tuple[str, str]


class _FFNetRules(Rules):
    """The patch merging is counted along with the blocks."""

    def rename(self, names: Iterable[str]) -> Names:
        return {name: own and _shift(own, -1) for name, own in super().rename(names).items()}

    def restore(self, names: Iterable[str]) -> Names:
        shifted = {name: _shift(name, 1) for name in names}
        restored = super().restore(shifted.values())
        return {name: restored[theirs] for name, theirs in shifted.items()}


def _shift(name: str, by: int) -> str:
    return re.sub(r"^stages\.([1-3])\.(\d+)\.", lambda m: f"stages.{m[1]}.{int(m[2]) + by}.", name)


def _conv_norm(theirs: str, ours: str) -> list[Pair]:
    return [(f"{theirs}.c.{{leaf}}", f"{ours}.conv.{{leaf}}"),
            (f"{theirs}.bn.{{leaf}}", f"{ours}.norm.{{leaf}}")]  # fmt: skip


def _branches(theirs: str, ours: str, names: Iterable[str]) -> list[Pair]:
    """Convolutions side by side, by their names there."""
    return [
        pair
        for number, name in enumerate(names)
        for pair in _conv_norm(f"{theirs}.{name}", f"{ours}.branches.{number}")
    ]


def _two_kernels(theirs: str, ours: str) -> list[Pair]:
    return _branches(theirs, ours, ("conv", "conv1"))


_STRIPS = ("conv1", "strip_conv1", "strip_conv2")
# A kernel beyond 3 has a small one beside it.
_LARGE_STRIPS = ("conv1", "conv2", "strip_conv1", "strip_conv2")
_BLOCK = "stages.{stage}.{block}"
_TOKENS, _CHANNELS = f"{_BLOCK}.token_mixer.0.main", f"{_BLOCK}.channel_mixer.main"
_MERGING = "stages.{later}.0.proj"
_DOWNSAMPLING = "downsample_layers.{later}"
_BOTH: tuple[Pair | str, ...] = (
    *_conv_norm(f"{_TOKENS}.fc", f"{_BLOCK}.token_mixer.query"),
    *_conv_norm(f"{_CHANNELS}.conv", f"{_BLOCK}.mlp.conv"),
    (f"{_CHANNELS}.fc{{n}}.{{param}}", f"{_BLOCK}.mlp.fc{{n}}.{{param}}"),
    (f"{_BLOCK}.token_mixer.0.layer_scale", f"{_BLOCK}.layer_scale1.scale"),
    (f"{_BLOCK}.channel_mixer.layer_scale", f"{_BLOCK}.layer_scale2.scale"),
    "norm{stage}.{leaf}",
)

_ffnet = _FFNetRules(
    *_conv_norm("patch_embed.0", "downsample_layers.0.conv1"),
    *_conv_norm("patch_embed.2", "downsample_layers.0.conv2"),
    *_two_kernels(f"{_MERGING}.0", f"{_DOWNSAMPLING}.conv"),
    *_conv_norm(f"{_MERGING}.1.conv", f"{_DOWNSAMPLING}.proj"),
    (f"{_TOKENS}.conv1.{{param}}", f"{_BLOCK}.token_mixer.key.{{param}}"),
    (f"{_TOKENS}.conv2.{{param}}", f"{_BLOCK}.token_mixer.value.{{param}}"),
    *_two_kernels(f"{_TOKENS}.conv1", f"{_BLOCK}.token_mixer.key"),
    *_two_kernels(f"{_TOKENS}.conv2", f"{_BLOCK}.token_mixer.value"),
    *_two_kernels(f"{_CHANNELS}.conv", f"{_BLOCK}.mlp.conv"),
    *_BOTH,
    *HEAD,
)

_ffnet_seg = _FFNetRules(
    *(
        pair
        for theirs, ours in ((0, 1), (2, 2), (4, 3), (5, 4))
        for pair in _conv_norm(f"patch_embed.{theirs}", f"downsample_layers.0.conv{ours}")
    ),
    *_conv_norm(f"{_MERGING}.0", f"{_DOWNSAMPLING}.conv"),
    *_conv_norm(f"{_MERGING}.2", f"{_DOWNSAMPLING}.proj"),
    *(
        pair
        for stage, branches in enumerate((_STRIPS, _STRIPS, _LARGE_STRIPS, _LARGE_STRIPS))
        for theirs, ours in (("conv1", "key"), ("conv2", "value"))
        for pair in _branches(
            f"stages.{stage}.{{block}}.token_mixer.0.main.{theirs}",
            f"stages.{stage}.{{block}}.token_mixer.{ours}",
            branches,
        )
    ),
    *_BOTH,
    ("head1.{rest}", CLASSIFIER),
    ("head2.{rest}", CLASSIFIER),
)

_HEAD_BLOCK = "head_blocks.{block}"
_ffnet_head = Rules(
    *_conv_norm("squeeze.{n}", "squeeze.{n}"),
    *_conv_norm("align.0", "widen.0"),
    *_conv_norm(f"{_HEAD_BLOCK}.token_mixer.main.fc", "blocks.{block}.token_mixer.query"),
    *(
        pair
        for theirs, ours in (
            ("token_mixer.main.conv1", "token_mixer.key"),
            ("token_mixer.main.conv2", "token_mixer.value"),
            ("channel_mixer.main.conv", "mlp.conv"),
        )
        for pair in _branches(f"{_HEAD_BLOCK}.{theirs}", f"blocks.{{block}}.{ours}", _LARGE_STRIPS)
    ),
    (f"{_HEAD_BLOCK}.channel_mixer.main.fc{{n}}.{{param}}", "blocks.{block}.mlp.fc{n}.{param}"),
    "conv_seg.{param}",
)

_PUBLISHED, _STEM = ("published",), r"patch_embed\.0\.c\.weight"
FFNET = Layout(
    "FFNet", _PUBLISHED, ("ffnet_[1-4]",), (_STEM, r"stages\.1\.0\.proj\.0\.conv\.c\.weight"),
    _ffnet, scale_ndim=3,
)  # fmt: skip
FFNET_SEG = Layout(
    "FFNet_seg", _PUBLISHED, ("ffnet_seg",), (_STEM, r"stages\.1\.0\.proj\.0\.c\.weight"),
    _ffnet_seg, scale_ndim=3, has_norm=False,
)  # fmt: skip
# Of a decode head, and of no network.
FFNET_HEAD = Layout(
    "FFNetHead", _PUBLISHED, (), (r"squeeze\.0\.c\.weight", r"head_blocks\.0\..+"), _ffnet_head
)
