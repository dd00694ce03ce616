"""tools/reproduce.py: what it lists, what it finds, and how it evaluates."""

from __future__ import annotations

import datetime
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image
from torch import nn

from mmmetaformer.datasets.shapes import generate_shapes
from mmmetaformer.engine.errors import UserError
from model_zoo import metafiles, recipes, reproduction
from model_zoo.reproduction import (
    EXPLAINED,
    MISMATCH,
    OK,
    OPEN,
    Reproduction,
    Tolerance,
    compare_count,
    compare_figures,
    published_rows,
)

S12 = "poolformer-s12_fpn_8xb4-40k_ade20k-512x512"
S24 = "poolformer-s24_fpn_8xb4-40k_ade20k-512x512"
MASK_RCNN = "mask-rcnn_poolformer-s12_fpn_1x_coco"
UPERNET = "ffnet-2_upernet_8xb2-160k_ade20k-512x512"
CAFORMER = "caformer-s18_8xb128_in1k"


@pytest.fixture
def run(root, monkeypatch, capsys):
    """The tool in this process: exit status and what it printed."""
    spec = importlib.util.spec_from_file_location("reproduce_tool", root / "tools/reproduce.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def call(*args: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *args])
        try:
            tool.run_cli(tool.main)
        except SystemExit as error:
            status = error.code
        else:
            status = 0
        out = capsys.readouterr()
        return status, out.out + out.err

    return call


def row(root: Path, name: str, source: str = "") -> reproduction.PublishedRow:
    return next(row for row in published_rows(root, name) if source in row.source)


# What is listed


# Written out here from the publications: whatever has figures or sizes of its own, by config.
DENSE = [
    *(f"{head}_poolformer-{size}_fpn_1x_coco" for head in ("retinanet", "mask-rcnn")
      for size in ("s12", "s24", "s36")),
    *(f"mask-rcnn_poolformer-{size}_fpn_1x_coco" for size in ("m36", "m48")),
    *(f"poolformer-{size}_fpn_8xb4-40k_ade20k-512x512"
      for size in ("s12", "s24", "s36", "m36", "m48")),
    *(template.format(family, size) for family in ("convformer", "caformer")
      for size in ("s18", "s36", "m36")
      for template in ("mask-rcnn_{}-{}_fpn_1x_coco", "{}-{}_fpn_8xb4-40k_ade20k-512x512")),
    *(template.format(family, size) for family in ("convformer", "caformer")
      for size in ("s18", "s36", "m36", "b36")
      for template in ("{}-{}_upernet_8xb2-160k_ade20k-512x512", "cascade-mask-rcnn_{}-{}")),
    *(template.format(size) for size in "234"
      for template in ("cascade-mask-rcnn_ffnet-{}_fpn_3x_coco",
                       "ffnet-{}_upernet_8xb2-160k_ade20k-512x512")),
    "ffnet-seg_ffnethead_8xb2-160k_ade20k-512x512",
    "ffnet-seg_ffnethead_8xb2-160k_cityscapes-1024x1024",
]  # fmt: skip
CHANGES = (
    "identity random depthwise pool5 pool7 pool9 ln bn no-norm relu silu no-residual no-mlp pppa "
    "ppaa pppf ppff"
).split()
CLASSIFIERS = [
    *(f"{family}-{size}_8xb128_in1k"
      for family in ("poolformer", "identityformer", "randformer", "poolformerv2")
      for size in ("s12", "s24", "s36", "m36", "m48")),
    *(f"metaformer-s12-{change}_8xb128_in1k" for change in CHANGES),
    *(f"{family}-{size}_8xb128_in1k{suffix}" for family in ("convformer", "caformer")
      for size in ("s18", "s36", "m36", "b36") for suffix in ("", "-384px")),
    *(f"ffnet-{size}_8xb128_in1k" for size in ("1", "2", "3", "3", "4")),
    *(f"ffnet-{size}_8xb128_in1k-384px" for size in ("3", "4")),
    *(f"convmixer-{size}_10xb64_in1k" for size in ("768-32", "1024-20", "1536-20")),
]  # fmt: skip


def test_every_published_row_is_listed(root):
    rows = published_rows(root)
    assert len({row.label for row in rows}) == len(rows)
    # Others' figures of MLP-Mixer.
    others = {"mlp-mixer-b16_64xb64_in1k", "mlp-mixer-l16_64xb64_in1k"}
    assert {row.name for row in rows} == {*DENSE, *CLASSIFIERS, *others}
    assert sum(row.result is not None for row in rows) == 36 + 82


def test_networks_of_which_only_sizes_are_published(root):
    """Not in any config: the cascade with ConvFormer-B36."""
    report = Reproduction(root).check(row(root, "cascade-mask-rcnn_convformer-b36"))
    assert str(report.parameters) == "ok: 152.6 M"
    assert report.recipe.status == report.evaluation.status == OPEN


def test_list(run):
    status, output = run("--list", f"{MASK_RCNN}*")
    assert status == 0
    assert output == (
        f"{MASK_RCNN} (arXiv 2111.11418): box AP 37.3, box AP50 59.0, box AP75 40.1, "
        "mask AP 34.6, mask AP50 55.8, mask AP75 36.9\n"
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["resnet50"], "no published row matches 'resnet50'"),
        (["--data-root", "/no/such"], "--data-root: /no/such is not a folder"),
        ([S12, "--checkpoints", "/no/such"], "--checkpoints: /no/such is not a folder"),
        (["--root", "/no"], "/no/configs/poolformer/metafile.yml does not exist"),
    ],
)
def test_wrong_arguments(run, args, message):
    status, output = run(*args)
    assert status == 2 and f"error: {message}" in output


