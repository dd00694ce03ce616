"""Whole detectors and segmentors fused for prediction; parts and backbones are tested in
tests/layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmetaformer import switch_to_deploy
from mmmetaformer.layers import ReparameterizedConv

CONFIGS = {
    "detector": "ffnet/mask-rcnn_ffnet-1_fpn_1x_coco.py",
    "segmentor": "ffnet/ffnet-seg_ffnethead_8xb2-160k_ade20k-512x512.py",
}
SIZE = (72, 104)


class Case(NamedTuple):
    """A model in eval mode, a fused copy, how to build another such, and an image."""

    model: nn.Module
    fused: nn.Module
    another: Callable[[], nn.Module]
    image: Tensor


@pytest.fixture(params=CONFIGS)
def case(request, build, randomize_norms) -> Case:
    def make() -> nn.Module:
        _, model = build(CONFIGS[request.param])
        if request.param == "detector":
            # Few regions; each class of random weights has a low score.
            model.rpn_head.test_cfg.max_per_img = 20
            model.roi_head.test_cfg.score_thr = 0.0
            model.roi_head.test_cfg.max_per_img = 10
        return model.eval()

    model = randomize_norms(make())
    fused = switch_to_deploy(copy.deepcopy(model))
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *SIZE, generator=generator)
    return Case(model, fused, lambda: switch_to_deploy(make()), image)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest, over the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def logits(model: nn.Module, image: Tensor) -> list[Tensor]:
    """All that the heads say, of given regions in a detector."""
    if not hasattr(model, "roi_head"):
        return [model(image, mode="tensor")]
    from mmengine.structures import InstanceData

    maps = model.extract_feat(image)
    boxes = image.new_tensor([[8, 4, 60, 40], [30, 20, 90, 60]])
    regions = model.roi_head(maps, [InstanceData(bboxes=boxes)], [sample(model)])
    assert len(regions) == 3  # classes, boxes, masks
    return [*sum(model.rpn_head(maps), []), *regions]


def sample(model: nn.Module):
    if hasattr(model, "roi_head"):
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmseg.structures import SegDataSample as Sample
    return Sample(
        metainfo=dict(
            img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE, batch_input_shape=SIZE,
            scale_factor=(1.0, 1.0), img_id=1, padding_size=[0] * 4,
        )
    )  # fmt: skip


@torch.no_grad()
def predict(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    (result,) = model(image, [sample(model)], mode="predict")
    if "pred_instances" not in result:
        return dict(logits=result.seg_logits.data, labels=result.pred_sem_seg.data)
    found = result.pred_instances
    assert len(found) == 10 and found.masks.any()
    return dict(
        boxes=found.bboxes, scores=found.scores, labels=found.labels, masks=found.masks.float()
    )


def test_the_same_predictions(case):
    """And no BatchNorm is left in backbone or head."""
    ours, theirs = predict(case.fused, case.image), predict(case.model, case.image)
    limits = dict(logits=1e-5, boxes=1e-5, scores=1e-4)
    found = {name: difference(ours[name], theirs[name]) for name in limits if name in theirs}
    # Rounding may take a pixel over a threshold.
    for name in {"labels", "masks"} & set(theirs):
        limits[name] = 1e-3
        found[name] = float((ours[name] != theirs[name]).float().mean())
    assert {name: value for name, value in found.items() if value > limits[name]} == {}
    assert any(isinstance(part, _BatchNorm) for part in case.model.modules())
    assert not any(isinstance(part, _BatchNorm) for part in case.fused.modules())


def test_the_same_logits_in_float64(case):
    image = case.image.double()
    case.model.double()
    theirs = logits(case.model, image)
    ours = logits(switch_to_deploy(case.model), image)
    assert max(map(difference, ours, theirs)) < 1e-12 and len(ours) == len(theirs)


def test_saved_and_loaded(case, tmp_path):
    """Into a model that was fused, too; the checkpoint of training does not fit there."""
    torch.save(case.fused.state_dict(), tmp_path / "fused.pth")
    again = case.another()
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict"):
        again.load_state_dict(case.model.state_dict(), strict=True)
    again.load_state_dict(torch.load(tmp_path / "fused.pth", weights_only=True), strict=True)
    torch.testing.assert_close(predict(again, case.image), predict(case.fused, case.image))
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict"):
        case.model.load_state_dict(case.fused.state_dict(), strict=True)


def state(model: nn.Module) -> tuple[list[type], dict[str, Tensor]]:
    return [type(part) for part in model.modules()], {
        name: value.clone() for name, value in model.state_dict().items()
    }


def test_in_training_mode_and_twice(case):
    """An error that changes nothing, even if a single part trains; and nothing to do."""
    part = next(part for part in case.model.modules() if isinstance(part, ReparameterizedConv))
    for training in (part, case.model):
        before = state(case.model)
        training.train()
        with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
            switch_to_deploy(case.model)
        kinds, values = state(case.model)
        assert kinds == before[0]
        torch.testing.assert_close(values, before[1], rtol=0, atol=0)
        case.model.eval()
    kinds, values = state(case.fused)
    assert switch_to_deploy(case.fused) is case.fused
    assert state(case.fused)[0] == kinds
    torch.testing.assert_close(state(case.fused)[1], values, rtol=0, atol=0)
