"""The key layouts in which weights are published, each a pure rename in both directions.

A layout maps every name it knows to the backbone's own name, or to one below ``CLASSIFIER`` for
what a backbone has no use for: ``norm`` for the norm in front of the logits; ``fc`` for a linear
classifier; ``fc1``, ``hidden_norm`` and ``fc2`` for an MLP. The backbones' own names are those of
the MetaFormer-baselines release, ``downsample_layers.i`` and ``stages.i.j``, and ``stem`` and
``blocks.i`` for isotropic ones; for dense prediction ``norm0`` to ``norm3`` and ``pyramid`` are
added.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

CLASSIFIER = "<classifier>"

Rename = Callable[[Iterable[str]], dict[str, str | None]]


@dataclass(frozen=True)
class Layout:
    """One key layout.

    Attributes:
        name: What reports call it.
        signature: Patterns of full names that are all found in every state dict of this layout
            and together in no other's.
        rename: Maps each name of a state dict to the backbone's own name, to a classifier's below
            ``CLASSIFIER``, to ``CLASSIFIER`` alone when it belongs to one of another form, or to
            None when the layout does not have such a name.
        restore: Maps each of the names that ``rename`` makes to the layout's; None when it has
            none.
        linear: Whose 1x1 convolutions are linear layers there, with weights (out, in): ``'none'``,
            ``'all'``, or ``'attention'`` for those in stages of attention.
        scale_ndim: Dimensions of LayerScale there, the first of which are the channels.
        own: Whether its names are those of this package's modules.
    """

    name: str
    signature: tuple[str, ...]
    rename: Rename
    restore: Rename
    linear: str = "none"
    scale_ndim: int = 1
    own: bool = False

    def prefixes(self, names: Iterable[str]) -> list[str]:
        """The prefixes under which a whole network of this layout is found."""
        names = list(names)
        found: list[set[str]] = []
        for pattern in self.signature:
            regex = re.compile(rf"(|.*\.){pattern}")
            matches = (regex.fullmatch(name) for name in names)
            found.append({match.group(1) for match in matches if match})
        return sorted(set.intersection(*found))

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Which of the signature is not among the names of a network, as shell patterns."""
        names = list(names)
        return [
            re.sub(r"\\d\?|\.[*+]", "*", pattern).replace("\\", "")
            for pattern in self.signature
            if not any(re.fullmatch(pattern, name) for name in names)
        ]


def is_classifier(own: str | None) -> bool:
    """Whether a renamed name belongs to a classifier."""
    return own is not None and own.startswith(CLASSIFIER)


class Rules:
    """A rename from (pattern, replacement) pairs; the first that matches the whole name counts.

    So that each can be turned round, patterns are of literal text and of groups that capture.
    """

    def __init__(self, *rules: tuple[str, str]) -> None:
        self._forward = [(re.compile(pattern), replacement) for pattern, replacement in rules]
        self._backward = [
            _turned_round(pattern, replacement)
            for pattern, replacement in rules
            if replacement != CLASSIFIER
        ]

    def __call__(self, names: Iterable[str]) -> dict[str, str | None]:
        return {name: _first(self._forward, name) for name in names}

    def restore(self, names: Iterable[str]) -> dict[str, str | None]:
        """From what this rename makes back to what it came from."""
        return {name: self.restore_one(name) for name in names}

    def restore_one(self, name: str) -> str | None:
        """As :meth:`restore`, for one name."""
        return _first(self._backward, name)


def _first(rules: Iterable[tuple[re.Pattern, str]], name: str) -> str | None:
    for pattern, replacement in rules:
        match = pattern.fullmatch(name)
        if match:
            return match.expand(replacement)
    return None


def _turned_round(pattern: str, replacement: str) -> tuple[re.Pattern, str]:
    """The rule that maps names of the form of the replacement to the form of the pattern."""
    groups, template, depth, start = [], "", 0, 0
    for position, character in enumerate(pattern):
        if character == "(":
            start = position if depth == 0 else start
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                groups.append(pattern[start + 1 : position])
                template += rf"\g<g{len(groups)}>"
        elif depth == 0 and character != "\\":
            template += character
    backward = "".join(
        rf"(?P<g{part}>{groups[int(part) - 1]})" if number % 2 else re.escape(part)
        for number, part in enumerate(re.split(r"\\(\d)", replacement))
    )
    return re.compile(backward), template