# Sizes


@pytest.mark.parametrize(
    ("figure", "counted", "status"),
    [
        ("21,653,044", 21_653_044, OK),
        ("21,653,044", 21_653_045, MISMATCH),
        ("43.84 M", 43_844_999, OK),
        ("43.84 M", 43_845_001, MISMATCH),
        ("54 M", 53_724_000, OK),
        ("54 M", 53_499_999, MISMATCH),
        ("1010 G", 1_009_690_000_000, OK),
        ("31 G", 30_400_000_000, MISMATCH),
    ],
)
def test_a_printed_figure_holds_to_its_last_digit(figure, counted, status):
    found = compare_count(dict(Figure=figure, Source="a paper"), counted)
    assert found.status == status
    assert figure in found.text


def test_an_exception_holds_for_its_count_only():
    entry = dict(Figure="23.2 M", Source="a paper")
    entry["Exception"] = dict(Counted="25.14 M", Reason="a slip")
    assert compare_count(entry, 25_143_638) == (
        EXPLAINED, "23.2 M printed, 25.14 M counted: a slip",
    )  # fmt: skip
    assert compare_count(entry, 25_250_000).status == MISMATCH
    needless = compare_count(entry, 23_200_000)
    assert needless.status == MISMATCH and "has an Exception" in needless.text


def test_an_unknown_unit_is_an_error():
    with pytest.raises(UserError, match="unknown unit in '3 T'"):
        compare_count(dict(Figure="3 T", Source="a paper"), 3)


def test_the_papers_slip_is_explained_and_nothing_hides_behind_it(root):
    """PoolFormer-S24 with Semantic FPN, 23.2 M in print, against the exact count as well."""
    found = Reproduction(root).check_counts(row(root, S24), "Parameters")
    assert found.status == EXPLAINED
    assert "25,143,638" in found.text and "23.2 M printed, 25.14 M counted" in found.text


def test_a_wrong_published_figure_is_found(copy, replace):
    path = "configs/poolformer/metafile.yml"
    replace(path, "Figure: 15,669,846", "Figure: 15,669,847")
    replace(path, "Figure: 31 G", "Figure: 32 G")
    checks = Reproduction(copy)
    parameters = checks.check_counts(row(copy, S12), "Parameters")
    assert parameters.status == MISMATCH and "15,669,846 counted" in parameters.text
    flops = checks.check_counts(row(copy, S12), "FLOPs")
    assert flops.status == MISMATCH and "32 G (512x512, MMCV) printed" in flops.text


def test_imagenet_models_are_counted_at_their_size_and_form(root):
    report = Reproduction(root).check(row(root, "ffnet-3_8xb128_in1k"))
    assert str(report.parameters) == "ok: 48.82 M; 48.33 M (fused)"
    assert str(report.flops) == "ok: 10.1 G (fused, 256x256, MACs)"
    assert report.recipe.status == OK and report.evaluation.status == OPEN
    report = Reproduction(root).check(row(root, "ffnet-3_8xb128_in1k-384px"))
    assert str(report.flops) == "ok: 22.8 G (fused, 384x384, MACs)"
    report = Reproduction(root).check(row(root, "metaformer-s12-random_8xb128_in1k"))
    assert str(report.parameters) == "ok: 11.9 M; 21 M (random matrices)"


# Recipes


@pytest.mark.parametrize("name", list(recipes.read_recipes(Path(__file__).parents[3])))
def test_configs_are_in_their_published_recipe(root, name):
    checks = Reproduction(root)
    followers = {row.label: row for row in published_rows(root) if row.recipe == name}
    assert {row.name for row in followers.values()} >= set(checks.recipes[name].get("Models", ()))
    found = {label: checks.check_recipe(row) for label, row in followers.items()}
    assert {label: finding.text for label, finding in found.items() if finding.status != OK} == {}
    assert found


