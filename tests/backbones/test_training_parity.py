"""Training from the same weights as the published networks, written out here in plain tensor
operations, in the releases' order, memory layout and names: the same losses and the same statistics
of BatchNorm, step by step.

Other tests compare outputs; here gradients and buffers have to agree as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmmetaformer import convert_state_dict
from mmmetaformer.backbones.factory import build_backbone

pytestmark = pytest.mark.slow
STEPS, BATCH, SIDE, CLASSES = 10, 2, 64, 10
# Worst relative difference of a loss, and of a statistic in shares of its vector's largest.
TOLERANCES = [(torch.float64, 1e-9), (torch.float32, 1e-4)]


class Parameters:
    """Tensors by name, drawn when they are first asked for."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.tensors: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        if name not in self.tensors:
            self.tensors[name] = self.draw(name, shape)
        assert tuple(self.tensors[name].shape) == shape
        return self.tensors[name]

    def draw(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(0)
        if name.endswith("running_mean"):
            return torch.zeros(shape, dtype=torch.float64)
        if name.endswith("running_var"):
            return torch.ones(shape, dtype=torch.float64)
        noise = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        if len(shape) > 1:
            return 0.5 * noise / math.sqrt(math.prod(shape[1:]))
        if name.endswith("bias"):
            return 0.1 * noise
        # Norms, scales of StarReLU and of identity paths, and LayerScale, which starts far from
        # zero here, so that what it scales counts.
        return (0.5 if "layer_scale" in name else 1.0) + 0.1 * noise

    def prepare(self, dtype: torch.dtype) -> list[Tensor]:
        """Copies in a precision; returns those that are trained."""
        trained = []
        for name, tensor in self.tensors.items():
            if tensor.is_floating_point():
                tensor = tensor.to(dtype)
            self.tensors[name] = tensor = tensor.clone()
            if tensor.is_floating_point() and "running_" not in name:
                trained.append(tensor.requires_grad_())
        return trained


# ---------------------------------------------------------------- PoolFormer


def poolformer(p: Parameters, x: Tensor) -> list[Tensor]:
    """S12, in one list of stages and downsamplings."""
    dims, depths, levels = (64, 128, 320, 512), (2, 2, 6, 2), []
    channels = 3
    for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        name = f"network.{2 * stage - 1}.proj" if stage else "patch_embed.proj"
        kernel, stride, padding = (3, 2, 1) if stage else (7, 4, 2)
        weight = p(f"{name}.weight", dim, channels, kernel, kernel)
        x = F.conv2d(x, weight, p(f"{name}.bias", dim), stride, padding)
        for block in (f"network.{2 * stage}.{j}" for j in range(depth)):
            y = group_norm(p, f"{block}.norm1", x)
            y = F.avg_pool2d(y, 3, 1, 1, count_include_pad=False) - y
            x = x + p(f"{block}.layer_scale_1", dim)[:, None, None] * y
            y = group_norm(p, f"{block}.norm2", x)
            y = F.gelu(conv1x1(p, f"{block}.mlp.fc1", y, 4 * dim))
            y = conv1x1(p, f"{block}.mlp.fc2", y, dim)
            x = x + p(f"{block}.layer_scale_2", dim)[:, None, None] * y
        levels.append(x)
        channels = dim
    return levels


def group_norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    channels = x.shape[1]
    weight, bias = p(f"{name}.weight", channels), p(f"{name}.bias", channels)
    return F.group_norm(x, 1, weight, bias, 1e-5)


def conv1x1(p: Parameters, name: str, x: Tensor, out: int) -> Tensor:
    return F.conv2d(x, p(f"{name}.weight", out, x.shape[1], 1, 1), p(f"{name}.bias", out))


# ---------------------------------------------------------------- ConvFormer and CAFormer


def baseline(p: Parameters, x: Tensor, mixers: tuple[Callable, ...]) -> list[Tensor]:
    """S18; maps are (B, H, W, C) but for the convolutions."""
    dims, depths, levels = (64, 128, 320, 512), (3, 3, 9, 3), []
    x = x.permute(0, 2, 3, 1)
    for stage, (dim, depth, mix) in enumerate(zip(dims, depths, mixers, strict=True)):
        down = f"downsample_layers.{stage}"
        kernel, stride, padding = (3, 2, 1) if stage else (7, 4, 2)
        x = layer_norm(p, f"{down}.pre_norm", x) if stage else x
        weight = p(f"{down}.conv.weight", dim, x.shape[-1], kernel, kernel)
        x = x.permute(0, 3, 1, 2)
        x = F.conv2d(x, weight, p(f"{down}.conv.bias", dim), stride, padding)
        x = x.permute(0, 2, 3, 1)
        x = x if stage else layer_norm(p, f"{down}.post_norm", x)
        for block in (f"stages.{stage}.{j}" for j in range(depth)):
            y = mix(p, f"{block}.token_mixer", layer_norm(p, f"{block}.norm1", x))
            x = (x * p(f"{block}.res_scale1.scale", dim) if stage >= 2 else x) + y
            y = layer_norm(p, f"{block}.norm2", x)
            y = star_relu(p, f"{block}.mlp.act", linear(p, f"{block}.mlp.fc1", y, 4 * dim))
            y = linear(p, f"{block}.mlp.fc2", y, dim)
            x = (x * p(f"{block}.res_scale2.scale", dim) if stage >= 2 else x) + y
        levels.append(x.permute(0, 3, 1, 2))
    return levels


def layer_norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    channels = x.shape[-1]
    return F.layer_norm(x, (channels,), p(f"{name}.weight", channels), None, 1e-6)


def linear(p: Parameters, name: str, x: Tensor, out: int) -> Tensor:
    return F.linear(x, p(f"{name}.weight", out, x.shape[-1]))


def star_relu(p: Parameters, name: str, x: Tensor) -> Tensor:
    return p(f"{name}.scale", 1) * F.relu(x) ** 2 + p(f"{name}.bias", 1)


def separable_convolution(p: Parameters, name: str, x: Tensor) -> Tensor:
    dim = x.shape[-1]
    x = star_relu(p, f"{name}.act1", linear(p, f"{name}.pwconv1", x, 2 * dim))
    weight = p(f"{name}.dwconv.weight", 2 * dim, 1, 7, 7)
    x = F.conv2d(x.permute(0, 3, 1, 2), weight, padding=3, groups=2 * dim).permute(0, 2, 3, 1)
    return linear(p, f"{name}.pwconv2", x, dim)


def attention(p: Parameters, name: str, x: Tensor) -> Tensor:
    batch, height, width, dim = x.shape
    qkv = linear(p, f"{name}.qkv", x, 3 * dim)
    qkv = qkv.reshape(batch, height * width, 3, dim // 32, 32).permute(2, 0, 3, 1, 4)
    q, k, v = qkv
    weights = (q @ k.transpose(-2, -1) / math.sqrt(32)).softmax(-1)
    x = (weights @ v).transpose(1, 2).reshape(batch, height, width, dim)
    return linear(p, f"{name}.proj", x, dim)


# ---------------------------------------------------------------- FFNet


def ffnet(p: Parameters, x: Tensor) -> list[Tensor]:
    """1, whose stages begin with the patch merging from the second on."""
    dims, depths, levels = (80, 160, 320, 640), (2, 2, 8, 2), []
    x = F.gelu(conv_norm(p, "patch_embed.0", x, 64, 3, 2))
    x = conv_norm(p, "patch_embed.2", x, dims[0], 3, 2)
    for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        if stage:
            merging = f"stages.{stage}.0.proj"
            x = two_branches(p, f"{merging}.0", x, dim, 2)
            y = batch_norm(p, f"{merging}.1.conv.bn", x)
            x = F.conv2d(y, p(f"{merging}.1.conv.c.weight", dim, dim, 1, 1)) + x
        for block in (f"stages.{stage}.{j + (stage > 0)}" for j in range(depth)):
            main = f"{block}.token_mixer.0.main"
            depthwise = depthwise3x3 if stage < 2 else two_branches
            y = depthwise(p, f"{main}.conv1", conv_norm(p, f"{main}.fc", x, dim), dim)
            y = depthwise(p, f"{main}.conv2", F.gelu(y), dim)
            x = y + x
            main = f"{block}.channel_mixer.main"
            y = conv_norm(p, f"{main}.conv", x, dim, 3, groups=dim)
            y = F.gelu(conv1x1(p, f"{main}.fc1", y, 3 * dim))
            x = conv1x1(p, f"{main}.fc2", y, dim) + x
        levels.append(x)
    return levels


def conv_norm(
    p: Parameters, name: str, x: Tensor, out: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> Tensor:
    weight = p(f"{name}.c.weight", out, x.shape[1] // groups, kernel, kernel)
    x = F.conv2d(x, weight, None, stride, kernel // 2, groups=groups)
    return batch_norm(p, f"{name}.bn", x)


def batch_norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    """By the batch, whose statistics are noted down as torch does: the unbiased variance."""
    channels = x.shape[1]
    mean = x.mean((0, 2, 3))
    variance = x.var((0, 2, 3), correction=0)
    count = x.numel() // channels
    with torch.no_grad():
        p(f"{name}.running_mean", channels).lerp_(mean, 0.1)
        p(f"{name}.running_var", channels).lerp_(variance * count / (count - 1), 0.1)
        p(f"{name}.num_batches_tracked").add_(1)
    x = (x - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
    weight, bias = p(f"{name}.weight", channels), p(f"{name}.bias", channels)
    return x * weight[:, None, None] + bias[:, None, None]


def depthwise3x3(p: Parameters, name: str, x: Tensor, dim: int) -> Tensor:
    weight, bias = p(f"{name}.weight", dim, 1, 3, 3), p(f"{name}.bias", dim)
    return F.conv2d(x, weight, bias, padding=1, groups=dim)


def two_branches(p: Parameters, name: str, x: Tensor, out: int, stride: int = 1) -> Tensor:
    groups = x.shape[1]
    large = conv_norm(p, f"{name}.conv", x, out, 7, stride, groups)
    return large + conv_norm(p, f"{name}.conv1", x, out, 3, stride, groups)


# ---------------------------------------------------------------- the comparison

NETWORKS = {
    "poolformer_s12": poolformer,
    "convformer_s18": lambda p, x: baseline(p, x, (separable_convolution,) * 4),
    "caformer_s18": lambda p, x: baseline(
        p, x, (separable_convolution, separable_convolution, attention, attention)
    ),
    "ffnet_1": ffnet,
}


def train(network: Callable[[Tensor], list[Tensor]], trained: list[Tensor], dtype) -> list[float]:
    """Losses of a classification of one batch from all four maps; each call has the same data."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, CLASSES, (BATCH,), generator=generator)
    readout = torch.randn(4, CLASSES, 1024, generator=generator, dtype=torch.float64).to(dtype)
    optimizer = torch.optim.AdamW(trained, lr=2e-5, weight_decay=0.05)
    losses = []
    for _ in range(STEPS):
        # A bounded function of every position, so that no map drowns the others.
        pooled = [level.tanh().mean((2, 3)) for level in network(images)]
        logits = sum(
            features @ weight[:, : features.shape[1]].T / features.shape[1] ** 0.5
            for features, weight in zip(pooled, readout, strict=True)
        )
        loss = F.cross_entropy(logits, labels)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.fixture
def one_thread():
    """Maps this small gain little from more, and threads that share a core wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameters_of(name: str) -> Parameters:
    """All parameters of a network, its statistics as at the start."""
    p = Parameters()
    with torch.no_grad():  # draws all
        NETWORKS[name](p, torch.zeros(BATCH, 3, SIDE, SIDE, dtype=torch.float64))
    for key, value in p.tensors.items():  # which has moved its statistics
        if "running_" in key or "num_batches" in key:
            p.tensors[key] = p.draw(key, tuple(value.shape))
    return p


def train_both(name: str, p: Parameters, dtype: torch.dtype, **options):
    """Our network after its training, and the losses of both."""
    trained = p.prepare(dtype)
    ours = build_backbone(name, out_norm_cfg=None, **options).to(dtype)
    ours.load_state_dict(convert_state_dict(p.tensors, ours), strict=True)
    ours.train()
    assert len(list(ours.parameters())) == len(trained)
    losses = train(ours, list(ours.parameters()), dtype)
    return ours, losses, train(lambda x: NETWORKS[name](p, x), trained, dtype)


def worst_difference(losses: list[float], expected: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("name", NETWORKS)
def test_ten_steps(name, dtype, tolerance, one_thread):
    p = parameters_of(name)
    ours, losses, expected = train_both(name, p, dtype)
    worst = worst_difference(losses, expected)
    print(f"{name} {dtype}: losses {expected[0]:.3f} to {expected[-1]:.3f}, worst {worst:.1e}")
    # They are trained: each loss is another one than the last, by far more than the tolerance.
    steps = zip(expected, expected[1:], strict=False)
    assert min(abs(a - b) for a, b in steps) > 10 * tolerance
    assert worst < tolerance

    # Statistics of BatchNorm, of which only FFNet has any.
    found = dict(ours.named_buffers())
    converted = convert_state_dict(p.tensors, ours)
    assert len(found) == (3 * 79 if name == "ffnet_1" else 0)
    shares = [
        float((value - converted[key]).abs().max() / converted[key].abs().max())
        for key, value in found.items()
    ]
    print(f"{name} {dtype}: {len(found)} statistics, worst {max(shares, default=0):.1e}")
    assert max(shares, default=0) < 10 * tolerance
    counts = {int(v) for key, v in found.items() if key.endswith("num_batches_tracked")}
    assert counts <= {STEPS}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("poolformer_s12", dict(norm_cfg=dict(type="GN", num_groups=1, eps=1e-6))),
        ("ffnet_1", dict(act_cfg=dict(type="GELU", approximate="tanh"))),
    ],
)
def test_the_comparison_sees_small_changes(name, options, one_thread):
    """Another epsilon, another approximation."""
    _, losses, expected = train_both(name, parameters_of(name), torch.float64, **options)
    assert worst_difference(losses, expected) > 1e-7