# ---------------------------------------------------------------- classifiers

_LINEAR = (r"head\.(weight|bias)", rf"{CLASSIFIER}.fc.\1")
_HEAD_OF_ANOTHER_FORM = (r"head\..+", CLASSIFIER)
_classifier = (
    (r"norm\.(\w+)", rf"{CLASSIFIER}.norm.\1"),
    _LINEAR,
    (r"head\.(fc[12])\.(weight|bias)", rf"{CLASSIFIER}.\1.\2"),
    (r"head\.norm\.(weight|bias)", rf"{CLASSIFIER}.hidden_norm.\1"),
    _HEAD_OF_ANOTHER_FORM,
)
_timm_classifier = (
    (r"head\.norm\.(\w+)", rf"{CLASSIFIER}.norm.\1"),
    (r"head\.(fc)\.(weight|bias)", rf"{CLASSIFIER}.\1.\2"),
    (r"head\.fc\.(fc[12])\.(weight|bias)", rf"{CLASSIFIER}.\1.\2"),
    (r"head\.fc\.norm\.(weight|bias)", rf"{CLASSIFIER}.hidden_norm.\1"),
    _HEAD_OF_ANOTHER_FORM,
)


def around_backbone(norm: str | None = None) -> Rules:
    """The classifier of OpenMMLab's ``ImageClassifier``, by full names, which stands beside the
    backbone; the norm in front of the logits may be the backbone's.

    Args:
        norm: Name of that norm; None for a classifier without one.
    """
    of_norm = [] if norm is None else [(rf"{re.escape(norm)}\.(\w+)", rf"{CLASSIFIER}.norm.\1")]
    head = (r"head\.(fc[12]?|hidden_norm)\.(weight|bias)", rf"{CLASSIFIER}.\1.\2")
    return Rules(*of_norm, head, (r"(?:head|neck)\..+", CLASSIFIER))


# ---------------------------------------------------------------- hierarchical networks

_own = Rules(
    (r"((?:downsample_layers|stages|pos_embeds)\..+)", r"\1"),
    (r"(norm[0-3]\.\w+)", r"\1"),
    *_classifier,
)

_timm = Rules(
    (r"stem\.conv\.(\w+)", r"downsample_layers.0.conv.\1"),
    (r"stem\.norm\.(\w+)", r"downsample_layers.0.post_norm.\1"),
    (r"stages\.([1-3])\.downsample\.conv\.(\w+)", r"downsample_layers.\1.conv.\2"),
    (r"stages\.([1-3])\.downsample\.norm\.(\w+)", r"downsample_layers.\1.pre_norm.\2"),
    (r"stages\.([0-3])\.blocks\.(\d+)\.(.+)", r"stages.\1.\2.\3"),
    *_timm_classifier,
)


def _poolformer(names: Iterable[str]) -> dict[str, str | None]:
    """PoolFormer's release, its hybrids, and mmpretrain's and mmseg's copies of it.

    ``network`` is one list of stages, of downsamplings between them and, in the hybrids, of a
    position embedding in front of the first attention stage, which shifts the later indices; what
    an entry is, its names tell. The output norms ``norm0/2/4/6`` are counted along with the list
    of a PoolFormer. mmpretrain calls its classifier's norm ``norm6`` and has the same class emit
    it, so it becomes the norm of the last stage.
    """
    names = list(names)
    kinds: dict[int, str] = {}
    sizes: Counter[int] = Counter()
    for name in names:
        match = re.match(r"network\.(\d+)\.(?:(proj)\.|(pos_embed)$)?", name)
        if match:
            index, *kind = match.groups()
            # One telling name is enough, whatever else an entry is said to hold.
            kinds[int(index)] = kind[0] or kind[1] or kinds.get(int(index), "stage")
            sizes[int(index)] += 1
    entries: dict[int, str] = {}
    stage = 0
    for index in sorted(kinds):
        stage += kinds[index] == "proj"
        prefix = dict(stage="stages", proj="downsample_layers", pos_embed="pos_embeds")
        entries[index] = f"{prefix[kinds[index]]}.{stage}"
    # No network has two entries for one stage: what is not in the fuller, or else the first, is
    # unknown.
    by_size = sorted(kinds, key=lambda index: (sizes[index], -index))
    chosen = {entries[index]: index for index in by_size}

    def in_network(match: re.Match) -> str | None:
        index, rest = int(match.group(1)), match.group(2)
        if chosen[entries[index]] != index:
            return None
        rest = re.sub(r"^proj\.", "conv.", rest) if kinds[index] == "proj" else rest
        rest = re.sub(r"\.layer_scale_([12])$", r".layer_scale\1.scale", rest)
        return f"{entries[index]}.{rest}"

    renamed = _poolformer_rest(names)
    for name in names:
        match = re.fullmatch(r"network\.(\d+)\.(.+)", name)
        if match:
            renamed[name] = in_network(match)
        match = re.fullmatch(r"norm([0246])\.(\w+)", name)
        if match:
            renamed[name] = f"norm{int(match.group(1)) // 2}.{match.group(2)}"
    return renamed


