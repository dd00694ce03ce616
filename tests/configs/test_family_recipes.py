"""The configs of the families beside PoolFormer: its recipes, with nothing else than the network
changed, and UPerNet for ConvFormer and CAFormer. FFNet's own recipes have a file of their own.

Networks, checkpoints and channels are written out here and not read from the configs.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmetaformer import MODELS, list_archs

SAIL = "https://huggingface.co/sail/dl/resolve/main"
POOLFORMER = "https://github.com/sail-sg/poolformer/releases/download/v1.0"
CONVMIXER = "https://github.com/tmp-iclr/convmixer/releases/download/v1.0"
FFNET = "https://github.com/ysj9909/FFNet/releases/download/v1.0"
MMPRETRAIN = "https://download.openmmlab.com/mmclassification/v0/mlp-mixer"

S, M = [64, 128, 320, 512], [96, 192, 384, 768]
CONV_M, CONV_B = [96, 192, 384, 576], [128, 256, 512, 768]

# By folder: type, where the checkpoints lie, and by arch the channels of the four levels and the
# checkpoint, if one is known.
# fmt: off
FAMILIES = {
    "identityformer": ("IdentityFormer", f"{SAIL}/identityformer", {
        "s12": (S, "identityformer_s12.pth"),
        "s24": (S, "identityformer_s24.pth"),
        "s36": (S, "identityformer_s36.pth"),
        "m36": (M, "identityformer_m36.pth"),
        "m48": (M, "identityformer_m48.pth"),
    }),
    "randformer": ("RandFormer", f"{SAIL}/randformer", {
        "s12": (S, "randformer_s12.pth"),
        "s24": (S, "randformer_s24.pth"),
        "s36": (S, "randformer_s36.pth"),
        "m36": (M, "randformer_m36.pth"),
        "m48": (M, "randformer_m48.pth"),
    }),
    "poolformerv2": ("PoolFormerV2", f"{SAIL}/poolformerv2", {
        "s12": (S, "poolformerv2_s12.pth"),
        "s24": (S, "poolformerv2_s24.pth"),
        "s36": (S, "poolformerv2_s36.pth"),
        "m36": (M, "poolformerv2_m36.pth"),
        "m48": (M, "poolformerv2_m48.pth"),
    }),
    "convformer": ("ConvFormer", f"{SAIL}/convformer", {
        "s18": (S, "convformer_s18.pth"),
        "s36": (S, "convformer_s36.pth"),
        "m36": (CONV_M, "convformer_m36.pth"),
        "b36": (CONV_B, "convformer_b36.pth"),
    }),
    "caformer": ("CAFormer", f"{SAIL}/caformer", {
        "s18": (S, "caformer_s18.pth"),
        "s36": (S, "caformer_s36.pth"),
        "m36": (CONV_M, "caformer_m36.pth"),
        "b36": (CONV_B, "caformer_b36.pth"),
    }),
    "convmixer": ("ConvMixer", CONVMIXER, {
        "768_32": ([384, 768, 768, 768], "convmixer_768_32_ks7_p7_relu.pth.tar"),
        "1024_20": ([256, 512, 1024, 1024], "convmixer_1024_20_ks9_p14.pth.tar"),
        "1536_20": ([768, 1536, 1536, 1536], "convmixer_1536_20_ks9_p7.pth.tar"),
    }),
    "mlp_mixer": ("MlpMixer", MMPRETRAIN, {
        "s32": ([64, 128, 256, 512], None),
        "s16": ([128, 256, 512, 512], None),
        "b32": ([96, 192, 384, 768], None),
        "b16": ([192, 384, 768, 768],
             "mixer-base-p16_3rdparty_64xb64_in1k_20211124-1377e3e0.pth"),
        "l32": ([128, 256, 512, 1024], None),
        "l16": ([256, 512, 1024, 1024],
             "mixer-large-p16_3rdparty_64xb64_in1k_20211124-5a2519d2.pth"),
        "h14": ([320, 640, 1280, 1280], None),
    }),
    "ffnet": ("FFNet", FFNET, {
        "1": ([80, 160, 320, 640], "ffnet_1.pth.tar"),
        "2": ([88, 176, 352, 704], "ffnet_2.pth.tar"),
        "3": ([96, 192, 384, 768], "ffnet_3.pth.tar"),
        "4": ([128, 256, 512, 1024], "ffnet_4_384.pth.tar"),
    }),
    "metaformer": ("MetaFormer", POOLFORMER, {
        "metaformer_s12_identity": (S, "metaformer_id_s12.pth.tar"),
        "metaformer_s12_random": (S, None),
        "metaformer_s12_depthwise": (S, None),
        "metaformer_s12_pool5": (S, None),
        "metaformer_s12_pool7": (S, None),
        "metaformer_s12_pool9": (S, None),
        "metaformer_s12_ln": (S, None),
        "metaformer_s12_bn": (S, None),
        "metaformer_s12_no_norm": (S, None),
        "metaformer_s12_relu": (S, None),
        "metaformer_s12_silu": (S, None),
        "metaformer_s12_no_residual": (S, None),
        "metaformer_s12_no_mlp": (S, None),
        "metaformer_s12_pppa": (S, "metaformer_pppa_s12_224.pth.tar"),
        "metaformer_s12_ppaa": (S, "metaformer_ppaa_s12_224.pth.tar"),
        "metaformer_s12_pppf": (S, "metaformer_pppf_s12_224.pth.tar"),
        "metaformer_s12_ppff": (S, "metaformer_ppff_s12_224.pth.tar"),
    }),
}
# fmt: on


class Network(NamedTuple):
    """One row of the table."""

    folder: str
    kind: str
    arch: str
    channels: list[int]
    checkpoint: str | None


# By the names of list_archs().
NETWORKS = {
    f"{folder}_{arch.removeprefix('metaformer_')}": Network(
        folder, kind, arch, channels, f"{address}/{file}" if file else None
    )
    for folder, (kind, address, archs) in FAMILIES.items()
    for arch, (channels, file) in archs.items()
}
UPERNET = [name for name, row in NETWORKS.items() if row.kind in ("ConvFormer", "CAFormer")]
RETINANET = ["ffnet_1", "ffnet_2", "ffnet_3"]
# Recipes of FFNet's release, the values of which are in test_ffnet_recipes.py.
OWN_RECIPES = ["ffnet_2", "ffnet_3", "ffnet_4"]
OWN_NETWORK = "ffnet_seg"
FILES = {
    "retinanet": "retinanet_{}_fpn_1x_coco.py",
    "mask-rcnn": "mask-rcnn_{}_fpn_1x_coco.py",
    "fpn": "{}_fpn_8xb4-40k_ade20k-512x512.py",
    "upernet": "{}_upernet_8xb2-160k_ade20k-512x512.py",
    "cascade": "cascade-mask-rcnn_{}_fpn_3x_coco.py",
}
OWN_NETWORK_FILES = {
    "ffnet/ffnet-seg_ffnethead_8xb2-160k_ade20k-512x512.py",
    "ffnet/ffnet-seg_ffnethead_8xb2-160k_cityscapes-1024x1024.py",
}


def path(name: str, head: str) -> str:
    return f"{NETWORKS[name].folder}/{FILES[head].format(name.replace('_', '-'))}"


def backbone(name: str, **options) -> dict:
    """All that a config says about the backbone."""
    row = NETWORKS[name]
    if row.kind == "ConvMixer":
        options["norm_eval"] = True
    if row.kind == "FFNet":
        options["inner_norm_cfg"] = dict(type="SyncBN")
    if row.checkpoint is not None:
        options["init_cfg"] = dict(type="Pretrained", checkpoint=row.checkpoint)
    return dict(type=f"mmmetaformer.{row.kind}", arch=row.arch, **options)


def statistics(name: str) -> dict:
    """Mean and standard deviation of images, as a network's weights expect them."""
    if NETWORKS[name].kind == "MlpMixer":
        return dict(mean=[127.5] * 3, std=[127.5] * 3)
    return dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def without(cfg, paths: list[str]) -> dict:
    """The whole config as a dict, less some of its values, all of which must be there."""
    cfg = cfg.to_dict()
    for dotted in paths:
        *parents, last = dotted.split(".")
        node = cfg
        for key in parents:
            node = node[key]
        del node[last]
    return cfg


