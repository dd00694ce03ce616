"""Where published weights are: pure data.

``CATALOGUE`` has the ImageNet models, ``TRAINED`` the detectors and segmentors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_HALF = (127.5, 127.5, 127.5)
_HUB_FILE = "model.safetensors"
# Images between 0 and 1.
_ZERO, _ONE = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)


@dataclass(frozen=True)
class Checkpoint:
    """One published file with the weights of an ImageNet model.

    Attributes:
        arch: Name of the network, as in ``list_archs()``.
        tag: What ``pretrained=`` calls it; the first of an arch is what ``pretrained=True`` takes.
        url: Address of the file.
        layout: Key layout, as in :mod:`mmmetaformer.weights.layouts`.
        image_size: Side of the images in its last training, in pixels; None where it is not
            published.
        training: Data of its training.
        mean: Mean of each channel (RGB) that images are to have taken off, of 0 to 255.
        std: What they are then divided by.
        hub_id: Name of timm's copy on its model hub.
    """

    arch: str
    tag: str
    url: str
    layout: str
    image_size: int | None = 224
    training: str = "ImageNet-1k"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    hub_id: str | None = None

    @property
    def family(self) -> str:
        """The family of the arch."""
        # Not above: the backbones import the weights.
        from ..backbones.variants import VARIANTS

        return VARIANTS[self.arch]["family"]

    def data_preprocessor(self) -> dict:
        """What these weights want in a config's ``model.data_preprocessor``."""
        return dict(mean=list(self.mean), std=list(self.std), bgr_to_rgb=True)

    @property
    def file_name(self) -> str:
        """What the file is called in a folder with the others; those of timm's hub, which all have
        one name, after ``hub_id``."""
        name = self.url.rpartition("/")[2]
        is_named_after_hub = self.hub_id is not None and name == _HUB_FILE
        return f"{str(self.hub_id).rpartition('/')[2]}.safetensors" if is_named_after_hub else name

    @property
    def sha256_prefix(self) -> str | None:
        """The first digits of the file's SHA-256 where its name tells them, as OpenMMLab's do."""
        return sha256_prefix(self.url)


@dataclass(frozen=True)
class TrainedCheckpoint:
    """One published file with the weights of a detector or segmentor.

    Attributes:
        config: Name of the config that it belongs to, without ``.py``.
        arch: Name of its backbone.
        training: Data of its training.
        image_size: Rows and columns of the images in its training: the largest of a detector's,
            the crop of a segmentor's.
        layout: Key layout of the backbone.
        url: Address of the file; None if none is known that a program can fetch.
        note: What else has to be known to get it.
        mean: As of :class:`Checkpoint`.
        std: As of :class:`Checkpoint`.
    """

    config: str
    arch: str
    training: str
    image_size: tuple[int, int]
    layout: str
    url: str | None
    note: str | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def sha256_prefix(source: str) -> str | None:
    """The eight digits of a SHA-256 in the name of one of OpenMMLab's files, or of a file that was
    named as these are (``name-abcdef12.pth``); None in other names.

    Elsewhere than in OpenMMLab's own addresses digits without a letter are none: they are dates and
    numbers of iterations.
    """
    match = re.match(r"https://download\.openmmlab\.com/.*[-_]([0-9a-f]{8})\.pth$", source)
    match = match or re.search(r"-(?=\d*[a-f])([0-9a-f]{8})\.pth$", source.partition("?")[0])
    return match.group(1) if match else None


_POOLFORMER = "https://github.com/sail-sg/poolformer/releases/download/v1.0"
_SAIL = "https://huggingface.co/sail/dl/resolve/main"
_FFNET = "https://github.com/ysj9909/FFNet/releases/download/v1.0"
_CONVMIXER = "https://github.com/tmp-iclr/convmixer/releases/download/v1.0"
_OPENMMLAB = "https://download.openmmlab.com/mmclassification/v0"
_IN21K = "ImageNet-21k"
_IN21FT1K = "ImageNet-21k, then ImageNet-1k"
_DISTILLED = "ImageNet-1k, distilled"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download"
_MMSEG = "https://download.openmmlab.com/mmsegmentation/v0.5"


def _on_hub(name: str) -> dict[str, Any]:
    """Address and name of one of timm's files on its model hub."""
    hub_id = f"timm/{name}"
    return dict(url=f"https://huggingface.co/{hub_id}/resolve/main/{_HUB_FILE}", hub_id=hub_id)


def _mmseg_file(size: str, stamp: str) -> str:
    name = f"fpn_poolformer_{size}_8x4_512x512_40k_ade20k"
    return f"{_MMSEG}/poolformer/{name}/{name}_{stamp}.pth"