def _restore_poolformer(names: Iterable[str]) -> dict[str, str | None]:
    names = list(names)
    network: dict[str, int] = {}
    for stage in range(4):
        entries = (f"downsample_layers.{stage}", f"pos_embeds.{stage}", f"stages.{stage}")
        for entry in entries[stage == 0 :]:
            # A stage is counted where it is not built, a position embedding where there is one.
            if not entry.startswith("pos") or any(name.startswith(f"{entry}.") for name in names):
                network[entry] = len(network)
    restored = _poolformer_rest.restore(names)
    for name in names:
        match = re.fullmatch(r"(\w+\.\d)\.(.+)", name)
        if match and match.group(1) in network:
            rest = match.group(2)
            if name.startswith("downsample_layers."):
                rest = re.sub(r"^conv\.", "proj.", rest)
            rest = re.sub(r"\.layer_scale([12])\.scale$", r".layer_scale_\1", rest)
            restored[name] = f"network.{network[match.group(1)]}.{rest}"
        match = re.fullmatch(r"norm([0-3])\.(\w+)", name)
        if match:
            restored[name] = f"norm{2 * int(match.group(1))}.{match.group(2)}"
    return restored


_poolformer_rest = Rules(
    (r"patch_embed\.proj\.(\w+)", r"downsample_layers.0.conv.\1"),
    *_classifier,
)


def _ffnet(name: str, signature: tuple[str, ...], rules: Rules) -> Layout:
    """What FFNet's releases share: the patch merging is the first entry of a stage from stage 1
    on, convolution and norm of a pair are called ``c`` and ``bn``, and LayerScale is (C, 1, 1)."""

    def shift(name: str, by: int) -> str:
        return re.sub(
            r"^stages\.(\d)\.(\d+)\.",
            lambda m: f"stages.{m[1]}.{int(m[2]) + by * (m[1] != '0')}.",
            name,
        )

    def rename(names: Iterable[str]) -> dict[str, str | None]:
        return {name: own and _pair(shift(own, -1)) for name, own in rules(names).items()}

    def restore(names: Iterable[str]) -> dict[str, str | None]:
        return {
            name: rules.restore_one(name if is_classifier(name) else _unpair(shift(name, 1)))
            for name in names
        }

    return Layout(name, signature, rename, restore, scale_ndim=3)


def _pair(name: str) -> str:
    return re.sub(r"\.bn\.(?=\w+$)", ".norm.", re.sub(r"\.c\.(?=\w+$)", ".conv.", name))


def _unpair(name: str) -> str:
    return re.sub(r"\.norm\.(?=\w+$)", ".bn.", re.sub(r"\.conv\.(?=\w+$)", ".c.", name))