def test_every_arch_has_its_configs(root):
    """And there are no other files."""
    others = {arch for arch in list_archs() if not arch.startswith("poolformer_")}
    assert {*NETWORKS, OWN_NETWORK} == others
    expected = {path(name, head) for name in NETWORKS for head in ("mask-rcnn", "fpn")}
    expected |= {path(name, "upernet") for name in UPERNET}
    expected |= {path(name, "retinanet") for name in RETINANET}
    expected |= {path(name, head) for name in OWN_RECIPES for head in ("cascade", "upernet")}
    expected |= OWN_NETWORK_FILES
    configs = root / "configs"
    found = {
        str(file.relative_to(configs))
        for folder in FAMILIES
        for file in (configs / folder).rglob("*")
        if file.is_file() and file.name not in ("metafile.yml", "README.md")
    }
    assert found == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_mask_rcnn(name, load):
    cfg = load(path(name, "mask-rcnn"))
    assert cfg.model.backbone.to_dict() == backbone(name)
    assert cfg.model.neck.in_channels == NETWORKS[name].channels
    preprocessor = cfg.model.data_preprocessor
    assert dict(mean=preprocessor.mean, std=preprocessor.std) == statistics(name)
    recipe = load("poolformer/mask-rcnn_poolformer-s12_fpn_1x_coco.py")
    differing = [
        "model.backbone",
        "model.neck.in_channels",
        "model.data_preprocessor.mean",
        "model.data_preprocessor.std",
    ]
    assert without(cfg, differing) == without(recipe, differing)


