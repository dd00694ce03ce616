"""The same features as independent implementations: timm's, mmpretrain's, and plain tensor
operations written from the papers.

Weights are random, so that every parameter and every buffer counts, and go through
``convert_state_dict``. In float64 the difference is that of the order of summation, which leaves no
room for another epsilon or another GELU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmmetaformer import ConvMixer, MlpMixer, convert_state_dict, list_archs
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.weights.convert import convert

# Worst difference in shares of a map's standard deviation.
TOLERANCES = [(torch.float32, 1e-4), (torch.float64, 1e-9)]
PLAIN = dict(out_norm_cfg=None, pyramid=None)


def is_isotropic(name: str) -> bool:
    return "mixer" in name


def build_raw(name: str) -> nn.Module:
    """The published network up to its classifier's norm."""
    return build_backbone(name, **(PLAIN if is_isotropic(name) else dict(out_norm_cfg=None)))


@pytest.fixture
def randomize_all(randomize) -> Callable[[nn.Module], nn.Module]:
    """Random parameters, random statistics of BatchNorm, random matrices far from uniform."""

    def apply(module: nn.Module) -> nn.Module:
        randomize(module)
        generator = torch.Generator().manual_seed(1)
        for norm in module.modules():
            if isinstance(norm, _BatchNorm):
                norm.running_mean.normal_(0, 0.1, generator=generator)
                norm.running_var.uniform_(0.5, 2, generator=generator)
        for name, buffer in module.named_buffers():
            if name.endswith("random_matrix"):
                buffer.normal_(0, 2, generator=generator).copy_(buffer.softmax(-1))
        module.train(False)  # mmpretrain's returns None
        return module

    return apply


def image(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))


def outputs_of(network: nn.Module, layers: list[nn.Module], x: Tensor) -> list[Tensor]:
    """What some layers of a network give on the way."""
    outputs = []
    hooks = [layer.register_forward_hook(lambda *args: outputs.append(args[2])) for layer in layers]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return outputs


def quarters(blocks: nn.Module) -> list[nn.Module]:
    """The last block of each quarter."""
    return [blocks[len(blocks) * quarter // 4 - 1] for quarter in (1, 2, 3, 4)]


def as_map(tokens: Tensor) -> Tensor:
    """(B, N, C) of a square image to (B, C, H, W)."""
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def assert_parity(ours: nn.Module, theirs: nn.Module, x: Tensor, outputs: Callable) -> None:
    """Four maps, each as equal as a share of its own standard deviation says.

    ``outputs``: from their network and an image to the four maps.
    """
    ours.load_state_dict(convert_state_dict(theirs.state_dict(), ours), strict=True)
    ours.eval()
    for dtype, tolerance in TOLERANCES:
        with torch.no_grad():
            levels = ours.to(dtype)(x.to(dtype))
            expected = outputs(theirs.to(dtype), x.to(dtype))
        assert len(levels) == len(expected) == 4
        for level, other in zip(levels, expected, strict=True):
            assert level.shape == other.shape
            # No map has vanished or exploded, and none is a constant.
            assert 1e-2 < float(other.std()) < 1e3
            assert float((level - other).abs().max() / other.std()) < tolerance


# ---------------------------------------------------------------- timm

TIMM = {
    **{name: name for family in ("poolformer", "poolformerv2", "convformer", "caformer")
       for name in list_archs(f"{family}_*")},
    "convmixer_768_32": "convmixer_768_32",
    "convmixer_1024_20_ks9_p14": "convmixer_1024_20",
    "convmixer_1536_20": "convmixer_1536_20",
    **{f"mixer_{size}_224": f"mlp_mixer_{size}" for size in ("s32", "s16", "b32", "b16", "l32",
                                                             "l16")},
}  # fmt: skip


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.fixture
def meta_device(monkeypatch):
    """Networks without storage."""
    # timm computes drop path rates as tensors and reads them, which needs values.
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        yield


def test_every_arch_that_timm_has_is_compared():
    families = ("poolformer", "poolformerv2", "convformer", "caformer", "convmixer", "mlp_mixer")
    archs = {name for family in families for name in list_archs(f"{family}_*")}
    assert archs - set(TIMM.values()) == {"mlp_mixer_h14"}


@pytest.mark.parametrize("name", TIMM)
def test_every_tensor_of_timm_is_used(name, timm, meta_device):
    """All sizes: nothing but the classifier is left over and nothing is missing."""
    theirs = timm.create_model(name, pretrained=False)
    ours = build_raw(TIMM[name])
    source = theirs.state_dict()
    result = convert(source, ours)
    ours.load_state_dict(result.state_dict, strict=True)
    assert result.new == []
    # The norm behind the last stage is the classifier's: no other stage has one.
    classifier = [key for key in source if key.startswith(("head.", "norm."))]
    assert result.dropped == {"classifier": classifier}
    assert len(result.state_dict) == len(source) - len(classifier)
    parameters = sum(p.numel() for p in theirs.parameters())
    parameters -= sum(source[key].numel() for key in classifier)
    assert sum(p.numel() for p in ours.parameters()) == parameters
    assert all(value.is_meta for value in result.state_dict.values())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("poolformer_s12", (65, 97)),
        ("poolformerv2_s12", (65, 97)),
        ("convformer_s18", (33, 65)),
        ("caformer_s18", (33, 65)),
        # Multiples of the patch: timm drops what is left over at the border.
        ("convmixer_768_32", (35, 49)),
        # Of one size only.
        ("mixer_s32_224", (224, 224)),
        ("mixer_s16_224", (224, 224)),
    ],
)
def test_timm_gives_the_same_features(name, size, timm, randomize_all):
    theirs = randomize_all(timm.create_model(name, pretrained=False))

    def outputs(network: nn.Module, x: Tensor) -> list[Tensor]:
        layers = quarters(network.blocks) if is_isotropic(name) else list(network.stages)
        maps = outputs_of(network, layers, x)
        return [as_map(tokens) for tokens in maps] if name.startswith("mixer") else maps

    assert_parity(build_raw(TIMM[name]), theirs, image(*size), outputs)


