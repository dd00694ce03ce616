"""What a whole network holds: those of all archs are whole, and what lacks something is told."""

from __future__ import annotations

import re

import pytest
import torch

import mmmetaformer.mixers  # noqa: F401  so that they are registered
from mmmetaformer import list_archs
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.registry import TOKEN_MIXERS
from mmmetaformer.weights import WeightsError
from mmmetaformer.weights.parts import check_classifier, check_network


def small(name: str, **options) -> dict[str, torch.Tensor]:
    """The state dict of a network of two blocks per stage, without values."""
    sizes = (
        dict(dim=32, depth=8) if "mixer" in name else dict(depths=[2] * 4, dims=[32, 64, 96, 128])
    )
    if name.startswith("ffnet"):
        sizes["dims"] = [32, 64, 128, 256]
    with torch.device("meta"):
        return build_backbone(name, **sizes | options).state_dict()


def refusal(state: dict[str, torch.Tensor]) -> str:
    with pytest.raises(WeightsError) as error:
        check_network(state)
    return str(error.value)


@pytest.mark.parametrize("name", [n for n in list_archs() if re.search(r"s12|s18|_1|seg|mixer", n)])
def test_networks_are_whole(name):
    state = small(name)
    width = 32 if "mixer" in name else 256 if "ffnet" in name else 128
    assert check_network(state) == width
    assert check_network({key: value for key, value in state.items() if key[:4] != "norm"}) == width


@pytest.mark.parametrize("name", ["ffnet_1", "ffnet_2", "ffnet_seg"])
def test_fused_networks_are_whole(name):
    fused = build_backbone(name, depths=[1] * 4, dims=[8, 16, 32, 64]).eval().switch_to_deploy()
    assert check_network(fused.state_dict()) == 64


@pytest.mark.parametrize(
    "mixer", sorted({cls.__name__ for cls in TOKEN_MIXERS.module_dict.values()})
)
def test_token_mixers_are_known(mixer):
    """A single block of each is taken for whole, so that none is a part of someone's own."""
    if mixer == "StaticMetaMixer":
        mixer = dict(type=mixer, query=None, key="DepthwiseConv2d", value="DepthwiseConv2d")
        for part in ("key", "value"):
            mixer[part] = dict(type=mixer[part], kernel_size=5)
    state = small("poolformer_s12", depths=[1, 2, 2, 2], token_mixers=[mixer, *["identity"] * 3])
    assert check_network(state) == 128


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("stages.3.", r"lacks stages\.3\.0\.\*"),
        ("stages.1.0.", r"lacks stages\.1\.0\.\*"),
        ("stages.1.1.mlp.fc1.weight", r"stages\.1\.1 lacks \['mlp\.fc1\.weight'\], which other"),
        ("downsample_layers.2.", r"lacks \['2\.conv\.bias', '2\.conv\.weight', '2\.pre_norm"),
        ("downsample_layers.0.post_norm.", r"lacks \['0\.post_norm\.weight'\]"),
        # Of all blocks alike.
        (r"stages\.\d\.\d\.token_mixer\.qkv", r"stages\.2\.0\.token_mixer lacks \['qkv\.weight'\]"),
        (r".*\.act1?\.scale", r"token_mixer lacks \['act1\.scale'\]"),
        (r".*\.norm2\.weight", r"stages\.0\.0 lacks \['norm2\.weight'\]"),
        (r".*\.res_scale1\.scale", r"stages\.2\.0 lacks \['res_scale1\.scale'\]"),
        (r".*\.mlp\..+", r"stages\.0\.0 lacks \['mlp\.fc1\.weight', 'mlp\.fc2\.weight'\]"),
    ],
)
def test_what_lacks_something(lost, message):
    state = small("caformer_s18")
    left = {name: value for name, value in state.items() if not re.match(lost, name)}
    assert len(left) < len(state)
    text = refusal(left)
    assert text.startswith("the source is not whole: ") and re.search(message, text)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("stages.0.0.norm1.weight", (31,), r"stages\.0\.[01]\.norm1\.weight has the shape"),
        ("stages.0.0.extra.weight", (1,), r"stages\.0\.\d (has|lacks) \['extra\.weight'\]"),
        ("stages.4.0.norm1.weight", (1,), r"none has \['stages\.4\.0'\]"),
        ("bottleneck.weight", (1,), r"none has bottleneck\.weight"),
        ("downsample_layers.4.conv.weight", (1,), r"downsample_layers has \['4\.conv\.weight'\]"),
        ("downsample_layers.1.conv.weight", (64, 31, 3, 3), "downsample_layers do not belong"),
        ("norm0.weight", (31,), "shapes in norm0 do not belong together"),
        ("norm4.weight", (31,), r"none has \['norm4'\]"),
        ("pos_embeds.2.pos_embed", (1, 95, 4, 4), r"shapes in pos_embeds\.2 do not belong"),
    ],
)
def test_what_does_not_belong(name, shape, message):
    state = small("caformer_s18") | {name: torch.empty(shape)}
    assert re.search(message, refusal(state))


