"""Operations and saved bytes of networks small enough to count by hand."""

import pytest
import torch
from torch import nn

from mmmetaformer.engine.complexity import (
    count_macs,
    count_minor_operations,
    count_parameters,
    saved_for_backward,
)
from mmmetaformer.mixers import Attention


def test_macs_and_parameters_of_a_convolution():
    conv = nn.Conv2d(3, 5, 3, padding=1, device="meta")
    assert count_parameters(conv) == 3 * 5 * 9 + 5
    assert count_macs(conv, 4, 6) == 4 * 6 * 3 * 5 * 9


def test_attention_counts():
    """Four projections and two products with the 24x24 weights."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 32, 1), Attention(32, head_dim=8)).eval()
    assert count_macs(model, 4, 6) == 24 * 3 * 32 + 24 * 4 * 32 * 32 + 2 * 24 * 24 * 32


def test_other_devices_would_miss_attention():
    with pytest.raises(ValueError, match="meta device, the model is on cpu"):
        count_macs(nn.Conv2d(3, 5, 3), 4, 6)


def test_saved_bytes_count_a_storage_once_and_no_parameters():
    linear = nn.Linear(8, 8)
    x = torch.randn(4, 8, requires_grad=True)
    with saved_for_backward() as saved:
        linear(x)
    assert saved.total() == 4 * 8 * 4 + 8 * 8 * 4  # x and the weight
    assert saved.total(exclude=linear) == 4 * 8 * 4

    with saved_for_backward() as saved:
        view = x.sigmoid()
        _ = view.view(8, 4) * view.view(8, 4)
    assert saved.total() == 4 * 8 * 4


def test_minor_operations():
    """Biases, norms (but SyncBN), ReLU and pooling, of maps of 5 and of 3 channels."""
    layers = [
        nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.SyncBatchNorm(5), nn.GELU(), nn.ReLU(),
        nn.Conv2d(5, 3, 1, bias=False), nn.GroupNorm(1, 3), nn.AdaptiveAvgPool2d(1),
    ]  # fmt: skip
    model = nn.Sequential(*layers).to("meta").eval()
    expected = 24 * 5 * (1 + 2 + 1) + 24 * 3 * (2 + 1)
    assert count_minor_operations(model, 4, 6) == expected
    assert not any(module._forward_hooks for module in model.modules())