# ---------------------------------------------------------------- mmpretrain


@pytest.fixture
def mmpretrain():
    return pytest.importorskip("mmpretrain.models")


def test_mmpretrain_poolformer(mmpretrain, randomize_all):
    """With the output norms of a detector."""
    theirs = mmpretrain.PoolFormer("s12", out_indices=(0, 2, 4, 6), frozen_stages=-1)
    ours = build_backbone("poolformer_s12")
    assert_parity(ours, randomize_all(theirs), image(65, 97), lambda network, x: network(x))


@pytest.mark.parametrize(("act", "kernel", "patch"), [("ReLU", 7, 7), ("GELU", 9, 14)])
def test_mmpretrain_convmixer(act, kernel, patch, mmpretrain, randomize_all):
    """The same blocks in fewer channels; eight of them."""
    arch = dict(embed_dims=48, depth=8, patch_size=patch, kernel_size=kernel)
    theirs = mmpretrain.ConvMixer(arch, act_cfg=dict(type=act), out_indices=[1, 3, 5, 7])
    ours = ConvMixer(
        dict(
            dim=48,
            depth=8,
            act_cfg=act,
            stem=dict(type="PatchActNorm", patch_size=patch),
            token_mixers=dict(type="depthwise_act_norm", kernel_size=kernel),
        ),
        **PLAIN,
    )
    x = image(9 * patch, 14 * patch)
    assert_parity(ours, randomize_all(theirs), x, lambda network, x: network(x))


def test_mmpretrain_mlp_mixer(mmpretrain, randomize_all):
    """Its default epsilon is not that of the released weights."""
    arch = dict(embed_dims=48, num_layers=8, tokens_mlp_dims=24, channels_mlp_dims=192)
    theirs = mmpretrain.MlpMixer(arch, patch_size=16, norm_cfg=dict(type="LN", eps=1e-6))
    ours = MlpMixer(dict(dim=48, depth=8, stem=dict(type="PatchEmbedding", patch_size=16)), **PLAIN)

    def outputs(network: nn.Module, x: Tensor) -> list[Tensor]:
        return [as_map(tokens) for tokens in outputs_of(network, quarters(network.layers), x)]

    assert_parity(ours, randomize_all(theirs), image(224, 224), outputs)


MMPRETRAIN = [
    *(("ConvMixer", f"{size[0]}/{size[1]}", {}, f"convmixer_{size[0]}_{size[1]}")
      for size in ((768, 32), (1024, 20), (1536, 20))),
    *(("MlpMixer", size, dict(patch_size=patch), f"mlp_mixer_{size}{patch}")
      for size in "sbl" for patch in (16, 32)),
    *(("PoolFormer", size, dict(frozen_stages=-1), f"poolformer_{size}")
      for size in ("s12", "s24", "s36", "m36", "m48")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "arch", "options", "name"), MMPRETRAIN)
