"""Every published setting of the PoolFormer recipes against the merged configs.

The values are written out here from the released configs and the paper and not read from ours.
"""

from __future__ import annotations

import pytest

URL = "https://github.com/sail-sg/poolformer/releases/download/v1.0/poolformer_{}.pth.tar"
DIMS = {"s": [64, 128, 320, 512], "m": [96, 192, 384, 768]}
DETECTION = [(head, arch) for head in ("mask-rcnn", "retinanet") for arch in ("s12", "s24", "s36")]
# The same recipe for sizes without a published result.
UNPUBLISHED = [("mask-rcnn", "m36"), ("mask-rcnn", "m48")]
SEGMENTATION = ["s12", "s24", "s36", "m36", "m48"]

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
LEARNING_RATE = {"mask-rcnn": 2e-4, "retinanet": 1e-4}


@pytest.mark.parametrize(("head", "arch"), DETECTION + UNPUBLISHED)
def test_detection(head, arch, load, assert_settings):
    cfg = load(f"poolformer/{head}_poolformer-{arch}_fpn_1x_coco.py")
    instance = head == "mask-rcnn"
    assert_settings(
        cfg,
        {
            "model.backbone.type": "mmmetaformer.PoolFormer",
            "model.backbone.arch": arch,
            "model.backbone.init_cfg": dict(type="Pretrained", checkpoint=URL.format(arch)),
            "model.data_preprocessor.mean": MEAN,
            "model.data_preprocessor.std": STD,
            "model.data_preprocessor.bgr_to_rgb": True,
            "model.data_preprocessor.pad_size_divisor": 32,
            "model.neck.type": "FPN",
            "model.neck.in_channels": DIMS[arch[0]] if instance else DIMS["s"][1:],
            "model.neck.out_channels": 256,
            "model.neck.num_outs": 5,
            "train_dataloader.batch_size": 2,
            "train_dataloader.dataset.type": "CocoDataset",
            "train_dataloader.dataset.ann_file": "annotations/instances_train2017.json",
            "train_cfg.type": "EpochBasedTrainLoop",
            "train_cfg.max_epochs": 12,
            "optim_wrapper.type": "OptimWrapper",
            "optim_wrapper.optimizer": dict(
                type="AdamW", lr=LEARNING_RATE[head], weight_decay=1e-4
            ),
            "param_scheduler.0": dict(
                type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500
            ),
            "param_scheduler.1": dict(
                type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1
            ),
            "auto_scale_lr": dict(enable=False, base_batch_size=16),
            "test_evaluator.metric": ["bbox", "segm"] if instance else "bbox",
        },
    )
    # No clipping, no drop path, nothing frozen, no exception from the weight decay.
    assert set(cfg.optim_wrapper) == {"type", "optimizer"}
    assert set(cfg.model.backbone) == {"type", "arch", "init_cfg"} | (
        set() if instance else {"out_indices"}
    )
    pipeline = {step["type"]: step for step in cfg.train_dataloader.dataset.pipeline}
    assert list(pipeline) == [
        "LoadImageFromFile", "LoadAnnotations", "Resize", "RandomFlip", "PackDetInputs",
    ]  # fmt: skip
    assert tuple(pipeline["Resize"]["scale"]) == (1333, 800)
    assert pipeline["Resize"]["keep_ratio"] is True
    assert pipeline["RandomFlip"]["prob"] == 0.5


@pytest.mark.parametrize("arch", ["s12", "s24", "s36"])
def test_retinanet_pyramid(arch, load):
    """start_level 1 of four maps is start_level 0 of the last three."""
    cfg = load(f"poolformer/retinanet_poolformer-{arch}_fpn_1x_coco.py")
    assert tuple(cfg.model.backbone.out_indices) == (1, 2, 3)
    assert cfg.model.neck.start_level == 0
    assert cfg.model.neck.add_extra_convs == "on_input"
    assert cfg.model.bbox_head.anchor_generator.strides == [8, 16, 32, 64, 128]


