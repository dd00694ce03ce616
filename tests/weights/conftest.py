"""Checkpoints in the published key layouts, with networks that are small.

The names are written down here independently of the converter. A row is a name in the file, the
backbone's own name for it, and its shape in the file.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmmetaformer.backbones.arch import find_variant
from mmmetaformer.backbones.base import Backbone
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.variants import FAMILIES

Shape = tuple[int, ...]
Row = tuple[str, str, Shape]

DEPTHS = (1, 1, 2, 1)
DIMS = (8, 16, 32, 64)
# Sides of the maps of a 64x64 image.
SIDES = (16, 8, 4, 2)
# Of the isotropic networks; outputs are behind blocks 1, 3, 4 and 6.
DEPTH, DIM = 6, 16


@dataclass(frozen=True)
class Published:
    """A checkpoint and the network that it belongs to.

    Attributes:
        layout: What the report calls the layout.
        arch: The network, made small by ``options``.
        rows: The rows of a network that is deeper by a number of blocks.
        classifier: Names and shapes of what a backbone has no use for.
        new: Names of the backbone that the file lacks.
        prefix: Prefix of all of these names in the file.
        beside: Other names and shapes in the file.
        marks: Names in the file without any of which the layout is not known.
    """

    layout: str
    arch: str
    rows: Callable[[int], list[Row]]
    marks: set[str]
    classifier: dict[str, Shape] = field(default_factory=dict)
    new: set[str] = field(default_factory=set)
    prefix: str = ""
    beside: dict[str, Shape] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, deeper: int = 0, **options: Any) -> Backbone:
        """The network, without initialisation, which takes most of the time."""
        if "mixer" in self.arch:
            sizes = dict(dim=DIM, depth=DEPTH + deeper)
        else:
            sizes = dict(depths=[depth + deeper for depth in DEPTHS], dims=list(DIMS))
        options = self.options | options
        return build_backbone(self.arch, pretrain_size=64, **sizes, **options)

    def names(self, deeper: int = 0) -> dict[str, str]:
        """Names in the file to the backbone's own."""
        return {self.prefix + name: own for name, own, _ in self.rows(deeper)}

    def state(self, deeper: int = 0) -> dict[str, Tensor]:
        """What is in the file: each tensor is another one."""
        generator = torch.Generator().manual_seed(0)
        shapes = {name: shape for name, _, shape in self.rows(deeper)}
        # Where a classifier has a number, the blocks are counted with it.
        shapes |= {re.sub(r"^\d+", lambda m: str(int(m[0]) + deeper), name): shape
                   for name, shape in self.classifier.items()}  # fmt: skip
        shapes = {self.prefix + name: shape for name, shape in shapes.items()} | self.beside
        tensors = {name: torch.randn(s, generator=generator) for name, s in shapes.items()}
        for number, name in enumerate(tensors):
            if name.endswith("num_batches_tracked"):
                tensors[name] = torch.tensor(number)
        return tensors


def affine(name: str, own: str, *shape: int) -> Iterator[Row]:
    """A layer of weight and bias; the bias is as long as the weight's first side."""
    yield f"{name}.weight", f"{own}.weight", shape
    yield f"{name}.bias", f"{own}.bias", shape[:1]


def previous(stage: int) -> int:
    """Channels in front of a stage."""
    return DIMS[stage - 1] if stage else 3


def shape_1x1(out: int, in_: int, *, conv: bool) -> Shape:
    return (out, in_, 1, 1) if conv else (out, in_)


# ---------------------------------------------------------------- PoolFormer and its ablation

# What stands in ``network``, entry by entry.
POOLFORMER = ("stage 0", "down 1", "stage 1", "down 2", "stage 2", "down 3", "stage 3")
PPPA = (*POOLFORMER[:6], "embedding 3", "stage 3")
PPAA = (*POOLFORMER[:4], "embedding 2", "stage 2", "down 3", "stage 3")


