"""Self-attention against its definition in float64, and its cheaper forms."""

import pytest
import torch

from mmmetaformer.mixers import Attention, SpatialReductionAttention, WindowAttention

DIM = 32


def reference(mixer: Attention, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """softmax(q k' / sqrt(d)) v, head by head; (N, C) and (M, C) to (N, C)."""
    weight = mixer.qkv.weight
    bias = torch.zeros(3 * DIM).double() if mixer.qkv.bias is None else mixer.qkv.bias
    q = queries @ weight[:DIM].T + bias[:DIM]
    k = keys @ weight[DIM : 2 * DIM].T + bias[DIM : 2 * DIM]
    v = keys @ weight[2 * DIM :].T + bias[2 * DIM :]
    heads = []
    for start in range(0, DIM, mixer.head_dim):
        part = slice(start, start + mixer.head_dim)
        scores = q[:, part] @ k[:, part].T / mixer.head_dim**0.5
        heads.append(scores.softmax(-1) @ v[:, part])
    out = torch.cat(heads, -1) @ mixer.proj.weight.T
    return out if mixer.proj.bias is None else out + mixer.proj.bias


def tokens(x: torch.Tensor) -> torch.Tensor:
    """(C, H, W) to (H * W, C)."""
    return x.flatten(1).T


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("head_dim", [8, 32])
def test_global(head_dim, bias, randomize):
    mixer = randomize(Attention(DIM, head_dim=head_dim, qkv_bias=bias, proj_bias=bias)).double()
    x = torch.randn(2, DIM, 5, 7, dtype=torch.double)
    out = mixer(x)
    for image, result in zip(x, out, strict=True):
        expected = reference(mixer, tokens(image), tokens(image))
        torch.testing.assert_close(tokens(result), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(6, 9), (7, 8), (2, 7), (1, 1)])
def test_windows(size, randomize):
    """Each position attends to the pixels of its own 3x3 window and to no padding."""
    mixer = randomize(WindowAttention(DIM, window_size=3, head_dim=8)).double()
    x = torch.randn(2, DIM, *size, dtype=torch.double)
    out = mixer(x)
    step = [min(3, side) for side in size]
    for image, result in zip(x, out, strict=True):
        for top in range(0, size[0], step[0]):
            for left in range(0, size[1], step[1]):
                window = (slice(None), slice(top, top + step[0]), slice(left, left + step[1]))
                expected = reference(mixer, tokens(image[window]), tokens(image[window]))
                torch.testing.assert_close(tokens(result[window]), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 3)])
def test_spatial_reduction(size, randomize):
    """Keys and values are means over 2x2 squares, over fewer pixels at an odd border."""
    mixer = randomize(SpatialReductionAttention(DIM, sr_ratio=2, head_dim=8)).double()
    x = torch.randn(2, DIM, *size, dtype=torch.double)
    for image, result in zip(x, mixer(x), strict=True):
        keys = torch.stack(
            [
                image[:, top : top + 2, left : left + 2].mean((1, 2))
                for top in range(0, size[0], 2)
                for left in range(0, size[1], 2)
            ]
        )
        expected = reference(mixer, tokens(image), keys)
        torch.testing.assert_close(tokens(result), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "form",
    [
        lambda: WindowAttention(DIM, window_size=9),
        lambda: SpatialReductionAttention(DIM, sr_ratio=1),
    ],
)
def test_cheaper_forms_share_the_weights_and_contain_the_global_one(form, randomize):
    whole = randomize(Attention(DIM)).double()
    other = form().double()
    other.load_state_dict(whole.state_dict(), strict=True)
    x = torch.randn(2, DIM, 6, 9, dtype=torch.double)
    torch.testing.assert_close(other(x), whole(x), rtol=1e-9, atol=1e-9)


def test_dropout_is_for_training_only():
    torch.manual_seed(0)
    mixer = Attention(DIM, attn_drop=0.5, proj_drop=0.5)
    x = torch.randn(1, DIM, 4, 4)
    assert not torch.equal(mixer.train()(x), mixer(x))
    assert torch.equal(mixer.eval()(x), mixer(x))


@pytest.mark.parametrize("head_dim", [24, 0, -8, 33, 8.0])
def test_wrong_head_dim(head_dim):
    with pytest.raises(ValueError, match=rf"dim=32.*head_dim={head_dim}.*\[8, 16, 32\]"):
        Attention(DIM, head_dim=head_dim)


@pytest.mark.parametrize("value", [0, 2.5, "7"])
def test_wrong_window_or_ratio(value):
    with pytest.raises(ValueError, match="window_size must be a positive integer"):
        WindowAttention(DIM, window_size=value)
    with pytest.raises(ValueError, match="sr_ratio must be a positive integer"):
        SpatialReductionAttention(DIM, sr_ratio=value)


def test_windows_cost_a_linear_amount():
    """Bytes that autograd keeps grow with the pixels, whatever the window."""

    def saved(height: int) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            WindowAttention(DIM, window_size=7)(torch.randn(1, DIM, height, 28))
        return sum(sizes) - 4 * DIM * DIM  # the weights

    assert saved(56) == pytest.approx(2 * saved(28), rel=0.02)