def test_weights_with_a_training_of_their_own_are_not_held_against_that_of_the_config(root):
    """From ImageNet-21k, or distilled: only the evaluation."""
    pairs = {
        (row.source, row.recipe)
        for row in published_rows(root, "caformer-s18_8xb128_in1k*")
    } | {(row.source, row.recipe) for row in published_rows(root, "ffnet-1_*")}  # fmt: skip
    baselines, ffnet = "arXiv 2210.13452", "arXiv 2406.02021"
    assert pairs == {
        (baselines, "caformer-in1k"),
        (f"{baselines}, pre-trained on ImageNet-21k", "baselines-evaluation-224"),
        (baselines, "baselines-evaluation-384"),
        (f"{baselines}, pre-trained on ImageNet-21k", "baselines-evaluation-384"),
        (ffnet, "ffnet-in1k"),
        (f"{ffnet}, distilled", "ffnet-evaluation-256"),
    }


TAMPERED = [
    (MASK_RCNN, "mask-rcnn_fpn_1x_coco", "lr=2e-4", "lr=1e-4",
     "optim_wrapper.optimizer.lr is 0.0001, published 0.0002"),
    (MASK_RCNN, "mask-rcnn_fpn_1x_coco", "base_batch_size=16", "base_batch_size=32",
     "auto_scale_lr.base_batch_size is 32, published 16"),
    (MASK_RCNN, "mask-rcnn_fpn_1x_coco", "arch='s12')", "arch='s12', frozen_stages=0)",
     "model.backbone.frozen_stages is 0, published -1"),
    (MASK_RCNN, "mask-rcnn_fpn_1x_coco", "auto_scale_lr", "train_cfg = dict(max_epochs=36)\nauto_scale_lr",  # noqa: E501
     "train_cfg.max_epochs is 36, published 12"),
    ("retinanet_poolformer-s12_fpn_1x_coco", "retinanet_fpn_1x_coco", "weight_decay=1e-4", "weight_decay=0.05",  # noqa: E501
     "optim_wrapper.optimizer.weight_decay is 0.05, published 0.0001"),
    ("retinanet_poolformer-s12_fpn_1x_coco", "retinanet_fpn_1x_coco", "optim_wrapper = dict(", "optim_wrapper = dict(clip_grad=dict(max_norm=1), ",  # noqa: E501
     "optim_wrapper.clip_grad is {'max_norm': 1}, published None"),
    (S12, "fpn_8xb4-40k_ade20k-512x512", "size_divisor=32", "size_divisor=16",
     "test_dataloader.dataset.pipeline.2.size_divisor is 16, published 32"),
    (S12, "fpn_8xb4-40k_ade20k-512x512", "    dict(type='ResizeToMultiple', size_divisor=32),\n", "",  # noqa: E501
     "test_dataloader.dataset.pipeline is ["),
    (S12, "fpn_8xb4-40k_ade20k-512x512", "power=0.9", "power=1.0",
     "param_scheduler.0.power is 1.0"),
    ("convformer-s18_upernet_8xb2-160k_ade20k-512x512", "upernet_8xb2-160k_ade20k-512x512",
     "drop_path_rate=0.3", "drop_path_rate=0.2", "drop_path_rate is 0.2, published 0.3"),
    ("convformer-s18_upernet_8xb2-160k_ade20k-512x512", "upernet_8xb2-160k_ade20k-512x512",
     "end=1500", "end=500", "param_scheduler.0.end is 500"),
    ("cascade-mask-rcnn_ffnet-2_fpn_3x_coco", "../ffnet/cascade-mask-rcnn_ffnet-2_fpn_3x_coco",
     "decay_rate=0.8", "decay_rate=0.7", "paramwise_cfg.decay_rate is 0.7, published 0.8"),
    ("cascade-mask-rcnn_ffnet-4_fpn_3x_coco", "../ffnet/cascade-mask-rcnn_ffnet-4_fpn_3x_coco",
     "momentum=0.0001", "momentum=0.0002", "custom_hooks.0.momentum is 0.0002"),
    (UPERNET, "../ffnet/ffnet-2_upernet_8xb2-160k_ade20k-512x512", "mode='whole'",
     "mode='slide'", "model.test_cfg.mode is 'slide', published 'whole'"),
    ("ffnet-seg_ffnethead_8xb2-160k_cityscapes-1024x1024", "../ffnet/ffnet-seg_ffnethead_8xb2-160k_cityscapes-1024x1024",  # noqa: E501
     "(1024, 1024)", "(512, 1024)", "model.test_cfg.crop_size is [512, 1024]"),
    ("ffnet-seg_ffnethead_8xb2-160k_ade20k-512x512", "ffnet-seg_ffnethead_8xb2-160k",
     "power=1.0", "power=0.9", "param_scheduler.1.power is 0.9"),
    (CAFORMER, "imagenet_poolformer_8xb128", "alpha=0.8", "alpha=0.5",
     "model.train_cfg.augments.0.alpha is 0.5"),
    (CAFORMER, "imagenet_caformer_8xb128", "lr=8e-3", "lr=4e-3", "optim_wrapper.optimizer.lr is"),
    (CAFORMER, "imagenet_metaformer-baselines_8xb128", "scale=224", "scale=248",
     "test_dataloader.dataset.pipeline.ResizeEdge.scale is 248"),
    (f"{CAFORMER}-384px", "../imagenet/caformer-s18_8xb128_in1k-384px", "crop_size=384",
     "crop_size=320", "CenterCrop.crop_size is 320, published 384"),
    ("convformer-s18_8xb128_in1k", "imagenet_convformer_8xb128", "hidden_ratio=4",
     "hidden_ratio=2", "model.head.hidden_ratio is 2, published 4"),
    ("identityformer-s12_8xb128_in1k", "imagenet_metaformer-baselines_8xb128",
     "accumulative_counts=4", "accumulative_counts=2", "accumulative_counts is 2, published 4"),
    ("poolformer-s36_8xb128_in1k", "../imagenet/poolformer-s36_8xb128_in1k",
     "arch='s36'", "arch='s36', layer_scale_init_value=1e-5", "layer_scale_init_value is 1e-05"),
    ("poolformer-s12_8xb128_in1k", "imagenet_poolformer_8xb128", "end=5,", "end=20,",
     "param_scheduler.0.end is 20"),
    ("ffnet-1_8xb128_in1k", "imagenet_ffnet_8xb128", "momentum=5e-4", "momentum=1e-4",
     "custom_hooks.EMAHook.momentum is 0.0001"),
    ("ffnet-1_8xb128_in1k", "imagenet_ffnet_8xb128", "    dict(\n        type='RandomErasing',",
     "    dict(type='ColorJitter'),\n    dict(\n        type='RandomErasing',",
     "train_dataloader.dataset.pipeline.*.type is"),
    ("ffnet-3_8xb128_in1k-384px", "imagenet_ffnet_8xb128", "out_norm_cfg=dict(type='BN')",
     "out_norm_cfg=dict(type='LN2d')", "model.backbone.out_norm_cfg.type is 'LN2d'"),
    ("convmixer-768-32_10xb64_in1k", "imagenet_convmixer_10xb64", "max_norm=1.0",
     "max_norm=5.0", "optim_wrapper.clip_grad.max_norm is 5.0"),
    ("mlp-mixer-b16_64xb64_in1k", "imagenet_mlp-mixer_64xb64", "pyramid=None",
     "pyramid='ScalePyramid'", "model.backbone.pyramid is 'ScalePyramid'"),
]  # fmt: skip
# Results with a recipe of their own.
EVALUATIONS = {
    (CAFORMER, "baselines-evaluation-224"): ("imagenet_metaformer-baselines_8xb128", "scale=224"),
    ("ffnet-2_8xb128_in1k", "ffnet-evaluation-256"): ("imagenet_ffnet_8xb128", "scale=284"),
    (S12, "poolformer-fpn-evaluation"): ("fpn_8xb4-40k_ade20k-512x512", "scale=(2048, 512)"),
}


