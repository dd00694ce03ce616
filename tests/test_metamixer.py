"""The abstraction against its instances, written out in float64."""

import pytest
import torch

from mmmetaformer import create_backbone
from mmmetaformer.backbones import MetaFormer
from mmmetaformer.channel_mixers import ConvNeXt, Mlp, Pointwise
from mmmetaformer.metamixer import StaticMetaMixer, as_metamixer
from mmmetaformer.mixers import (
    Attention,
    DepthwiseActNorm,
    FFNifiedAttention,
    Pooling,
    SepConv,
    SpatialReductionAttention,
    WindowAttention,
)

DIM = 16
STATIC = {
    "mlp": (Mlp, {}, 4 * DIM),
    "convnext": (ConvNeXt, {}, 3 * DIM),
    "convnext_3": (ConvNeXt, dict(kernel_size=3), 3 * DIM),
    "convnext_strips": (ConvNeXt, dict(kernel_size=9, strips=True), 3 * DIM),
    "pointwise": (Pointwise, {}, DIM),
    "sepconv": (SepConv, {}, 2 * DIM),
    "depthwise_act_norm": (DepthwiseActNorm, {}, DIM),
    "ffnified_7": (FFNifiedAttention, {}, DIM),
    "ffnified_3": (FFNifiedAttention, dict(kernel_size=3), DIM),
    "ffnified_strips": (FFNifiedAttention, dict(kernel_size=9, strips=True), DIM),
}
ATTENTION = {
    "global": (Attention, {}),
    "window": (WindowAttention, dict(window_size=3)),
    "reduced": (SpatialReductionAttention, dict(sr_ratio=2)),
}


def build(cls: type, options: dict, randomize) -> torch.nn.Module:
    return randomize(cls(DIM, **options)).double().eval()


@pytest.mark.parametrize("name", STATIC)
def test_static_instances(name, randomize):
    """One coefficient per key and position, from which alone the output follows."""
    cls, options, keys = STATIC[name]
    literal = build(cls, options, randomize)
    mixer = as_metamixer(literal)
    x = torch.randn(2, DIM, 5, 7, dtype=torch.double)
    torch.testing.assert_close(mixer(x), literal(x))
    coefficients = mixer.coefficients(x)
    assert coefficients.shape == (2, keys, 5, 7)
    assert mixer.num_keys(x) == keys and mixer.key_name(3, x) == "key 3"
    torch.testing.assert_close(mixer.coefficient_maps(x), coefficients)
    torch.testing.assert_close(mixer.act(mixer.scores(x)), coefficients)
    torch.testing.assert_close(mixer.aggregate(coefficients, x), mixer(x))
    assert not torch.allclose(mixer.aggregate(2 * coefficients, x), mixer(x))


def test_views_leave_the_mixer_as_it_is(randomize):
    mixer = randomize(Mlp(DIM)).train()
    mixer.fc1.eval()
    modes = [module.training for module in mixer.modules()]
    as_metamixer(mixer)
    assert [module.training for module in mixer.modules()] == modes
    assert as_metamixer(Pooling(DIM)) is None
    attention = Attention(DIM, head_dim=8)
    assert as_metamixer(attention) is attention


def test_feed_forward_network_is_attention_to_weights(randomize):
    """sum over k of gelu(<q, key_k> + b_k) value_k: rows of the first layer, columns of the
    second."""
    mlp = build(Mlp, {}, randomize)
    x = torch.randn(2, DIM, 4, 3, dtype=torch.double)
    keys, values = mlp.fc1.weight[..., 0, 0], mlp.fc2.weight[..., 0, 0].T
    expected = torch.zeros(2, 4, 3, DIM, dtype=torch.double) + mlp.fc2.bias
    for key, bias, value in zip(keys, mlp.fc1.bias, values, strict=True):
        score = torch.einsum("bchw,c->bhw", x, key) + bias
        coefficient = score * 0.5 * (1 + torch.erf(score / 2**0.5))
        expected = expected + coefficient[..., None] * value
    torch.testing.assert_close(mlp(x), expected.permute(0, 3, 1, 2))


def test_ffnified_attention_replaces_keys_and_values_by_kernels(randomize):
    mixer = build(FFNifiedAttention, dict(kernel_size=3), randomize)
    x = torch.randn(1, DIM, 5, 6, dtype=torch.double)
    norm = mixer.query.norm
    queries = torch.einsum("oi,bihw->bohw", mixer.query.conv.weight[..., 0, 0], x)
    queries = (queries - norm.running_mean[:, None, None]) / (
        norm.running_var[:, None, None] + norm.eps
    ) ** 0.5 * norm.weight[:, None, None] + norm.bias[:, None, None]

    def depthwise(maps, conv):
        padded = torch.nn.functional.pad(maps, (1, 1, 1, 1))
        patches = padded.unfold(2, 3, 1).unfold(3, 3, 1)  # (B, C, H, W, 3, 3)
        return torch.einsum("bchwij,cij->bchw", patches, conv.weight[:, 0]) + conv.bias.view(
            -1, 1, 1
        )

    scores = depthwise(queries, mixer.key)
    coefficients = scores * 0.5 * (1 + torch.erf(scores / 2**0.5))
    torch.testing.assert_close(mixer.scores(x), scores)
    torch.testing.assert_close(mixer(x), depthwise(coefficients, mixer.value))


