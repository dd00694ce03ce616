"""Where published weights are: pure data.

``CATALOGUE`` has the ImageNet models, ``TRAINED`` the detectors and segmentors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from ..variants import full_name

RGB = tuple[float, float, float]
IMAGENET_MEAN: RGB = (123.675, 116.28, 103.53)
IMAGENET_STD: RGB = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Checkpoint:
    """One published file with the weights of an ImageNet model.

    Attributes:
        arch: Name of the network, as in ``list_archs()``.
        tag: What ``pretrained=`` calls it; the first of an arch is what ``pretrained=True`` takes.
        url: Address of the file.
        layout: Key layout, as in :mod:`mmmetaformer.weights.layouts`.
        image_size: Side of the training images in pixels; None where it is not published.
        training: Data of its training.
        mean: Mean of each channel (RGB), for pixels from 0 to 255.
        std: Standard deviation of each channel.
        hub_id: Name of timm's copy on its model hub.
    """

    arch: str
    tag: str
    url: str
    layout: str
    image_size: int | None = 224
    training: str = "ImageNet-1k"
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    hub_id: str | None = None

    def data_preprocessor(self) -> dict:
        """What these weights want in a config's ``model.data_preprocessor``."""
        return dict(mean=list(self.mean), std=list(self.std), bgr_to_rgb=True)

    @property
    def file_name(self) -> str:
        """A name that no other file of the catalogue has: on timm's hub all have the same."""
        name = self.url.rpartition("/")[2]
        if self.hub_id is not None and name == _HUB_FILE:
            return f"{self.hub_id.rpartition('/')[2]}.safetensors"
        return name

    @property
    def sha256_prefix(self) -> str | None:
        """The first digits of the file's SHA-256 if its name has them, as OpenMMLab's do."""
        return sha256_prefix(self.url)


@dataclass(frozen=True)
class TrainedCheckpoint:
    """One published file with the weights of a detector or segmentor.

    Attributes:
        config: Name of its config, without ``.py``.
        url: Address of the file; None if a program cannot fetch it.
        note: What else has to be known to get it.
    """

    config: str
    url: str | None
    note: str | None = None


def sha256_prefix(source: str) -> str | None:
    """The eight SHA-256 digits in a file name such as OpenMMLab's ``name-abcdef12.pth``, or None.

    Outside OpenMMLab's own addresses the digits need a letter: others are dates and iterations.
    """
    match = re.match(r"https://download\.openmmlab\.com/.*[-_]([0-9a-f]{8})\.pth$", source)
    match = match or re.search(r"-(?=\d*[a-f])([0-9a-f]{8})\.pth$", source.partition("?")[0])
    return match.group(1) if match else None


_HUB_FILE = "model.safetensors"
_GITHUB = "https://github.com"
_POOLFORMER = f"{_GITHUB}/sail-sg/poolformer/releases/download/v1.0"
_SAIL = "https://huggingface.co/sail/dl/resolve/main"
_FFNET = f"{_GITHUB}/ysj9909/FFNet/releases/download/v1.0"
_CONVMIXER = f"{_GITHUB}/tmp-iclr/convmixer/releases/download/v1.0"
_OPENMMLAB = "https://download.openmmlab.com/mmclassification/v0"
_TIMM = f"{_GITHUB}/rwightman/pytorch-image-models/releases/download"
_MMSEG = "https://download.openmmlab.com/mmsegmentation/v0.5"

_IN21K, _IN21FT1K = "ImageNet-21k", "ImageNet-21k, then ImageNet-1k"
_SIZES = ("s12", "s24", "s36", "m36", "m48")
_CONV_AND_CA = [(f, s) for f in ("convformer", "caformer") for s in ("s18", "s36", "m36", "b36")]
# Tag, suffix at the authors, suffix at timm, side and data of the files of one arch.
_TRAININGS = (
    ("in1k", "", "in1k", 224, "ImageNet-1k"),
    ("384_in1k", "_384", "in1k_384", 384, "ImageNet-1k"),
    ("in21ft1k", "_in21ft1k", "in22k_ft_in1k", 224, _IN21FT1K),
    ("384_in21ft1k", "_384_in21ft1k", "in22k_ft_in1k_384", 384, _IN21FT1K),
    ("in21k", "_in21k", "in22k", 224, _IN21K),
)
# Pixels from -1 to 1 for Google's MLP-Mixers, from 0 to 1 for those of "miil".
_GOOGLE: tuple[RGB, RGB] = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
_MIIL: tuple[RGB, RGB] = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