@pytest.mark.parametrize(("name", "file", "old", "new", "message"), TAMPERED)
def test_a_setting_that_departs_is_found(copy, replace, name, file, old, new, message):
    replace(f"configs/_base_/{file}.py", old, new)
    found = Reproduction(copy).check_recipe(row(copy, name))
    assert found.status == MISMATCH and message in found.text


@pytest.mark.parametrize(("name", "recipe"), EVALUATIONS)
def test_an_evaluation_that_departs_is_found(copy, replace, name, recipe):
    file, old = EVALUATIONS[name, recipe]
    replace(f"configs/_base_/{file}.py", old, "scale=250")
    found = next(r for r in published_rows(copy, name) if r.recipe == recipe)
    finding = Reproduction(copy).check_recipe(found)
    assert finding.status == MISMATCH and ".scale is 250" in finding.text


def test_every_recipe_is_tampered_with(root):
    names = {name for name, *_ in TAMPERED}
    used = {r.model["Recipe"] for r in published_rows(root) if r.name in names}
    used |= {recipe for _, recipe in EVALUATIONS}
    assert used == set(recipes.read_recipes(root))


def test_paths_into_configs():
    cfg = Config(
        dict(
            model=dict(backbone=dict(type="mmmetaformer.PoolFormer", with_cp=True)),
            steps=[dict(type="A", size=(1, 2)), dict(type="B"), dict(type="B")],
        )
    )
    expected = {
        "model.backbone.with_cp": True,
        "model.backbone.drop_path_rate": 0.0,  # the default
        "model.backbone.nothing": None,
        "steps.A.size": (1, 2),
        "steps.0.size.1": 2,
        "steps.B": None,  # two of them
        "steps.7": None,
        "steps.*.type": ["A", "B", "B"],
        "steps.*.size": [(1, 2), None, None],
        "model.backbone.arch.*": None,
        "steps.A.size.x.y": None,
        "model.neck.type": None,
    }
    assert {path: recipes.lookup(cfg, path) for path in expected} == expected
    cfg.model.backbone.update(arch="s36")
    assert recipes.lookup(cfg, "model.backbone.layer_scale_init_value") == 1e-6
    cfg.model.backbone.update(arch="s12", layer_scale_init_value=0.5)
    assert recipes.lookup(cfg, "model.backbone.layer_scale_init_value") == 0.5
    assert recipes.compare(cfg, {"steps.A.size": [1, 2]}) == []
    assert recipes.compare(cfg, {"steps.A.size": [1, 3]}) == [
        "steps.A.size is [1, 2], published [1, 3]"
    ]
    steps = [dict(type="A", size=[1, 2], pad=3), dict(type="B"), dict(type="C")]
    assert recipes.compare(cfg, {"steps": steps}) == [
        "steps.0.pad is None, published 3", "steps.2.type is 'B', published 'C'",
    ]  # fmt: skip
    assert recipes.compare(cfg, {"steps.A": dict(type="A")}) == [
        "steps.A.size is [1, 2], published None"
    ]
    (shorter,) = recipes.compare(cfg, {"steps": steps[:2]})
    assert shorter.startswith("steps is [{'type': 'A'")