@pytest.mark.parametrize("size", [(6, 9), (5, 7), (1, 2)])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_by_its_parts_is_the_fused_one(name, size, randomize):
    cls, options = ATTENTION[name]
    mixer = build(cls, dict(options, head_dim=8, qkv_bias=True), randomize)
    x = torch.randn(2, DIM, *size, dtype=torch.double)
    coefficients = mixer.coefficients(x)
    torch.testing.assert_close(coefficients.sum(-1), torch.ones_like(coefficients[..., 0]))
    torch.testing.assert_close(mixer.aggregate(coefficients, x), mixer(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ATTENTION)
def test_coefficient_maps_of_attention(name, randomize):
    """Over the keys of a head, the coefficients of each position sum to one."""
    cls, options = ATTENTION[name]
    mixer = build(cls, dict(options, head_dim=8), randomize)
    maps = mixer.coefficient_maps(torch.randn(2, DIM, 5, 7, dtype=torch.double))
    keys = dict({"global": 35, "window": 9, "reduced": 12})[name]
    assert maps.shape == (2, 2 * keys, 5, 7)
    x = maps.new_zeros(2, DIM, 5, 7)
    assert mixer.num_keys(x) == 2 * keys
    assert mixer.key_name(keys + 3, x) == "head 1, key 3"
    sums = maps.unflatten(1, (2, keys)).sum(2)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_position_of_a_coefficient_map(randomize):
    """Key (2, 3) seen from position (1, 4)."""
    mixer = build(Attention, dict(head_dim=DIM), randomize)
    x = torch.randn(1, DIM, 4, 6, dtype=torch.double)
    q, k = (mixer.qkv.weight[i * DIM : (i + 1) * DIM] for i in (0, 1))
    scores = torch.einsum("oc,chw->ohw", k, x[0]).flatten(1).T @ (q @ x[0, :, 1, 4]) / DIM**0.5
    expected = scores.softmax(0)[2 * 6 + 3]
    torch.testing.assert_close(mixer.coefficient_maps(x)[0, 2 * 6 + 3, 1, 4], expected)


@pytest.mark.parametrize("name", ATTENTION)
def test_another_activation_of_attention(name, randomize):
    """GELU in place of softmax, by its parts and as a whole; gradients are finite."""
    cls, options = ATTENTION[name]
    mixer = build(cls, dict(options, head_dim=8, coefficient_act_cfg="GELU"), randomize)
    x = torch.randn(1, DIM, 4, 5, dtype=torch.double)
    out = mixer(x)
    out.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in mixer.parameters())
    torch.testing.assert_close(mixer.aggregate(mixer.coefficients(x), x), out)
    plain = build(cls, dict(options, head_dim=8), randomize)
    assert not torch.allclose(out, plain(x))


def test_gelu_attention_within_a_window(randomize):
    mixer = build(
        WindowAttention, dict(window_size=3, head_dim=DIM, coefficient_act_cfg="GELU"), randomize
    )
    x = torch.randn(1, DIM, 3, 4, dtype=torch.double)
    # The last column is a window of its own, padded to three.
    q, k, v = (mixer.qkv.weight[i * DIM : (i + 1) * DIM] for i in range(3))
    column = x[0, :, :, 3].T
    scores = (column @ q.T) @ (column @ k.T).T / DIM**0.5
    coefficients = scores * 0.5 * (1 + torch.erf(scores / 2**0.5))
    expected = coefficients @ (column @ v.T) @ mixer.proj.weight.T
    torch.testing.assert_close(mixer(x)[0, :, :, 3].T, expected)
    # The first column of that window is what there is of it; the padding has no coefficients.
    maps = mixer.coefficient_maps(x)[0, :, :, 3].T
    torch.testing.assert_close(maps[:, ::3], coefficients)
    assert (maps[:, 1::3] == 0).all() and (maps[:, 2::3] == 0).all()


