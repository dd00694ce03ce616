"""The block against its definition, written out in float64."""

import pytest
import torch
from torch.nn import functional as F

from mmmetaformer.backbones import MetaFormerBlock

DIM = 6


def reference(block: MetaFormerBlock, x: torch.Tensor) -> torch.Tensor:
    """PoolFormer's block from plain operations."""
    w = {name: value.double() for name, value in block.state_dict().items()}
    ones = torch.ones(1, 1, *x.shape[2:], dtype=torch.double)

    def norm(x, which):
        mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, correction=0)
        scale, bias = w[f"{which}.weight"], w[f"{which}.bias"]
        return (x - mean) / (var + 1e-5).sqrt() * scale.view(-1, 1, 1) + bias.view(-1, 1, 1)

    def pool(x):  # the sum over the window, over the number of pixels in it
        kernel = torch.ones(x.shape[1], 1, 3, 3, dtype=torch.double)
        count = F.conv2d(ones, kernel[:1], padding=1)
        return F.conv2d(x, kernel, padding=1, groups=x.shape[1]) / count

    y = norm(x, "norm1")
    x = x + w["layer_scale1.scale"].view(-1, 1, 1) * (pool(y) - y)
    y = torch.einsum("bchw,dc->bdhw", norm(x, "norm2"), w["mlp.fc1.weight"][..., 0, 0])
    y = y + w["mlp.fc1.bias"].view(-1, 1, 1)
    y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
    y = torch.einsum("bchw,dc->bdhw", y, w["mlp.fc2.weight"][..., 0, 0])
    return x + w["layer_scale2.scale"].view(-1, 1, 1) * (y + w["mlp.fc2.bias"].view(-1, 1, 1))


def make(**options) -> MetaFormerBlock:
    settings = dict(
        token_mixer=dict(type="pooling"),
        channel_mixer=dict(type="mlp"),
        norm_cfg=dict(type="GN", num_groups=1),
        part_defaults=dict(act_cfg=dict(type="GELU")),
    )
    return MetaFormerBlock(DIM, **{**settings, **options}).double()


def test_poolformer_block(randomize):
    block = randomize(make(layer_scale_init_value=1e-5))
    x = torch.randn(2, DIM, 5, 7, dtype=torch.double)
    torch.testing.assert_close(block(x), reference(block, x), rtol=1e-10, atol=1e-10)


def test_without_channel_mixer(randomize):
    block = randomize(make(channel_mixer=None))
    x = torch.randn(2, DIM, 5, 7, dtype=torch.double)
    expected = x + block.token_mixer(block.norm1(x))
    torch.testing.assert_close(block(x), expected)
    assert not [name for name, _ in block.named_parameters() if "mlp" in name or "norm2" in name]


def test_without_residual(randomize):
    block = randomize(make(residual=False))
    x = torch.randn(2, DIM, 5, 7, dtype=torch.double)
    expected = block.mlp(block.norm2(block.token_mixer(block.norm1(x))))
    torch.testing.assert_close(block(x), expected)


def test_residual_scale(randomize):
    block = randomize(make(res_scale_init_value=1.0))
    x = torch.randn(2, DIM, 5, 7, dtype=torch.double)
    y = block.res_scale1.scale.view(-1, 1, 1) * x + block.token_mixer(block.norm1(x))
    expected = block.res_scale2.scale.view(-1, 1, 1) * y + block.mlp(block.norm2(y))
    torch.testing.assert_close(block(x), expected)


def test_without_norm():
    assert not [name for name, _ in make(norm_cfg=None).named_parameters() if "norm" in name]


def test_drop_path_drops_whole_images_in_training_only():
    torch.manual_seed(0)
    block = make(drop_path_rate=0.5, channel_mixer=None)
    x = torch.randn(64, DIM, 5, 7, dtype=torch.double)
    branch = block.token_mixer(block.norm1(x))
    kept = (block(x) - x).flatten(1).abs().amax(1) > 0
    assert 16 < int(kept.sum()) < 48
    torch.manual_seed(1)
    out = block(x)
    kept = (out - x).flatten(1).abs().amax(1) > 0
    torch.testing.assert_close(out[kept], (x + 2 * branch)[kept])
    torch.testing.assert_close(block.eval()(x), x + branch)


def test_no_activation():
    assert isinstance(make(part_defaults=dict(act_cfg=None)).mlp.act, torch.nn.Identity)


@pytest.mark.parametrize("act", ["ReLU", "SiLU"])
def test_activation_reaches_the_channel_mixer(act):
    assert type(make(part_defaults=dict(act_cfg=dict(type=act))).mlp.act).__name__ == act
    own = dict(type="mlp", act_cfg=dict(type="Tanh"))
    assert (
        type(make(part_defaults=dict(act_cfg=dict(type=act)), channel_mixer=own).mlp.act).__name__
        == "Tanh"
    )