def test_the_number_of_settings():
    """Each value of parts, and lists of values as one."""
    parts = [dict(type="A", size=[1, 2]), dict(type="B")]
    assert recipes.count_values({"a.b": 1, "c": parts, "d": None, "e": [[1, 2], [3, 4]]}) == 7


@pytest.mark.parametrize("text", ["a: 1", "a: {Source: x}", "a: {Settings: {b: 1}}"])
def test_a_recipe_needs_source_and_settings(tmp_path, text):
    (tmp_path / "configs").mkdir()
    (tmp_path / recipes.FILE).write_text(text)
    with pytest.raises(UserError, match="a needs Source and Settings"):
        recipes.read_recipes(tmp_path)


# Evaluation


@pytest.mark.parametrize(
    ("measured", "status"),
    [
        ({"coco/bbox_mAP": 0.373, "coco/segm_mAP": 0.346}, OK),
        ({"coco/bbox_mAP": 0.376, "coco/segm_mAP": 0.343}, OK),
        ({"coco/bbox_mAP": 0.377, "coco/segm_mAP": 0.346}, MISMATCH),
        ({"coco/bbox_mAP": 0.373, "coco/segm_mAP": 0.342}, MISMATCH),
        ({"coco/bbox_mAP": float("nan"), "coco/segm_mAP": 0.346}, MISMATCH),
        ({"coco/bbox_mAP": 0.373}, MISMATCH),
        ({}, MISMATCH),
    ],
)
def test_tolerance(measured, status):
    published = {"box AP": 37.3, "mask AP": 34.6}
    assert compare_figures(published, measured, Tolerance()).status == status


@pytest.fixture
def data(tmp_path) -> Path:
    """Nothing but the folders and files that have to be there."""
    folder = tmp_path / "sets"
    for path in ("coco/annotations", "coco/val2017", "imagenet/val"):
        (folder / path).mkdir(parents=True)
    for path in ("images/validation", "annotations/validation"):
        (folder / "ade/ADEChallengeData2016" / path).mkdir(parents=True)
    (folder / "coco/annotations/instances_val2017.json").touch()
    return folder


