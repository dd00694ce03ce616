"""Every config builds, has the published size, and takes one training and one test step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import InstanceData, PixelData

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    str(path.relative_to(ROOT / "configs"))
    for path in (ROOT / "configs").rglob("*.py")
    if "_base_" not in path.parts
)

# Counted from the published implementations.
PARAMETERS = {
    "poolformer/retinanet_poolformer-s12_fpn_1x_coco.py": 21_653_044,
    "poolformer/retinanet_poolformer-s24_fpn_1x_coco.py": 31_126_836,
    "poolformer/retinanet_poolformer-s36_fpn_1x_coco.py": 40_600_628,
    "poolformer/mask-rcnn_poolformer-s12_fpn_1x_coco.py": 31_570_608,
    "poolformer/mask-rcnn_poolformer-s24_fpn_1x_coco.py": 41_044_400,
    "poolformer/mask-rcnn_poolformer-s36_fpn_1x_coco.py": 50_518_192,
    "poolformer/poolformer-s12_fpn_8xb4-40k_ade20k-512x512.py": 15_669_846,
    "poolformer/poolformer-s24_fpn_8xb4-40k_ade20k-512x512.py": 25_143_638,
    "poolformer/poolformer-s36_fpn_8xb4-40k_ade20k-512x512.py": 34_617_430,
    "poolformer/poolformer-m36_fpn_8xb4-40k_ade20k-512x512.py": 59_778_006,
    "poolformer/poolformer-m48_fpn_8xb4-40k_ade20k-512x512.py": 77_078_934,
}


@pytest.fixture
def build():
    """A model from a config, without its pretrained weights; the default scope is put back."""
    before = dict(DefaultScope._instance_dict)

    def make(name: str):
        cfg = Config.fromfile(ROOT / "configs" / name)
        cfg.model.backbone.pop("init_cfg", None)
        DefaultScope._instance_dict.clear()
        init_default_scope(cfg.default_scope)
        if cfg.default_scope == "mmdet":
            from mmdet.registry import MODELS
        else:
            from mmseg.registry import MODELS
        return cfg, MODELS.build(cfg.model)

    yield make
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


def detection_sample(height: int, width: int, classes: int):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((2, height, width), np.uint8)
    masks[0, 4:40, 8:60] = 1
    masks[1, 20:60, 30:90] = 1
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(height, width), ori_shape=(height, width), pad_shape=(height, width),
            batch_input_shape=(height, width), scale_factor=(1.0, 1.0), img_id=1,
        )
    )  # fmt: skip
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 4, 60, 40], [30, 20, 90, 60]]),
        labels=torch.tensor([0, classes - 1]),
        masks=BitmapMasks(masks, height, width),
    )
    return sample


def segmentation_sample(height: int, width: int, classes: int):
    from mmseg.structures import SegDataSample

    sample = SegDataSample(
        metainfo=dict(img_shape=(height, width), ori_shape=(height, width), flip=False)
    )
    generator = torch.Generator().manual_seed(0)
    sample.gt_sem_seg = PixelData(
        data=torch.randint(0, classes, (1, height, width), generator=generator)
    )
    return sample


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters(name, build):
    _, model = build(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_every_published_config_has_its_count():
    assert {name for name in CONFIGS if name.startswith("poolformer/")} == set(PARAMETERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_one_step(name, build):
    """Loss, gradients for every parameter, a prediction of the right form; at an odd size."""
    cfg, model = build(name)
    detection = cfg.default_scope == "mmdet"
    height, width = (72, 104) if detection else (96, 96)
    if detection:
        head = cfg.model.get("bbox_head") or cfg.model.roi_head.bbox_head
        sample = detection_sample(height, width, head.num_classes)
    else:
        # Images of another size than the crop would be padded to it.
        model.data_preprocessor.size = (height, width)
        sample = segmentation_sample(height, width, cfg.model.decode_head.num_classes)
    batch = dict(
        inputs=[torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for _ in range(2)],
        data_samples=[sample, sample.clone()],
    )
    model.train()
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    total.backward()
    backbone = model.backbone
    without = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert without == []

    model.eval()
    batch["data_samples"] = [sample.clone(), sample.clone()]
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch, False), mode="predict")
    assert len(results) == 2
    for result in results:
        predicted = result.pred_instances.bboxes if detection else result.pred_sem_seg.data
        assert tuple(predicted.shape[1:]) == ((4,) if detection else (height, width))
