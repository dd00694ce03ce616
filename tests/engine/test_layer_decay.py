"""Learning rates by depth, against a table and by their effect."""

from __future__ import annotations

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from mmmetaformer import MetaFormer, MlpMixer, list_archs
from mmmetaformer.backbones.factory import build_backbone

CONSTRUCTOR = "mmmetaformer.LayerDecayOptimWrapperConstructor"


def groups_of(model: nn.Module, lr: float = 1e-4, weight_decay: float = 0.05, **paramwise) -> dict:
    """Name of each trained parameter -> (lr, weight decay); each may be in one group only."""
    cfg = dict(
        constructor=CONSTRUCTOR,
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=lr, weight_decay=weight_decay),
        paramwise_cfg=paramwise,
    )
    optimizer = build_optim_wrapper(model, cfg).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        assert [names[id(p)] for p in group["params"]] == group["param_names"]
        for name in group["param_names"]:
            assert name not in found
            found[name] = (group["lr"], group["weight_decay"])
    return found


@pytest.fixture(scope="module")
def cascade() -> nn.Module:
    """Cascade Mask R-CNN with FFNet-2."""
    init_default_scope("mmdet")
    from mmdet.registry import MODELS

    cfg = Config.fromfile("configs/ffnet/cascade-mask-rcnn_ffnet-2_fpn_3x_coco.py").model
    cfg.backbone.pop("init_cfg")
    with torch.device("meta"):
        return MODELS.build(cfg)


# FFNet-2 has 3, 3, 15 and 3 blocks. lr 1e-4 times 0.8 ** (13 - layer), written out.
TABLE = [
    # parameters, number of them that are matrices or kernels, lr as released, lr by default
    (r"backbone\.downsample_layers\.0\.", 2, 1.0e-4, 5.497558e-06),
    (r"backbone\.stages\.0\.", 21, 6.871948e-06, 6.871948e-06),
    (r"backbone\.(downsample_layers|stages)\.1\.", 24, 8.589935e-06, 8.589935e-06),
    (r"backbone\.(downsample_layers\.2|stages\.2\.[01])\.", 21, 1.073742e-05, 1.073742e-05),
    (r"backbone\.stages\.2\.[234]\.", 27, 1.342177e-05, 1.342177e-05),
    (r"backbone\.stages\.2\.[567]\.", 27, 1.677722e-05, 1.677722e-05),
    (r"backbone\.stages\.2\.([89]|10)\.", 27, 2.097152e-05, 2.097152e-05),
    (r"backbone\.stages\.2\.1[123]\.", 27, 2.62144e-05, 2.62144e-05),
    (r"backbone\.stages\.2\.14\.", 9, 3.2768e-05, 3.2768e-05),
    (r"backbone\.(downsample_layers|stages)\.3\.", 30, 8.0e-05, 8.0e-05),
    (r"backbone\.norm[0-3]\.", 0, 1.0e-4, 1.0e-4),
    (r"(neck|rpn_head|roi_head)\.", 50, 1.0e-4, 1.0e-4),
]


@pytest.mark.parametrize("as_released", [True, False])
def test_ffnet_2_under_cascade_mask_rcnn(cascade, as_released):
    """The published recipe: decay 0.8 and 12 layers."""
    options = dict(decay_rate=0.8, num_layers=12, as_released=as_released)
    groups = groups_of(cascade, **options)
    shapes = {name: parameter.ndim for name, parameter in cascade.named_parameters()}
    assert set(groups) == set(shapes)
    rows = []
    covered = []
    for pattern, _, released, default in TABLE:
        names = [name for name in groups if re.match(pattern, name)]
        covered += names
        decayed = [name for name in names if groups[name][1] == 0.05]
        assert decayed == [name for name in names if shapes[name] > 1]
        assert {groups[name][1] for name in names} <= {0.05, 0.0}
        lr = released if as_released else default
        assert [groups[name][0] for name in names] == pytest.approx([lr] * len(names), rel=1e-6)
        rows.append((pattern, len(decayed), released, default))
    assert rows == TABLE
    assert sorted(covered) == sorted(groups)