@pytest.fixture
def weights(tmp_path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    return folder


@pytest.fixture
def runner(monkeypatch):
    """A stand-in for the evaluation: its metrics, and the commands that it was given."""
    commands: list[list[str]] = []
    metrics: dict[str, float] = {}

    def fake(command: list[str], work_dir: Path) -> dict[str, float]:
        commands.append(command)
        return dict(metrics)

    monkeypatch.setattr(reproduction, "run_test", fake)
    return metrics, commands


def test_an_evaluation_within_tolerance_and_one_beyond(run, runner, data, weights):
    metrics, commands = runner
    checkpoint = weights / f"{MASK_RCNN}.pth"
    checkpoint.touch()
    args = (MASK_RCNN, "--data-root", str(data), "--checkpoints", str(weights))
    metrics.update(
        {"coco/bbox_mAP": 0.371, "coco/bbox_mAP_50": 0.59, "coco/bbox_mAP_75": 0.401,
         "coco/segm_mAP": 0.347, "coco/segm_mAP_50": 0.558, "coco/segm_mAP_75": 0.369}
    )  # fmt: skip
    status, output = run(*args)
    assert status == 0
    assert "ok: box AP 37.10, published 37.3 (-0.20); box AP50 59.00" in output
    assert "; mask AP 34.70" in output
    assert "evaluation 1 ok" in output
    (command,) = commands
    assert command[1].endswith("tools/test.py") and command[2].endswith(f"{MASK_RCNN}.py")
    assert command[3] == str(checkpoint)
    assert command[-3:] == [
        "--cfg-options",
        f"test_dataloader.dataset.data_root={data}/coco",
        f"test_evaluator.ann_file={data}/coco/annotations/instances_val2017.json",
    ]

    metrics["coco/bbox_mAP"] = 0.369
    status, output = run(*args)
    assert status == 1
    assert f"MISMATCH: {MASK_RCNN} (arXiv 2111.11418), evaluation: box AP 36.90" in output
    assert "evaluation 1 MISMATCHED" in output
    status, output = run(*args, "--tolerance-ap", "0.5")
    assert status == 0 and "may differ by 0.5 AP" in output
    metrics["coco/segm_mAP_75"] = 0.375
    status, output = run(*args, "--tolerance-ap", "0.5")
    assert status == 1 and "mask AP75 37.50, published 36.9 (+0.60)" in output
    status, output = run(*args, "--tolerance-ap", "0.5", "--tolerance-ap-column", "0.7")
    assert status == 0


def test_every_metric_of_a_metafile_is_compared(root):
    """With its evaluator's own name, and none is left out."""
    named = {metric for row in published_rows(root) for metric in row.figures}
    assert named <= set(metafiles.METRICS)
    assert metafiles.METRICS["mask AP75"] == ("coco/segm_mAP_75", 100)
    assert metafiles.METRICS["box APs"] == ("coco/bbox_mAP_s", 100)
    tolerances = [Tolerance(1, 2, 3, 4).of(m) for m in ("box AP", "mask AP75", "mIoU")]
    assert tolerances == [1, 2, 3] and Tolerance(1, 2, 3, 4).of("Top 1 Accuracy") == 4


def test_top_1_of_each_published_file(root, runner, data, weights, tmp_path):
    """Each under its own name only: the config's would not say which it is."""
    metrics, commands = runner
    metrics["accuracy/top1"] = 84.0
    rows = published_rows(root, CAFORMER)
    for name in (f"{CAFORMER}.pth", "caformer_s18_in21ft1k.pth"):
        (weights / name).touch()
    plain, pretrained = (Reproduction(root, data, weights).check_evaluation(r) for r in rows)
    assert plain.status == OPEN and "no caformer_s18.pth in" in plain.text
    assert pretrained.status == OK and "84.00, published 84.1 (-0.10)" in pretrained.text
    ((*_, option),) = commands
    assert option == f"test_dataloader.dataset.data_root={data}/imagenet"
    shutil.rmtree(data / "imagenet/val")
    found = Reproduction(root, data, weights).check_evaluation(rows[1])
    assert found.status == OPEN and "imagenet/val is not there" in found.text


def test_rows_that_need_the_same_run_share_it(root, runner, data, weights):
    """Semantic FPN's figures of the paper and of mmseg, the third with another option."""
    metrics, commands = runner
    metrics["mIoU"] = 37.0
    (weights / f"{S12}.pth").touch()
    checks = Reproduction(root, data, weights)
    found = [checks.check_evaluation(r) for r in published_rows(root, S12)]
    assert [finding.status for finding in found] == [OK] * 3
    assert len(commands) == 2


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, [f"{MASK_RCNN}.pth"]),
        ("https://a/b/poolformer_s12.pth.tar", [f"{MASK_RCNN}.pth", "poolformer_s12.pth.tar"]),
        ("https://a/casc_ffnet_4.zip", [f"{MASK_RCNN}.pth", "casc_ffnet_4.pth"]),
    ],
)
def test_names_of_a_checkpoint(root, weights, expected):
    found = row(root, MASK_RCNN)
    if weights:
        found.result.published["Weights"] = weights
        for result in found.model["Results"]:
            result["Published"]["Weights"] = weights
    assert reproduction.checkpoint_names(found) == expected


def test_an_unreleased_checkpoint(root, runner, data, weights):
    """Nothing but a file of the config's name can be its own."""
    found = Reproduction(root, data, weights).check_evaluation(
        row(root, "metaformer-s12-ln_8xb128_in1k")
    )
    assert found.status == OPEN and "no metaformer-s12-ln_8xb128_in1k.pth in" in found.text


def test_each_protocol_is_evaluated_in_its_own_way(root, runner, data, weights, tmp_path):
    """A checkpoint under its published name, single-scale and multi-scale, each by its figure."""
    metrics, commands = runner
    (weights / "upernet_ffnet_2_512_160k_ade20k.pth").touch()
    metrics["mIoU"] = 47.75
    checks = Reproduction(root, data, weights, tmp_path, Tolerance(miou=0.6))
    single, multi = (checks.check_evaluation(r) for r in published_rows(root, UPERNET))
    assert single.status == MISMATCH and "(+0.65)" in single.text
    assert multi.status == OK and "(-0.05)" in multi.text
    assert ["--tta" in command for command in commands] == [False, True]
    folders = {command[command.index("--work-dir") + 1] for command in commands}
    assert len(folders) == 2


