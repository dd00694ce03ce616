"""Learning rates by depth: which parameter learns how fast, and which one is decayed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from mmmetaformer import FFNet, IsotropicMetaFormer, MetaFormer
from mmmetaformer.backbones.factory import build_backbone

TINY = dict(depths=[1, 1, 3, 1], dims=[8, 8, 8, 8])
# Kernels and matrices of FFNet and of mmdet's heads; all else are norms, biases and scales.
MATRIX = (
    r"(conv|convs|fc\w*|key|value|query|rpn_\w+|shared_fcs|upsample|conv_logits)(\.\d+)?\.weight"
)


def group(model: nn.Module, lr: float = 1.0, weight_decay: float | None = 0.5, **options):
    """The parameter groups; options are those of ``paramwise_cfg``."""
    optimizer = dict(type="SGD", lr=lr)
    if weight_decay is not None:
        optimizer["weight_decay"] = weight_decay
    cfg = dict(
        type="OptimWrapper",
        optimizer=optimizer,
        constructor="mmmetaformer.LayerDecayOptimWrapperConstructor",
        paramwise_cfg=options,
    )
    return build_optim_wrapper(model, cfg).optimizer.param_groups


def settings(groups: list[dict]) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter by its name."""
    return {
        name: (round(item["lr"], 12), item["weight_decay"])
        for item in groups
        for name, _ in zip(item["param_names"], item["params"], strict=True)
    }


