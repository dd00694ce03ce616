"""FFNetHead written out in float64, before and after fusing."""

import pytest
import torch
from torch.nn import functional as F

from mmmetaformer import switch_to_deploy
from mmmetaformer.heads import FFNetHead


def test_head_against_a_reference(randomize):
    """Bicubic to the first map's size, squeeze, blocks with GELU behind each sum, widen."""
    head = FFNetHead(
        [8, 16, 32], 24, num_classes=5, head_width=16, head_depth=2, align_corners=False
    )
    head = randomize(head).double().eval()
    sizes = [(9, 12), (5, 6), (3, 3)]
    maps = [
        torch.randn(2, channels, *size, dtype=torch.double)
        for channels, size in zip((8, 16, 32), sizes, strict=True)
    ]

    def conv_norm(x, part):
        conv, norm = part.conv, part.norm
        x = F.conv2d(x, conv.weight, None, 1, conv.padding, groups=conv.groups)
        shape = (-1, 1, 1)
        x = (x - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + 1e-5).sqrt()
        return x * norm.weight.view(shape) + norm.bias.view(shape)

    def branches(x, part):
        kernels = [tuple(branch.conv.kernel_size) for branch in part.branches]
        assert kernels == [(9, 9), (5, 5), (1, 9), (9, 1)]
        return sum(conv_norm(x, branch) for branch in part.branches)

    resized = [maps[0]] + [F.interpolate(m, (9, 12), mode="bicubic") for m in maps[1:]]
    x = conv_norm(F.gelu(conv_norm(torch.cat(resized, 1), head.squeeze[0])), head.squeeze[2])
    for block in head.blocks:
        mixer = block.token_mixer
        y = branches(F.gelu(branches(conv_norm(x, mixer.query), mixer.key)), mixer.value)
        x = F.gelu(x + y)
        y = F.gelu(block.mlp.fc1(branches(x, block.mlp.conv)))
        x = F.gelu(x + block.mlp.fc2(y))
    expected = head.conv_seg(F.gelu(conv_norm(x, head.widen[0])))
    with torch.no_grad():
        torch.testing.assert_close(head(maps), expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(switch_to_deploy(head)(maps), expected, rtol=1e-8, atol=1e-8)


def test_initialisation_is_the_releases():
    """torch's but for the classifier: fan-in 3 * 256 bounds the weights of the blocks."""
    head = FFNetHead([8, 16], 24, num_classes=5)
    head.init_weights()
    fc1 = head.blocks[0].mlp.fc1.weight
    assert float(fc1.detach().abs().max()) == pytest.approx(256**-0.5, rel=0.01)
    assert float(head.conv_seg.weight.detach().std()) == pytest.approx(0.01, rel=0.2)


def test_wrong_heads():
    with pytest.raises(TypeError, match="in_channels must be a list.*got 8"):
        FFNetHead(8, num_classes=5)
    with pytest.raises(ValueError, match="one map for each"):
        FFNetHead([8, 16], num_classes=5, in_index=[0])
    with pytest.raises(ValueError, match="head_depth must be a positive integer, got 0"):
        FFNetHead([8, 16], num_classes=5, head_depth=0)