def test_options_of_a_protocol_change_the_config(root):
    """mmseg's figures without ResizeToMultiple: a multiple of 1 leaves sizes as they are."""
    (found,) = (r for r in published_rows(root, S12) if "without" in r.source)
    assert found.result.test_options[0] == "--cfg-options"
    cfg = Config.fromfile(root / found.model["Config"])
    key, _, value = found.result.test_options[1].partition("=")
    before = recipes.lookup(cfg, "test_dataloader.dataset.pipeline.ResizeToMultiple")
    assert before["size_divisor"] == 32
    cfg.merge_from_dict({key: int(value)})
    after = recipes.lookup(cfg, "test_dataloader.dataset.pipeline.ResizeToMultiple")
    assert after["size_divisor"] == 1


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("weights", f"no {MASK_RCNN}.pth in "),
        ("coco/annotations/instances_val2017.json", "instances_val2017.json is not there"),
    ],
)
def test_what_cannot_be_evaluated_is_not_passed(root, runner, data, weights, remove, message):
    paths = dict(weights=weights / f"{MASK_RCNN}.pth")
    paths["weights"].touch()
    paths.get(remove, data / remove).unlink()
    found = Reproduction(root, data, weights).check_evaluation(row(root, MASK_RCNN))
    assert found.status == OPEN and found.text.startswith("not evaluated: ")
    assert message in found.text
    assert runner[1] == []


def test_a_failing_evaluation_is_a_mismatch(root, data, weights, tmp_path):
    """The real tools/test.py, on a file that is no checkpoint."""
    (weights / f"{S12}.pth").write_bytes(b"PK")
    checks = Reproduction(root, data, weights, tmp_path / "work")
    found = checks.check_evaluation(row(root, S12, "arXiv"))
    assert found.status == MISMATCH and found.text.startswith("evaluation failed: error: ")
    assert f"{S12}.pth" in found.text


def test_reading_what_a_test_writes(tmp_path):
    stamp = tmp_path / "work" / "20260101_000000"
    old = tmp_path / "work" / "20250101_000000" / "20250101_000000.json"
    old.parent.mkdir(parents=True)
    old.write_text('{"mIoU": 1.0}')
    code = (
        f"import pathlib; p = pathlib.Path({str(stamp)!r}); p.mkdir(); "
        "(p / 'x.json').write_text('{\"mIoU\": 37.5}')"
    )
    command = [sys.executable, "-c", code]
    assert reproduction.run_test(command, tmp_path / "work") == {"mIoU": 37.5}
    with pytest.raises(UserError, match="no metrics below"):
        reproduction.run_test([sys.executable, "-c", "pass"], tmp_path / "work")
    with pytest.raises(UserError, match="exit status 3"):
        reproduction.run_test([sys.executable, "-c", "exit(3)"], tmp_path / "work")


def test_a_mismatch_is_the_exit_status(run, copy, replace):
    name = "poolformer-s12_8xb128_in1k"
    assert run(name, "--root", str(copy))[0] == 0
    replace("configs/poolformer/metafile.yml", "11,915,176", "11,915,177")
    status, output = run(name, "--root", str(copy))
    assert status == 1
    assert f"MISMATCH: {name}, parameters: 11,915,177 printed in counted" in output
    assert "parameters 1 MISMATCHED" in output


# From end to end: tools/reproduce.py runs tools/test.py on generated images with small networks
# whose predictions are known.