@pytest.mark.parametrize("arch", SEGMENTATION)
def test_segmentation(arch, load, assert_settings):
    cfg = load(f"poolformer/poolformer-{arch}_fpn_8xb4-40k_ade20k-512x512.py")
    assert_settings(
        cfg,
        {
            "model.pretrained": None,
            "model.backbone.type": "mmmetaformer.PoolFormer",
            "model.backbone.arch": arch,
            "model.backbone.init_cfg": dict(type="Pretrained", checkpoint=URL.format(arch)),
            "model.data_preprocessor.mean": MEAN,
            "model.data_preprocessor.std": STD,
            "model.data_preprocessor.size": [512, 512],
            "model.data_preprocessor.seg_pad_val": 255,
            "model.neck.type": "FPN",
            "model.neck.in_channels": DIMS[arch[0]],
            "model.neck.out_channels": 256,
            "model.neck.num_outs": 4,
            "model.decode_head.type": "FPNHead",
            "model.decode_head.channels": 128,
            "model.decode_head.dropout_ratio": 0.1,
            "model.decode_head.num_classes": 150,
            "model.decode_head.norm_cfg.type": "SyncBN",
            "model.decode_head.feature_strides": [4, 8, 16, 32],
            "model.test_cfg.mode": "whole",
            "train_dataloader.batch_size": 4,
            "train_dataloader.dataset.type": "ADE20KDataset",
            "train_cfg": dict(type="IterBasedTrainLoop", max_iters=40000, val_interval=4000),
            "optim_wrapper.type": "OptimWrapper",
            "optim_wrapper.clip_grad": None,
            "optim_wrapper.optimizer": dict(type="AdamW", lr=2e-4, weight_decay=1e-4),
            "param_scheduler": [
                dict(type="PolyLR", eta_min=0.0, power=0.9, begin=0, end=40000, by_epoch=False)
            ],
            "auto_scale_lr": dict(enable=False, base_batch_size=32),
            "test_evaluator.iou_metrics": ["mIoU"],
        },
    )
    assert set(cfg.optim_wrapper) == {"type", "optimizer", "clip_grad"}
    assert set(cfg.model.backbone) == {"type", "arch", "init_cfg"}
    train = {step["type"]: step for step in cfg.train_dataloader.dataset.pipeline}
    assert list(train) == [
        "LoadImageFromFile", "LoadAnnotations", "RandomResize", "RandomCrop", "RandomFlip",
        "PhotoMetricDistortion", "PackSegInputs",
    ]  # fmt: skip
    assert train["LoadAnnotations"]["reduce_zero_label"] is True
    assert tuple(train["RandomResize"]["scale"]) == (2048, 512)
    assert tuple(train["RandomResize"]["ratio_range"]) == (0.5, 2.0)
    assert tuple(train["RandomCrop"]["crop_size"]) == (512, 512)
    assert train["RandomCrop"]["cat_max_ratio"] == 0.75
    assert train["RandomFlip"]["prob"] == 0.5
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        test = {step["type"]: step for step in loader.dataset.pipeline}
        assert list(test) == [
            "LoadImageFromFile", "Resize", "ResizeToMultiple", "LoadAnnotations", "PackSegInputs",
        ]  # fmt: skip
        assert tuple(test["Resize"]["scale"]) == (2048, 512) and test["Resize"]["keep_ratio"]
        assert test["ResizeToMultiple"]["size_divisor"] == 32


def test_these_are_all_recipes(root):
    names = {f"{head}_poolformer-{arch}_fpn_1x_coco.py" for head, arch in DETECTION + UNPUBLISHED}
    names |= {f"poolformer-{arch}_fpn_8xb4-40k_ade20k-512x512.py" for arch in SEGMENTATION}
    assert {path.name for path in (root / "configs/poolformer").glob("*.py")} == names
