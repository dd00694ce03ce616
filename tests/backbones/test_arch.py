"""Names, tables and settings."""

import pytest

from mmmetaformer import MetaFormer, PoolFormer, create_backbone, list_archs
from mmmetaformer.backbones import arch as arch_module
from mmmetaformer.backbones.arch import ArchSettings
from mmmetaformer.variants import FAMILIES, VARIANTS

TINY = dict(depths=[1, 1, 1, 1], dims=[8, 12, 16, 20])


def resolve_arch(arch, family, overrides):
    return arch_module.resolve_arch(arch, family, overrides, ArchSettings, "poolformer")


def test_list_archs():
    assert list_archs("poolformer_*") == [
        "poolformer_s12", "poolformer_s24", "poolformer_s36", "poolformer_m36", "poolformer_m48",
    ]  # fmt: skip
    assert set(list_archs()) == set(VARIANTS)
    assert list_archs("nothing*") == []


def test_every_family_has_a_variant_and_the_other_way_round():
    assert {row["family"] for row in VARIANTS.values()} == set(FAMILIES)


def test_short_and_full_names_are_the_same_network():
    assert PoolFormer("s24").settings == PoolFormer("poolformer_s24").settings
    assert PoolFormer("s24").settings == MetaFormer("poolformer_s24").settings


@pytest.mark.parametrize("name", ["poolformer_s13", "poolformer", "resnet50", ""])
def test_unknown_name(name):
    with pytest.raises(ValueError, match="poolformer_s12"):
        create_backbone(name)
    with pytest.raises(ValueError, match="'s12', 's24', 's36', 'm36', 'm48'"):
        PoolFormer(name)


def test_near_names_are_suggested():
    with pytest.raises(ValueError, match="Did you mean 'poolformer_s12'"):
        create_backbone("poolformers12")


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (dict(depths=[1, 1, 1]), ValueError, "list of 4 integers"),
        (dict(depths=[1, 1, 0, 1]), ValueError, "positive integers"),
        (dict(dims=[8, 8, 8, 8.0]), ValueError, "positive integers"),
        (dict(token_mixers=["pooling"] * 3), ValueError, r"token_mixers .* got 3"),
        (dict(token_mixers=["pooling", None, "pooling", "pooling"]), ValueError, "identity"),
        (dict(token_mixers="polling"), ValueError, "unknown token mixer type 'polling'.*pooling"),
        (dict(channel_mixers="mpl"), ValueError, "unknown channel mixer type 'mpl'.*mlp"),
        (dict(token_mixers=dict(type="pooling", size=3)), TypeError, "pooling.*size"),
        (dict(token_mixers=dict(pool_size=3)), TypeError, "key 'type'"),
        (dict(layer_scale_init_value="big"), TypeError, "'big'"),
        (dict(stem=dict(type="ConvDownsampling", kernel_size=7)), ValueError, "'stride'"),
        (dict(mixers="pooling"), TypeError, r"unknown .*\['mixers'\].*token_mixers"),
        (dict(drop_path_rate=1.0), ValueError, r"\[0, 1\)"),
    ],
)
def test_wrong_settings_are_named(overrides, error, message):
    with pytest.raises(error, match=message):
        MetaFormer(TINY, **overrides)


@pytest.mark.parametrize("arch", [12, None, ["s12"]])
def test_arch_of_a_wrong_type(arch):
    with pytest.raises(TypeError, match="a name or a dict"):
        PoolFormer(arch)


def test_arch_dict_lacks_dims():
    with pytest.raises(TypeError, match="dims"):
        PoolFormer(dict(depths=[1, 1, 1, 1]))


def test_values_are_broadcast_over_the_stages():
    settings = resolve_arch(
        TINY,
        "poolformer",
        dict(
            token_mixers=["identity", "pooling", dict(type="pooling", pool_size=5), "identity"],
            layer_scale_init_value=[None, None, 1e-5, 1.0],
            channel_mixers=[None, "mlp", "mlp", "mlp"],
        ),
    )
    stages = settings.stages()
    assert [stage.block["token_mixer"] for stage in stages] == [
        dict(type="identity"), dict(type="pooling"), dict(type="pooling", pool_size=5),
        dict(type="identity"),
    ]  # fmt: skip
    assert [stage.block["layer_scale_init_value"] for stage in stages] == [None, None, 1e-5, 1.0]
    assert [stage.block["channel_mixer"] for stage in stages] == [None] + [dict(type="mlp")] * 3
    assert [stage.downsampling["stride"] for stage in stages] == [4, 2, 2, 2]


def test_the_table_is_not_changed_by_a_caller():
    settings = resolve_arch("s12", "poolformer", {})
    assert isinstance(settings, ArchSettings)
    settings.stages()[0].downsampling["stride"] = 99
    settings.stages()[0].block["token_mixer"]["pool_size"] = 99
    assert resolve_arch("s12", "poolformer", {}).stages()[0].downsampling["stride"] == 4
    assert resolve_arch("s12", "poolformer", {}).stages()[0].block["token_mixer"]["pool_size"] == 3


def test_grids_follow_the_pretraining_size():
    """Rounded up as the convolutions do: 240 pixels are 60, 30, 15 and 8 positions."""
    for size, grids in ((224, [56, 28, 14, 7]), (240, [60, 30, 15, 8])):
        backbone = MetaFormer(TINY, token_mixers="spatial_fc", pretrain_size=size)
        assert [stage[0].token_mixer.grid_size[0] for stage in backbone.stages] == grids
    own = dict(type="spatial_fc", grid_size=(3, 5))
    backbone = MetaFormer(TINY, token_mixers=["pooling", "pooling", own, "spatial_fc"])
    grids = [stage[0].token_mixer.grid_size for stage in backbone.stages[2:]]
    assert grids == [(3, 5), (7, 7)]


def test_parts_are_given_by_name_by_dict_or_by_class():
    from mmmetaformer.mixers import Pooling

    for pooling in ("pooling", "Pooling", Pooling, dict(type=Pooling), dict(type="pooling")):
        backbone = MetaFormer(TINY, token_mixers=pooling, norm_cfg="BN", act_cfg="ReLU")
        block = backbone.stages[0][0]
        names = [type(part).__name__ for part in (block.token_mixer, block.norm1, block.mlp.act)]
        assert names == ["Pooling", "BatchNorm2d", "ReLU"]
    nested = dict(type="sepconv", act_cfg="GELU", _scope_="mmdet")  # as mmengine marks merged dicts
    mixer = MetaFormer(TINY, token_mixers=nested).stages[0][0].token_mixer
    assert type(mixer.act1).__name__ == "GELU"


def test_the_activation_reaches_both_mixers_of_a_block():
    block = MetaFormer("convformer_s18", act_cfg="SiLU", out_indices=(0,)).stages[0][0]
    assert type(block.token_mixer.act1).__name__ == type(block.mlp.act).__name__ == "SiLU"


def test_no_scale_of_an_identity_path_that_is_not_there():
    names = [n for n, _ in MetaFormer("caformer_s18", residual=(True, False)).named_parameters()]
    assert any("res_scale1" in name for name in names)
    assert not any("res_scale2" in name for name in names)