TINY = "arch=dict(_delete_=True, depths=[1, 1, 1, 1], dims=[8, 16, 24, 32])"
LOADER = "num_workers=0, persistent_workers=False"
SMALL = {
    "retinanet_poolformer-s12_fpn_1x_coco": f"""
_base_ = '../_base_/retinanet_fpn_1x_coco.py'
model = dict(backbone=dict({TINY}), neck=dict(in_channels=[16, 24, 32]))
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
test_dataloader = dict({LOADER}, dataset=dict(pipeline=pipeline))
""",
    S12: f"""
_base_ = '../_base_/fpn_8xb4-40k_ade20k-512x512.py'
model = dict(backbone=dict({TINY}), neck=dict(in_channels=[8, 16, 24, 32]))
test_dataloader = dict({LOADER})
""",
    "poolformer-s12_8xb128_in1k": f"""
_base_ = '../_base_/imagenet_poolformer_8xb128.py'
model = dict(backbone=dict({TINY}), head=dict(in_channels=32))
test_dataloader = dict({LOADER}, batch_size=4)
""",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Two images in the formats of COCO, with all its categories, and of ADE20K; four in
    ImageNet's folders, three of which are of class 7."""
    from mmdet.datasets import CocoDataset

    folder = tmp_path_factory.mktemp("images")
    generate_shapes(folder / "shapes", num_train=0, num_val=2, image_size=64)
    shutil.copytree(folder / "shapes/coco", folder / "data/coco")
    shutil.copytree(folder / "shapes/ade", folder / "data/ade/ADEChallengeData2016")
    path = folder / "data/coco/annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    names = CocoDataset.METAINFO["classes"]
    content["categories"] = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    path.write_text(json.dumps(content))
    for index in range(1000):
        (folder / f"data/imagenet/val/n{index:08d}").mkdir(parents=True)
    (picture, *_) = sorted((folder / "data/coco/val2017").glob("*.jpg"))
    for number, index in enumerate((7, 7, 2, 7)):
        shutil.copy(picture, folder / f"data/imagenet/val/n{index:08d}/{number}.JPEG")
    return folder / "data"


def always(layer: nn.Module, index: int) -> None:
    """One class everywhere."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    layer.bias.data[index] = 10.0


def expected_figures(name: str, model: nn.Module, data: Path) -> dict[str, float]:
    """Have a model predict what is known, and say what an evaluation makes of it."""
    if name == S12:
        always(model.decode_head.conv_seg, 5)
        # Labels count from 1 there, and 0 is ignored.
        maps = sorted((data / "ade/ADEChallengeData2016/annotations/validation").glob("*.png"))
        counts = sum(
            np.bincount(np.asarray(Image.open(path)).ravel(), minlength=8) for path in maps
        )
        # Predicted everywhere, and so the only class whose intersection is not empty.
        iou = counts[6] / counts[1:].sum()
        return {"mIoU": round(100 * float(iou / (counts[1:] > 0).sum()), 2)}
    if name.endswith("in1k"):
        always(model.head.fc, 7)
        return {"Top 1 Accuracy": 75.0}
    # Boxes everywhere, of every class alike.
    nn.init.zeros_(model.bbox_head.retina_cls.bias)
    return dict.fromkeys(("box AP", "box AP50", "box AP75"), 0.0)


def make_small(copy: Path, name: str, images: Path, weights: Path) -> dict[str, float]:
    """Give a published config a small network and a checkpoint; says the figures to expect."""
    (path,) = (copy / "configs").glob(f"*/{name}.py")
    path.write_text(SMALL[name])
    cfg = Config.fromfile(path)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    figures = expected_figures(name, model, images)
    weights.mkdir()
    torch.save(dict(state_dict=model.state_dict()), weights / f"{name}.pth")
    return figures


def publish(copy: Path, name: str, figures: dict[str, float], sources: dict[str, float]) -> None:
    """Have a metafile say that sources published these figures, each off by something; nothing
    else is published of the config."""
    (file,) = (file for file in metafiles.read(copy) if file.family == "poolformer")
    model = next(model for model in file.models if model["Name"] == name)
    task = {key: model["Results"][0][key] for key in ("Task", "Dataset")}
    for key in ("Recipe", "Published Counts"):
        model.pop(key, None)
    model["Results"] = [
        {
            **task,
            "Metrics": {metric: value + offset for metric, value in figures.items()},
            "Published": {"Source": source},
        }
        for source, offset in sources.items()
    ]
    file.path.write_text(metafiles.dump(file.content))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_evaluations_from_end_to_end(run, copy, root, images, tmp_path, name):
    """The right figures agree, others do not and are the exit status; one run is enough."""
    (copy / "tools").symlink_to(root / "tools")
    weights = tmp_path / "weights"
    figures = make_small(copy, name, images, weights)
    publish(copy, name, figures, {"right": 0.0, "wrong": 5.0})
    args = (
        name, "--root", str(copy), "--data-root", str(images), "--checkpoints", str(weights),
        "--work-dir", str(tmp_path / "work"),
    )  # fmt: skip
    status, output = run(*args)
    assert status == 1 and "evaluation failed" not in output
    assert "evaluation 1 ok, 1 MISMATCHED" in output
    assert f"MISMATCH: {name} (wrong), evaluation: " in output
    metric, value = next(iter(figures.items()))
    assert f"{metric} {value:.2f}, published {value + 5.0} (-5.00)" in output
    (report,) = (tmp_path / "work").rglob(f"{datetime.date.today().year}*.json")
    assert len(json.loads(report.read_text())) >= len(figures)


@pytest.mark.slow
def test_the_exit_status_without_a_mismatch(run, copy, root, images, tmp_path):
    (copy / "tools").symlink_to(root / "tools")
    name = "poolformer-s12_8xb128_in1k"
    figures = make_small(copy, name, images, tmp_path / "weights")
    publish(copy, name, figures, {"right": 0.1})
    status, output = run(
        name, "--root", str(copy), "--data-root", str(images),
        "--checkpoints", str(tmp_path / "weights"), "--work-dir", str(tmp_path / "work"),
    )  # fmt: skip
    assert status == 0 and "evaluation 1 ok" in output


def test_notes_are_printed(run, root):
    status, output = run("ffnet-3_8xb128_in1k-384px")
    assert status == 0
    assert "note: ffnet-3_8xb128_in1k-384px (arXiv 2406.02021): the authors' README gives" in output
    status, output = run("--list", "ffnet-3_8xb128_in1k")
    assert "Top 1 Accuracy 84.5 (the authors' README gives 84.5 both" in output