@pytest.mark.parametrize("name", RETINANET)
def test_retinanet(name, load):
    cfg = load(path(name, "retinanet"))
    found = cfg.model.backbone.to_dict()
    assert found | dict(out_indices=list(found["out_indices"])) == backbone(
        name, out_indices=[1, 2, 3]
    )
    assert cfg.model.neck.in_channels == NETWORKS[name].channels[1:]
    recipe = load("poolformer/retinanet_poolformer-s12_fpn_1x_coco.py")
    differing = ["model.backbone", "model.neck.in_channels"]
    assert without(cfg, differing) == without(recipe, differing)


@pytest.mark.parametrize("name", NETWORKS)
def test_semantic_fpn(name, load):
    cfg = load(path(name, "fpn"))
    assert cfg.model.backbone.to_dict() == backbone(name)
    assert cfg.model.neck.in_channels == NETWORKS[name].channels
    preprocessor = cfg.model.data_preprocessor
    assert dict(mean=preprocessor.mean, std=preprocessor.std) == statistics(name)
    # A second time outside of the model, as in mmseg's own configs.
    assert cfg.data_preprocessor == preprocessor
    recipe = load("poolformer/poolformer-s12_fpn_8xb4-40k_ade20k-512x512.py")
    differing = [
        "model.backbone",
        "model.neck.in_channels",
        "model.data_preprocessor.mean",
        "model.data_preprocessor.std",
        "data_preprocessor.mean",
        "data_preprocessor.std",
    ]
    assert without(cfg, differing) == without(recipe, differing)


@pytest.mark.parametrize("name", NETWORKS)
def test_channels(name):
    """The table above against the networks, without memory for them."""
    row = NETWORKS[name]
    with torch.device("meta"):
        built = MODELS.get(row.kind)(row.arch)
    assert list(built.out_channels) == row.channels


