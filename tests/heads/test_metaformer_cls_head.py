"""The classifier of the MetaFormer baselines."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmmetaformer.heads import MetaFormerClsHead
from mmmetaformer.registry import MODELS


def test_linear(randomize):
    head = randomize(MetaFormerClsHead(8, 5)).eval()
    x = torch.randn(3, 8)
    expected = F.linear(
        F.layer_norm(x, (8,), head.norm.weight, head.norm.bias, 1e-6), head.fc.weight, head.fc.bias
    )
    torch.testing.assert_close(head((torch.zeros(3, 2), x)), expected)
    assert {name.partition(".")[0] for name in head.state_dict()} == {"norm", "fc"}


def test_hidden_layer(randomize):
    """fc1, squared ReLU, norm with torch's epsilon, fc2."""
    head = randomize(MetaFormerClsHead(8, 5, hidden_ratio=4)).eval()
    x = torch.randn(3, 8)
    y = F.layer_norm(x, (8,), head.norm.weight, head.norm.bias, 1e-6)
    y = F.relu(F.linear(y, head.fc1.weight, head.fc1.bias)) ** 2
    y = F.layer_norm(y, (32,), head.hidden_norm.weight, head.hidden_norm.bias, 1e-5)
    torch.testing.assert_close(head.pre_logits((x,)), y)
    torch.testing.assert_close(head((x,)), F.linear(y, head.fc2.weight, head.fc2.bias))


def test_dropout_is_in_front_of_the_last_layer():
    torch.manual_seed(0)
    head = MetaFormerClsHead(8, 5, hidden_ratio=4, dropout_ratio=0.5)
    x = (torch.randn(3, 8),)
    assert not torch.equal(head(x), head(x))
    assert torch.equal(head.pre_logits(x), head.pre_logits(x))
    head.eval()
    assert torch.equal(head(x), head(x))


def test_initialisation():
    head = MetaFormerClsHead(512, 1000, hidden_ratio=4)
    head.init_weights()
    for layer in (head.fc1, head.fc2):
        assert float(layer.weight.std()) == pytest.approx(0.02, rel=0.02)
        assert float(layer.bias.abs().max()) == 0


def test_by_name():
    """From a config, with mmpretrain's loss."""
    head = MODELS.build(
        dict(type="mmmetaformer.MetaFormerClsHead", in_channels=8, num_classes=5, topk=(1, 5),
             loss=dict(type="mmpretrain.LabelSmoothLoss", label_smooth_val=0.1, num_classes=5))
    )  # fmt: skip
    assert type(head) is MetaFormerClsHead
    assert type(head.loss_module).__name__ == "LabelSmoothLoss"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_classes=0), "num_classes must be positive, got 0"),
        (dict(hidden_ratio=0), "hidden_ratio must be positive or None, got 0"),
        (dict(hidden_ratio=4, dropout_ratio=1.0), r"dropout_ratio must be in \[0, 1\), got 1.0"),
        (dict(dropout_ratio=0.1), "dropout_ratio is for the hidden layer"),
    ],
)
def test_wrong_values(options, message):
    with pytest.raises(ValueError, match=message):
        MetaFormerClsHead(**{**dict(in_channels=8, num_classes=5), **options})