_CONV = r"((?:c|bn)\.\w+)"
_TOKENS = r"(stages\.[0-3]\.\d+)\.token_mixer\.0\.main"
_CHANNELS = r"(stages\.[0-3]\.\d+)\.channel_mixer\.main"
_MERGING = r"stages\.([1-3])\.0\.proj"
_ffnet_rules = Rules(
    (rf"patch_embed\.0\.{_CONV}", r"downsample_layers.0.conv1.\1"),
    (rf"patch_embed\.2\.{_CONV}", r"downsample_layers.0.conv2.\1"),
    (rf"{_MERGING}\.0\.conv\.{_CONV}", r"downsample_layers.\1.conv.branches.0.\2"),
    (rf"{_MERGING}\.0\.conv1\.{_CONV}", r"downsample_layers.\1.conv.branches.1.\2"),
    (rf"{_MERGING}\.1\.conv\.{_CONV}", r"downsample_layers.\1.proj.\2"),
    (rf"{_TOKENS}\.fc\.{_CONV}", r"\1.token_mixer.query.\2"),
    (rf"{_TOKENS}\.conv1\.(weight|bias)", r"\1.token_mixer.key.\2"),
    (rf"{_TOKENS}\.conv2\.(weight|bias)", r"\1.token_mixer.value.\2"),
    (rf"{_TOKENS}\.conv1\.conv\.{_CONV}", r"\1.token_mixer.key.branches.0.\2"),
    (rf"{_TOKENS}\.conv1\.conv1\.{_CONV}", r"\1.token_mixer.key.branches.1.\2"),
    (rf"{_TOKENS}\.conv2\.conv\.{_CONV}", r"\1.token_mixer.value.branches.0.\2"),
    (rf"{_TOKENS}\.conv2\.conv1\.{_CONV}", r"\1.token_mixer.value.branches.1.\2"),
    (rf"{_CHANNELS}\.conv\.{_CONV}", r"\1.mlp.conv.\2"),
    (rf"{_CHANNELS}\.conv\.conv\.{_CONV}", r"\1.mlp.conv.branches.0.\2"),
    (rf"{_CHANNELS}\.conv\.conv1\.{_CONV}", r"\1.mlp.conv.branches.1.\2"),
    (rf"{_CHANNELS}\.(fc[12])\.(weight|bias)", r"\1.mlp.\2.\3"),
    (r"(stages\.[0-3]\.\d+)\.token_mixer\.0\.layer_scale", r"\1.layer_scale1.scale"),
    (r"(stages\.[0-3]\.\d+)\.channel_mixer\.layer_scale", r"\1.layer_scale2.scale"),
    (r"(norm[0-3]\.\w+)", r"\1"),
    *_classifier,
)

_ffnet_seg_rules = Rules(
    *(
        (rf"patch_embed\.{theirs}\.{_CONV}", rf"downsample_layers.0.conv{ours}.\1")
        for theirs, ours in ((0, 1), (2, 2), (4, 3), (5, 4))
    ),
    (rf"{_MERGING}\.0\.{_CONV}", r"downsample_layers.\1.conv.\2"),
    (rf"{_MERGING}\.2\.{_CONV}", r"downsample_layers.\1.proj.\2"),
    (rf"{_TOKENS}\.fc\.{_CONV}", r"\1.token_mixer.query.\2"),
    # A kernel beyond 3 has a small one beside it, and the strips follow.
    *(
        (
            rf"{stages}\.token_mixer\.0\.main\.{theirs}\.{branch}\.{_CONV}",
            rf"\1.token_mixer.{ours}.branches.{number}.\2",
        )
        for stages, branches in (
            (r"(stages\.[01]\.\d+)", ("conv1", "strip_conv1", "strip_conv2")),
            (r"(stages\.[23]\.\d+)", ("conv1", "conv2", "strip_conv1", "strip_conv2")),
        )
        for theirs, ours in (("conv1", "key"), ("conv2", "value"))
        for number, branch in enumerate(branches)
    ),  # fmt: skip
    (rf"{_CHANNELS}\.conv\.{_CONV}", r"\1.mlp.conv.\2"),
    (rf"{_CHANNELS}\.(fc[12])\.(weight|bias)", r"\1.mlp.\2.\3"),
    (r"(stages\.[0-3]\.\d+)\.token_mixer\.0\.layer_scale", r"\1.layer_scale1.scale"),
    (r"(stages\.[0-3]\.\d+)\.channel_mixer\.layer_scale", r"\1.layer_scale2.scale"),
    (r"(norm[0-3]\.\w+)", r"\1"),
    (r"head[12]\..+", CLASSIFIER),
)

