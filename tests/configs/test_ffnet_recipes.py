"""FFNet's own recipes: every value of the merged configs against the published one.

The values are written out here, from the release (arXiv 2406.02021) and from the recipes that it
builds on, and not read from our configs. Names, ``num_workers`` and the like apart, whole sections
are compared, so that nothing can be added either.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from PIL import Image
from torch import nn

from mmmetaformer import MODELS

FFNET = "https://github.com/ysj9909/FFNet/releases/download/v1.0"
CHANNELS = {
    "2": [88, 176, 352, 704],
    "3": [96, 192, 384, 768],
    "4": [128, 256, 512, 1024],
    "seg": [96, 192, 384, 768],
}
CASCADE = "ffnet/cascade-mask-rcnn_ffnet-{}_fpn_3x_coco.py"
UPERNET = "ffnet/ffnet-{}_upernet_8xb2-160k_ade20k-512x512.py"
SEG_ADE20K = "ffnet/ffnet-seg_ffnethead_8xb2-160k_ade20k-512x512.py"
SEG_CITYSCAPES = "ffnet/ffnet-seg_ffnethead_8xb2-160k_cityscapes-1024x1024.py"

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
SYNC_BN = dict(type="SyncBN")
# As most of OpenMMLab's configs spell it.
TRAINED_SYNC_BN = dict(type="SyncBN", requires_grad=True)


def listed(node: Any) -> Any:
    """Tuples as lists: configs do not care."""
    if isinstance(node, dict):
        return {key: listed(value) for key, value in node.items()}
    return [listed(value) for value in node] if isinstance(node, list | tuple) else node


def assert_sections(cfg: Config, sections: dict[str, Any]) -> None:
    """Whole sections of a config by their dotted paths."""
    for path, expected in sections.items():
        node = cfg.to_dict()
        for key in path.split("."):
            node = node.get(key) if isinstance(node, dict) else None
        assert listed(node) == listed(expected), path


def pretrained(file: str) -> dict:
    return dict(type="Pretrained", checkpoint=f"{FFNET}/{file}")


# Cascade Mask R-CNN

# By arch: drop path, LayerScale, checkpoint.
CASCADES = {
    "2": (0.35, {}, "ffnet_2_distillation.pth.tar"),
    "3": (0.6, dict(layer_scale_init_value=1.0), "ffnet_3_distillation.pth.tar"),
    "4": (0.6, dict(layer_scale_init_value=1.0), "ffnet_4_384.pth.tar"),
}
SIDES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
RESIZE = dict(
    type="RandomChoiceResize", scales=[[side, 1333] for side in SIDES], keep_ratio=True
)  # fmt: skip
# Either resized or resized, cropped and resized.
COCO_TRAIN = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="RandomChoice",
        transforms=[
            [RESIZE],
            [
                dict(
                    type="RandomChoiceResize",
                    scales=[[400, 1333], [500, 1333], [600, 1333]],
                    keep_ratio=True,
                ),
                dict(
                    type="RandomCrop",
                    crop_type="absolute_range",
                    crop_size=[384, 600],
                    allow_negative_crop=True,
                ),
                RESIZE,
            ],
        ],
    ),
    dict(type="PackDetInputs"),
]
COCO_TEST = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="Resize", scale=[1333, 800], keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        meta_keys=["img_id", "img_path", "ori_shape", "img_shape", "scale_factor"],
    ),
]


def bbox_head(stds: list[float]) -> dict:
    """One stage of the cascade: four convolutions, one linear layer, GIoU on decoded boxes."""
    return dict(
        type="ConvFCBBoxHead",
        num_shared_convs=4,
        num_shared_fcs=1,
        in_channels=256,
        conv_out_channels=256,
        fc_out_channels=1024,
        roi_feat_size=7,
        num_classes=80,
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stds),
        reg_class_agnostic=False,
        reg_decoded_bbox=True,
        norm_cfg=TRAINED_SYNC_BN,
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
    )


def roi_extractor(size: int) -> dict:
    return dict(
        type="SingleRoIExtractor",
        roi_layer=dict(type="RoIAlign", output_size=size, sampling_ratio=0),
        out_channels=256,
        featmap_strides=[4, 8, 16, 32],
    )


def rcnn_training(iou: float) -> dict:
    return dict(
        assigner=dict(
            type="MaxIoUAssigner", pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou,
            match_low_quality=False, ignore_iof_thr=-1,
        ),
        sampler=dict(
            type="RandomSampler", num=512, pos_fraction=0.25, neg_pos_ub=-1,
            add_gt_as_proposals=True,
        ),
        mask_size=28,
        pos_weight=-1,
        debug=False,
    )  # fmt: skip


def cascade(arch: str) -> dict:
    drop_path, layer_scale, checkpoint = CASCADES[arch]
    return dict(
        type="CascadeRCNN",
        data_preprocessor=dict(
            type="DetDataPreprocessor",
            mean=MEAN,
            std=STD,
            bgr_to_rgb=True,
            pad_mask=True,
            pad_size_divisor=32,
        ),
        backbone=dict(
            type="mmmetaformer.FFNet",
            arch=arch,
            inner_norm_cfg=SYNC_BN,
            drop_path_rate=drop_path,
            init_cfg=pretrained(checkpoint),
            **layer_scale,
        ),
        neck=dict(type="FPN", in_channels=CHANNELS[arch], out_channels=256, num_outs=5),
        rpn_head=dict(
            type="RPNHead",
            in_channels=256,
            feat_channels=256,
            anchor_generator=dict(
                type="AnchorGenerator",
                scales=[8],
                ratios=[0.5, 1.0, 2.0],
                strides=[4, 8, 16, 32, 64],
            ),
            bbox_coder=dict(
                type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4
            ),
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
            loss_bbox=dict(type="SmoothL1Loss", beta=1 / 9, loss_weight=1.0),
        ),
        roi_head=dict(
            type="CascadeRoIHead",
            num_stages=3,
            stage_loss_weights=[1, 0.5, 0.25],
            bbox_roi_extractor=roi_extractor(7),
            bbox_head=[
                bbox_head([0.1, 0.1, 0.2, 0.2]),
                bbox_head([0.05, 0.05, 0.1, 0.1]),
                bbox_head([0.033, 0.033, 0.067, 0.067]),
            ],
            mask_roi_extractor=roi_extractor(14),
            mask_head=dict(
                type="FCNMaskHead",
                num_convs=4,
                in_channels=256,
                conv_out_channels=256,
                num_classes=80,
                loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
            ),
        ),
        train_cfg=dict(
            rpn=dict(
                assigner=dict(
                    type="MaxIoUAssigner", pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3,
                    match_low_quality=True, ignore_iof_thr=-1,
                ),
                sampler=dict(
                    type="RandomSampler", num=256, pos_fraction=0.5, neg_pos_ub=-1,
                    add_gt_as_proposals=False,
                ),
                allowed_border=0,
                pos_weight=-1,
                debug=False,
            ),
            rpn_proposal=dict(
                nms_pre=2000, max_per_img=2000, nms=dict(type="nms", iou_threshold=0.7),
                min_bbox_size=0,
            ),
            rcnn=[rcnn_training(iou) for iou in (0.5, 0.6, 0.7)],
        ),
        test_cfg=dict(
            rpn=dict(
                nms_pre=1000, max_per_img=1000, nms=dict(type="nms", iou_threshold=0.7),
                min_bbox_size=0,
            ),
            rcnn=dict(
                score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100,
                mask_thr_binary=0.5,
            ),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("arch", CASCADES)
def test_cascade_mask_rcnn(arch, load):
    """36 epochs of 8 x 2 images in float32."""
    ema = dict(
        type="EMAHook",
        ema_type="ExpMomentumEMA",
        momentum=1e-4,
        update_buffers=True,
        priority=49,
    )
    assert_sections(
        load(CASCADE.format(arch)),
        {
            "default_scope": "mmdet",
            "model": cascade(arch),
            "train_dataloader.batch_size": 2,
            "train_dataloader.sampler": dict(type="DefaultSampler", shuffle=True),
            "train_dataloader.batch_sampler": dict(type="AspectRatioBatchSampler"),
            "train_dataloader.dataset": dict(
                type="CocoDataset",
                data_root="data/coco/",
                ann_file="annotations/instances_train2017.json",
                data_prefix=dict(img="train2017/"),
                filter_cfg=dict(filter_empty_gt=True, min_size=32),
                pipeline=COCO_TRAIN,
                backend_args=None,
            ),
            "val_dataloader.dataset.ann_file": "annotations/instances_val2017.json",
            "val_dataloader.dataset.data_prefix": dict(img="val2017/"),
            "val_dataloader.dataset.pipeline": COCO_TEST,
            "test_dataloader.dataset.ann_file": "annotations/instances_val2017.json",
            "test_dataloader.dataset.data_prefix": dict(img="val2017/"),
            "test_dataloader.dataset.pipeline": COCO_TEST,
            "test_evaluator.metric": ["bbox", "segm"],
            "val_evaluator.metric": ["bbox", "segm"],
            "train_cfg": dict(type="EpochBasedTrainLoop", max_epochs=36, val_interval=1),
            "optim_wrapper": dict(
                type="OptimWrapper",
                constructor="mmmetaformer.LayerDecayOptimWrapperConstructor",
                optimizer=dict(type="AdamW", lr=1e-4, betas=[0.9, 0.999], weight_decay=0.05),
                paramwise_cfg=dict(decay_rate=0.8, num_layers=12, as_released=True),
            ),
            "param_scheduler": [
                dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
                dict(
                    type="MultiStepLR", begin=0, end=36, by_epoch=True, milestones=[27, 33],
                    gamma=0.1,
                ),
            ],
            "custom_hooks": [ema] if arch == "4" else None,
            "default_hooks.checkpoint": dict(
                type="CheckpointHook", interval=1, max_keep_ckpts=5, save_best="auto"
            ),
            "auto_scale_lr": dict(enable=False, base_batch_size=16),
        },
    )  # fmt: skip


# Segmentation

# By arch: drop path, LayerScale, checkpoint, decay of the learning rate, layers that it counts.
UPERNETS = {
    "2": (0.2, {}, "ffnet_2_distillation.pth.tar", 1.0, 9),
    "3": (0.3, dict(layer_scale_init_value=1.0), "ffnet_3_distillation.pth.tar", 0.9, 12),
    "4": (0.3, dict(layer_scale_init_value=1.0), "ffnet_4_384.pth.tar", 0.9, 12),
}
POLY = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, begin=0, end=160000, by_epoch=False),
]
ADE20K_TEST = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=[2048, 512], keep_ratio=True),
    dict(type="ResizeToMultiple", size_divisor=32),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
CITYSCAPES_TEST = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=[2048, 1024], keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
ADE20K_FOLDERS = {
    "train": dict(img_path="images/training", seg_map_path="annotations/training"),
    "val": dict(img_path="images/validation", seg_map_path="annotations/validation"),
}
CITYSCAPES_FOLDERS = {
    "train": dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
    "val": dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
}


def segmentation_training(scale: list[int], crop: list[int], labels: dict) -> list[dict]:
    return [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", **labels),
        dict(type="RandomResize", scale=scale, ratio_range=[0.5, 2.0], keep_ratio=True),
        dict(type="RandomCrop", crop_size=crop, cat_max_ratio=0.75),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PhotoMetricDistortion"),
        dict(type="PackSegInputs"),
    ]


def segmentation_preprocessor(side: int) -> dict:
    return dict(
        type="SegDataPreProcessor",
        mean=MEAN,
        std=STD,
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=[side, side],
    )


def datasets(kind: str, root: str, folders: dict, train: list, test: list) -> dict:
    """Sections of the data: 2 images in each process."""
    sections = {
        "train_dataloader.batch_size": 2,
        "train_dataloader.sampler": dict(type="InfiniteSampler", shuffle=True),
    }
    for loader, part, pipeline in (
        ("train", "train", train), ("val", "val", test), ("test", "val", test),
    ):  # fmt: skip
        sections[f"{loader}_dataloader.dataset"] = dict(
            type=kind, data_root=root, data_prefix=folders[part], pipeline=pipeline
        )
    return sections


ADE20K = datasets(
    "ADE20KDataset",
    "data/ade/ADEChallengeData2016",
    ADE20K_FOLDERS,
    segmentation_training([2048, 512], [512, 512], dict(reduce_zero_label=True)),
    ADE20K_TEST,
)
CITYSCAPES = datasets(
    "CityscapesDataset",
    "data/cityscapes/",
    CITYSCAPES_FOLDERS,
    segmentation_training([2048, 1024], [1024, 1024], {}),
    CITYSCAPES_TEST,
)
SEGMENTATION_SCHEDULE = {
    "default_scope": "mmseg",
    "train_cfg": dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=4000),
    "param_scheduler": POLY,
    "val_evaluator": dict(type="IoUMetric", iou_metrics=["mIoU"]),
    "test_evaluator": dict(type="IoUMetric", iou_metrics=["mIoU"]),
    "custom_hooks": None,
    "auto_scale_lr": dict(enable=False, base_batch_size=16),
}


@pytest.mark.parametrize("name", [UPERNET.format("2"), SEG_ADE20K])
def test_learning_rate_of_every_iteration_is_that_of_mmcv_1(name, load):
    """The release trained with mmcv 1: a polynomial from iteration 0 on, times a linear warm-up."""
    cfg = load(name)
    base, warm_up, ratio, iterations = 1.0, 1500, 1e-6, 160000
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    schedulers = [
        PARAM_SCHEDULERS.build(options.to_dict(), default_args=dict(optimizer=optimizer))
        for options in cfg.param_scheduler
    ]
    rates = np.empty(iterations)
    optimizer.step()  # torch warns of schedulers that come first
    for iteration in range(iterations):
        rates[iteration] = optimizer.param_groups[0]["lr"]
        for scheduler in schedulers:
            scheduler.step()

    step = np.arange(iterations)
    published = base * (1 - step / iterations)
    warming = 1 - (1 - step / warm_up) * (1 - ratio)
    published[:warm_up] *= warming[:warm_up]
    # mmengine divides by one iteration less: t / 1499 and t / 159999.
    assert np.abs(rates - published)[:warm_up].max() <= 1 / (warm_up - 1)
    assert np.abs(rates - published)[warm_up:].max() <= 1 / (iterations - 1)


@pytest.mark.parametrize("arch", UPERNETS)
def test_upernet(arch, load):
    """160k iterations of 8 x 2 images; tested on whole images."""
    drop_path, layer_scale, checkpoint, decay, layers = UPERNETS[arch]
    head = dict(norm_cfg=TRAINED_SYNC_BN, dropout_ratio=0.1, num_classes=150, align_corners=False)
    model = dict(
        type="EncoderDecoder",
        pretrained=None,
        data_preprocessor=segmentation_preprocessor(512),
        backbone=dict(
            type="mmmetaformer.FFNet",
            arch=arch,
            inner_norm_cfg=SYNC_BN,
            drop_path_rate=drop_path,
            init_cfg=pretrained(checkpoint),
            **layer_scale,
        ),
        decode_head=dict(
            head,
            type="UPerHead",
            in_channels=CHANNELS[arch],
            in_index=[0, 1, 2, 3],
            pool_scales=[1, 2, 3, 6],
            channels=512,
            loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
        ),
        auxiliary_head=dict(
            head,
            type="FCNHead",
            in_channels=CHANNELS[arch][2],
            in_index=2,
            channels=256,
            num_convs=1,
            concat_input=False,
            loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
        ),
        train_cfg={},
        test_cfg=dict(mode="whole"),
    )
    assert_sections(
        load(UPERNET.format(arch)),
        {
            **SEGMENTATION_SCHEDULE,
            **ADE20K,
            "model": model,
            "default_hooks.checkpoint": dict(
                type="CheckpointHook", by_epoch=False, interval=4000, max_keep_ckpts=20,
                save_best="mIoU",
            ),
            "optim_wrapper": dict(
                type="OptimWrapper",
                constructor="mmmetaformer.LayerDecayOptimWrapperConstructor",
                optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
                paramwise_cfg=dict(decay_rate=decay, num_layers=layers, as_released=True),
                clip_grad=None,
            ),
        },
    )  # fmt: skip


# By config: side of the crop, classes, drop path of the backbone, depth, expansion and drop path of
# the head, test_cfg, weight decay.
# fmt: off
FFNET_SEG = {
    SEG_ADE20K: (512, 150, 0.3, 3, 4, 0.1, dict(mode="whole"), 0.05),
    SEG_CITYSCAPES: (
        1024, 19, 0.35, 5, 1, 0.0,
        dict(mode="slide", crop_size=[1024, 1024], stride=[768, 768]), 0.02,
    ),
}
# fmt: on


@pytest.mark.parametrize("name", FFNET_SEG)
def test_ffnet_seg(name, load):
    side, classes, drop_path, depth, ratio, head_drop_path, test_cfg, decay = FFNET_SEG[name]
    model = dict(
        type="EncoderDecoder",
        data_preprocessor=segmentation_preprocessor(side),
        backbone=dict(
            type="mmmetaformer.FFNet",
            arch="seg",
            out_indices=[1, 2, 3],
            inner_norm_cfg=SYNC_BN,
            drop_path_rate=drop_path,
            init_cfg=pretrained("ffnet_seg.pth.tar"),
        ),
        decode_head=dict(
            type="mmmetaformer.FFNetHead",
            in_channels=CHANNELS["seg"][1:],
            channels=1024,
            num_classes=classes,
            head_width=256,
            head_depth=depth,
            spatial_kernel=9,
            channel_kernel=9,
            ratio=ratio,
            drop_path_rate=head_drop_path,
            dropout_ratio=0.1,
            norm_cfg=SYNC_BN,
            align_corners=False,
            loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
        ),
        train_cfg={},
        test_cfg=test_cfg,
    )
    assert_sections(
        load(name),
        {
            **SEGMENTATION_SCHEDULE,
            **(ADE20K if name == SEG_ADE20K else CITYSCAPES),
            "model": model,
            "default_hooks.checkpoint": dict(type="CheckpointHook", by_epoch=False, interval=4000),
            "optim_wrapper": dict(
                type="OptimWrapper",
                optimizer=dict(type="AdamW", lr=6e-5, betas=[0.9, 0.999], weight_decay=decay),
                paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))),
                clip_grad=None,
            ),
        },
    )


@pytest.mark.parametrize("arch", CHANNELS)
def test_channels(arch):
    """The table above against the networks, without memory for them."""
    with torch.device("meta"):
        assert list(MODELS.get("FFNet")(arch).out_channels) == CHANNELS[arch]


# What comes of the configs


def optimised(name: str, build) -> tuple[nn.Module, dict[str, tuple[float, float]]]:
    """The model, and learning rate and weight decay of each parameter by its name."""
    with torch.device("meta"):
        cfg, model = build(name)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    assert set(found) == set(names.values())
    return model, found


@pytest.mark.parametrize("name", FFNET_SEG)
def test_optimiser_of_ffnet_seg(name, build):
    """The whole head at ten times the rate; nothing is exempt from weight decay."""
    model, found = optimised(name, build)
    decay = FFNET_SEG[name][-1]
    assert {name.partition(".")[0] for name in found} == {"backbone", "decode_head"}
    wrong = {
        name: values
        for name, values in found.items()
        if values != pytest.approx((6e-4 if name.startswith("decode_head.") else 6e-5, decay))
    }
    assert wrong == {}


# lr 1e-4 times decay ** (13 - layer); FFNet-3 has 4, 4, 22 and 5 blocks.
RATES = {
    "2": {"": 1e-4},
    "3": {
        r"backbone\.downsample_layers\.0\.": 1e-4,
        r"backbone\.stages\.0\.": 2.824295e-05,
        r"backbone\.(downsample_layers|stages)\.1\.": 3.138106e-05,
        r"backbone\.(downsample_layers\.2|stages\.2\.[01])\.": 3.486784e-05,
        r"backbone\.stages\.2\.[234]\.": 3.874205e-05,
        r"backbone\.stages\.2\.[567]\.": 4.304672e-05,
        r"backbone\.stages\.2\.([89]|10)\.": 4.782969e-05,
        r"backbone\.stages\.2\.1[123]\.": 5.31441e-05,
        r"backbone\.stages\.2\.1[456]\.": 5.9049e-05,
        r"backbone\.stages\.2\.1[789]\.": 6.561e-05,
        r"backbone\.stages\.2\.2[01]\.": 7.29e-05,
        r"backbone\.(downsample_layers|stages)\.3\.": 9e-05,
        r"backbone\.norm[0-3]\.|(decode|auxiliary)_head\.": 1e-4,
    },
}


# lr 1e-4 times 0.8 ** (13 - layer); FFNet-2 has 3, 3, 15 and 3 blocks.
CASCADE_RATES = {
    r"backbone\.downsample_layers\.0\.": 1e-4,
    r"backbone\.stages\.0\.": 6.871948e-06,
    r"backbone\.(downsample_layers|stages)\.1\.": 8.589935e-06,
    r"backbone\.(downsample_layers\.2|stages\.2\.[01])\.": 1.073742e-05,
    r"backbone\.stages\.2\.[234]\.": 1.342177e-05,
    r"backbone\.stages\.2\.[567]\.": 1.677722e-05,
    r"backbone\.stages\.2\.([89]|10)\.": 2.097152e-05,
    r"backbone\.stages\.2\.1[123]\.": 2.621440e-05,
    r"backbone\.stages\.2\.14\.": 3.276800e-05,
    r"backbone\.(downsample_layers|stages)\.3\.": 8e-05,
    r"backbone\.norm[0-3]\.|neck\.|rpn_head\.|roi_head\.": 1e-4,
}


def test_optimiser_of_cascade_mask_rcnn(build):
    """Of the config as it is, the norms of its heads included."""
    model, found = optimised(CASCADE.format("2"), build)
    expected = {}
    for name, parameter in model.named_parameters():
        (lr,) = [lr for pattern, lr in CASCADE_RATES.items() if re.match(pattern, name)]
        expected[name] = (pytest.approx(lr, rel=1e-6), 0.05 if parameter.ndim > 1 else 0.0)
    assert found == expected
    assert sum(".bn." in name or "_bn." in name for name in found if "roi_head" in name) == 24


@pytest.mark.parametrize("arch", RATES)
def test_optimiser_of_upernet(arch, build):
    model, found = optimised(UPERNET.format(arch), build)
    expected = {}
    for name, parameter in model.named_parameters():
        (lr,) = [lr for pattern, lr in RATES[arch].items() if re.match(pattern, name)]
        # As released, LayerScale has weight decay.
        decayed = parameter.ndim > 1 or "layer_scale" in name
        expected[name] = (pytest.approx(lr, rel=1e-6), 0.05 if decayed else 0.0)
    assert found == expected
    scales = [name for name in found if "layer_scale" in name]
    assert len(scales) == {"2": 0, "3": 2 * (4 + 4 + 22 + 5)}[arch]


# The data sets of the configs, one image each, in the folders that the configs name.

SIZE = (96, 128)


def write(path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True)
    Image.fromarray(values).save(path)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def write_coco(root) -> None:
    from mmdet.datasets import CocoDataset

    write(root / "train2017" / "1.png", picture())
    boxes = [[8, 4, 52, 36], [30, 20, 90, 70]]
    annotations = [
        dict(
            id=number,
            image_id=1,
            category_id=number,
            bbox=[x, y, w, h],
            area=w * h,
            iscrowd=0,
            segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
        )
        for number, (x, y, w, h) in zip((1, 80), boxes, strict=True)
    ]
    classes = CocoDataset.METAINFO["classes"]
    content = dict(
        images=[dict(id=1, file_name="1.png", height=SIZE[0], width=SIZE[1])],
        annotations=annotations,
        categories=[dict(id=number, name=name) for number, name in enumerate(classes, 1)],
    )
    file = root / "annotations" / "instances_train2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))


def write_ade20k(root) -> None:
    labels = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 151  # 0 is no class
    write(root / "images" / "training" / "ADE_train_1.jpg", picture())
    write(root / "annotations" / "training" / "ADE_train_1.png", labels.astype(np.uint8))


def write_cityscapes(root) -> None:
    labels = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 20
    labels[labels == 19] = 255
    write(root / "leftImg8bit" / "train" / "bonn" / "bonn_1_2_leftImg8bit.png", picture())
    file = root / "gtFine" / "train" / "bonn" / "bonn_1_2_gtFine_labelTrainIds.png"
    write(file, labels.astype(np.uint8))


def batch_of(cfg: Config, registries, root) -> dict:
    """Two images as the model gets them in training."""
    dataset = registries.DATASETS.build(dict(cfg.train_dataloader.dataset, data_root=str(root)))
    assert len(dataset) == 1
    preprocessor = registries.MODELS.build(cfg.model.data_preprocessor)
    return preprocessor(pseudo_collate([dataset[0], dataset[0]]), training=True)


@pytest.mark.parametrize("branch", [0, 1])
@pytest.mark.parametrize("arch", CASCADES)
def test_data_of_cascade_mask_rcnn(arch, branch, load, enter, tmp_path):
    """Through each branch of the augmentation."""
    write_coco(tmp_path)
    cfg = load(CASCADE.format(arch))
    (choice,) = [s for s in cfg.train_dataloader.dataset.pipeline if s.type == "RandomChoice"]
    choice.transforms = [choice.transforms[branch]]
    np.random.seed(0)
    batch = batch_of(cfg, enter(cfg), tmp_path)
    height, width = batch["inputs"].shape[2:]
    assert height % 32 == width % 32 == 0 and min(height, width) >= 480
    assert batch["inputs"].abs().max() < 3
    for sample in batch["data_samples"]:
        truth = sample.gt_instances
        assert tuple(truth.masks.to_ndarray().shape) == (len(truth), height, width)
        # The crop may leave one of the two out.
        labels = truth.labels.tolist()
        assert labels == [0, 79] if branch == 0 else set(labels) <= {0, 79}


@pytest.mark.parametrize(
    "name", [*(UPERNET.format(arch) for arch in UPERNETS), SEG_ADE20K, SEG_CITYSCAPES]
)
def test_data_of_segmentation(name, load, enter, tmp_path):
    """Label maps lose nothing but what has no class; images are as large as the crop."""
    (write_cityscapes if name == SEG_CITYSCAPES else write_ade20k)(tmp_path)
    cfg = load(name)
    np.random.seed(0)
    batch = batch_of(cfg, enter(cfg), tmp_path)
    side, classes = (1024, 19) if name == SEG_CITYSCAPES else (512, 150)
    assert tuple(batch["inputs"].shape) == (2, 3, side, side)
    for sample in batch["data_samples"]:
        labels = sample.gt_sem_seg.data
        assert tuple(labels.shape) == (1, side, side)
        assert set(labels.unique().tolist()) == {*range(classes), 255}