class Detector(nn.Module):
    """As much of one as counts here."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(8, 4, 1)


def tiny(**kwargs) -> Detector:
    return Detector(MetaFormer(TINY, **kwargs))


def rates(model: nn.Module, **options) -> dict[str, float]:
    """Learning rates by name, weight decay left out."""
    return {name: lr for name, (lr, _) in settings(group(model, **options)).items()}


# name, learning rate, parameters with weight decay 0.05, parameters with none
FULL = 1e-4
FFNET_2_AS_RELEASED = [
    (r"backbone\.downsample_layers\.0\.", FULL, 2, 4),
    (r"backbone\.stages\.0\.", 6.871948e-06, 21, 30),
    (r"backbone\.(downsample_layers|stages)\.1\.", 8.589935e-06, 24, 36),
    (r"backbone\.(downsample_layers\.2|stages\.2\.[01])\.", 1.073742e-05, 21, 38),
    (r"backbone\.stages\.2\.[234]\.", 1.342177e-05, 27, 48),
    (r"backbone\.stages\.2\.[567]\.", 1.677722e-05, 27, 48),
    (r"backbone\.stages\.2\.(8|9|10)\.", 2.097152e-05, 27, 48),
    (r"backbone\.stages\.2\.1[123]\.", 2.621440e-05, 27, 48),
    (r"backbone\.stages\.2\.14\.", 3.276800e-05, 9, 16),
    (r"backbone\.(downsample_layers|stages)\.3\.", 8e-05, 30, 54),
    (r"backbone\.norm[0-3]\.", FULL, 0, 8),
    (r"neck\.", FULL, 8, 8),
    (r"rpn_head\.", FULL, 3, 3),
    (r"roi_head\.bbox_head\.", FULL, 12, 12),
    (r"roi_head\.mask_head\.", FULL, 18, 18),
]
FFNET_2 = [(r"backbone\.downsample_layers\.0\.", 5.497558e-06, 2, 4), *FFNET_2_AS_RELEASED[1:]]


@pytest.fixture(scope="module")
def cascade_ffnet_2() -> nn.Module:
    cfg = get_config("mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py").model
    cfg.backbone = dict(type="mmmetaformer.FFNet", arch="2")
    cfg.neck.in_channels = [88, 176, 352, 704]
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        return MODELS.build(cfg)


@pytest.mark.parametrize(
    ("as_released", "table"),
    [(True, FFNET_2_AS_RELEASED), (False, FFNET_2)],
    ids=["release", "ours"],
)
def test_ffnet_2_under_cascade_mask_rcnn(cascade_ffnet_2, as_released, table):
    """Every parameter is in one row, and each row has the rate and the decays written there."""
    groups = group(
        cascade_ffnet_2, 1e-4, 0.05, decay_rate=0.8, num_layers=12, as_released=as_released
    )
    found = settings(groups)
    everything = [name for name, _ in cascade_ffnet_2.named_parameters()]
    assert len(everything) == sum(row[2] + row[3] for row in table) == 675
    assert sorted(found) == sorted(everything)
    matches = {name: [row for row in table if re.match(row[0], name)] for name in everything}
    assert [name for name, rows in matches.items() if len(rows) != 1] == []

    for pattern, lr, decayed, undecayed in table:
        rows = {name: value for name, value in found.items() if re.match(pattern, name)}
        matrices = {name for name in rows if re.search(MATRIX, name)}
        assert (len(matrices), len(rows) - len(matrices)) == (decayed, undecayed), pattern
        expected = {name: (lr, 0.05 if name in matrices else 0.0) for name in rows}
        assert rows == {name: (pytest.approx(a, rel=1e-6), b) for name, (a, b) in expected.items()}


def test_parameters_of_equal_settings_share_a_group(cascade_ffnet_2):
    """Ten rates, the full one included, each with and without weight decay."""
    groups = group(cascade_ffnet_2, decay_rate=0.8, num_layers=12, as_released=True)
    assert len(groups) == len({(item["lr"], item["weight_decay"]) for item in groups}) == 20
    # In the order of the model, each by the first of its parameters.
    order = [name for name, _ in cascade_ffnet_2.named_parameters()]
    names = [item["param_names"] for item in groups]
    assert [order.index(item[0]) for item in names] == sorted(order.index(i[0]) for i in names)
    assert [[order.index(name) for name in item] for item in names] == [
        sorted(order.index(name) for name in item) for item in names
    ]
    parameters = dict(cascade_ffnet_2.named_parameters())
    assert all(
        parameters[name] is parameter
        for item in groups
        for name, parameter in zip(item["param_names"], item["params"], strict=True)
    )


@pytest.mark.parametrize(("arch", "scales"), [("3", 70), ("4", 76)])
def test_weight_decay_of_layer_scale(arch, scales):
    with torch.device("meta"):
        model = Detector(FFNet(arch))
    for as_released, decay in ((True, 0.5), (False, 0.0)):
        found = settings(group(model, decay_rate=0.9, as_released=as_released))
        scale_decays = [wd for name, (_, wd) in found.items() if "layer_scale" in name]
        assert scale_decays == [decay] * scales
        norms = [
            wd for name, (_, wd) in found.items() if re.search(r"norm\d?\.(weight|bias)", name)
        ]
        assert len(norms) > 300 and set(norms) == {0.0}


def test_residual_scales_are_never_decayed():
    model = tiny(res_scale_init_value=1.0, layer_scale_init_value=1e-5)
    found = settings(group(model, decay_rate=0.9, as_released=True))
    assert [wd for name, (_, wd) in found.items() if "res_scale" in name] == [0.0] * 12
    assert [wd for name, (_, wd) in found.items() if "layer_scale" in name] == [0.5] * 12


def test_rates_layer_by_layer():
    """Six layers: stem, stages 0 and 1, two of stage 2, stage 3."""
    found = rates(tiny(), decay_rate=0.5)
    expected = {
        "backbone.downsample_layers.0.conv.weight": 1 / 64,
        "backbone.stages.0.0.mlp.fc1.weight": 1 / 32,
        "backbone.downsample_layers.1.conv.weight": 1 / 16,
        "backbone.stages.1.0.mlp.fc1.weight": 1 / 16,
        "backbone.downsample_layers.2.conv.bias": 1 / 8,
        "backbone.stages.2.1.norm2.weight": 1 / 8,
        "backbone.stages.2.2.mlp.fc2.bias": 1 / 4,
        "backbone.downsample_layers.3.conv.weight": 1 / 2,
        "backbone.stages.3.0.layer_scale1.scale": 1 / 2,
        "backbone.norm3.weight": 1,
        "head.weight": 1,
        "head.bias": 1,
    }
    assert {name: found[name] for name in expected} == expected


def test_rates_stage_by_stage():
    found = rates(tiny(), decay_rate=0.5, decay_type="stage_wise")
    expected = {
        "backbone.downsample_layers.0.conv.weight": 1 / 32,
        "backbone.stages.0.0.mlp.fc1.weight": 1 / 16,
        "backbone.downsample_layers.1.conv.weight": 1 / 8,
        "backbone.downsample_layers.2.conv.weight": 1 / 4,
        "backbone.stages.2.2.mlp.fc1.weight": 1 / 4,
        "backbone.stages.3.0.mlp.fc1.weight": 1 / 2,
        "backbone.norm0.weight": 1,
    }
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("num_layers", "stage_2", "stage_3"),
    [(8, [2**-6, 2**-6, 2**-5], 1 / 2), (3, [1 / 2, 1 / 2, 1 / 2], 1 / 2)],
)
def test_num_layers_of_a_recipe(num_layers, stage_2, stage_3):
    """The last stage is the last layer; earlier layers keep their numbers 3, 3, 4 up to it."""
    found = rates(tiny(), decay_rate=0.5, num_layers=num_layers)
    assert [found[f"backbone.stages.2.{i}.mlp.fc1.weight"] for i in range(3)] == stage_2
    assert found["backbone.stages.3.0.mlp.fc1.weight"] == stage_3
    assert found["backbone.downsample_layers.0.conv.weight"] == 0.5 ** (num_layers + 1)


def test_stages_that_are_not_built_count():
    whole, part = (rates(tiny(out_indices=range(n)), decay_rate=0.5) for n in (4, 3))
    assert len(part) < len(whole)
    assert {name: whole[name] for name in part} == part


def test_isotropic_rates():
    arch = dict(dim=8, depth=6, stem=dict(type="PatchEmbedding", patch_size=16))
    model = Detector(IsotropicMetaFormer(arch))
    found = rates(model, decay_rate=0.5)
    assert found["backbone.stem.conv.weight"] == 1 / 128
    assert [found[f"backbone.blocks.{i}.mlp.fc1.weight"] for i in range(6)] == [
        1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2,
    ]  # fmt: skip
    added = {lr for name, lr in found.items() if name.startswith(("backbone.pyr", "backbone.norm"))}
    assert added == {1.0}
    # The quarters are blocks 0; 1, 2; 3; 4, 5.
    found = rates(model, decay_rate=0.5, decay_type="stage_wise")
    assert [found[f"backbone.blocks.{i}.mlp.fc1.weight"] for i in range(6)] == [
        1 / 16, 1 / 8, 1 / 8, 1 / 4, 1 / 2, 1 / 2,
    ]  # fmt: skip


def test_a_rate_of_one_changes_nothing():
    assert set(rates(tiny(), decay_rate=1, lr=0.3).values()) == {0.3}


def test_position_embeddings():
    model = tiny(pos_embed_sizes=[None, None, 7, None])
    name = "backbone.pos_embeds.2.pos_embed"
    assert settings(group(model, decay_rate=0.5))[name] == (1 / 8, 0.0)
    wanted = {"pos_embeds": dict(decay_mult=0.5)}
    assert settings(group(model, decay_rate=0.5, custom_keys=wanted))[name] == (1 / 8, 0.25)


def test_custom_keys_multiply():
    keys = {
        "head": dict(lr_mult=10),
        "stages.3": dict(lr_mult=0.1, decay_mult=0.2),
        "fc2": dict(lr_mult=3, momentum=0.7),
    }
    groups = group(tiny(), lr=0.01, decay_rate=0.5, custom_keys=keys)
    found = settings(groups)
    assert found["head.weight"] == (0.1, 0.5)
    assert found["head.bias"] == (0.1, 0.0)  # a rate is no reason for weight decay
    assert found["backbone.stages.3.0.mlp.fc1.weight"] == (0.0005, 0.1)
    assert found["backbone.stages.3.0.mlp.fc1.bias"] == (0.0005, 0.1)  # asked for
    assert found["backbone.stages.1.0.mlp.fc2.weight"] == (round(0.03 / 16, 12), 0.5)
    assert found["backbone.stages.1.0.mlp.fc1.weight"] == (round(0.01 / 16, 12), 0.5)
    # Options of another name reach the optimizer, and set their parameters apart.
    others = {name for item in groups if item["momentum"] == 0.7 for name in item["param_names"]}
    assert others == {n for n in found if "fc2" in n and "stages.3" not in n} != set()
    assert not any({"lr_mult", "decay_mult"} & set(item) for item in groups)


def test_a_custom_key_for_the_backbone_decays_no_scale():
    keys = dict(backbone=dict(lr_mult=0.5))
    plain = settings(group(tiny(), decay_rate=0.5))
    found = settings(group(tiny(), decay_rate=0.5, custom_keys=keys))
    backbone = [name for name in plain if name.startswith("backbone.")]
    assert len(backbone) == len(plain) - 2
    assert [found[name] for name in backbone] == [
        (plain[name][0] / 2, plain[name][1]) for name in backbone
    ]


def test_mmengines_multipliers():
    given = dict(flat_decay_mult=0.4, bias_decay_mult=0.2, bias_lr_mult=2.0, norm_decay_mult=0.6)
    model = tiny(norm_cfg=dict(type="BN"))
    found = settings(group(model, decay_rate=0.5, **given))
    block = "backbone.stages.3.0"
    assert found[f"{block}.mlp.fc1.weight"] == (0.5, 0.5)
    assert found[f"{block}.mlp.fc1.bias"] == (1.0, 0.1)
    assert found[f"{block}.layer_scale1.scale"] == (0.5, 0.2)
    assert found[f"{block}.norm1.weight"] == (0.5, 0.3)
    assert found["head.bias"] == (2.0, 0.1)


def test_an_optimizer_without_weight_decay():
    """Its own value stays, and the rates decay all the same."""
    found = settings(group(tiny(), weight_decay=None, decay_rate=0.5))
    assert found["backbone.stages.3.0.mlp.fc1.weight"] == (0.5, 0)
    assert found["backbone.downsample_layers.0.conv.bias"] == (1 / 64, 0)


def test_frozen_parameters_are_in_no_group():
    model = tiny(frozen_stages=1)
    model.head.bias.requires_grad = False
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.rsplit(".", 2)[0] for name in frozen} >= {"backbone.stages.0.0.mlp"}
    found = set(settings(group(model, decay_rate=0.5)))
    assert found.isdisjoint(frozen)
    assert found | frozen == {name for name, _ in model.named_parameters()}


def test_a_frozen_teacher_and_two_backbones_of_other_depths():
    student, other, teacher = tiny(), Detector(MetaFormer({**TINY, "depths": [1] * 4})), tiny()
    teacher.requires_grad_(False)
    model = nn.ModuleDict(dict(student=student, other=other, teacher=teacher))
    found = rates(model, decay_rate=0.5)
    assert {name.split(".")[0] for name in found} == {"student", "other"}
    assert found["student.backbone.downsample_layers.0.conv.weight"] == 1 / 64
    assert found["other.backbone.downsample_layers.0.conv.weight"] == 1 / 32
    assert found["other.backbone.stages.3.0.mlp.fc1.weight"] == 1 / 2
    assert found["other.head.weight"] == 1


def test_a_bare_backbone_and_a_wrapped_model():
    backbone = MetaFormer(TINY)
    found = rates(backbone, decay_rate=0.5)
    assert found["downsample_layers.0.conv.weight"] == 1 / 64
    wrapped = nn.Module()
    wrapped.module = backbone
    assert rates(wrapped, decay_rate=0.5) == found


def test_a_shared_parameter_is_in_one_group():
    model = tiny()
    model.second_head = nn.Sequential(model.head, nn.Conv2d(4, 4, 1))
    groups = group(model, decay_rate=0.5)
    grouped = [id(parameter) for item in groups for parameter in item["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_a_step_moves_parameters_by_their_rates():
    """Where every gradient is one, plain SGD moves a parameter by its learning rate."""
    model = tiny(frozen_stages=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    cfg = dict(
        type="OptimWrapper",
        optimizer=dict(type="SGD", lr=0.5),
        constructor="mmmetaformer.LayerDecayOptimWrapperConstructor",
        paramwise_cfg=dict(decay_rate=0.5),
    )
    optim_wrapper = build_optim_wrapper(model, cfg)
    optim_wrapper.update_params(sum(parameter.sum() for parameter in model.parameters()))
    moved = {
        name: (before[name] - parameter.detach()).flatten()
        for name, parameter in model.named_parameters()
        if re.search(r"layer_scale1\.scale|^head\.bias|norm0\.bias|downsample.*bias", name)
    }
    expected = {
        "backbone.downsample_layers.0.conv.bias": 0,
        "backbone.stages.0.0.layer_scale1.scale": 1 / 64,
        "backbone.downsample_layers.1.conv.bias": 1 / 32,
        "backbone.stages.1.0.layer_scale1.scale": 1 / 32,
        "backbone.downsample_layers.2.conv.bias": 1 / 16,
        "backbone.stages.2.0.layer_scale1.scale": 1 / 16,
        "backbone.stages.2.1.layer_scale1.scale": 1 / 16,
        "backbone.stages.2.2.layer_scale1.scale": 1 / 8,
        "backbone.downsample_layers.3.conv.bias": 1 / 4,
        "backbone.stages.3.0.layer_scale1.scale": 1 / 4,
        "backbone.norm0.bias": 1 / 2,
        "head.bias": 1 / 2,
    }
    assert set(moved) == set(expected)
    steps = {name: torch.full_like(moved[name], step) for name, step in expected.items()}
    torch.testing.assert_close(moved, steps)


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_a_foreign_config_needs_no_custom_imports(scope, tmp_path):
    """From a directory of the user's own, with nothing imported but the host package; the
    optimizer is saved and loaded as any other."""
    (tmp_path / "mine.py").write_text(
        "backbone = dict(type='mmmetaformer.PoolFormer', arch='s12', out_indices=(0, 1))\n"
        "optim_wrapper = dict(\n"
        "    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),\n"
        "    constructor='mmmetaformer.LayerDecayOptimWrapperConstructor',\n"
        "    paramwise_cfg=dict(decay_rate=0.5, custom_keys={'norm0': dict(lr_mult=2)}))\n"
    )
    code = (
        "import sys; from mmengine.config import Config; "
        "from mmengine.registry import init_default_scope; "
        f"from {scope}.registry import MODELS; init_default_scope({scope!r}); "
        "from mmengine.optim import build_optim_wrapper; cfg = Config.fromfile('mine.py'); "
        "model = MODELS.build(cfg.backbone); "
        "assert 'mmmetaformer.engine.layer_decay' not in sys.modules; "
        "optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper); "
        "optim_wrapper.load_state_dict(optim_wrapper.state_dict()); "
        "groups = optim_wrapper.optimizer.param_groups; "
        "print(sorted({round(1e4 * group['lr'], 6) for group in groups}))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    # Stem, stages 0 and 1 of seven layers; norm1; norm0.
    assert result.stdout.splitlines()[-1] == "[0.007812, 0.015625, 0.03125, 1.0, 2.0]"


def test_rates_are_those_of_mmpretrains_constructor():
    """Under a classifier of mmpretrain, whose constructor asks ``get_layer_depth``."""
    from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
    from mmpretrain.models import ImageClassifier

    with torch.device("meta"):
        model = ImageClassifier(
            build_backbone("poolformer_s24", out_indices=(3,)),
            head=dict(type="mmpretrain.LinearClsHead", num_classes=7, in_channels=512),
        )
    optimizer = dict(optimizer=dict(type="SGD", lr=1.0, weight_decay=0.5))
    theirs = LearningRateDecayOptimWrapperConstructor(optimizer, dict(layer_decay_rate=0.8))(model)
    assert rates(model, decay_rate=0.8) == {
        item["param_name"]: round(item["lr"], 12) for item in theirs.optimizer.param_groups
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(), ValueError, r"lacks 'decay_rate'.*dict\(decay_rate=0\.8\)"),
        (dict(decay_rate=0), ValueError, r"decay_rate must be in \(0, 1\], got 0"),
        (dict(decay_rate=1.1), ValueError, r"decay_rate must be in \(0, 1\], got 1\.1"),
        (dict(decay_rate=float("nan")), ValueError, r"decay_rate must be in \(0, 1\], got nan"),
        (dict(decay_rate="0.8"), TypeError, r"decay_rate must be a number.*got '0\.8'"),
        (dict(decay_rate=True), TypeError, "decay_rate must be a number.*got True"),
        (
            dict(decay_rate=0.8, decay_type="block_wise"),
            ValueError,
            r"decay_type must be one of \('layer_wise', 'stage_wise'\), got 'block_wise'",
        ),
        (dict(decay_rate=0.8, num_layers=0), ValueError, "num_layers must be a positive.*got 0"),
        (dict(decay_rate=0.8, num_layers=12.0), ValueError, r"num_layers must be.*got 12\.0"),
        (dict(decay_rate=0.8, num_layers=True), ValueError, "num_layers must be.*got True"),
        (
            dict(decay_rate=0.8, as_released=1),
            TypeError,
            "as_released must be True or False, got 1",
        ),
        (dict(decay_rate=0.8, num_layer=12), ValueError, r"unknown.*\['num_layer'\].*'num_layers'"),
        (dict(decay_rate=0.8, lr=None), ValueError, "the optimizer needs lr"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        group(tiny(), **options)


def test_paramwise_cfg_itself():
    cfg = dict(
        optimizer=dict(type="SGD", lr=1.0),
        constructor="mmmetaformer.LayerDecayOptimWrapperConstructor",
    )
    with pytest.raises(ValueError, match="lacks 'decay_rate'"):
        build_optim_wrapper(tiny(), cfg)
    with pytest.raises(TypeError, match=r"must be a dict with 'decay_rate', got \[0\.8\]"):
        build_optim_wrapper(tiny(), dict(cfg, paramwise_cfg=[0.8]))


def test_a_model_without_a_backbone_of_the_package():
    with pytest.raises(ValueError, match=r"Sequential has no backbone.*mmmetaformer\.PoolFormer"):
        group(nn.Sequential(nn.Conv2d(3, 8, 1)), decay_rate=0.8)


@pytest.mark.parametrize("option", [dict(num_layers=12), dict(as_released=True)])
def test_what_counts_layers_is_not_for_stages(option):
    name = next(iter(option))
    with pytest.raises(ValueError, match=f"{name} is for decay_type='layer_wise'"):
        build_optim_wrapper(
            MetaFormer(dict(depths=[1] * 4, dims=[8] * 4)),
            dict(
                constructor="mmmetaformer.LayerDecayOptimWrapperConstructor",
                optimizer=dict(type="SGD", lr=1.0),
                paramwise_cfg=dict(decay_rate=0.8, decay_type="stage_wise", **option),
            ),
        )
