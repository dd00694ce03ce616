"""FFNet's release, written out row by row and read back."""

from __future__ import annotations

import re

import pytest
import torch

from mmmetaformer import convert_state_dict
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.weights import WeightsError
from mmmetaformer.weights.convert import convert

SIZES = dict(depths=[1, 2, 1, 1], dims=[8, 16, 32, 64])


def to_published(name: str) -> str:
    """From our names to the release's; independent of the converter."""
    name = re.sub(r"\.conv\.(\w+)$", r".c.\1", name)
    name = re.sub(r"\.norm\.(\w+)$", r".bn.\1", name)
    name = name.replace("downsample_layers.0.conv1.", "patch_embed.0.")
    name = name.replace("downsample_layers.0.conv2.", "patch_embed.2.")
    name = re.sub(
        r"^downsample_layers\.(\d)\.conv\.branches\.0\.", r"stages.\1.0.proj.0.conv.", name
    )
    name = re.sub(
        r"^downsample_layers\.(\d)\.conv\.branches\.1\.", r"stages.\1.0.proj.0.conv1.", name
    )
    merging = re.fullmatch(r"downsample_layers\.(\d)\.proj\.(.+)", name)
    if merging:
        return f"stages.{merging[1]}.0.proj.1.conv.{merging[2]}"
    block = re.fullmatch(r"stages\.(\d)\.(\d+)\.(.+)", name)
    if block is None or ".proj." in name:
        return name
    stage, number, rest = int(block[1]), int(block[2]), block[3]
    for own, published in (
        ("layer_scale1.scale", "token_mixer.0.layer_scale"),
        ("layer_scale2.scale", "channel_mixer.layer_scale"),
        ("token_mixer.query.", "token_mixer.0.main.fc."),
        ("token_mixer.key.branches.0.", "token_mixer.0.main.conv1.conv."),
        ("token_mixer.key.branches.1.", "token_mixer.0.main.conv1.conv1."),
        ("token_mixer.key.", "token_mixer.0.main.conv1."),
        ("token_mixer.value.branches.0.", "token_mixer.0.main.conv2.conv."),
        ("token_mixer.value.branches.1.", "token_mixer.0.main.conv2.conv1."),
        ("token_mixer.value.", "token_mixer.0.main.conv2."),
        ("mlp.conv.branches.0.", "channel_mixer.main.conv.conv."),
        ("mlp.conv.branches.1.", "channel_mixer.main.conv.conv1."),
        ("mlp.conv.", "channel_mixer.main.conv."),
        ("mlp.", "channel_mixer.main."),
    ):
        if rest.startswith(own):
            rest = published + rest.removeprefix(own)
            break
    # From stage 1 on the first entry is the patch merging.
    return f"stages.{stage}.{number + (stage > 0)}.{rest}"


def published(name: str, *, detector: bool) -> tuple[dict, dict]:
    """A state dict of the release and what each of its tensors is called here."""
    generator = torch.Generator().manual_seed(0)
    state, own_names = {}, {}
    for own, value in build_backbone(name, **SIZES).state_dict().items():
        if own.startswith("norm") and not detector:
            continue
        key = to_published(own)
        assert key not in own_names
        own_names[key] = own
        tensor = torch.rand(value.shape, generator=generator)
        # A factor per channel has two more dimensions there.
        state[key] = tensor.view(-1, 1, 1) if key.endswith("layer_scale") else tensor
    if not detector:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"norm.{leaf}"] = torch.zeros(64)
        state |= {"head.weight": torch.zeros(1000, 64), "head.bias": torch.zeros(1000)}
    return state, own_names


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("name", ["ffnet_1", "ffnet_2", "ffnet_3"])
def test_classifier(name, wrapper):
    state, own_names = published(name, detector=False)
    assert any("proj.0.conv1.bn.running_var" in key for key in state)
    backbone = build_backbone(name, **SIZES)
    converted = convert_state_dict({wrapper: state} if wrapper else state, backbone)
    assert set(converted) == {n for n in backbone.state_dict() if not n.startswith("norm")}
    for key, own in own_names.items():
        assert torch.equal(converted[own].flatten(), state[key].flatten()), key


def test_inside_of_a_detector():
    state, own_names = published("ffnet_3", detector=True)
    wrapped = {f"backbone.{key}": value for key, value in state.items()}
    wrapped["neck.lateral_convs.0.conv.weight"] = torch.zeros(1)
    result = convert(dict(state_dict=wrapped), build_backbone("ffnet_3", **SIZES))
    assert result.new == [] and set(result.state_dict) == set(own_names.values())
    assert result.dropped == {"outside of the backbone": ["neck.lateral_convs.0.conv.weight"]}


def test_a_fused_backbone_does_not_take_what_was_trained():
    state, _ = published("ffnet_1", detector=False)
    fused = build_backbone("ffnet_1", **SIZES).eval().switch_to_deploy()
    with pytest.raises(WeightsError, match="missing"):
        convert(state, fused)


def test_a_fused_file_says_that_it_is_one():
    fused = build_backbone("ffnet_1", **SIZES).eval().switch_to_deploy()
    with pytest.raises(WeightsError, match=r"fused network: call switch_to_deploy\(\)"):
        convert(fused.state_dict(), build_backbone("ffnet_1", **SIZES))


def test_our_own_layout_is_known_before_and_after_fusing():
    for fuse in (False, True):
        backbone = build_backbone("ffnet_2", **SIZES).eval()
        backbone = backbone.switch_to_deploy() if fuse else backbone
        result = convert(backbone.state_dict(), backbone)
        assert result.layout == "mmmetaformer" and result.new == []