def _on_hub(
    arch: str, tag: str, layout: str, name: str, side: int = 224, training: str = "ImageNet-1k"
) -> Checkpoint:
    """One of timm's files on its model hub."""
    hub_id = f"timm/{name}"
    url = f"https://huggingface.co/{hub_id}/resolve/main/{_HUB_FILE}"
    return Checkpoint(arch, f"timm_{tag}", url, layout, side, training, hub_id=hub_id)


# fmt: off
CATALOGUE: tuple[Checkpoint, ...] = (
    *(Checkpoint(f"poolformer_{size}", "in1k", f"{_POOLFORMER}/poolformer_{size}.pth.tar",
                 "PoolFormer")
      for size in _SIZES),
    *(Checkpoint(f"poolformer_{size}", "mmpretrain_in1k", f"{_OPENMMLAB}/poolformer/"
                 f"poolformer-{size}_3rdparty_32xb128_in1k_20220414-{digits}.pth", "PoolFormer")
      for size, digits in dict(s12="f8d83051", s24="d7055904", s36="d78ff3e8", m36="c55e0949",
                               m48="9378f3eb").items()),
    *(Checkpoint(f"metaformer_s12_{name}", "in1k", f"{_POOLFORMER}/metaformer_{theirs}.pth.tar",
                 "PoolFormer")
      for name, theirs in dict(identity="id_s12", pppa="pppa_s12_224", ppaa="ppaa_s12_224",
                               pppf="pppf_s12_224", ppff="ppff_s12_224").items()),
    *(Checkpoint(f"{family}_{size}", "in1k", f"{_SAIL}/{family}/{family}_{size}.pth",
                 "mmmetaformer")
      for family in ("identityformer", "randformer", "poolformerv2") for size in _SIZES),
    *(Checkpoint(f"{family}_{size}", tag, f"{_SAIL}/{family}/{family}_{size}{suffix}.pth",
                 "mmmetaformer", side, training)
      for family, size in _CONV_AND_CA for tag, suffix, _, side, training in _TRAININGS),
    *(Checkpoint(f"ffnet_{size}", tag, f"{_FFNET}/ffnet_{size}{suffix}.pth.tar", "FFNet", 256,
                 training)
      for size in "123" for tag, suffix, training in (
          ("in1k", "", "ImageNet-1k"),
          ("distilled_in1k", "_distillation", "ImageNet-1k, distilled"))),
    *(Checkpoint(f"ffnet_{size}", "384_in1k", f"{_FFNET}/ffnet_{size}_384.pth.tar", "FFNet", 384)
      for size in "34"),
    Checkpoint("ffnet_seg", "in1k", f"{_FFNET}/ffnet_seg.pth.tar", "FFNet_seg", None),
    *(Checkpoint(f"convmixer_{name[:name.index('_ks')]}", "in1k",
                 f"{_CONVMIXER}/convmixer_{name}.pth.tar", "ConvMixer")
      for name in ("768_32_ks7_p7_relu", "1024_20_ks9_p14", "1536_20_ks9_p7")),
    *(Checkpoint(f"convmixer_{width}_{depth}", "mmpretrain_in1k", f"{_OPENMMLAB}/convmixer/"
                 f"convmixer-{width}{dash}{depth}_3rdparty_10xb64_in1k_20220323-{digits}.pth",
                 "mmpretrain ConvMixer")
      for width, dash, depth, digits in ((768, "-", 32, "bca1f7b8"), (1024, "-", 20, "48f8aeba"),
                                         (1536, "_", 20, "ea5786f3"))),
    *(Checkpoint(f"mlp_mixer_{size}16", "in21ft1k", f"{_OPENMMLAB}/mlp-mixer/mixer-{theirs}-p16"
                 f"_3rdparty_64xb64_in1k_20211124-{digits}.pth", "mmpretrain MLP-Mixer", 224,
                 _IN21FT1K, *_GOOGLE)
      for size, theirs, digits in (("b", "base", "1377e3e0"), ("l", "large", "5a2519d2"))),
    # timm's copies, by what timm calls them.
    *(_on_hub(f"{family}_{size}", "in1k", "timm MetaFormer", f"{family}_{size}.sail_in1k")
      for family in ("poolformer", "poolformerv2") for size in _SIZES),
    *(_on_hub(f"{family}_{size}", tag, "timm MetaFormer", f"{family}_{size}.sail_{theirs}", side,
              training)
      for family, size in _CONV_AND_CA for tag, _, theirs, side, training in _TRAININGS),
    *(_on_hub(f"convmixer_{name.removesuffix('_ks9_p14')}", "in1k", "timm ConvMixer",
              f"convmixer_{name}.in1k")
      for name in ("768_32", "1024_20_ks9_p14", "1536_20")),
    *(Checkpoint(f"mlp_mixer_{arch}", f"timm_{tag}", f"{_TIMM}/{file}.pth", "timm MLP-Mixer", 224,
                 training, *images, f"timm/mixer_{arch}_224.{name}")
      for arch, tag, file, training, images, name in (
          ("b16", "in21ft1k", "v0.1-vitjx/jx_mixer_b16_224-76587d61", _IN21FT1K, _GOOGLE,
           "goog_in21k_ft_in1k"),
          ("b16", "in21k", "v0.1-vitjx/jx_mixer_b16_224_in21k-617b3de2", _IN21K, _GOOGLE,
           "goog_in21k"),
          ("b16", "miil_in21ft1k", "v0.1-tresnet/mixer_b16_224_miil-9229a591", _IN21FT1K, _MIIL,
           "miil_in21k_ft_in1k"),
          ("b16", "miil_in21k", "v0.1-tresnet/mixer_b16_224_miil_in21k-2a558a71", _IN21K, _MIIL,
           "miil_in21k"),
          ("l16", "in21ft1k", "v0.1-vitjx/jx_mixer_l16_224-92f9adc4", _IN21FT1K, _GOOGLE,
           "goog_in21k_ft_in1k"),
          ("l16", "in21k", "v0.1-vitjx/jx_mixer_l16_224_in21k-846aa33c", _IN21K, _GOOGLE,
           "goog_in21k"))),
)