# fmt: off
CATALOGUE: tuple[Checkpoint, ...] = (
    *(
        Checkpoint(f"poolformer_{size}", "in1k", f"{_POOLFORMER}/poolformer_{size}.pth.tar", "PoolFormer")  # noqa: E501
        for size in ("s12", "s24", "s36", "m36", "m48")
    ),
    *(
        Checkpoint(f"poolformer_{size}", "mmpretrain_in1k", f"{_OPENMMLAB}/poolformer/poolformer-{size}_3rdparty_32xb128_in1k_20220414-{digits}.pth", "PoolFormer")  # noqa: E501
        for size, digits in dict(s12="f8d83051", s24="d7055904", s36="d78ff3e8", m36="c55e0949", m48="9378f3eb").items()  # noqa: E501
    ),
    *(
        Checkpoint(f"metaformer_s12_{ours}", "in1k", f"{_POOLFORMER}/metaformer_{theirs}.pth.tar", "PoolFormer")  # noqa: E501
        for ours, theirs in dict(identity="id_s12", pppa="pppa_s12_224", ppaa="ppaa_s12_224", pppf="pppf_s12_224", ppff="ppff_s12_224").items()  # noqa: E501
    ),
    *(
        Checkpoint(f"{family}_{size}", "in1k", f"{_SAIL}/{family}/{family}_{size}.pth", "mmmetaformer")  # noqa: E501
        for family in ("identityformer", "randformer", "poolformerv2")
        for size in ("s12", "s24", "s36", "m36", "m48")
    ),
    *(
        Checkpoint(f"{family}_{size}", tag, f"{_SAIL}/{family}/{family}_{size}{suffix}.pth", "mmmetaformer", side, training)  # noqa: E501
        for family in ("convformer", "caformer")
        for size in ("s18", "s36", "m36", "b36")
        for tag, suffix, side, training in (
            ("in1k", "", 224, "ImageNet-1k"),
            ("384_in1k", "_384", 384, "ImageNet-1k"),
            ("in21ft1k", "_in21ft1k", 224, _IN21FT1K),
            ("384_in21ft1k", "_384_in21ft1k", 384, _IN21FT1K),
            ("in21k", "_in21k", 224, _IN21K),
        )
    ),
    Checkpoint("ffnet_1", "in1k", f"{_FFNET}/ffnet_1.pth.tar", "FFNet", 256),
    Checkpoint("ffnet_1", "distilled_in1k", f"{_FFNET}/ffnet_1_distillation.pth.tar", "FFNet", 256, _DISTILLED),  # noqa: E501
    Checkpoint("ffnet_2", "in1k", f"{_FFNET}/ffnet_2.pth.tar", "FFNet", 256),
    Checkpoint("ffnet_2", "distilled_in1k", f"{_FFNET}/ffnet_2_distillation.pth.tar", "FFNet", 256, _DISTILLED),  # noqa: E501
    Checkpoint("ffnet_3", "in1k", f"{_FFNET}/ffnet_3.pth.tar", "FFNet", 256),
    Checkpoint("ffnet_3", "distilled_in1k", f"{_FFNET}/ffnet_3_distillation.pth.tar", "FFNet", 256, _DISTILLED),  # noqa: E501
    Checkpoint("ffnet_3", "384_in1k", f"{_FFNET}/ffnet_3_384.pth.tar", "FFNet", 384),
    Checkpoint("ffnet_4", "384_in1k", f"{_FFNET}/ffnet_4_384.pth.tar", "FFNet", 384),
    Checkpoint("ffnet_seg", "in1k", f"{_FFNET}/ffnet_seg.pth.tar", "FFNet_seg", None),
    Checkpoint("convmixer_768_32", "in1k", f"{_CONVMIXER}/convmixer_768_32_ks7_p7_relu.pth.tar", "ConvMixer"),  # noqa: E501
    Checkpoint("convmixer_1024_20", "in1k", f"{_CONVMIXER}/convmixer_1024_20_ks9_p14.pth.tar", "ConvMixer"),  # noqa: E501
    Checkpoint("convmixer_1536_20", "in1k", f"{_CONVMIXER}/convmixer_1536_20_ks9_p7.pth.tar", "ConvMixer"),  # noqa: E501
    Checkpoint("convmixer_768_32", "mmpretrain_in1k", f"{_OPENMMLAB}/convmixer/convmixer-768-32_3rdparty_10xb64_in1k_20220323-bca1f7b8.pth", "mmpretrain ConvMixer"),  # noqa: E501
    Checkpoint("convmixer_1024_20", "mmpretrain_in1k", f"{_OPENMMLAB}/convmixer/convmixer-1024-20_3rdparty_10xb64_in1k_20220323-48f8aeba.pth", "mmpretrain ConvMixer"),  # noqa: E501
    Checkpoint("convmixer_1536_20", "mmpretrain_in1k", f"{_OPENMMLAB}/convmixer/convmixer-1536_20_3rdparty_10xb64_in1k_20220323-ea5786f3.pth", "mmpretrain ConvMixer"),  # noqa: E501
    # The Google weights want images between -1 and 1.
    Checkpoint("mlp_mixer_b16", "in21ft1k", f"{_OPENMMLAB}/mlp-mixer/mixer-base-p16_3rdparty_64xb64_in1k_20211124-1377e3e0.pth", "mmpretrain MLP-Mixer", 224, _IN21FT1K, _HALF, _HALF),  # noqa: E501
    Checkpoint("mlp_mixer_l16", "in21ft1k", f"{_OPENMMLAB}/mlp-mixer/mixer-large-p16_3rdparty_64xb64_in1k_20211124-5a2519d2.pth", "mmpretrain MLP-Mixer", 224, _IN21FT1K, _HALF, _HALF),  # noqa: E501
    # timm's copies, by what timm calls them.
    *(
        Checkpoint(f"{family}_{size}", "timm_in1k", layout="timm MetaFormer", **_on_hub(f"{family}_{size}.sail_in1k"))  # noqa: E501
        for family in ("poolformer", "poolformerv2")
        for size in ("s12", "s24", "s36", "m36", "m48")
    ),
    *(
        Checkpoint(f"{family}_{size}", f"timm_{tag}", layout="timm MetaFormer", image_size=side, training=training, **_on_hub(f"{family}_{size}.sail_{theirs}"))  # noqa: E501
        for family in ("convformer", "caformer")
        for size in ("s18", "s36", "m36", "b36")
        for tag, theirs, side, training in (
            ("in1k", "in1k", 224, "ImageNet-1k"),
            ("384_in1k", "in1k_384", 384, "ImageNet-1k"),
            ("in21ft1k", "in22k_ft_in1k", 224, _IN21FT1K),
            ("384_in21ft1k", "in22k_ft_in1k_384", 384, _IN21FT1K),
            ("in21k", "in22k", 224, _IN21K),
        )
    ),
    *(
        Checkpoint(f"convmixer_{ours}", "timm_in1k", layout="timm ConvMixer", **_on_hub(f"convmixer_{theirs}.in1k"))  # noqa: E501
        for ours, theirs in {"768_32": "768_32", "1024_20": "1024_20_ks9_p14", "1536_20": "1536_20"}.items()  # noqa: E501
    ),
    Checkpoint("mlp_mixer_b16", "timm_in21ft1k", f"{_TIMM}/v0.1-vitjx/jx_mixer_b16_224-76587d61.pth", "timm MLP-Mixer", 224, _IN21FT1K, _HALF, _HALF, "timm/mixer_b16_224.goog_in21k_ft_in1k"),  # noqa: E501
    Checkpoint("mlp_mixer_b16", "timm_in21k", f"{_TIMM}/v0.1-vitjx/jx_mixer_b16_224_in21k-617b3de2.pth", "timm MLP-Mixer", 224, _IN21K, _HALF, _HALF, "timm/mixer_b16_224.goog_in21k"),  # noqa: E501
    Checkpoint("mlp_mixer_b16", "timm_miil_in21ft1k", f"{_TIMM}/v0.1-tresnet/mixer_b16_224_miil-9229a591.pth", "timm MLP-Mixer", 224, _IN21FT1K, _ZERO, _ONE, "timm/mixer_b16_224.miil_in21k_ft_in1k"),  # noqa: E501
    Checkpoint("mlp_mixer_b16", "timm_miil_in21k", f"{_TIMM}/v0.1-tresnet/mixer_b16_224_miil_in21k-2a558a71.pth", "timm MLP-Mixer", 224, _IN21K, _ZERO, _ONE, "timm/mixer_b16_224.miil_in21k"),  # noqa: E501
    Checkpoint("mlp_mixer_l16", "timm_in21ft1k", f"{_TIMM}/v0.1-vitjx/jx_mixer_l16_224-92f9adc4.pth", "timm MLP-Mixer", 224, _IN21FT1K, _HALF, _HALF, "timm/mixer_l16_224.goog_in21k_ft_in1k"),  # noqa: E501
    Checkpoint("mlp_mixer_l16", "timm_in21k", f"{_TIMM}/v0.1-vitjx/jx_mixer_l16_224_in21k-846aa33c.pth", "timm MLP-Mixer", 224, _IN21K, _HALF, _HALF, "timm/mixer_l16_224.goog_in21k"),  # noqa: E501
)