@pytest.mark.parametrize(
    ("name", "natural"),
    [("ffnet_1", 6), ("ffnet_2", 9), ("ffnet_3", 11), ("ffnet_4", 13), ("poolformer_s12", 6),
     ("convformer_s36", 10), ("mlp_mixer_b16", 12), ("convmixer_768_32", 32)],
)  # fmt: skip
def test_natural_number_of_layers(name, natural):
    with torch.device("meta"):
        backbone = build_backbone(name)
    assert backbone.num_layers() == natural
    assert backbone.num_layers("stage_wise") == 4
    depths = {backbone.layer_depth(name) for name, _ in backbone.named_parameters()}
    assert depths - {None} == set(range(natural + 1))


@pytest.mark.parametrize("decay_type", ["layer_wise", "stage_wise"])
@pytest.mark.parametrize("name", list_archs())
def test_depth_grows_with_the_network(name, decay_type):
    with torch.device("meta"):
        backbone = build_backbone(name, out_indices=(0, 1, 2, 3))
    isotropic = hasattr(backbone, "stem")
    parts = (
        [("stem.", 0)] if isotropic else [(f"downsample_layers.{i}.", i) for i in range(4)]
    ) + ([] if isotropic else [(f"stages.{i}.", i + 0.5) for i in range(4)])

    def position(parameter: str) -> tuple:
        block = re.match(r"(?:blocks|stages\.\d)\.(\d+)\.", parameter)
        before = [order for prefix, order in parts if parameter.startswith(prefix)]
        pos_embed = re.match(r"pos_embeds\.(\d)\.", parameter)
        order = float(pos_embed[1]) + 0.1 if pos_embed else (*before, 9)[0]
        return order, int(block[1]) if block else -1

    pretrained = [
        parameter
        for parameter in sorted(dict(backbone.named_parameters()), key=position)
        if not parameter.startswith(("norm", "pyramid."))
    ]
    depths = [backbone.layer_depth(parameter, decay_type) for parameter in pretrained]
    assert depths == sorted(depths)
    assert (depths[0], depths[-1]) == (0, backbone.num_layers(decay_type))
    new = [n for n, _ in backbone.named_parameters() if n.startswith(("norm", "pyramid."))]
    assert {backbone.layer_depth(parameter, decay_type) for parameter in new} <= {None}


def test_released_layers_of_ffnet_4():
    """27 blocks reach layer 12, which is also that of the last stage."""
    with torch.device("meta"):
        backbone = build_backbone("ffnet_4")
    groups = groups_of(backbone, lr=1.0, decay_rate=0.5, num_layers=12)
    lrs = {name: lr for name, (lr, _) in groups.items()}
    assert lrs["stages.2.22.mlp.fc1.weight"] == 0.5 ** (13 - 10)
    assert lrs["stages.2.25.mlp.fc1.weight"] == 0.5 ** (13 - 11)
    assert lrs["stages.2.26.mlp.fc1.weight"] == 0.5
    assert lrs["downsample_layers.3.proj.conv.weight"] == lrs["stages.3.2.mlp.fc2.weight"] == 0.5
    natural = groups_of(backbone, lr=1.0, decay_rate=0.5)
    assert natural["stages.2.26.mlp.fc1.weight"][0] == 0.25
    assert natural["stages.3.2.mlp.fc2.weight"][0] == 0.5
    assert natural["downsample_layers.0.conv1.conv.weight"][0] == 0.5**14


def test_layer_scale_and_position_embeddings():
    with torch.device("meta"):
        ffnet = build_backbone("ffnet_3")
        hybrid = build_backbone("metaformer_s12_pppa")
    scales = [name for name, _ in ffnet.named_parameters() if "layer_scale" in name]
    assert len(scales) == 2 * (4 + 4 + 22 + 5)
    for as_released, decay in ((False, 0.0), (True, 0.05)):
        groups = groups_of(ffnet, decay_rate=0.9, as_released=as_released)
        assert {groups[name][1] for name in scales} == {decay}
        assert groups["stages.0.0.mlp.fc1.bias"][1] == 0.0
    groups = groups_of(hybrid, decay_rate=0.9)
    (embedding,) = [name for name in groups if name.startswith("pos_embeds.3.")]
    assert hybrid.get_parameter(embedding).ndim > 1
    assert groups[embedding] == (pytest.approx(0.9e-4), 0.0)