def test_every_tensor_of_mmpretrain_is_used(kind, arch, options, name, mmpretrain, meta_device):
    """All of its own sizes; its PoolFormer has the output norm of the last stage."""
    source = getattr(mmpretrain, kind)(arch, **options).state_dict()
    ours = build_backbone(name, **(PLAIN if is_isotropic(name) else dict(out_indices=(3,))))
    result = convert(source, ours)
    ours.load_state_dict(result.state_dict, strict=True)
    final_norm = [key for key in source if key.startswith("ln1.")]
    assert result.dropped.get("classifier", []) == final_norm
    assert len(result.state_dict) == len(source) - len(final_norm)


# ---------------------------------------------------------------- plain tensor operations

DEPTHS, DIMS = [1, 1, 2, 1], [32, 64, 64, 96]
SIDES = [16, 8, 4, 2]  # of the maps of a 64x64 image
GRIDS = dict(depths=DEPTHS, dims=DIMS, pretrain_size=64)

Weights = dict[str, Tensor]


def per_channel(weight: Tensor) -> Tensor:
    return weight[:, None, None]


def normalise(x: Tensor, p: Weights, name: str, dims: tuple[int, ...], eps: float) -> Tensor:
    """Over the channels of each position, or over a whole image."""
    centred = x - x.mean(dims, keepdim=True)
    x = centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt()
    x = x * per_channel(p[f"{name}.weight"])
    return x + per_channel(p[f"{name}.bias"]) if f"{name}.bias" in p else x


def pointwise(x: Tensor, p: Weights, name: str) -> Tensor:
    weight = p[f"{name}.weight"].flatten(1)
    x = torch.einsum("oc,bchw->bohw", weight, x)
    return x + per_channel(p[f"{name}.bias"]) if f"{name}.bias" in p else x


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def star_relu(x: Tensor, p: Weights, name: str) -> Tensor:
    return p[f"{name}.scale"] * x.clamp(min=0) ** 2 + p[f"{name}.bias"]


def identity(x: Tensor, p: Weights, name: str) -> Tensor:
    return x


def pooling(x: Tensor, p: Weights, name: str) -> Tensor:
    """The mean of the 3x3 neighbours inside of the image, minus the input."""
    ones = torch.ones_like(x[:1, :1])
    kernel = torch.ones(1, 1, 3, 3, dtype=x.dtype)
    total = F.conv2d(x.flatten(0, 1)[:, None], kernel, padding=1).view_as(x)
    return total / F.conv2d(ones, kernel, padding=1) - x


def random_matrix(x: Tensor, p: Weights, name: str) -> Tensor:
    mixed = torch.einsum("mn,bcn->bcm", p[f"{name}.random_matrix"], x.flatten(2))
    return mixed.view_as(x)


def spatial_fc(x: Tensor, p: Weights, name: str) -> Tensor:
    return torch.einsum("mn,bcn->bcm", p[f"{name}.fc.weight"], x.flatten(2)).view_as(x)


def attention(x: Tensor, p: Weights, name: str) -> Tensor:
    """Heads of 32 channels; queries, keys and values have no bias."""
    batch, channels, height, width = x.shape
    heads = channels // 32
    qkv = torch.einsum("oc,bcn->bon", p[f"{name}.qkv.weight"], x.flatten(2))
    q, k, v = qkv.view(batch, 3, heads, 32, height * width).unbind(1)
    weights = (torch.einsum("bhdn,bhdm->bhnm", q, k) / math.sqrt(32)).softmax(-1)
    out = torch.einsum("bhnm,bhdm->bhdn", weights, v).reshape(batch, channels, height, width)
    return pointwise(out, p, f"{name}.proj")