@pytest.mark.parametrize("name", UPERNET)
def test_upernet(name, load, assert_settings):
    cfg = load(path(name, "upernet"))
    head = dict(
        norm_cfg=dict(type="SyncBN", requires_grad=True), dropout_ratio=0.1, num_classes=150
    )
    assert_settings(
        cfg,
        {
            "default_scope": "mmseg",
            "model.type": "EncoderDecoder",
            "model.pretrained": None,
            "model.backbone": backbone(name, drop_path_rate=0.3),
            "model.data_preprocessor": dict(
                type="SegDataPreProcessor",
                mean=[123.675, 116.28, 103.53],
                std=[58.395, 57.12, 57.375],
                bgr_to_rgb=True,
                pad_val=0,
                seg_pad_val=255,
                size=(512, 512),
            ),
            "model.decode_head": dict(
                head,
                type="UPerHead",
                in_channels=NETWORKS[name].channels,
                in_index=[0, 1, 2, 3],
                pool_scales=(1, 2, 3, 6),
                channels=512,
                align_corners=False,
                loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            ),
            "model.auxiliary_head": dict(
                head,
                type="FCNHead",
                in_channels=NETWORKS[name].channels[2],
                in_index=2,
                channels=256,
                num_convs=1,
                concat_input=False,
                align_corners=False,
                loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
            ),
            "model.train_cfg": {},
            "model.test_cfg": dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
            "train_dataloader.batch_size": 2,
            "train_dataloader.dataset.type": "ADE20KDataset",
            "train_cfg": dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000),
            "optim_wrapper.type": "OptimWrapper",
            "optim_wrapper.clip_grad": None,
            "optim_wrapper.optimizer": dict(type="AdamW", lr=1e-4, weight_decay=0.05),
            "param_scheduler": [
                dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
                dict(type="PolyLR", eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
            ],
            "auto_scale_lr": dict(enable=False, base_batch_size=16),
            "test_evaluator.iou_metrics": ["mIoU"],
        },
    )
    # The rest of the optimiser's settings is tested by what comes of it.
    assert set(cfg.optim_wrapper) == {"type", "optimizer", "clip_grad", "paramwise_cfg"}
    assert set(cfg.model) == {
        "type", "pretrained", "backbone", "data_preprocessor", "decode_head", "auxiliary_head",
        "train_cfg", "test_cfg",
    }  # fmt: skip
    train = {step["type"]: step for step in cfg.train_dataloader.dataset.pipeline}
    assert list(train) == [
        "LoadImageFromFile", "LoadAnnotations", "RandomResize", "RandomCrop", "RandomFlip",
        "PhotoMetricDistortion", "PackSegInputs",
    ]  # fmt: skip
    assert tuple(train["RandomResize"]["scale"]) == (2048, 512)
    assert tuple(train["RandomResize"]["ratio_range"]) == (0.5, 2.0)
    assert tuple(train["RandomCrop"]["crop_size"]) == (512, 512)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        test = {step["type"]: step for step in loader.dataset.pipeline}
        assert list(test) == ["LoadImageFromFile", "Resize", "LoadAnnotations", "PackSegInputs"]
        assert tuple(test["Resize"]["scale"]) == (2048, 512) and test["Resize"]["keep_ratio"]


@pytest.mark.parametrize("name", ["convformer_s18", "caformer_s18"])
def test_optimiser_of_upernet(name, build):
    """No weight decay on norms, ten times the learning rate in the heads."""
    cfg, model = build(path(name, "upernet"))
    norms = (nn.LayerNorm, nn.GroupNorm, _BatchNorm)
    ours = tuple(MODELS.get(name) for name in ("LN2d", "MLN"))
    of_norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, norms + ours)
        for name, _ in module.named_parameters(recurse=False)
    }
    assert {name.partition(".")[0] for name in of_norms} == {
        "backbone", "decode_head", "auxiliary_head",
    }  # fmt: skip
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    found = {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    expected = {
        name: (
            1e-3 if name.startswith(("decode_head.", "auxiliary_head.")) else 1e-4,
            0.0 if name in of_norms else 0.05,
        )
        for name in names.values()
    }
    assert found == expected
