"""Which network a state dict is of: those of all archs are found, and what lacks something is
told."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from mmmetaformer import export_state_dict, list_archs
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.weights import WeightsError
from mmmetaformer.weights.classifier import fit_classifier
from mmmetaformer.weights.layouts import CLASSIFIER
from mmmetaformer.weights.networks import find_network


def state_of(name: str, *, fused: bool = False, **options) -> dict[str, Tensor]:
    """The state dict of a network without values."""
    with torch.device("meta"):
        backbone = build_backbone(name, **options).eval()
        return (backbone.switch_to_deploy() if fused else backbone).state_dict()


def small(name: str, **options) -> dict[str, Tensor]:
    """The same of two blocks per stage."""
    sizes = (
        dict(dim=32, depth=8) if "mixer" in name else dict(depths=[2] * 4, dims=[32, 64, 128, 256])
    )
    return state_of(name, **sizes | options)


def refusal(state: dict[str, Tensor]) -> str:
    """Why a state dict of our own names is refused."""
    with pytest.raises(WeightsError) as error:
        export_state_dict(state, "mmmetaformer")
    return str(error.value)


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("name", list_archs())
def test_networks_of_all_archs_are_found(name):
    """In their true sizes, with and without what dense prediction adds."""
    state = state_of(name)
    assert shapes(export_state_dict(state, "mmmetaformer")) == shapes(state)
    bare = {key: t for key, t in state.items() if not re.match(r"norm\d\.|pyramid\.", key)}
    network = find_network(bare)
    assert network.is_known and shapes(network.backbone.state_dict()) == shapes(bare)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ffnet_2", dict(fused=True)),
        ("ffnet_seg", dict(fused=True)),
        ("poolformer_s12", dict(in_channels=4, dims=[8, 24, 16, 40], depths=[1, 3, 1, 2])),
        ("caformer_s18", dict(out_norm_cfg=dict(type="LN2d", bias=False))),
        ("randformer_s12", dict(pretrain_size=384)),
        ("metaformer_s12_ppaa", dict(pos_embed_sizes=[None, None, 24, None])),
        ("ffnet_1", dict(out_norm_cfg="BN")),
        ("mlp_mixer_s16", dict(dim=48, depth=5, pretrain_size=384)),
        ("convmixer_1024_20", dict(pyramid=None, dim=24, depth=6)),
    ],
)
def test_sizes_are_read_off_the_tensors(name, options):
    state = state_of(name, **options)
    assert shapes(export_state_dict(state, "mmmetaformer")) == shapes(state)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("stages.3.", r"missing: stages\.3\.0\.norm1\.weight"),
        ("stages.1.0.", r"missing: stages\.1\.1\..*unexpected|missing: stages\.1\.0\."),
        ("stages.1.1.mlp.fc1.weight", r"1 missing: stages\.1\.1\.mlp\.fc1\.weight$"),
        ("downsample_layers.2.", r"3 missing: downsample_layers\.2\.pre_norm\.weight"),
        ("downsample_layers.0.post_norm.", r"1 missing: downsample_layers\.0\.post_norm\.weight"),
        # Of all blocks alike.
        (r"stages\.\d\.\d\.token_mixer\.qkv", r"4 missing: stages\.2\.0\.token_mixer\.qkv\.weight"),
        (r".*\.act1?\.scale", r"12 missing: stages\.0\.0\.token_mixer\.act1\.scale"),
        (r".*\.norm2\.weight", r"8 missing: stages\.0\.0\.norm2\.weight"),
        (r".*\.res_scale1\.scale", r"4 missing: stages\.2\.0\.res_scale1\.scale"),
        (r".*\.mlp\..+", r"32 missing: stages\.0\.0\.mlp\.fc1\.weight"),
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
        ("stages.0.0.norm1.weight", (31,), "1 of another shape: stages.0.0.norm1.weight is (31,)"),
        ("stages.0.0.extra.weight", (1,), "1 unexpected: stages.0.0.extra.weight"),
        ("stages.4.0.norm1.weight", (1,), "1 unexpected: stages.4.0.norm1.weight"),
        ("bottleneck.weight", (1,), "1 unexpected: bottleneck.weight"),
        ("downsample_layers.4.conv.weight", (1,), "unexpected: downsample_layers.4.conv.weight"),
        ("downsample_layers.1.conv.weight", (64, 31, 3, 3), "downsample_layers.1.conv.weight is"),
        ("norm0.weight", (31,), "of another shape: norm0.weight is (31,)"),
        ("norm4.weight", (31,), "1 unexpected: norm4.weight"),
        ("pos_embeds.2.pos_embed", (1, 95, 4, 4), "1 unexpected: pos_embeds.2.pos_embed"),
    ],
)
def test_what_does_not_belong(name, shape, message):
    state = small("caformer_s18", out_norm_cfg=dict(type="LN2d")) | {name: torch.zeros(shape)}
    assert message in refusal(state)


def test_sizes_that_no_network_has():
    state = small("metaformer_s12_ppaa")
    heads = {
        key: t[:33] if key.startswith("stages.3") and t.ndim else t for key, t in state.items()
    }
    assert "the source is " in refusal(heads)


def test_a_pyramid_is_whole_level_by_level():
    state = small("mlp_mixer_s32")
    levels = {name.rpartition(".")[0] for name in state if name.startswith("pyramid.")}
    assert {f"pyramid.levels.0.{i}" for i in (0, 1, 3, 4, 6)} < levels
    del state["pyramid.levels.0.4.weight"]
    assert "1 missing: pyramid.levels.0.4.weight" in refusal(state)
    state = {name: value for name, value in state.items() if ".levels.0." not in name}
    assert shapes(export_state_dict(state, "mmmetaformer")) == shapes(state)


@pytest.mark.parametrize(
    ("change", "normed", "message"),
    [
        ({}, False, "2 unexpected: norm.weight; norm.bias"),
        ({"norm.running_mean": (8,)}, True, "2 missing: norm.running_var; norm.num_batches_tr"),
        ({"fc.weight": (5, 7)}, True, r"1 of another shape: fc.weight is \(5, 7\)"),
        ({"fc.bias": (4,)}, True, r"1 of another shape: fc.weight is \(5, 8\)"),
        ({"fc1.weight": (9, 8)}, True, "5 missing: fc1.bias; .*hidden_norm.bias; fc2.weight"),
    ],
)  # fmt: skip
def test_classifiers_that_do_not_fit(change, normed, message):
    source, names = classifier(change)
    with pytest.raises(WeightsError, match=f"the classifier, .* does not fit.*: {message}"):
        fit_classifier(source, names, 8, normed)


@pytest.mark.parametrize(
    "change",
    [{}, {"norm.running_mean": (8,), "norm.running_var": (8,), "norm.num_batches_tracked": ()}],
)
def test_classifiers_that_fit(change):
    source, names = classifier(change)
    assert set(fit_classifier(source, names, 8, True)) == set(names.values())


def classifier(change):
    """Its tensors, and what each is here."""
    sides = {"norm.weight": (8,), "norm.bias": (8,), "fc.weight": (5, 8), "fc.bias": (5,)}
    source = {name: torch.zeros(shape) for name, shape in (sides | change).items()}
    return source, {name: f"{CLASSIFIER}.{name}" for name in source}