def test_stage_wise():
    with torch.device("meta"):
        backbone = build_backbone("ffnet_1")
        mixer = build_backbone("mlp_mixer_s16")
    lrs = {
        name: lr
        for name, (lr, _) in groups_of(
            backbone, lr=1.0, decay_rate=0.5, decay_type="stage_wise"
        ).items()
    }
    assert lrs["downsample_layers.0.conv1.conv.weight"] == 0.5**5
    assert lrs["stages.0.1.mlp.fc1.weight"] == 0.5**4
    assert lrs["downsample_layers.2.proj.conv.weight"] == 0.5**2
    assert lrs["stages.2.0.mlp.fc1.weight"] == lrs["stages.2.7.mlp.fc1.weight"] == 0.5**2
    assert lrs["stages.3.0.mlp.fc1.weight"] == 0.5
    assert lrs["norm3.weight"] == 1.0
    groups = groups_of(mixer, lr=1.0, decay_rate=0.5, decay_type="stage_wise")
    quarters = [groups[f"blocks.{block}.mlp.fc1.weight"][0] for block in range(8)]
    assert quarters == [0.5**4] * 2 + [0.5**3] * 2 + [0.5**2] * 2 + [0.5] * 2


class Segmentor(nn.Module):
    """Two backbones, one of them under another, and a head."""

    def __init__(self) -> None:
        super().__init__()
        arch = dict(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
        self.backbone = MetaFormer(arch, frozen_stages=1)
        self.teacher = nn.ModuleDict(dict(backbone=MetaFormer(arch)))
        self.decode_head = nn.Conv2d(8, 2, 1)


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_options_of_mmengine_multiply(scope):
    init_default_scope(scope)
    model = Segmentor()
    groups = groups_of(
        model,
        lr=1.0,
        decay_rate=0.5,
        bias_lr_mult=2.0,
        custom_keys=dict(decode_head=dict(lr_mult=10.0), fc2=dict(lr_mult=3.0, decay_mult=0.5)),
    )
    assert groups["decode_head.weight"] == (10.0, 0.05)
    for prefix in ("backbone.", "teacher.backbone."):
        assert groups[f"{prefix}stages.3.0.mlp.fc1.weight"] == (0.5, 0.05)
        assert groups[f"{prefix}stages.3.0.mlp.fc1.bias"] == (1.0, 0.0)
        assert groups[f"{prefix}stages.3.0.mlp.fc2.weight"] == (1.5, 0.025)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(groups) == trained
    assert "backbone.stages.0.0.mlp.fc1.weight" not in trained
    assert "teacher.backbone.stages.0.0.mlp.fc1.weight" in trained


def test_a_step_moves_the_layers_by_their_rates():
    model = MlpMixer(dict(depth=4, dim=8, stem=dict(type="PatchEmbedding", patch_size=8)))
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor=CONSTRUCTOR,
            optimizer=dict(type="SGD", lr=1.0),
            paramwise_cfg=dict(decay_rate=0.5),
        ),
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    wrapper.step()
    moved = {
        name: float((before[name] - parameter).mean())
        for name, parameter in model.named_parameters()
    }
    assert moved["stem.conv.weight"] == pytest.approx(0.5**5)
    blocks = [moved[f"blocks.{block}.mlp.fc1.weight"] for block in range(4)]
    assert blocks == pytest.approx([0.5**4, 0.5**3, 0.5**2, 0.5])
    assert moved["norm0.weight"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "needs a decay_rate in \\(0, 1\\], got None"),
        (dict(decay_rate=1.2), "got 1.2"),
        (dict(decay_rate=0.8, decay_type="block_wise"), "one of .*stage_wise.*got 'block_wise'"),
        (dict(decay_rate=0.8, num_layers=0), "num_layers must be a positive integer, got 0"),
        (dict(decay_rate=0.8, as_released="yes"), "True or False, got 'yes'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        groups_of(Segmentor(), **options)


def test_wrong_models():
    with pytest.raises(ValueError, match="Conv2d has no backbone of mmmetaformer"):
        groups_of(nn.Conv2d(1, 1, 1), decay_rate=0.8)
    with pytest.raises(ValueError, match="needs the lr of the optimizer"):
        cfg = dict(
            constructor=CONSTRUCTOR,
            optimizer=dict(type="AdamW"),
            paramwise_cfg=dict(decay_rate=0.8),
        )
        build_optim_wrapper(Segmentor(), cfg)
    backbone = MetaFormer(dict(depths=[1] * 4, dims=[8] * 4))
    with pytest.raises(ValueError, match="has no parameter 'head.weight'"):
        backbone.layer_depth("head.weight")
    with pytest.raises(ValueError, match="has no parameter 'head.weight'"):
        MlpMixer("s16").layer_depth("head.weight")