# The head of FFNet_seg, which its two published models have with kernels of 9.
_HEAD_BLOCK = r"head_blocks\.(\d+)"
_ffnet_head_rules = Rules(
    (rf"squeeze\.([02])\.{_CONV}", r"squeeze.\1.\2"),
    (rf"align\.0\.{_CONV}", r"widen.0.\1"),
    (rf"{_HEAD_BLOCK}\.token_mixer\.main\.fc\.{_CONV}", r"blocks.\1.token_mixer.query.\2"),
    *(
        (
            rf"{_HEAD_BLOCK}\.{theirs}\.{branch}\.{_CONV}",
            rf"blocks.\1.{ours}.branches.{number}.\2",
        )
        for theirs, ours in (
            (r"token_mixer\.main\.conv1", "token_mixer.key"),
            (r"token_mixer\.main\.conv2", "token_mixer.value"),
            (r"channel_mixer\.main\.conv", "mlp.conv"),
        )
        for number, branch in enumerate(("conv1", "conv2", "strip_conv1", "strip_conv2"))
    ),
    (
        rf"{_HEAD_BLOCK}\.channel_mixer\.main\.(fc[12])\.(weight|bias)",
        r"blocks.\1.mlp.\2.\3",
    ),
    (r"conv_seg\.(weight|bias)", r"conv_seg.\1"),
)

# ---------------------------------------------------------------- isotropic networks

_own_isotropic = Rules(
    (r"((?:stem|blocks|pyramid)\..+)", r"\1"),
    (r"(norm[0-3]\.\w+)", r"\1"),
    *_classifier,
)


def _convmixer_rules(stem: str, blocks: str, *head: tuple[str, str]) -> Rules:
    """All three layouts are nn.Sequential and differ in how they reach the blocks."""
    return Rules(
        (rf"{stem}0\.(\w+)", r"stem.conv.\1"),
        (rf"{stem}2\.(\w+)", r"stem.norm.\1"),
        (rf"{blocks}(\d+)\.0\.fn\.0\.(\w+)", r"blocks.\1.token_mixer.conv.\2"),
        (rf"{blocks}(\d+)\.0\.fn\.2\.(\w+)", r"blocks.\1.token_mixer.norm.\2"),
        (rf"{blocks}(\d+)\.1\.(\w+)", r"blocks.\1.mlp.conv.\2"),
        (rf"{blocks}(\d+)\.3\.(\w+)", r"blocks.\1.mlp.norm.\2"),
        *head,
    )


_convmixer_rest = _convmixer_rules("", "")
_convmixer_timm = _convmixer_rules(r"stem\.", r"blocks\.", _LINEAR, _HEAD_OF_ANOTHER_FORM)
_convmixer_mmpretrain = _convmixer_rules(r"stem\.", r"stages\.", _HEAD_OF_ANOTHER_FORM)


def _count_blocks(name: str, by: int) -> str:
    return re.sub(r"^blocks\.(\d+)\.", lambda match: f"blocks.{int(match[1]) + by}.", name)


def _convmixer(names: Iterable[str]) -> dict[str, str | None]:
    """ConvMixer's release: one list of stem, blocks from index 3, pooling, flattening and
    classifier."""
    names = list(names)
    renamed = {name: own and _count_blocks(own, -3) for name, own in _convmixer_rest(names).items()}
    last = _last_block(own for own in renamed.values() if own)
    for name, own in renamed.items():
        match = re.fullmatch(r"(\d+)\.(weight|bias)", name)
        if own is None and match:
            behind = int(match[1]) == last + 6
            renamed[name] = f"{CLASSIFIER}.fc.{match[2]}" if behind else CLASSIFIER
    return renamed


def _restore_convmixer(names: Iterable[str]) -> dict[str, str | None]:
    names = list(names)
    last = _last_block(names)
    restored = {}
    for name in names:
        match = re.fullmatch(rf"{CLASSIFIER}\.fc\.(weight|bias)", name)
        own = _convmixer_rest.restore_one(_count_blocks(name, 3))
        restored[name] = f"{last + 6}.{match[1]}" if match else own
    return restored