def test_parts_by_config(randomize):
    """The MLP and FFNified attention, put together from configs."""
    pointwise = dict(type="Conv", kernel_size=1)
    mlp = build(Mlp, dict(ratio=2), randomize)
    same = StaticMetaMixer(DIM, query=None, key=pointwise, value=pointwise, ratio=2).double()
    names = {"key.weight": "fc1.weight", "key.bias": "fc1.bias"}
    names |= {"value.weight": "fc2.weight", "value.bias": "fc2.bias"}
    same.load_state_dict({ours: mlp.state_dict()[name] for ours, name in names.items()})
    x = torch.randn(2, DIM, 5, 7, dtype=torch.double)
    torch.testing.assert_close(same(x), mlp(x))

    depthwise = dict(type="DepthwiseRepConv", kernel_size=7)
    attention = build(FFNifiedAttention, {}, randomize)
    same = StaticMetaMixer(DIM, query="ConvNorm", key=depthwise, value=depthwise).double().eval()
    same.load_state_dict(attention.state_dict())
    torch.testing.assert_close(same(x), attention(x))


def test_norms_of_the_parts_come_from_the_network():
    """SyncBN in all parts that take a norm and name none, also below a class that passes it on."""

    class Named(FFNifiedAttention):
        def __init__(self, dim, note=1, **kwargs):
            super().__init__(dim, **kwargs)

    arch = dict(depths=[1] * 4, dims=[8] * 4)
    parts = dict(type="metamixer", query=None, key="DepthwiseRepConv", value="ConvNorm")
    own = dict(parts, value=dict(type="ConvNorm", norm_cfg=dict(type="GN", num_groups=2)))
    options = dict(inner_norm_cfg="SyncBN", act_cfg="ReLU", norm_cfg=None, out_norm_cfg=None)
    mixers = [parts, own, Named, dict(type=Named, norm_cfg="BN", act_cfg="GELU")]
    backbone = MetaFormer(arch, token_mixers=mixers, **options)
    norms = []
    for stage in backbone.stages:
        kinds = {type(module).__name__ for module in stage[0].token_mixer.modules()}
        norms.append(kinds & {"SyncBatchNorm", "BatchNorm2d", "GroupNorm"})
    assert norms == [{"SyncBatchNorm"}, {"SyncBatchNorm", "GroupNorm"}, {"SyncBatchNorm"},
                     {"BatchNorm2d"}]  # fmt: skip
    acts = [type(stage[0].token_mixer.act).__name__ for stage in backbone.stages]
    assert acts == ["ReLU", "ReLU", "ReLU", "GELU"]


@pytest.mark.torch("2.4")  # products of float16 on the CPU
def test_parts_of_half_precision_stay_in_range():
    """Products beyond the largest float16, scores within."""
    mixer = Attention(32, head_dim=32).half()
    with torch.no_grad():
        mixer.qkv.weight.copy_(torch.eye(32).repeat(3, 1))
    x = torch.full((1, 32, 2, 2), 60.0).half()
    assert (mixer.scores(x) > 20000).all() and mixer.scores(x).isfinite().all()
    torch.testing.assert_close(mixer.coefficients(x).float().sum(-1), torch.ones(1, 1, 4))


def test_each_part_is_replaceable(randomize):
    """In a network by its config: a strange query, a ReLU, another value."""
    mixer = dict(
        type="metamixer",
        query=dict(type="ConvModule", kernel_size=3, padding=1, norm_cfg=dict(type="BN")),
        key=dict(type="DepthwiseConv2d", kernel_size=5),
        act_cfg="ReLU",
        value=dict(type="Conv2d", kernel_size=1),
    )
    arch = dict(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32])
    backbone = randomize(MetaFormer(arch, token_mixers=mixer, channel_mixers=mixer))
    levels = backbone(torch.randn(1, 3, 64, 64))
    sum(level.square().mean() for level in levels).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in backbone.parameters())
    block = backbone.stages[2][0]
    assert isinstance(block.token_mixer, StaticMetaMixer)
    assert (block.token_mixer.coefficients(torch.randn(1, 24, 6, 6)) >= 0).all()


def test_hybrid_of_attention_and_ffnified_attention():
    """The paper's hybrids are a list of four."""
    hybrid = ["ffnified_attention", "ffnified_attention", "attention", "attention"]
    backbone = create_backbone("ffnet_1", token_mixers=hybrid)
    kinds = [type(stage[0].token_mixer) for stage in backbone.stages]
    assert kinds == [FFNifiedAttention, FFNifiedAttention, Attention, Attention]
    levels = backbone(torch.randn(1, 3, 64, 96))
    assert [level.shape[1] for level in levels] == [80, 160, 320, 640]


def test_a_part_that_is_missing():
    with pytest.raises(TypeError, match="key must be a name or a dict"):
        StaticMetaMixer(DIM, query=None, key=None, value="Conv")
    with pytest.raises(ValueError, match="key=.*'out_channels': 24.*divisible"):
        StaticMetaMixer(DIM, None, key="DepthwiseRepConv", value="DepthwiseConv2d", ratio=1.5)
    with pytest.raises(ValueError, match="unknown model type 'Nonsense'"):
        StaticMetaMixer(DIM, query="Nonsense", key="Conv", value="Conv")