def poolformer(p: Weights, x: Tensor, mixers: list[Callable], norm_dims) -> list[Tensor]:
    """PoolFormer's paper: LayerScale, GELU, GroupNorm of one group or LayerNorm."""
    outputs = []
    for stage, (depth, mix) in enumerate(zip(DEPTHS, mixers, strict=True)):
        down = f"downsample_layers.{stage}.conv"
        stride, padding = (2, 1) if stage else (4, 2)
        x = F.conv2d(x, p[f"{down}.weight"], p[f"{down}.bias"], stride, padding)
        if f"pos_embeds.{stage}.pos_embed" in p:
            x = x + p[f"pos_embeds.{stage}.pos_embed"]
        for j in range(depth):
            block = f"stages.{stage}.{j}"
            y = mix(normalise(x, p, f"{block}.norm1", norm_dims, 1e-5), p, f"{block}.token_mixer")
            x = x + per_channel(p[f"{block}.layer_scale1.scale"]) * y
            y = normalise(x, p, f"{block}.norm2", norm_dims, 1e-5)
            y = pointwise(gelu(pointwise(y, p, f"{block}.mlp.fc1")), p, f"{block}.mlp.fc2")
            x = x + per_channel(p[f"{block}.layer_scale2.scale"]) * y
        outputs.append(normalise(x, p, f"norm{stage}", norm_dims, 1e-5))
    return outputs


def baseline(p: Weights, x: Tensor, mixers: list[Callable]) -> list[Tensor]:
    """MetaFormer baselines: norms over a whole image without bias, StarReLU, a scale of the
    identity path in the last two stages; norms over the channels around the downsamplings."""
    outputs = []
    for stage, (depth, mix) in enumerate(zip(DEPTHS, mixers, strict=True)):
        down = f"downsample_layers.{stage}"
        if stage:
            x = normalise(x, p, f"{down}.pre_norm", (1,), 1e-6)
            x = F.conv2d(x, p[f"{down}.conv.weight"], p[f"{down}.conv.bias"], 2, 1)
        else:
            x = F.conv2d(x, p[f"{down}.conv.weight"], p[f"{down}.conv.bias"], 4, 2)
            x = normalise(x, p, f"{down}.post_norm", (1,), 1e-6)
        for j in range(depth):
            block = f"stages.{stage}.{j}"
            scales = [1.0, 1.0]
            if stage >= 2:
                scales = [per_channel(p[f"{block}.res_scale{half}.scale"]) for half in (1, 2)]
            y = normalise(x, p, f"{block}.norm1", (1, 2, 3), 1e-6)
            x = scales[0] * x + mix(y, p, f"{block}.token_mixer")
            y = normalise(x, p, f"{block}.norm2", (1, 2, 3), 1e-6)
            y = star_relu(pointwise(y, p, f"{block}.mlp.fc1"), p, f"{block}.mlp.act")
            x = scales[1] * x + pointwise(y, p, f"{block}.mlp.fc2")
        outputs.append(x)
    return outputs


IMAGE, CHANNELS = (1, 2, 3), (1,)
REFERENCES = {
    "metaformer_s12_identity": (poolformer, [identity] * 4, IMAGE),
    "metaformer_s12_random": (poolformer, [random_matrix] * 4, IMAGE),
    "metaformer_s12_pppa": (poolformer, [pooling] * 3 + [attention], CHANNELS),
    "metaformer_s12_ppaa": (poolformer, [pooling] * 2 + [attention] * 2, CHANNELS),
    "metaformer_s12_pppf": (poolformer, [pooling] * 3 + [spatial_fc], IMAGE),
    "metaformer_s12_ppff": (poolformer, [pooling] * 2 + [spatial_fc] * 2, IMAGE),
    "identityformer_s12": (baseline, [identity] * 4),
    "randformer_s12": (baseline, [identity] * 2 + [random_matrix] * 2),
}
EMBEDDINGS = {
    "metaformer_s12_pppa": dict(pos_embed_sizes=[None, None, None, SIDES[3]]),
    "metaformer_s12_ppaa": dict(pos_embed_sizes=[None, None, SIDES[2], None]),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_against_the_definition(name, randomize_all):
    reference, *how = REFERENCES[name]
    backbone = build_backbone(name, **GRIDS, **EMBEDDINGS.get(name, {}))
    randomize_all(backbone).double()
    x = image(64, 64).double()
    # The parameters by name: each of them is read.
    p = Read(backbone.state_dict())
    expected = reference(p, x, *how)
    assert p.read == set(p)
    assert [level.shape[-1] for level in expected] == SIDES
    with torch.no_grad():
        for level, other in zip(backbone(x), expected, strict=True):
            torch.testing.assert_close(level, other, rtol=0, atol=1e-9)


class Read(dict):
    """A dict that knows which of its items were used."""

    def __init__(self, items: dict) -> None:
        super().__init__(items)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.read.add(key)
        return super().__getitem__(key)