def poolformer_block(mixer: str, stage: int) -> Iterator[Row]:
    """The names within a block of PoolFormer's release."""
    dim, positions = DIMS[stage], SIDES[stage] ** 2
    for branch in (1, 2):
        yield from affine(f"norm{branch}", f"norm{branch}", dim)
        yield f"layer_scale_{branch}", f"layer_scale{branch}.scale", (dim,)
    yield from affine("mlp.fc1", "mlp.fc1", 4 * dim, dim, 1, 1)
    yield from affine("mlp.fc2", "mlp.fc2", dim, 4 * dim, 1, 1)
    if mixer == "a":
        yield "token_mixer.qkv.weight", "token_mixer.qkv.weight", (3 * dim, dim)
        yield from affine("token_mixer.proj", "token_mixer.proj", dim, dim)
    if mixer == "f":
        yield "token_mixer.fc.weight", "token_mixer.fc.weight", (positions, positions)


def poolformer(
    deeper: int, entries: tuple[str, ...] = POOLFORMER, mixers: str = "pppp", norms: str = ""
) -> list[Row]:
    rows = list(affine("patch_embed.proj", "downsample_layers.0.conv", DIMS[0], 3, 7, 7))
    for index, entry in enumerate(entries):
        kind, stage = entry.split()
        dim, before = DIMS[int(stage)], previous(int(stage))
        if kind == "down":
            name, own = f"network.{index}.proj", f"downsample_layers.{stage}.conv"
            rows += affine(name, own, dim, before, 3, 3)
        elif kind == "embedding":
            side = SIDES[int(stage)]
            name, own = f"network.{index}.pos_embed", f"pos_embeds.{stage}.pos_embed"
            rows.append((name, own, (1, dim, side, side)))
        else:
            for j in range(DEPTHS[int(stage)] + deeper):
                for name, own, shape in poolformer_block(mixers[int(stage)], int(stage)):
                    rows.append((f"network.{index}.{j}.{name}", f"stages.{stage}.{j}.{own}", shape))
    for norm in norms:
        rows += affine(f"norm{norm}", f"norm{int(norm) // 2}", DIMS[int(norm) // 2])
    return rows


def poolformer_timm(deeper: int) -> list[Row]:
    rows = list(affine("stem.conv", "downsample_layers.0.conv", DIMS[0], 3, 7, 7))
    for stage, dim in enumerate(DIMS):
        if stage:
            name, own = f"stages.{stage}.downsample.conv", f"downsample_layers.{stage}.conv"
            rows += affine(name, own, dim, previous(stage), 3, 3)
        for j in range(DEPTHS[stage] + deeper):
            for name, own, shape in poolformer_block("p", stage):
                name = name.replace("layer_scale_1", "layer_scale1.scale")
                name = name.replace("layer_scale_2", "layer_scale2.scale")
                block = f"stages.{stage}.blocks.{j}"
                rows.append((f"{block}.{name}", f"stages.{stage}.{j}.{own}", shape))
    return rows


# ---------------------------------------------------------------- MetaFormer baselines


def baseline_block(mixer: str, stage: int, *, conv: bool) -> Iterator[tuple[str, Shape]]:
    """The names within a block of the baselines; the release, timm and we agree on them."""
    dim, positions = DIMS[stage], SIDES[stage] ** 2
    for branch in (1, 2):
        yield f"norm{branch}.weight", (dim,)
        if stage >= 2:
            yield f"res_scale{branch}.scale", (dim,)
    yield "mlp.fc1.weight", shape_1x1(4 * dim, dim, conv=conv)
    yield "mlp.act.scale", (1,)
    yield "mlp.act.bias", (1,)
    yield "mlp.fc2.weight", shape_1x1(dim, 4 * dim, conv=conv)
    if mixer == "c":
        yield "token_mixer.pwconv1.weight", shape_1x1(2 * dim, dim, conv=conv)
        yield "token_mixer.act1.scale", (1,)
        yield "token_mixer.act1.bias", (1,)
        yield "token_mixer.dwconv.weight", (2 * dim, 1, 7, 7)
        yield "token_mixer.pwconv2.weight", shape_1x1(dim, 2 * dim, conv=conv)
    if mixer == "a":
        yield "token_mixer.qkv.weight", (3 * dim, dim)
        yield "token_mixer.proj.weight", (dim, dim)
    if mixer == "r":
        yield "token_mixer.random_matrix", (positions, positions)


def baseline(deeper: int, mixers: str, *, timm: bool = False, norms: bool = False) -> list[Row]:
    """``mixers``: one letter per stage, '-' for those without parameters."""
    rows = []
    for stage, (depth, dim, mixer) in enumerate(zip(DEPTHS, DIMS, mixers, strict=True)):
        own = f"downsample_layers.{stage}"
        down = ("stem" if stage == 0 else f"stages.{stage}.downsample") if timm else own
        size = 3 if stage else 7
        rows += affine(f"{down}.conv", f"{own}.conv", dim, previous(stage), size, size)
        # The stem has its norm behind the convolution, the others in front of it.
        norm = "pre_norm" if stage else "post_norm"
        name = "norm" if timm else norm
        channels = previous(stage) if stage else dim
        rows.append((f"{down}.{name}.weight", f"{own}.{norm}.weight", (channels,)))
        for j in range(depth + deeper):
            block = f"stages.{stage}.blocks.{j}" if timm else f"stages.{stage}.{j}"
            # timm has 1x1 convolutions wherever the map is not a sequence of tokens.
            for name, shape in baseline_block(mixer, stage, conv=timm and mixer != "a"):
                rows.append((f"{block}.{name}", f"stages.{stage}.{j}.{name}", shape))
        if norms:
            rows += affine(f"norm{stage}", f"norm{stage}", dim)
    return rows


# ---------------------------------------------------------------- FFNet


def batch_norm(name: str, own: str, dim: int) -> Iterator[Row]:
    yield from affine(name, own, dim)
    yield f"{name}.running_mean", f"{own}.running_mean", (dim,)
    yield f"{name}.running_var", f"{own}.running_var", (dim,)
    yield f"{name}.num_batches_tracked", f"{own}.num_batches_tracked", ()


def conv_bn(name: str, own: str, out: int, *shape: int) -> Iterator[Row]:
    yield f"{name}.c.weight", f"{own}.conv.weight", (out, *shape)
    yield from batch_norm(f"{name}.bn", f"{own}.norm", out)


def depthwise(name: str, own: str, dim: int, branches: dict[str, tuple[int, int]]) -> Iterator[Row]:
    """Convolutions side by side, by their names."""
    for number, (branch, kernel) in enumerate(branches.items()):
        yield from conv_bn(f"{name}.{branch}", f"{own}.branches.{number}", dim, 1, *kernel)


LARGE_AND_SMALL = {"conv": (7, 7), "conv1": (3, 3)}
STRIPS = ({"conv1": (3, 3), "strip_conv1": (1, 3), "strip_conv2": (3, 1)},) * 2 + (
    {"conv1": (9, 9), "conv2": (5, 5), "strip_conv1": (1, 9), "strip_conv2": (9, 1)},
) * 2


def ffnet_block(
    name: str, own: str, stage: int, *, seg: bool, scaled: bool, large: bool
) -> Iterator[Row]:
    """A block of FFNet or FFNet_seg; ``large`` is the kernel of the channel mixer."""
    dim, hidden = DIMS[stage], DIMS[stage] * (4 if seg else 3)
    main, mixer = f"{name}.token_mixer.0.main", f"{own}.token_mixer"
    yield from conv_bn(f"{main}.fc", f"{mixer}.query", dim, dim, 1, 1)
    for theirs, ours in (("conv1", "key"), ("conv2", "value")):
        if seg or stage >= 2:
            branches = STRIPS[stage] if seg else LARGE_AND_SMALL
            yield from depthwise(f"{main}.{theirs}", f"{mixer}.{ours}", dim, branches)
        else:
            yield from affine(f"{main}.{theirs}", f"{mixer}.{ours}", dim, 1, 3, 3)
    if scaled:
        yield f"{name}.token_mixer.0.layer_scale", f"{own}.layer_scale1.scale", (dim, 1, 1)
        yield f"{name}.channel_mixer.layer_scale", f"{own}.layer_scale2.scale", (dim, 1, 1)
    main = f"{name}.channel_mixer.main"
    if large:
        yield from depthwise(f"{main}.conv", f"{own}.mlp.conv", dim, LARGE_AND_SMALL)
    else:
        yield from conv_bn(f"{main}.conv", f"{own}.mlp.conv", dim, 1, 3, 3)
    yield from affine(f"{main}.fc1", f"{own}.mlp.fc1", hidden, dim, 1, 1)
    yield from affine(f"{main}.fc2", f"{own}.mlp.fc2", dim, hidden, 1, 1)


def ffnet(deeper: int, *, seg: bool = False, norms: bool = False, **block: bool) -> list[Row]:
    block = dict(scaled=seg, large=False) | block
    stem = {0: (64, 3), 2: (64, 64), 4: (DIMS[0], 64), 5: (DIMS[0], DIMS[0])}
    stem = stem if seg else {0: (64, 3), 2: (DIMS[0], 64)}
    rows = []
    for number, (index, (out, into)) in enumerate(stem.items()):
        own = f"downsample_layers.0.conv{number + 1}"
        rows += conv_bn(f"patch_embed.{index}", own, out, into, 3, 3)
    for stage, dim in enumerate(DIMS):
        proj, own = f"stages.{stage}.0.proj", f"downsample_layers.{stage}"
        if stage and seg:
            rows += conv_bn(f"{proj}.0", f"{own}.conv", 2 * dim, DIMS[stage - 1], 3, 3)
            rows += conv_bn(f"{proj}.2", f"{own}.proj", dim, 2 * dim, 1, 1)
        elif stage:
            rows += depthwise(f"{proj}.0", f"{own}.conv", dim, LARGE_AND_SMALL)
            rows += conv_bn(f"{proj}.1.conv", f"{own}.proj", dim, dim, 1, 1)
        for j in range(DEPTHS[stage] + deeper):
            # From stage 1 on the patch merging is the first entry.
            name = f"stages.{stage}.{j + (stage > 0)}"
            rows += ffnet_block(name, f"stages.{stage}.{j}", stage, seg=seg, **block)
        if norms:
            rows += affine(f"norm{stage}", f"norm{stage}", dim)
    return rows


# ---------------------------------------------------------------- isotropic networks


def convmixer(deeper: int, stem: str, block: Callable[[int], str]) -> list[Row]:
    rows = [
        *affine(f"{stem}0", "stem.conv", DIM, 3, 7, 7),
        *batch_norm(f"{stem}2", "stem.norm", DIM),
    ]
    for i in range(DEPTH + deeper):
        rows += affine(f"{block(i)}.0.fn.0", f"blocks.{i}.token_mixer.conv", DIM, 1, 7, 7)
        rows += batch_norm(f"{block(i)}.0.fn.2", f"blocks.{i}.token_mixer.norm", DIM)
        rows += affine(f"{block(i)}.1", f"blocks.{i}.mlp.conv", DIM, DIM, 1, 1)
        rows += batch_norm(f"{block(i)}.3", f"blocks.{i}.mlp.norm", DIM)
    return rows


CONVMIXER_RELEASE = partial(convmixer, stem="", block=lambda i: f"{3 + i}")
CONVMIXER_TIMM = partial(convmixer, stem="stem.", block=lambda i: f"blocks.{i}")
CONVMIXER_MMPRETRAIN = partial(convmixer, stem="stem.", block=lambda i: f"stages.{i}")


def mixer_timm(deeper: int) -> list[Row]:
    positions = SIDES[2] ** 2
    rows = list(affine("stem.proj", "stem.conv", DIM, 3, 16, 16))
    for i in range(DEPTH + deeper):
        block = f"blocks.{i}"
        rows += affine(f"{block}.norm1", f"{block}.norm1", DIM)
        rows += affine(f"{block}.mlp_tokens.fc1", f"{block}.token_mixer.fc1", DIM // 2, positions)
        rows += affine(f"{block}.mlp_tokens.fc2", f"{block}.token_mixer.fc2", positions, DIM // 2)
        rows += affine(f"{block}.norm2", f"{block}.norm2", DIM)
        rows += affine(f"{block}.mlp_channels.fc1", f"{block}.mlp.fc1", 4 * DIM, DIM)
        rows += affine(f"{block}.mlp_channels.fc2", f"{block}.mlp.fc2", DIM, 4 * DIM)
    return rows


def mixer_mmpretrain(deeper: int) -> list[Row]:
    positions = SIDES[2] ** 2
    rows = list(affine("patch_embed.projection", "stem.conv", DIM, 3, 16, 16))
    for i in range(DEPTH + deeper):
        layer, own = f"layers.{i}", f"blocks.{i}"
        rows += affine(f"{layer}.ln1", f"{own}.norm1", DIM)
        token, channel = f"{layer}.token_mix.layers", f"{layer}.channel_mix.layers"
        rows += affine(f"{token}.0.0", f"{own}.token_mixer.fc1", DIM // 2, positions)
        rows += affine(f"{token}.1", f"{own}.token_mixer.fc2", positions, DIM // 2)
        rows += affine(f"{layer}.ln2", f"{own}.norm2", DIM)
        rows += affine(f"{channel}.0.0", f"{own}.mlp.fc1", 4 * DIM, DIM)
        rows += affine(f"{channel}.1", f"{own}.mlp.fc2", DIM, 4 * DIM)
    return rows


def pyramid(*stages: str, norms: bool) -> list[Row]:
    """Names of what an isotropic network has for its outputs: per level what makes it finer."""
    rows = []
    for level, layers in enumerate(stages):
        dim = DIM
        for layer, kind in enumerate(layers):
            name = f"pyramid.levels.{level}.{layer}"
            if kind == "T":  # transposed convolution to half of the channels
                rows.append((f"{name}.weight", f"{name}.weight", (dim, dim // 2, 2, 2)))
                dim //= 2
                rows.append((f"{name}.bias", f"{name}.bias", (dim,)))
            if kind == "N":
                rows += affine(name, name, dim)
    for level in range(4 if norms else 0):
        rows += affine(f"norm{level}", f"norm{level}", DIM)
    return rows


# Patches of 8 pixels: one doubling to stride 4. Patches of 16: two (with a norm and an activation
# between them) to stride 4 and one to stride 8.
CONVMIXER_PYRAMID = pyramid("T", "", "", "", norms=False)
MIXER_PYRAMID = pyramid("TNAT", "T", "", "", norms=True)


def own(rows: Callable[[int], list[Row]], extra: list[Row] | None = None):
    """Rows of what this package saves: its own names, and its own shapes."""

    def shape_of(name: str, shape: Shape) -> Shape:
        conv = ".mlp.fc" in name or ".pwconv" in name
        return (*shape, 1, 1) if conv and len(shape) == 2 else shape

    def renamed(deeper: int) -> list[Row]:
        return [(name, name, shape_of(name, shape)) for _, name, shape in rows(deeper)] + (
            extra or []
        )

    return renamed


# ---------------------------------------------------------------- the table

NORMS = {f"norm{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}
LINEAR_HEAD = {"norm.weight": (64,), "norm.bias": (64,), "head.weight": (5, 64),
               "head.bias": (5,)}  # fmt: skip
MLP_HEAD = {"norm.weight": (64,), "norm.bias": (64,), "head.fc1.weight": (256, 64),
            "head.fc1.bias": (256,), "head.norm.weight": (256,), "head.norm.bias": (256,),
            "head.fc2.weight": (5, 256), "head.fc2.bias": (5,)}  # fmt: skip
# Its ``head.norm`` is the release's ``norm``, its ``head.fc`` the release's ``head``.
TIMM_LINEAR_HEAD = {"head.norm.weight": (64,), "head.norm.bias": (64,), "head.fc.weight": (5, 64),
                    "head.fc.bias": (5,)}  # fmt: skip
TIMM_MLP_HEAD = {"head.norm.weight": (64,), "head.norm.bias": (64,),
                 "head.fc.fc1.weight": (256, 64), "head.fc.fc1.bias": (256,),
                 "head.fc.norm.weight": (256,), "head.fc.norm.bias": (256,),
                 "head.fc.fc2.weight": (5, 256), "head.fc.fc2.bias": (5,)}  # fmt: skip
BN_HEAD = LINEAR_HEAD | {
    f"norm.{name}": (64,) for name in ("running_mean", "running_var")
} | {"norm.num_batches_tracked": ()}  # fmt: skip
SEG_HEAD = {"head1.0.c.weight": (96, 64, 1, 1), "head2.0.weight": (5, 96)}
DETECTOR = {"neck.lateral_convs.0.conv.weight": (3,), "bbox_head.retina_cls.bias": (3,)}


def mmpretrain_head(channels: int) -> dict[str, Shape]:
    return {"head.fc.weight": (5, channels), "head.fc.bias": (5,)}


_PATCH_EMBED = {"patch_embed.proj.weight"}
_DOWNSAMPLE = {"downsample_layers.0.conv.weight"}
_STEM = {"stem.conv.weight"}
_FFNET = {"patch_embed.0.c.weight", "stages.1.0.proj.0.conv.c.weight"}


def _hybrid(arch: str, entries: tuple[str, ...], **options: Any) -> Published:
    return Published(
        "PoolFormer", f"metaformer_s12_{arch}", partial(poolformer, entries=entries, mixers=arch),
        _PATCH_EMBED, LINEAR_HEAD, NORMS, options=options,
    )  # fmt: skip


def _baseline(arch: str, mixers: str, head: dict) -> Published:
    rows = partial(baseline, mixers=mixers)
    return Published("mmmetaformer", arch, rows, _DOWNSAMPLE, head)


def _timm(arch: str, mixers: str, head: dict) -> Published:
    rows = partial(baseline, mixers=mixers, timm=True)
    return Published("timm MetaFormer", arch, rows, _STEM, head)


_PPPA = dict(pos_embed_sizes=[None, None, None, SIDES[3]])
_PPAA = dict(pos_embed_sizes=[None, None, SIDES[2], None])
_CONVMIXER_NEW = {name for name, _, _ in CONVMIXER_PYRAMID}
_MIXER_NEW = {name for name, _, _ in MIXER_PYRAMID}

PUBLISHED = {
    "poolformer": Published(
        "PoolFormer", "poolformer_s12", poolformer, _PATCH_EMBED, LINEAR_HEAD, NORMS
    ),
    "poolformer detector": Published(
        "PoolFormer", "poolformer_s12", partial(poolformer, norms="0246"),
        {"backbone.patch_embed.proj.weight"}, prefix="backbone.", beside=DETECTOR,
    ),
    "poolformer retinanet": Published(
        "PoolFormer", "poolformer_s12", partial(poolformer, norms="246"),
        {"backbone.patch_embed.proj.weight"}, new={"norm0.weight", "norm0.bias"},
        prefix="backbone.", beside=DETECTOR,
    ),
    # Its classifier has the norm of the classifier as the output norm of the last stage.
    "poolformer mmpretrain": Published(
        "PoolFormer", "poolformer_s12", partial(poolformer, norms="6"),
        {"backbone.patch_embed.proj.weight"}, new=NORMS - {"norm3.weight", "norm3.bias"},
        prefix="backbone.", beside=mmpretrain_head(64),
    ),
    "poolformer timm": Published(
        "timm MetaFormer", "poolformer_s12", poolformer_timm, _STEM, TIMM_LINEAR_HEAD, NORMS
    ),
    "metaformer id": Published(
        "PoolFormer", "metaformer_s12_identity", poolformer, _PATCH_EMBED, LINEAR_HEAD, NORMS
    ),
    "metaformer pppa": _hybrid("pppa", PPPA, **_PPPA),
    "metaformer ppaa": _hybrid("ppaa", PPAA, **_PPAA),
    "metaformer pppf": _hybrid("pppf", POOLFORMER),
    "metaformer ppff": _hybrid("ppff", POOLFORMER),
    "metaformer ppaa own": Published(
        "mmmetaformer", "metaformer_s12_ppaa",
        own(partial(poolformer, entries=PPAA, mixers="ppaa", norms="0246")),
        {"backbone.downsample_layers.0.conv.weight"}, prefix="backbone.", beside=DETECTOR,
        options=_PPAA,
    ),
    "identityformer": _baseline("identityformer_s12", "----", LINEAR_HEAD),
    "randformer": _baseline("randformer_s12", "--rr", LINEAR_HEAD),
    "poolformerv2": _baseline("poolformerv2_s12", "----", LINEAR_HEAD),
    "convformer": _baseline("convformer_s18", "cccc", MLP_HEAD),
    "caformer": _baseline("caformer_s18", "ccaa", MLP_HEAD),
    "poolformerv2 timm": _timm("poolformerv2_s12", "----", TIMM_LINEAR_HEAD),
    "convformer timm": _timm("convformer_s18", "cccc", TIMM_MLP_HEAD),
    "caformer timm": _timm("caformer_s18", "ccaa", TIMM_MLP_HEAD),
    "caformer own": Published(
        "mmmetaformer", "caformer_s18",
        own(partial(baseline, mixers="ccaa", norms=True)),
        {"backbone.downsample_layers.0.conv.weight"}, prefix="backbone.", beside=DETECTOR,
        options=dict(out_norm_cfg=dict(type="LN2d")),
    ),
    "ffnet": Published("FFNet", "ffnet_1", ffnet, _FFNET, BN_HEAD, NORMS),
    "ffnet detector": Published(
        "FFNet", "ffnet_3", partial(ffnet, norms=True, scaled=True, large=True),
        {f"backbone.{name}" for name in _FFNET}, prefix="backbone.", beside=DETECTOR,
    ),
    "ffnet seg": Published(
        "FFNet_seg", "ffnet_seg", partial(ffnet, seg=True),
        {"patch_embed.0.c.weight", "stages.1.0.proj.0.c.weight"}, SEG_HEAD,
    ),
    "convmixer": Published(
        "ConvMixer", "convmixer_768_32", CONVMIXER_RELEASE, {"0.weight", "3.0.fn.0.weight"},
        {f"{DEPTH + 5}.weight": (5, DIM), f"{DEPTH + 5}.bias": (5,)}, _CONVMIXER_NEW,
    ),
    "convmixer timm": Published(
        "timm ConvMixer", "convmixer_768_32", CONVMIXER_TIMM,
        {"stem.0.weight", "blocks.0.0.fn.0.weight"},
        {"head.weight": (5, DIM), "head.bias": (5,)}, _CONVMIXER_NEW,
    ),
    "convmixer mmpretrain": Published(
        "mmpretrain ConvMixer", "convmixer_768_32", CONVMIXER_MMPRETRAIN,
        {"backbone.stem.0.weight", "backbone.stages.0.0.fn.0.weight"}, new=_CONVMIXER_NEW,
        prefix="backbone.", beside=mmpretrain_head(DIM),
    ),
    "convmixer own": Published(
        "mmmetaformer isotropic", "convmixer_768_32",
        own(CONVMIXER_TIMM, CONVMIXER_PYRAMID),
        {"backbone.stem.conv.weight"}, prefix="backbone.", beside=DETECTOR,
    ),
    "mixer timm": Published(
        "timm MLP-Mixer", "mlp_mixer_s16", mixer_timm, {"stem.proj.weight"},
        {"norm.weight": (DIM,), "norm.bias": (DIM,), "head.weight": (5, DIM), "head.bias": (5,)},
        _MIXER_NEW,
    ),
    "mixer mmpretrain": Published(
        "mmpretrain MLP-Mixer", "mlp_mixer_s16", mixer_mmpretrain,
        {"backbone.patch_embed.projection.weight"},
        {"ln1.weight": (DIM,), "ln1.bias": (DIM,)}, _MIXER_NEW,
        prefix="backbone.", beside=mmpretrain_head(DIM),
    ),
    "mixer own": Published(
        "mmmetaformer isotropic", "mlp_mixer_s16", own(mixer_timm, MIXER_PYRAMID),
        {"backbone.stem.conv.weight"}, prefix="backbone.", beside=DETECTOR,
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def checkpoints() -> dict[str, Published]:
    """All of them by name."""
    return PUBLISHED


@pytest.fixture(params=PUBLISHED)
def published(request) -> Published:
    """Each of them."""
    return PUBLISHED[request.param]


@pytest.fixture
def build_classifier() -> Callable[..., nn.Module]:
    """Our image classifier of a checkpoint, as the configs of ImageNet have it."""
    pytest.importorskip("mmpretrain")
    init_default_scope("mmpretrain")
    models = importlib.import_module("mmpretrain.registry").MODELS

    def build(published: Published, head: dict | None = None, **backbone: Any) -> nn.Module:
        family = find_variant(published.arch)["family"]
        mixer, mlp = "mixer" in published.arch, family in ("convformer", "caformer")
        settings = published.build().settings
        sizes = ("dim", "depth") if mixer else ("dims", "depths")
        own_head = dict(type="LinearClsHead", num_classes=5, in_channels=16 if mixer else 64)
        if settings.res_scale_init_value is not None:
            own_head["type"] = "mmmetaformer.MetaFormerClsHead"
            own_head["hidden_ratio"] = 4 if mlp else None
        options = dict(
            type=f"mmmetaformer.{FAMILIES[family]['backbone']}",
            arch=published.arch,
            out_indices=(3,),
            pretrain_size=64,
            **{size: getattr(settings, size) for size in sizes},
            **(dict(pyramid=None) if mixer else {}),
            **(dict(out_norm_cfg=dict(type="BN")) if family == "ffnet" else {}),
        )
        return models.build(
            dict(
                type="ImageClassifier",
                backbone=options | published.options | backbone,
                neck=dict(type="GlobalAveragePooling"),
                head=own_head | (head or {}),
            )
        ).eval()

    return build
