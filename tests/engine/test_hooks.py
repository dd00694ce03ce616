"""What the tools refuse between reading a checkpoint and copying it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from mmmetaformer import MetaFormer
from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.hooks import CompleteCheckpointHook
from mmmetaformer.weights import WeightsError

TRAINING = dict(meta=dict(epoch=1, iter=10), message_hub={}, optimizer={})


class Model(nn.Module):
    """A backbone, a neck and a head, as far as names go."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = MetaFormer(dict(depths=[1] * 4, dims=[8, 12, 16, 20]))
        self.head = nn.Linear(2, 3)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return Model().state_dict()


def check(use: str, weights: dict, **more: object) -> None:
    runner = SimpleNamespace(model=Model(), test_loop=None)
    CompleteCheckpointHook(use).after_load_checkpoint(runner, dict(state_dict=weights, **more))


@pytest.mark.parametrize("use", ["test", "load_from", "resume"])
def test_a_whole_checkpoint_passes(use, state):
    assert check(use, state, **TRAINING) is None


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (dict([("head.weight", None)]), {"test", "resume"}),
        (dict([("head.weight", torch.zeros(4, 2)), ("head.bias", torch.zeros(4))]),
         {"test", "resume"}),
        (dict([("backbone.stages.0.0.norm1.weight", None)]), {"test", "load_from", "resume"}),
        (dict([("backbone.stages.0.0.norm1.weight", torch.zeros(9))]),
         {"test", "load_from", "resume"}),
        (dict([("backbone.stages.0.1.norm1.weight", torch.zeros(8))]),
         {"test", "load_from", "resume"}),
        (dict([("head.bias", torch.full((3,), float("inf")))]), {"test", "load_from", "resume"}),
        (dict([("head.bias", torch.zeros(3).long())]), {"test", "load_from", "resume"}),
        (dict([("head.other", torch.zeros(3))]), set()),
        (dict([("backbone.norm0.weight", None), ("backbone.norm0.bias", None)]),
         {"test", "resume"}),
    ],
)  # fmt: skip
def test_what_each_use_refuses(change, refused, state):
    """Fine-tuning takes another head, and a backbone without the norm of an output."""
    weights = {name: t for name, t in (state | change).items() if t is not None}
    for use in ("test", "load_from", "resume"):
        if use not in refused:
            check(use, weights, **TRAINING)
            continue
        with pytest.raises((UserError, WeightsError), match="fit") as caught:
            check(use, weights, **TRAINING)
        assert next(iter(change)).removeprefix("backbone.") in str(caught.value)


@pytest.mark.parametrize(
    ("content", "absent"),
    [
        (dict(meta={}), "epoch, iter, message_hub"),
        (dict(meta=None), "epoch, iter, message_hub"),
        (dict(meta=dict(epoch=1, iter=10)), "message_hub"),
        (dict(meta=dict(mmdet_version="2.28", epoch=12), message_hub={}), "iter"),
    ],
)
def test_weights_alone_are_nothing_to_resume_from(content, absent, state):
    with pytest.raises(UserError, match=f"it has no {absent}: --cfg-options load_from=CHECKPOINT"):
        check("resume", state, **content)
    check("load_from", state, **content)


def test_a_use_that_does_not_exist():
    with pytest.raises(ValueError, match="use must be 'test', 'load_from' or 'resume', got 'val'"):
        CompleteCheckpointHook("val")