def _last_block(names: Iterable[str]) -> int:
    return max((int(m[1]) for n in names if (m := re.match(r"blocks\.(\d+)\.", n))), default=-1)


_mixer_timm = Rules(
    (r"stem\.proj\.(\w+)", r"stem.conv.\1"),
    (r"blocks\.(\d+)\.(norm[12])\.(\w+)", r"blocks.\1.\2.\3"),
    (r"blocks\.(\d+)\.mlp_tokens\.(fc[12])\.(\w+)", r"blocks.\1.token_mixer.\2.\3"),
    (r"blocks\.(\d+)\.mlp_channels\.(fc[12])\.(\w+)", r"blocks.\1.mlp.\2.\3"),
    *_classifier,
)

_mixer_mmpretrain = Rules(
    (r"patch_embed\.projection\.(\w+)", r"stem.conv.\1"),
    (r"layers\.(\d+)\.ln([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"layers\.(\d+)\.token_mix\.layers\.0\.0\.(\w+)", r"blocks.\1.token_mixer.fc1.\2"),
    (r"layers\.(\d+)\.token_mix\.layers\.1\.(\w+)", r"blocks.\1.token_mixer.fc2.\2"),
    (r"layers\.(\d+)\.channel_mix\.layers\.0\.0\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"layers\.(\d+)\.channel_mix\.layers\.1\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"ln1\.(\w+)", rf"{CLASSIFIER}.norm.\1"),
    _HEAD_OF_ANOTHER_FORM,
)

# The release's names are ours; its 1x1 convolutions are linear. It is read as our own layout.
BASELINES = Layout("MetaFormer baselines", (), _own, _own.restore, linear="all")

LAYOUTS = (
    Layout(
        "mmmetaformer",
        (r"downsample_layers\.0\.conv\d?\..*weight", r"stages\.0\.0\..+"),
        _own,
        _own.restore,
        own=True,
    ),
    Layout(
        "PoolFormer",
        (r"patch_embed\.proj\.weight", r"network\.0\.0\..+"),
        _poolformer,
        _restore_poolformer,
    ),
    Layout(
        "timm MetaFormer",
        (r"stem\.conv\.weight", r"stages\.0\.blocks\.0\..+"),
        _timm,
        _timm.restore,
        linear="attention",
    ),
    _ffnet(
        "FFNet",
        (r"patch_embed\.0\.c\.weight", r"stages\.1\.0\.proj\.0\.conv\.c\.weight"),
        _ffnet_rules,
    ),
    _ffnet(
        "FFNet_seg",
        (r"patch_embed\.0\.c\.weight", r"stages\.1\.0\.proj\.0\.c\.weight"),
        _ffnet_seg_rules,
    ),
    Layout(
        "mmmetaformer isotropic",
        (r"stem\.conv\.weight", r"blocks\.0\..+"),
        _own_isotropic,
        _own_isotropic.restore,
        own=True,
    ),
    Layout(
        "ConvMixer",
        (r"0\.weight", r"3\.0\.fn\.0\.weight"),
        _convmixer,
        _restore_convmixer,
    ),
    Layout(
        "timm ConvMixer",
        (r"stem\.0\.weight", r"blocks\.0\.0\.fn\.0\.weight"),
        _convmixer_timm,
        _convmixer_timm.restore,
    ),
    Layout(
        "mmpretrain ConvMixer",
        (r"stem\.0\.weight", r"stages\.0\.0\.fn\.0\.weight"),
        _convmixer_mmpretrain,
        _convmixer_mmpretrain.restore,
    ),
    Layout(
        "timm MLP-Mixer",
        (r"stem\.proj\.weight", r"blocks\.0\.mlp_tokens\..+"),
        _mixer_timm,
        _mixer_timm.restore,
        linear="all",
    ),
    Layout(
        "mmpretrain MLP-Mixer",
        (r"patch_embed\.projection\.weight", r"layers\.0\.token_mix\..+"),
        _mixer_mmpretrain,
        _mixer_mmpretrain.restore,
        linear="all",
    ),
)

# Of decode heads.
HEAD_LAYOUTS = (
    _ffnet(
        "FFNetHead",
        (r"squeeze\.0\.c\.weight", r"head_blocks\.0\..+"),
        _ffnet_head_rules,
    ),
)
