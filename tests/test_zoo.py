"""Metafiles, configs and READMEs in step, and what is published in its place."""

from __future__ import annotations

import functools
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from mmmetaformer import list_archs
from mmmetaformer.engine.errors import UserError
from mmmetaformer.zoo import checks, metafiles, tables
from mmmetaformer.zoo.counting import Counts, count_arch, count_bare_backbone, count_config

FPN = "{}_fpn_8xb4-40k_ade20k-512x512"
UPERNET = "{}_upernet_8xb2-160k_ade20k-512x512"
PAPER, RERUN = "arXiv 2111.11418", "mmseg re-run"
FFNET, OTHERS = "arXiv 2406.02021", "published by others than the authors"
COCO = ("box AP", "box AP50", "box AP75")
MASK = ("mask AP", "mask AP50", "mask AP75")
SIZES = ("box APs", "box APm", "box APl")


def named(names: tuple[str, ...], figures: str) -> dict[str, float]:
    return dict(zip(names, map(float, figures.split("/")), strict=True))


# Written out here from the publications: all that are published for configs, by name and label.
PUBLISHED = {
    ("retinanet_poolformer-s12_fpn_1x_coco", PAPER): named(COCO + SIZES, "36.2/56.2/38.2/20.8/39.1/48.0"),  # noqa: E501
    ("retinanet_poolformer-s24_fpn_1x_coco", PAPER): named(COCO + SIZES, "38.9/59.7/41.3/23.3/42.1/51.8"),  # noqa: E501
    ("retinanet_poolformer-s36_fpn_1x_coco", PAPER): named(COCO + SIZES, "39.5/60.5/41.8/22.5/42.9/52.4"),  # noqa: E501
    ("mask-rcnn_poolformer-s12_fpn_1x_coco", PAPER): named(COCO + MASK, "37.3/59.0/40.1/34.6/55.8/36.9"),  # noqa: E501
    ("mask-rcnn_poolformer-s24_fpn_1x_coco", PAPER): named(COCO + MASK, "40.1/62.2/43.4/37.0/59.1/39.6"),  # noqa: E501
    ("mask-rcnn_poolformer-s36_fpn_1x_coco", PAPER): named(COCO + MASK, "41.0/63.1/44.8/37.7/60.1/40.0"),  # noqa: E501
    **{
        (FPN.format(f"poolformer-{size}"), label): {"mIoU": value}
        for size, values in {
            "s12": (37.2, 36.68, 37.07), "s24": (40.3, 40.12, 40.36), "s36": (42.0, 41.61, 41.81),
            "m36": (42.4, 41.95, 42.35), "m48": (42.7, 42.43, 42.76),
        }.items()
        for label, value in zip(
            (PAPER, f"{RERUN}, without ResizeToMultiple", f"{RERUN}, with ResizeToMultiple"),
            values, strict=True,
        )
    },
    (UPERNET.format("convformer-s18"), OTHERS): {"mIoU": 48.6},
    (UPERNET.format("caformer-s18"), OTHERS): {"mIoU": 48.9},
    ("cascade-mask-rcnn_ffnet-2_fpn_3x_coco", FFNET): {"box AP": 51.8, "mask AP": 44.9},
    ("cascade-mask-rcnn_ffnet-3_fpn_3x_coco", FFNET): {"box AP": 52.8, "mask AP": 45.6},
    ("cascade-mask-rcnn_ffnet-4_fpn_3x_coco", FFNET): {"box AP": 53.4, "mask AP": 45.9},
    **{
        (name, f"{FFNET}, {label}"): {"mIoU": value}
        for name, values in {
            UPERNET.format("ffnet-2"): (47.1, 47.8),
            UPERNET.format("ffnet-3"): (49.6, 50.2),
            UPERNET.format("ffnet-4"): (50.7, 51.7),
            "ffnet-seg_ffnethead_8xb2-160k_ade20k-512x512": (50.1, 51.2),
            "ffnet-seg_ffnethead_8xb2-160k_cityscapes-1024x1024": (83.2, 84.1),
        }.items()
        for label, value in zip(("single scale", "multi-scale and flip"), values, strict=True)
    },
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def find_bases_once():
    """mmengine reads the whole model index of mmdet or mmseg for each of their base files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "_get_cfg_path", staticmethod(functools.cache(Config._get_cfg_path)))
        yield


@pytest.fixture
def copy(root, tmp_path) -> Path:
    """What is checked, to tamper with."""
    for name in ("README.md", "model-index.yml"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "configs", tmp_path / "configs")
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def change(path: Path, name: str, edit) -> None:
    """Edit one entry of a metafile, which stays in its form."""
    content = yaml.safe_load(path.read_text())
    edit(next(model for model in content["Models"] if model["Name"] == name))
    path.write_text(metafiles.dump(content))


def test_in_step(root):
    assert checks.check(root) == []


def test_every_published_row_is_there_and_no_other(root):
    found = {
        (row.name, row.label): row.metrics
        for file in metafiles.read(root)
        for model in file.models
        for row in tables.rows(model)
        if row.published
    }
    assert found == PUBLISHED


def test_the_readme_shows_every_published_headline_beside_its_config(root):
    section = (root / "README.md").read_text().split(tables.BEGIN)[1].split(tables.END)[0]
    rows = [line for line in section.splitlines() if line.startswith("| [")]
    lines = {row.removeprefix("| [").split("]")[0]: row for row in rows}
    for (name, _), metrics in PUBLISHED.items():
        for metric in metrics.keys() & {"box AP", "mask AP", "mIoU"}:
            assert f"{metric} {metrics[metric]}" in lines[name]


def test_every_network_has_its_top_1_or_is_known_to_have_none(root):
    networks = {
        network["Arch"]
        for file in metafiles.read(root)
        for network in file.collection.get("ImageNet Models", ())
    }
    # The files of FFNet_seg and MLP-Mixer have no figure of their authors here.
    without = {"ffnet_seg", *list_archs("mlp_mixer_*")}
    assert set(list_archs()) - without == networks


def test_the_index_is_read_by_openmmlabs_own_reader(root, monkeypatch):
    load = importlib.import_module("modelindex.load_model_index").load
    monkeypatch.chdir(root)
    models = load("model-index.yml").models
    names = {Path(c).stem for f in metafiles.families() for c in metafiles.configs(root, f)}
    assert {model.name for model in models} == names


S12, S24 = "mask-rcnn_poolformer-s12_fpn_1x_coco", "mask-rcnn_poolformer-s24_fpn_1x_coco"
CONFIG = f"configs/poolformer/{S12}.py"
META = "configs/poolformer/metafile.yml"
RECIPES = "configs/recipes.yml"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("README.md", "box AP 37.3", "box AP 37.4", "README.md differs"),
        ("README.md", "| 31.57 |", "| 31.58 |", "| 31.58 |"),
        ("README.md", f"]({CONFIG})", "](configs/other.py)", "README.md differs"),
        ("configs/poolformer/README.md", "AP50 59.0", "AP50 59.1", "poolformer/README.md differs"),
        (META, "box AP50: 59.0", "box AP50: 59.1", "poolformer/README.md differs"),
        (META, "mask AP: 34.6", "mask AP: 34.5", "README.md differs"),
        (META, "Parameters: 31570608", "Parameters: 32570608", "README.md differs"),
        (META, f"Config: {CONFIG}", "Config: configs/no.py", f"no entry for {CONFIG}"),
        (META, f"Config: {CONFIG}", "Config: configs/no.py", "no.py, which is not"),
        (META, f"Name: {S12}", "Name: mask-rcnn", "mask-rcnn is not the name of its config"),
        (META, "In Collection: PoolFormer", "In Collection: Pool", "in another collection"),
        (META, "Parameters: 31570608", "Params: 31570608", "is not counted"),
        (META, "Recipe: poolformer-fpn-40k", "Recipe: fpn", "unknown recipe 'fpn'"),
        (META, "in1k: 77.2", "in22k: 77.2", "top-1 of ['in22k']"),
        (META, "Arch: poolformer_s12", "Arch: poolformer_s13", "unknown arch 'poolformer_s13'"),
        (META, "Counter: MMCV", "Counter: fvcore", "need an image and a counter"),
        (META, "Quantity: FLOPs", "Quantity: Memory", "unknown quantity 'Memory'"),
        (META, "Counted: 25.14 M", "Count: 25.14 M", "needs Counted and Reason"),
        (META, "# Metadata", "# Data", "metafile.yml differs"),
        ("model-index.yml", "  - configs/ffnet/metafile.yml\n", "", "model-index.yml differs"),
        (RECIPES, f"    {S24}:", "    mask-rcnn:", "has settings for mask-rcnn, which does not"),
        (RECIPES, "ffnet-seg-160k:", "ffnet-seg-80k:", "unknown recipe 'ffnet-seg-160k'"),
        (RECIPES, "ffnet-seg-160k:", "ffnet-seg-80k:", "no metafile names the recipe"),
    ],
)  # fmt: skip
def test_tampering_is_found(copy, file, old, new, message):
    replace(copy / file, old, new)
    problems = checks.check(copy)
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m["Results"][0]["Published"].pop("Source"), "without a source"),
        (lambda m: m["Results"][0].update(Measured={}), "either Published or Measured"),
        (lambda m: m["Results"][0].pop("Published"), "either Published or Measured"),
        (lambda m: m["Results"][0].update(Task="Detection"), "unknown task 'Detection'"),
        (lambda m: m["Results"][0].update(Metrics={}), "without figures"),
        (lambda m: m.pop("Recipe"), "published results and no recipe"),
        (lambda m: m["Published Counts"][0].pop("Source"), "without a source"),
    ],
)  # fmt: skip
def test_what_a_result_needs(copy, edit, message):
    change(copy / META, S12, edit)
    problems = checks.check(copy)
    assert any(message in problem for problem in problems), problems


def test_a_config_without_an_entry_and_an_entry_without_a_config(copy):
    (copy / CONFIG).rename(copy / "configs/poolformer/mask-rcnn_poolformer-s13_fpn_1x_coco.py")
    problems = checks.check(copy)
    assert f"{META}: {S12} names the config {CONFIG}, which is not there" in problems
    assert any("no entry for configs/poolformer/mask-rcnn_poolformer-s13" in p for p in problems)
    with pytest.raises(UserError, match="which is not there"):
        checks.write(copy, count=False)


def test_files_that_cannot_be_read_are_errors(copy):
    (copy / META).write_text("Models: [")
    with pytest.raises(UserError, match="metafile.yml"):
        checks.check(copy)
    (copy / META).unlink()
    with pytest.raises(UserError, match="does not exist"):
        checks.check(copy)


def test_two_entries_of_one_name(copy):
    replace(copy / META, f"Name: {S24}", f"Name: {S12}")
    with pytest.raises(UserError, match=f"{S12} has two entries"):
        checks.check(copy)


@pytest.mark.parametrize("marker", [tables.BEGIN, tables.END])
def test_the_readme_needs_both_markers(copy, marker):
    replace(copy / "README.md", marker, "")
    with pytest.raises(UserError, match="expected one <!-- zoo:begin -->"):
        checks.check(copy)


def test_write_brings_in_step_and_counts_new_configs(copy):
    replace(copy / META, "mask AP: 34.6", "mask AP: 34.5")
    new = "configs/poolformer/poolformer-s24_fpn_8xb4-20k_ade20k-512x512.py"
    (copy / new).write_text("_base_ = './poolformer-s24_fpn_8xb4-40k_ade20k-512x512.py'\n")
    assert checks.check(copy) == [f"{META}: no entry for {new}"]
    written = checks.write(copy, count=False)
    assert written == [META, "configs/poolformer/README.md", "README.md"]
    assert "mask AP 34.5" in (copy / "README.md").read_text()
    assert checks.check(copy) == []
    content = yaml.safe_load((copy / META).read_text())
    (entry,) = (model for model in content["Models"] if model["Config"] == new)
    assert entry["In Collection"] == "PoolFormer"
    assert entry["Metadata"]["Parameters"] == 25_143_638
    assert entry["Metadata"]["FLOPs Image"] == "512x512"
    assert entry["Metadata"]["Training Data"] == "ADE20K"
    assert entry["Metadata"]["ImageNet Weights"].endswith("/poolformer_s24.pth.tar")
    assert checks.write(copy, count=False) == []


def test_a_measured_result_has_its_cell(copy):
    measured = """
      - Task: Object Detection
        Dataset: COCO
        Metrics:
          box AP: 37.1
        Measured:
          Date: 2026-01-31
          Command: python tools/test.py x.py y.pth
"""
    content = yaml.safe_load((copy / META).read_text())
    model = next(model for model in content["Models"] if model["Name"] == S12)
    model["Results"] += yaml.safe_load(measured)
    (copy / META).write_text(metafiles.dump(content))
    checks.write(copy, count=False)
    readme = (copy / "README.md").read_text()
    assert "| box AP 37.1: 2026-01-31, `python tools/test.py x.py y.pth` |" in readme
    assert "**measured** here: 1 of 140 configs" in readme
    model["Results"][-1]["Measured"]["Date"] = "in January"
    (copy / META).write_text(metafiles.dump(content))
    assert checks.check(copy) == [
        f"{META}: {S12}: a measured result needs a date, YYYY-MM-DD, and a command"
    ]


def test_recount_finds_a_wrong_figure(copy, monkeypatch):
    """Also one too small to show in a table."""
    replace(copy / META, "Parameters: 31570608", "Parameters: 31570609")
    (file,) = (file for file in metafiles.read(copy) if file.family == "poolformer")
    only = metafiles.Metafile(file.path, {**file.content, "Models": file.models[3:5]})
    monkeypatch.setattr(metafiles, "read", lambda root: [only])
    assert checks.recount(copy) == [
        f"{S12}: Parameters is 31570609 in the metafile and 31570608 by the config"
    ]


@pytest.mark.slow
def test_recount(root):
    """Every figure of every config, on the meta device."""
    assert checks.recount(root) == []


def test_counts_of_a_segmentor_and_of_its_fused_form(root):
    def count(name: str, **options) -> Counts:
        return count_config(Config.fromfile(root / "configs" / f"{name}.py"), **options)

    counts = count(f"poolformer/{FPN.format('poolformer-s12')}")
    assert counts.parameters == 15_669_846
    assert round(counts.macs / 1e9, 2) == 30.91 and round(counts.mmcv_flops / 1e9, 2) == 30.99
    name = f"ffnet/{UPERNET.format('ffnet-2')}"
    plain, fused = count(name, image=(64, 64)), count(name, image=(64, 64), fused=True)
    assert plain.parameters - fused.parameters == 299_968
    assert fused.macs < plain.macs


def test_counts_of_imagenet_models():
    assert count_arch("poolformer_s12").parameters == 11_915_176
    assert count_arch("convmixer_768_32").parameters == 21_110_248
    assert round(count_arch("caformer_s18").parameters / 1e6, 2) == 26.34
    assert round(count_bare_backbone("caformer_s18") / 1e6, 2) == 23.24


def test_counting_leaves_the_config_and_the_default_scope_alone(root):
    from mmengine.registry import DefaultScope

    before = DefaultScope.get_current_instance()
    cfg = Config.fromfile(root / f"configs/poolformer/{FPN.format('poolformer-s12')}.py")
    text = cfg.pretty_text
    count_config(cfg)
    assert cfg.pretty_text == text
    assert DefaultScope.get_current_instance() is before


def run_tool(root: Path, *args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "tools/zoo.py", *args]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_the_tool_exits_with_what_is_wrong(root, copy):
    replace(copy / "README.md", "box AP 37.3", "box AP 37.4")
    result = run_tool(root, "--check", "--root", str(copy))
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "README.md differs from what tools/zoo.py --write makes" in result.stderr
    found, expected = result.stderr.split("expected")
    assert "AP 37.4" in found and "AP 37.3" in expected
    result = run_tool(root, "--write", "--tables", "--root", str(copy))
    assert result.returncode == 0 and result.stdout == "wrote README.md\n"


def test_options_of_the_tool_that_do_not_go_together(root):
    result = run_tool(root, "--write", "--recount")
    assert result.returncode == 2 and "--recount with --check" in result.stderr
