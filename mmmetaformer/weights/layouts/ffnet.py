"""FFNet, FFNet_seg and the decode head of FFNet_seg.

The patch merging is the first entry of a stage from stage 1 on, convolution and norm of a pair are
called ``c`` and ``bn``, and LayerScale is (C, 1, 1).
"""

from __future__ import annotations

from collections.abc import Iterable

from .base import CLASSIFIER, HEAD, Layout, Rules

Pairs = list[tuple[str, str]]


def _conv_norm(theirs: str, ours: str) -> Pairs:
    return [(f"{theirs}.c.{{leaf}}", f"{ours}.conv.{{leaf}}"),
            (f"{theirs}.bn.{{leaf}}", f"{ours}.norm.{{leaf}}")]  # fmt: skip


def _branches(theirs: str, ours: str, names: Iterable[str] = ("conv", "conv1")) -> Pairs:
    """Convolutions side by side, by their names there."""
    return [
        pair
        for number, name in enumerate(names)
        for pair in _conv_norm(f"{theirs}.{name}", f"{ours}.branches.{number}")
    ]


def _in_blocks(pairs: Pairs, stages: Iterable[str] = ("0", "{later}")) -> Pairs:
    """Full names for names within a block; from stage 1 on, the patch merging is entry 0."""
    entries = [(stage, "{block}" if stage == "0" else "{block+1}") for stage in stages]
    return [
        (f"stages.{stage}.{entry}.{theirs}", f"stages.{stage}.{{block}}.{ours}")
        for stage, entry in entries
        for theirs, ours in pairs
    ]


_STRIPS = ("conv1", "strip_conv1", "strip_conv2")
# A kernel beyond 3 has a small one beside it.
_LARGE_STRIPS = ("conv1", "conv2", "strip_conv1", "strip_conv2")
_MERGING, _DOWNSAMPLING = "stages.{later}.0.proj", "downsample_layers.{later}"
_BLOCK = [
    *_conv_norm("token_mixer.0.main.fc", "token_mixer.query"),
    *_conv_norm("channel_mixer.main.conv", "mlp.conv"),
    ("channel_mixer.main.fc{n}.{param}", "mlp.fc{n}.{param}"),
    ("token_mixer.0.layer_scale", "layer_scale1.scale"),
    ("channel_mixer.layer_scale", "layer_scale2.scale"),
]
_KEY_AND_VALUE = (("token_mixer.0.main.conv1", "token_mixer.key"),
                  ("token_mixer.0.main.conv2", "token_mixer.value"))  # fmt: skip

_ffnet = Rules(
    *_conv_norm("patch_embed.0", "downsample_layers.0.conv1"),
    *_conv_norm("patch_embed.2", "downsample_layers.0.conv2"),
    *_branches(f"{_MERGING}.0", f"{_DOWNSAMPLING}.conv"),
    *_conv_norm(f"{_MERGING}.1.conv", f"{_DOWNSAMPLING}.proj"),
    *_in_blocks([
        *((f"{theirs}.{{param}}", f"{ours}.{{param}}") for theirs, ours in _KEY_AND_VALUE),
        *(pair for names in _KEY_AND_VALUE for pair in _branches(*names)),
        *_branches("channel_mixer.main.conv", "mlp.conv"),
        *_BLOCK,
    ]),
    "norm{stage}.{leaf}",
    *HEAD,
)  # fmt: skip

_ffnet_seg = Rules(
    *(
        pair
        for theirs, ours in ((0, 1), (2, 2), (4, 3), (5, 4))
        for pair in _conv_norm(f"patch_embed.{theirs}", f"downsample_layers.0.conv{ours}")
    ),
    *_conv_norm(f"{_MERGING}.0", f"{_DOWNSAMPLING}.conv"),
    *_conv_norm(f"{_MERGING}.2", f"{_DOWNSAMPLING}.proj"),
    *(
        pair
        for stage, branches in zip("0123", [_STRIPS] * 2 + [_LARGE_STRIPS] * 2, strict=True)
        for names in _KEY_AND_VALUE
        for pair in _in_blocks(_branches(*names, branches), stage)
    ),
    *_in_blocks(_BLOCK),
    "norm{stage}.{leaf}",
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