_SHARED = "the authors shared it on file-sharing sites only"


def _mmseg_file(size: str, stamp: str) -> str:
    name = f"fpn_poolformer_{size}_8x4_512x512_40k_ade20k"
    return f"{_MMSEG}/poolformer/{name}/{name}_{stamp}.pth"


TRAINED: tuple[TrainedCheckpoint, ...] = (
    *(TrainedCheckpoint(f"{method}_poolformer-{size}_fpn_1x_coco", None, _SHARED)
      for method in ("retinanet", "mask-rcnn") for size in _SIZES[:3]),
    *(TrainedCheckpoint(f"poolformer-{size}_fpn_8xb4-40k_ade20k-512x512", url, note)
      for size, stamp in dict(s12="20220501_115154-b5aa2f49", s24="20220503_222049-394a7cf7",
                              s36="20220501_151122-b47e607d", m36="20220501_164230-3dc83921",
                              m48="20220504_003923-64168d3b").items()
      for url, note in ((None, _SHARED), (_mmseg_file(size, stamp), "trained again for mmseg"))),
    *(TrainedCheckpoint(f"cascade-mask-rcnn_ffnet-{size}_fpn_3x_coco",
                        f"{_FFNET}/casc_mask_rcnn_ffnet_{size}_fpn_3x_coco.{suffix}", note)
      for size, suffix, note in (("2", "pth", None), ("3", "pth", None),
                                 ("4", "zip", "an archive, to be unpacked"))),
    *(TrainedCheckpoint(f"ffnet-{size}_upernet_8xb2-160k_ade20k-512x512",
                        f"{_FFNET}/upernet_ffnet_{size}_512_160k_ade20k.pth") for size in "234"),
    *(TrainedCheckpoint(f"ffnet-seg_ffnethead_8xb2-160k_{data}-{side}x{side}",
                        f"{_FFNET}/ffnet_seg_sys_{side}_160k_{data}.pth")
      for data, side in (("ade20k", 512), ("cityscapes", 1024))),
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
        full_name(arch)  # raises for an unknown one
    return [checkpoint for checkpoint in CATALOGUE if arch in (None, checkpoint.arch)]


def find_checkpoint(arch: str, pretrained: str | bool = True) -> Checkpoint:
    """The published file of a network with a tag, such as ``'in1k'``; for True the default.

    Raises:
        TypeError: If ``pretrained`` is neither a tag nor True.
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
    """The published detectors and segmentors of a config, named without ``.py``; all for None.

    Example:
        >>> [trained.note for trained in list_trained('mask-rcnn_poolformer-s12_fpn_1x_coco')]
        ['the authors shared it on file-sharing sites only']
    """
    return [trained for trained in TRAINED if config in (None, trained.config)]


def by_url(url: str) -> Checkpoint | None:
    """The checkpoint at an address, if it is in the catalogue."""
    return next((checkpoint for checkpoint in CATALOGUE if checkpoint.url == url), None)