_SHARED = "the authors shared it on file-sharing sites only"

TRAINED: tuple[TrainedCheckpoint, ...] = (
    *(
        TrainedCheckpoint(f"{method}_poolformer-{size}_fpn_1x_coco", f"poolformer_{size}", "COCO", (800, 1333), "PoolFormer", None, _SHARED)  # noqa: E501
        for method in ("retinanet", "mask-rcnn")
        for size in ("s12", "s24", "s36")
    ),
    *(
        TrainedCheckpoint(f"poolformer-{size}_fpn_8xb4-40k_ade20k-512x512", f"poolformer_{size}", "ADE20K", (512, 512), "PoolFormer", url, note)  # noqa: E501
        for size, stamp in dict(s12="20220501_115154-b5aa2f49", s24="20220503_222049-394a7cf7", s36="20220501_151122-b47e607d", m36="20220501_164230-3dc83921", m48="20220504_003923-64168d3b").items()  # noqa: E501
        for url, note in ((None, _SHARED), (_mmseg_file(size, stamp), "trained again for mmseg"))
    ),
    *(
        TrainedCheckpoint(f"cascade-mask-rcnn_ffnet-{size}_fpn_3x_coco", f"ffnet_{size}", "COCO", (800, 1333), "FFNet", f"{_FFNET}/casc_mask_rcnn_ffnet_{size}_fpn_3x_coco.{suffix}", note)  # noqa: E501
        for size, suffix, note in (("2", "pth", None), ("3", "pth", None), ("4", "zip", "an archive, to be unpacked"))  # noqa: E501
    ),
    *(
        TrainedCheckpoint(f"ffnet-{size}_upernet_8xb2-160k_ade20k-512x512", f"ffnet_{size}", "ADE20K", (512, 512), "FFNet", f"{_FFNET}/upernet_ffnet_{size}_512_160k_ade20k.pth")  # noqa: E501
        for size in ("2", "3", "4")
    ),
    TrainedCheckpoint("ffnet-seg_ffnethead_8xb2-160k_ade20k-512x512", "ffnet_seg", "ADE20K", (512, 512), "FFNet_seg", f"{_FFNET}/ffnet_seg_sys_512_160k_ade20k.pth"),  # noqa: E501
    TrainedCheckpoint("ffnet-seg_ffnethead_8xb2-160k_cityscapes-1024x1024", "ffnet_seg", "Cityscapes", (1024, 1024), "FFNet_seg", f"{_FFNET}/ffnet_seg_sys_1024_160k_cityscapes.pth"),  # noqa: E501
)
# fmt: on


