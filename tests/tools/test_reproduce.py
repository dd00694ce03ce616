"""tools/reproduce.py: what it lists, what it finds, and how it evaluates."""

from __future__ import annotations

import datetime
import functools
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmmetaformer.datasets.shapes import generate_shapes
from mmmetaformer.engine.errors import UserError
from mmmetaformer.zoo import metafiles, recipes, reproduction
from mmmetaformer.zoo.reproduction import (
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


@pytest.fixture(scope="module", autouse=True)
def find_bases_once():
    """mmengine reads the whole model index of mmdet or mmseg for each of their base files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "_get_cfg_path", staticmethod(functools.cache(Config._get_cfg_path)))
        yield


@pytest.fixture
def copy(root, tmp_path) -> Path:
    """Configs and metafiles, to tamper with."""
    shutil.copytree(root / "configs", tmp_path / "copy" / "configs")
    return tmp_path / "copy"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


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


def test_every_published_result_count_and_network_is_a_row(root):
    rows = published_rows(root)
    assert len({row.label for row in rows}) == len(rows)
    named = {row.name for row in rows}
    for file in metafiles.read(root):
        expected = {
            model["Name"]
            for model in file.models
            if model.keys() & {"Published Counts"}
            or any("Published" in result for result in model.get("Results", ()))
        }
        expected |= {network["Arch"] for network in file.collection.get("ImageNet Models", ())}
        assert expected <= named
    assert sum(row.result is not None for row in rows) == 36


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


def test_a_wrong_published_figure_is_found(copy):
    path = copy / "configs/poolformer/metafile.yml"
    replace(path, "Figure: 15,669,846", "Figure: 15,669,847")
    replace(path, "Figure: 31 G", "Figure: 32 G")
    checks = Reproduction(copy)
    parameters = checks.check_counts(row(copy, S12), "Parameters")
    assert parameters.status == MISMATCH and "15,669,846 counted" in parameters.text
    flops = checks.check_counts(row(copy, S12), "FLOPs")
    assert flops.status == MISMATCH and "32 G (512x512, MMCV) printed" in flops.text


def test_imagenet_models_are_counted_at_their_size_and_form(root):
    report = Reproduction(root).check(row(root, "ffnet_3"))
    assert str(report.parameters) == "ok: 48.82 M; 48.33 M (fused)"
    assert str(report.flops) == "ok: 10.1 G (fused, 256x256, MACs); 22.8 G (fused, 384x384, MACs)"
    assert report.recipe.status == report.evaluation.status == OPEN


# Recipes


@pytest.mark.parametrize("name", list(recipes.read_recipes(Path(__file__).parents[2])))
def test_configs_are_in_their_published_recipe(root, name):
    checks = Reproduction(root)
    followers = {
        row.name: row
        for row in published_rows(root)
        if row.model is not None and row.model.get("Recipe") == name
    }
    assert set(followers) == set(checks.recipes[name]["Models"])
    statuses = {name: checks.check_recipe(row).status for name, row in followers.items()}
    assert statuses == dict.fromkeys(followers, OK)


TAMPERED = [
    (MASK_RCNN, "mask-rcnn_fpn_1x_coco", "lr=2e-4", "lr=1e-4", "optim_wrapper.optimizer"),
    (MASK_RCNN, "mask-rcnn_fpn_1x_coco", "base_batch_size=16", "base_batch_size=32",
     "auto_scale_lr.base_batch_size is 32, published 16"),
    (MASK_RCNN, "mask-rcnn_fpn_1x_coco", "arch='s12')", "arch='s12', frozen_stages=0)",
     "model.backbone.frozen_stages is 0, published -1"),
    (MASK_RCNN, "mask-rcnn_fpn_1x_coco", "auto_scale_lr", "train_cfg = dict(max_epochs=36)\nauto_scale_lr",  # noqa: E501
     "train_cfg.max_epochs is 36, published 12"),
    ("retinanet_poolformer-s12_fpn_1x_coco", "retinanet_fpn_1x_coco", "weight_decay=1e-4", "weight_decay=0.05",  # noqa: E501
     "optim_wrapper.optimizer is {'type': 'AdamW', 'lr': 0.0001, 'weight_decay': 0.05}"),
    ("retinanet_poolformer-s12_fpn_1x_coco", "retinanet_fpn_1x_coco", "optim_wrapper = dict(", "optim_wrapper = dict(clip_grad=dict(max_norm=1), ",  # noqa: E501
     "optim_wrapper.clip_grad is {'max_norm': 1}, published None"),
    (S12, "fpn_8xb4-40k_ade20k-512x512", "size_divisor=32", "size_divisor=16",
     "test_dataloader.dataset.pipeline.ResizeToMultiple.size_divisor is 16, published 32"),
    (S12, "fpn_8xb4-40k_ade20k-512x512", "    dict(type='ResizeToMultiple', size_divisor=32),\n", "",  # noqa: E501
     "ResizeToMultiple.size_divisor is None, published 32"),
    (S12, "fpn_8xb4-40k_ade20k-512x512", "power=0.9", "power=1.0", "param_scheduler is"),
    ("convformer-s18_upernet_8xb2-160k_ade20k-512x512", "upernet_8xb2-160k_ade20k-512x512",
     "drop_path_rate=0.3", "drop_path_rate=0.2", "drop_path_rate is 0.2, published 0.3"),
    ("convformer-s18_upernet_8xb2-160k_ade20k-512x512", "upernet_8xb2-160k_ade20k-512x512",
     "end=1500", "end=500", "param_scheduler is"),
    ("cascade-mask-rcnn_ffnet-2_fpn_3x_coco", "../ffnet/cascade-mask-rcnn_ffnet-2_fpn_3x_coco",
     "decay_rate=0.8", "decay_rate=0.7", "decay_rate is 0.7, published 0.8"),
    ("cascade-mask-rcnn_ffnet-4_fpn_3x_coco", "../ffnet/cascade-mask-rcnn_ffnet-4_fpn_3x_coco",
     "momentum=0.0001", "momentum=0.0002", "custom_hooks.EMAHook is"),
    (UPERNET, "../ffnet/ffnet-2_upernet_8xb2-160k_ade20k-512x512", "mode='whole'",
     "mode='slide'", "model.test_cfg is {'mode': 'slide'}"),
    ("ffnet-seg_ffnethead_8xb2-160k_cityscapes-1024x1024", "../ffnet/ffnet-seg_ffnethead_8xb2-160k_cityscapes-1024x1024",  # noqa: E501
     "(1024, 1024)", "(512, 1024)", "model.test_cfg is"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "old", "new", "message"), TAMPERED)
def test_a_setting_that_departs_is_found(copy, name, file, old, new, message):
    replace(copy / "configs/_base_" / f"{file}.py", old, new)
    found = Reproduction(copy).check_recipe(row(copy, name))
    assert found.status == MISMATCH and message in found.text


def test_every_recipe_is_tampered_with(root):
    names = {name for name, *_ in TAMPERED}
    used = {r.model["Recipe"] for r in published_rows(root) if r.name in names}
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
        "steps.A.size.x.y": None,
        "model.neck.type": None,
    }
    assert {path: recipes.lookup(cfg, path) for path in expected} == expected
    assert recipes.compare(cfg, {"steps.A.size": [1, 2]}) == []
    assert recipes.compare(cfg, {"steps.A.size": [1, 3]}) == [
        "steps.A.size is [1, 2], published [1, 3]"
    ]


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
    published = {"box AP": 37.3, "box AP50": 59.0, "mask AP": 34.6}
    assert compare_figures(published, measured, Tolerance()).status == status


@pytest.fixture
def data(tmp_path) -> Path:
    """Nothing but the folders and files that have to be there."""
    folder = tmp_path / "sets"
    (folder / "coco/annotations").mkdir(parents=True)
    (folder / "coco/annotations/instances_val2017.json").touch()
    (folder / "ade/ADEChallengeData2016").mkdir(parents=True)
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
    metrics.update({"coco/bbox_mAP": 0.371, "coco/segm_mAP": 0.347})
    status, output = run(*args)
    assert status == 0
    assert "ok: box AP 37.10, published 37.3 (-0.20); mask AP 34.70" in output
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


def test_a_mismatch_is_the_exit_status(run, copy):
    assert run("poolformer_s12", "--root", str(copy))[0] == 0
    replace(copy / "configs/poolformer/metafile.yml", "11,915,176", "11,915,177")
    status, output = run("poolformer_s12", "--root", str(copy))
    assert status == 1
    assert "MISMATCH: poolformer_s12, parameters: 11,915,177 printed in counted" in output
    assert "parameters 1 MISMATCHED" in output


@pytest.mark.slow
def test_a_real_evaluation(run, root, tmp_path):
    """Random weights of a published config on generated shapes: evaluated, and found different."""
    generate_shapes(tmp_path / "shapes", num_train=1, num_val=2, image_size=64)
    (tmp_path / "data/ade").mkdir(parents=True)
    shutil.copytree(tmp_path / "shapes/ade", tmp_path / "data/ade/ADEChallengeData2016")
    (tmp_path / "weights").mkdir()
    cfg = Config.fromfile(root / f"configs/poolformer/{S12}.py")
    cfg.model.backbone.pop("init_cfg")
    from mmengine.registry import MODELS, DefaultScope

    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "weights" / f"{S12}.pth")
    status, output = run(
        S12, "--data-root", str(tmp_path / "data"), "--checkpoints", str(tmp_path / "weights"),
        "--work-dir", str(tmp_path / "work"),
    )  # fmt: skip
    assert status == 1
    assert output.count("evaluation: mIoU ") == 3 and "evaluation failed" not in output
    reports = list((tmp_path / "work").rglob(f"{datetime.date.today().year}*.json"))
    assert sum("mIoU" in json.loads(path.read_text()) for path in reports) == 3
