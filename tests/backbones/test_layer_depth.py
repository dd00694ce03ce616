"""The depth of each parameter, for learning rates by layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmmetaformer import IsotropicMetaFormer, MetaFormer, list_archs
from mmmetaformer.backbones.factory import build_backbone

TINY = dict(depths=[1, 2, 6, 1], dims=[8, 8, 8, 8], pos_embed_sizes=7)


def tiny(**kwargs) -> MetaFormer:
    return MetaFormer(TINY, **kwargs)


def units(backbone: nn.Module) -> list[nn.Module]:
    """What ``forward`` calls, in no particular order."""
    if isinstance(backbone, IsotropicMetaFormer):
        return [backbone.stem, *backbone.blocks]
    blocks = [block for stage in backbone.stages for block in stage]
    return [*backbone.downsample_layers, *backbone.pos_embeds.values(), *blocks]


@pytest.mark.parametrize("name", list_archs())
def test_depths_never_decrease_on_the_way_through_the_network(name):
    with torch.device("meta"):
        backbone = build_backbone(name)
        called: list[nn.Module] = []
        for unit in units(backbone):
            unit.register_forward_pre_hook(lambda module, args: called.append(module))
        backbone(torch.empty(1, 3, 64, 64))
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    for decay_type in ("layer_wise", "stage_wise"):
        on_the_way = [
            (names[id(parameter)], backbone.layer_depth(names[id(parameter)], decay_type))
            for unit in called
            for parameter in unit.parameters()
        ]
        depths = [depth for _, depth in on_the_way]
        assert depths == sorted(depths)
        # Every number is some layer's, and every other parameter is the outputs'.
        assert set(depths) == set(range(backbone.num_layers(decay_type) + 1))
        others = set(names.values()) - {name for name, _ in on_the_way}
        assert {name.split(".")[0] for name in others} <= {
            "norm0", "norm1", "norm2", "norm3", "pyramid",
        }  # fmt: skip
        assert [backbone.layer_depth(name, decay_type) for name in others] == [None] * len(others)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("poolformer_s12", 6), ("poolformer_s24", 8), ("poolformer_s36", 10),
        ("poolformer_m48", 12), ("ffnet_1", 6), ("ffnet_2", 9), ("ffnet_3", 11), ("ffnet_4", 13),
        ("caformer_s18", 7), ("convmixer_768_32", 32), ("mlp_mixer_b16", 12),
    ],
)  # fmt: skip
def test_natural_number_of_layers(name, layers):
    with torch.device("meta"):
        backbone = build_backbone(name, out_indices=(0,))
    assert backbone.num_layers() == layers
    assert backbone.num_layers("stage_wise") == 4


@pytest.mark.parametrize(
    ("name", "layer", "stage"),
    [
        ("downsample_layers.0.conv.weight", 0, 0),
        ("pos_embeds.0.pos_embed", 1, 1),
        ("stages.0.0.norm1.weight", 1, 1),
        ("downsample_layers.1.conv.bias", 2, 2),
        ("pos_embeds.1.pos_embed", 2, 2),
        ("stages.1.1.mlp.fc1.weight", 2, 2),
        ("downsample_layers.2.conv.weight", 3, 3),
        ("pos_embeds.2.pos_embed", 3, 3),
        ("stages.2.0.mlp.fc1.weight", 3, 3),
        ("stages.2.1.mlp.fc1.weight", 3, 3),
        ("stages.2.2.mlp.fc1.weight", 4, 3),
        ("stages.2.4.layer_scale2.scale", 4, 3),
        ("stages.2.5.mlp.fc1.weight", 5, 3),
        ("downsample_layers.3.conv.weight", 6, 4),
        ("pos_embeds.3.pos_embed", 6, 4),
        ("stages.3.0.mlp.fc2.bias", 6, 4),
        ("norm0.weight", None, None),
        ("norm3.bias", None, None),
    ],
)
def test_hierarchical_depths(name, layer, stage):
    backbone = tiny()
    assert backbone.layer_depth(name) == layer
    assert backbone.layer_depth(name, "stage_wise") == stage


@pytest.mark.parametrize("depth", [4, 7])
def test_isotropic_depths(depth):
    arch = dict(dim=8, depth=depth, stem=dict(type="PatchEmbedding", patch_size=16))
    backbone = IsotropicMetaFormer(arch)
    names = [f"blocks.{i}.mlp.fc1.weight" for i in range(depth)]
    assert backbone.layer_depth("stem.conv.weight") == 0
    assert backbone.layer_depth("stem.conv.weight", "stage_wise") == 0
    assert [backbone.layer_depth(name) for name in names] == list(range(1, depth + 1))
    quarters = {4: [1, 2, 3, 4], 7: [1, 2, 2, 3, 3, 4, 4]}[depth]
    assert [backbone.layer_depth(name, "stage_wise") for name in names] == quarters
    assert backbone.layer_depth("pyramid.levels.0.0.weight") is None
    assert backbone.layer_depth("norm1.weight") is None


def test_stages_that_are_not_built_count():
    """The depth is that of the pretrained network, whatever of it is used."""
    part = tiny(out_indices=(1, 2))
    assert part.num_layers() == tiny().num_layers() == 6
    assert part.layer_depth("stages.2.5.mlp.fc1.weight") == 5
    with pytest.raises(ValueError, match=r"no parameter 'stages\.3\.0\.mlp\.fc1\.weight'"):
        part.layer_depth("stages.3.0.mlp.fc1.weight")


def test_depths_of_a_fused_network():
    with torch.device("meta"):
        backbone = build_backbone("ffnet_1").eval().switch_to_deploy()
    names = [name for name, _ in backbone.named_parameters() if not name.startswith("norm")]
    assert len(names) > 100
    assert {backbone.layer_depth(name) for name in names} == set(range(7))


@pytest.mark.parametrize(
    "name", ["", "stages", "stages.0.0.mlp", "norm7.weight", "backbone.stages.0.0.norm1.weight"]
)
def test_unknown_names(name):
    with pytest.raises(ValueError, match=f"MetaFormer has no parameter {name!r}"):
        tiny().layer_depth(name)


def test_a_parameter_that_a_subclass_adds():
    class Prompted(MetaFormer):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            self.prompt = nn.Parameter(torch.zeros(8))

    with pytest.raises(ValueError, match="Prompted does not know.*'prompt'.*override layer_depth"):
        Prompted(TINY).layer_depth("prompt")


def test_unknown_decay_type():
    backbone = tiny()
    for ask in (backbone.num_layers, lambda kind: backbone.layer_depth("norm0.weight", kind)):
        with pytest.raises(ValueError, match=r"\('layer_wise', 'stage_wise'\), got 'layerwise'"):
            ask("layerwise")


def test_the_convention_of_mmpretrain():
    """Layer and number of layers; what is behind the backbone is one layer more."""
    backbone = tiny()
    names = [
        "backbone.downsample_layers.0.conv.weight",
        "backbone.stages.3.0.mlp.fc1.weight",
        "backbone.norm3.weight",
        "head.fc.weight",
    ]
    depths = [backbone.get_layer_depth(name, "backbone.") for name in names]
    assert depths == [(0, 8), (6, 8), (7, 8), (7, 8)]
    assert backbone.get_layer_depth("stages.2.2.mlp.fc1.weight") == (4, 8)