def list_checkpoints(arch: str | None = None) -> list[Checkpoint]:
    """The published files of a network, the default one first; of all networks for None.

    Raises:
        ValueError: If there is no such network; names the nearest.

    Example:
        >>> [checkpoint.tag for checkpoint in list_checkpoints('ffnet_3')]
        ['in1k', 'distilled_in1k', '384_in1k']
    """
    if arch is not None:
        # Not above: the backbones import the weights.
        from ..backbones.arch import full_name

        full_name(arch)
    return [checkpoint for checkpoint in CATALOGUE if arch in (None, checkpoint.arch)]


def find_checkpoint(arch: str, pretrained: str | bool = True) -> Checkpoint:
    """One published file of a network.

    Args:
        arch: Name of the network, as in ``list_archs()``.
        pretrained: Its tag; True for the default.

    Raises:
        TypeError: If ``pretrained`` is neither.
        ValueError: If nothing is published for the arch, or not that, and then lists what is.
    """
    if pretrained is not True and not isinstance(pretrained, str):
        raise TypeError(f"pretrained must be True or a tag, got {pretrained!r}")
    known = {checkpoint.tag: checkpoint for checkpoint in list_checkpoints(arch)}
    if not known:
        raise ValueError(
            f"no pretrained weights of {arch!r} are known: give a file with "
            "init_cfg=dict(type='Pretrained', checkpoint=...)"
        )
    if pretrained is True:
        return next(iter(known.values()))
    if pretrained not in known:
        near = get_close_matches(pretrained, known, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        if {".", "/"} & set(pretrained):
            hint = "; a file is given with init_cfg=dict(type='Pretrained', checkpoint=...)"
        raise ValueError(
            f"unknown pretrained={pretrained!r} of {arch!r}: expected True or one of "
            f"{list(known)}{hint}"
        )
    return known[pretrained]


def list_trained(config: str | None = None) -> list[TrainedCheckpoint]:
    """The published detectors and segmentors of a config, of all for None.

    Args:
        config: Name of a config, without ``.py``.

    Example:
        >>> [trained.note for trained in list_trained('mask-rcnn_poolformer-s12_fpn_1x_coco')]
        ['the authors shared it on file-sharing sites only']
    """
    return [trained for trained in TRAINED if config in (None, trained.config)]


def is_catalogued(url: str) -> bool:
    """Whether an address is that of a file in one of the tables."""
    return url in {*(c.url for c in CATALOGUE), *(t.url for t in TRAINED)}


def by_url(url: str) -> Checkpoint | None:
    """The checkpoint at an address, if it is in the catalogue."""
    return next((checkpoint for checkpoint in CATALOGUE if checkpoint.url == url), None)
