"""Metafiles, configs and READMEs in step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmmetaformer.engine.errors import UserError
from model_zoo import checks, metafiles, tables

S12, S24 = "mask-rcnn_poolformer-s12_fpn_1x_coco", "mask-rcnn_poolformer-s24_fpn_1x_coco"
CONFIG = f"configs/poolformer/{S12}.py"
META = "configs/poolformer/metafile.yml"
FFNET_META, CAFORMER_META = "configs/ffnet/metafile.yml", "configs/caformer/metafile.yml"
POOLFORMER = "https://github.com/sail-sg/poolformer/releases/download/v1.0/poolformer"
FFNET = "https://github.com/ysj9909/FFNet/releases/download/v1.0"
RECIPES = "configs/recipes.yml"


def change(path: Path, name: str, edit) -> None:
    """Edit one entry of a metafile, which stays in its form."""
    content = yaml.safe_load(path.read_text())
    edit(next(model for model in content["Models"] if model["Name"] == name))
    path.write_text(metafiles.dump(content))


def test_in_step(root):
    assert checks.check(root) == []


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
        (META, "Top 1 Accuracy: 77.2", "Top 1 Accuracy: 77.3", "poolformer/README.md differs"),
        (META, f"  Weights: {POOLFORMER}_s12.pth.tar", f"  Weights: {POOLFORMER}_s24.pth.tar",
         "poolformer-s12_8xb128_in1k: weights.catalogue does not have https://"),
        (META, "      Weights: https://download.op", "      Weights: https://mirror.op",
         "weights.catalogue does not have https://mirror"),
        (FFNET_META, f"      Weights: {FFNET}/ffnet_seg_sys", f"      Weights: {FFNET}/ffnet_sys",
         "weights.catalogue does not have https://"),
        (FFNET_META, "    Weights: null", "    Weights: a", "has not the Weights of its results"),
        (FFNET_META, "Recipe: ffnet-evaluation-256", "Recipe: ffnet-256",
         "unknown recipe 'ffnet-256'"),
        (CAFORMER_META, "Of: backbone", "Of: neck", "unknown part 'neck'"),
        (CAFORMER_META, "Config: configs/_base_/cascade", "Config: configs/cascade",
         "Sizes: cascade-mask-rcnn_caformer-s18 is of the config configs/cascade"),
        (CAFORMER_META, "Name: cascade-mask-rcnn_caformer-s18", "Name: caformer-s18_8xb128_in1k",
         "Sizes: caformer-s18_8xb128_in1k has a config of its own"),
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
def test_tampering_is_found(copy, replace, file, old, new, message):
    replace(file, old, new)
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
        (lambda m: m["Results"][0].update(Metrics={"AP": 1.0}), "unknown metrics ['AP']"),
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


def test_weights_of_the_catalogue_that_no_metafile_has(copy):
    """Both results that name the file."""
    path, url = copy / META, "20220501_115154-b5aa2f49.pth"
    text = path.read_text()
    assert text.count(url) == 3  # and what DetInferencer reads
    content = yaml.safe_load(text)
    for model in content["Models"]:
        for result in model.get("Results", ()):
            if result.get("Published", {}).get("Weights", "").endswith(url):
                del result["Published"]["Weights"]
    path.write_text(metafiles.dump(content))
    problems = checks.check(copy)
    assert any(url in problem and "which no metafile has" in problem for problem in problems)


def test_a_classifier_of_no_network(copy):
    """One that no family would show."""
    (copy / "configs/imagenet/resnet-50_8xb128_in1k.py").write_text(
        "_base_ = './poolformer-s12_8xb128_in1k.py'\n"
    )
    problems = checks.check(copy)
    path = "configs/imagenet/resnet-50_8xb128_in1k.py"
    assert problems == [f"{path} names no network, so it belongs to no metafile"]


def test_a_new_classifier_gets_an_entry(copy):
    new = "configs/imagenet/poolformer-s12_4xb256_in1k.py"
    (copy / new).write_text("_base_ = './poolformer-s12_8xb128_in1k.py'\n")
    assert checks.check(copy) == [f"{META}: no entry for {new}"]
    checks.write(copy, count=False)
    assert checks.check(copy) == []
    content = yaml.safe_load((copy / META).read_text())
    (entry,) = (model for model in content["Models"] if model["Config"] == new)
    assert entry["Metadata"] == {
        "Training Data": "ImageNet-1k",
        "Parameters": 11_915_176,
        "FLOPs": 1_812_267_008,
        "FLOPs Image": "224x224",
        "FLOPs Parts": "whole classifier",
    }


def test_files_that_cannot_be_read_are_errors(copy):
    (copy / META).write_text("Models: [")
    with pytest.raises(UserError, match="metafile.yml"):
        checks.check(copy)
    (copy / META).unlink()
    with pytest.raises(UserError, match="does not exist"):
        checks.check(copy)


def test_two_entries_of_one_name(copy, replace):
    replace(META, f"Name: {S24}", f"Name: {S12}")
    with pytest.raises(UserError, match=f"{S12} has two entries"):
        checks.check(copy)


@pytest.mark.parametrize("marker", [tables.BEGIN, tables.END])
def test_the_readme_needs_both_markers(copy, replace, marker):
    replace("README.md", marker, "")
    with pytest.raises(UserError, match="expected one <!-- zoo:begin -->"):
        checks.check(copy)


def test_write_brings_in_step_and_counts_new_configs(copy, replace):
    replace(META, "mask AP: 34.6", "mask AP: 34.5")
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
    assert "**measured** here: 1 of 204 configs" in readme
    model["Results"][-1]["Measured"]["Date"] = "in January"
    (copy / META).write_text(metafiles.dump(content))
    assert checks.check(copy) == [
        f"{META}: {S12}: a measured result needs a date, YYYY-MM-DD, and a command"
    ]


def test_recount_finds_a_wrong_figure(copy, replace, monkeypatch):
    """Also one too small to show in a table."""
    replace(META, "Parameters: 31570608", "Parameters: 31570609")
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


def run_tool(root: Path, *args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "tools/zoo.py", *args]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_the_tool_exits_with_what_is_wrong(root, copy, replace):
    replace("README.md", "box AP 37.3", "box AP 37.4")
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
