"""Whole cases, on small images: what is measured, and what is refused."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from benchmarking import candidates
from benchmarking.candidates import BackboneModel, WholeModel
from benchmarking.cases import Settings, difference, run_cases
from benchmarking.implementations import read_implementations
from mmmetaformer.engine.errors import UserError

CPU = torch.device("cpu")
QUICK = Settings(rounds=2, runs=1, warmup=0)


def count(work) -> float:
    """A clock that shows each run to take one millisecond."""
    work()
    return 1.0


def cases_of(model, *texts: str, works=("inference", "training"), settings=QUICK):
    return list(run_cases(model, read_implementations(texts, "float32"), works, settings, count))


@pytest.fixture
def model():
    return BackboneModel("poolformer_s12", 2, (32, 48), CPU, optimiser_step=False)


def test_inference_and_training(model):
    settings = Settings(rounds=2, runs=1, warmup=0, profiled=True)
    inference, training = cases_of(
        model, "timm", "plain", "fused", "timm@bfloat16", settings=settings
    )
    assert (inference.work, training.work) == ("inference", "training")
    for case in (inference, training):
        assert case.size == (32, 48) and case.batch_size == 2
        timm, plain, fused, short = case.measured
        assert all(one.times == [1.0, 1.0] and one.speedups == [1.0, 1.0] for one in case.measured)
        assert timm.difference["rms"] < 1e-5 and plain.difference["max"] < 1e-6
        assert 0 < fused.difference["rms"] < 1e-5
        assert 1e-3 < short.difference["rms"] < 5e-2
        assert all(one.peak_bytes > 40 * 2**20 for one in case.measured)  # of which 46 MB weights
        assert all("Self CPU" in one.profile for one in case.measured)
    assert all(one.saved_bytes is None for one in inference.measured)
    timm, plain, fused, _ = training.measured
    assert timm.saved_bytes == plain.saved_bytes > 2 * fused.saved_bytes
    assert training.measured[0].peak_bytes > inference.measured[0].peak_bytes


def test_an_optimiser_step_changes_the_weights_and_needs_its_states():
    peaks = {}
    for step in (False, True):
        one = BackboneModel("poolformer_s12", 1, (32, 32), CPU, step)
        candidate = one.build(read_implementations(["timm"], "float32")[0])
        before = candidate.module.network.stem.conv.weight.clone()
        candidate.work("training")()
        changed = not torch.equal(before, candidate.module.network.stem.conv.weight)
        assert changed == step
        assert all(parameter.grad is None for parameter in candidate.module.parameters())
        (case,) = cases_of(one, "timm", works=["training"])
        peaks[step] = case.measured[0].peak_bytes
    assert peaks[True] > peaks[False] + 80 * 2**20


def test_compiled_and_channels_last(model, monkeypatch):
    monkeypatch.setattr(candidates, "BACKEND", "eager")
    for case in cases_of(model, "timm+compile", "plain+compile+channels_last"):
        assert all(one.difference["rms"] < 1e-5 for one in case.measured)
    innermost = model.build(read_implementations(["plain+channels_last"], "float32")[0])
    assert innermost.inputs()[0].is_contiguous(memory_format=torch.channels_last)
    assert innermost.module.stages[0][0].mlp.fc1.weight.is_contiguous(
        memory_format=torch.channels_last
    )


def test_another_function_is_refused(model, monkeypatch):
    build = BackboneModel.build

    def broken(self, implementation):
        candidate = build(self, implementation)
        if implementation.name == "timm":
            with torch.no_grad():
                candidate.module.network.stages[3].blocks[1].layer_scale2.scale.mul_(1.05)
        return candidate

    monkeypatch.setattr(BackboneModel, "build", broken)
    with pytest.raises(UserError, match="timm@float32 and plain@float32 are not the same function"):
        cases_of(model, "plain", "timm")


def test_a_size_that_a_library_refuses():
    mixer = BackboneModel("mlp_mixer_s32", 1, (96, 96), CPU, False)
    message = r"timm@float32 cannot run mlp_mixer_s32 at 96x96: .*doesn't match model"
    with pytest.raises(UserError, match=message):
        cases_of(mixer, "plain", "timm")


def test_maps_of_other_shapes_are_refused():
    """timm drops what is left over at the border."""
    mixer = BackboneModel("convmixer_768_32", 1, (36, 36), CPU, False)
    with pytest.raises(UserError, match=r"the maps of timm@float32 are \[\(1, 768, 5, 5\)"):
        cases_of(mixer, "plain", "timm")


def test_whole_model(root):
    """A detector with a tiny backbone; predictions, and steps with the optimiser of its config."""
    cfg = Config.fromfile(root / "configs/shapes/mask-rcnn_poolformer-s12_fpn_shapes.py")
    cfg.model.backbone.arch = dict(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32])
    cfg.model.neck.in_channels = [8, 16, 24, 32]
    model = WholeModel("mask-rcnn", 2, (64, 96), CPU, cfg)
    inference, training = cases_of(model, "plain", "fused")
    assert inference.measured[1].difference["rms"] < 1e-5
    assert training.measured[1].difference is None
    plain, fused = training.measured
    assert 0 < fused.saved_bytes < plain.saved_bytes
    one, other = (model.build(c) for c in read_implementations(["plain", "fused"], "float32"))
    assert (one.module.backbone.fused_path, other.module.backbone.fused_path) == (False, True)
    before = one.module.state_dict()["roi_head.mask_head.conv_logits.weight"].clone()
    assert torch.equal(before, other.module.state_dict()["roi_head.mask_head.conv_logits.weight"])
    one.work("training")()
    after = one.module.state_dict()["roi_head.mask_head.conv_logits.weight"]
    assert not torch.equal(before, after)
    with pytest.raises(UserError, match="mask-rcnn is a config: its backbone can be plain, fused"):
        cases_of(model, "timm")


def test_difference():
    """In standard deviations of what is expected; the worst tensor counts."""
    expected = [torch.tensor([0.0, 2.0, 4.0]), torch.tensor([10.0, 10.5, 11.0])]
    found = [torch.tensor([0.0, 2.0, 4.0]), torch.tensor([10.0, 10.0, 11.0])]
    assert difference(found, expected) == pytest.approx(dict(rms=(1 / 3) ** 0.5, max=1.0))