def test_a_pyramid_is_whole_level_by_level():
    state = small("mlp_mixer_s32")
    levels = {name.rpartition(".")[0] for name in state if name.startswith("pyramid.")}
    assert {f"pyramid.levels.0.{i}" for i in (0, 1, 3, 4, 6)} < levels
    del state["pyramid.levels.0.4.weight"]
    assert "pyramid.levels.0 lacks ['4.weight']" in refusal(state)
    state = {name: value for name, value in state.items() if ".levels.0." not in name}
    assert check_network(state) == 32


def own_mixer(stages: tuple[int, ...], shape=(8, 8)) -> dict[str, torch.Tensor]:
    state = small("poolformer_s12", depths=[2, 2, 2, 1])
    names = {f"{name.partition('.norm1')[0]}.token_mixer.mine" for name in state
             if re.match(rf"stages\.[{''.join(map(str, stages))}]\.\d\.norm1", name)}  # fmt: skip
    return state | {name: torch.empty(shape) for name in names}


def test_parts_of_ones_own_are_compared():
    assert check_network(own_mixer((1,))) == check_network(own_mixer((1, 3))) == 128
    state = own_mixer((1,))
    state["stages.1.0.token_mixer.mine"] = torch.empty(8, 7)
    assert re.search(r"stages\.1\.[01]\.token_mixer\.mine has the shape", refusal(state))
    del state["stages.1.0.token_mixer.mine"]
    assert "token_mixer.mine" in refusal(state)
    # A single one: nothing tells whether it is whole.
    message = "stages.3.0.token_mixer has ['mine'], which no part that is known has"
    assert refusal(own_mixer((3,))) == message


def test_a_single_block_of_shapes_that_do_not_belong_together():
    state = small("caformer_s18", depths=[1] * 4)
    state["stages.3.0.token_mixer.qkv.weight"] = torch.empty(128, 128)
    assert "stages.3.0.token_mixer do not belong together (qkv" in refusal(state)


@pytest.mark.parametrize(
    ("change", "normed", "message"),
    [
        ({}, True, None),
        ({"norm.running_mean": (8,), "norm.running_var": (8,), "norm.num_batches_tracked": ()},
         True, None),
        ({}, False, r"has \['norm\.bias', 'norm\.weight'\]"),
        ({"norm.running_mean": (8,)}, True, r"lacks \['norm\.num_batches_tracked', 'norm\.runn"),
        ({"fc.weight": (5, 7)}, True, "do not belong together"),
        ({"fc.bias": (4,)}, True, "do not belong together"),
        ({"fc1.weight": (9, 8)}, True, r"has \['fc1.weight'\]"),
    ],
)  # fmt: skip
def test_classifiers(change, normed, message):
    shapes = {"norm.weight": (8,), "norm.bias": (8,), "fc.weight": (5, 8), "fc.bias": (5,)}
    classifier = {name: torch.empty(shape) for name, shape in (shapes | change).items()}
    if message is None:
        check_classifier(classifier, 8, normed=normed)
    else:
        with pytest.raises(WeightsError, match=f"the classifier.* {message}"):
            check_classifier(classifier, 8, normed=normed)
