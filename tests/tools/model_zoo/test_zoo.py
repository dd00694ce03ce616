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
from model_zoo import checks, metafiles, tables
from model_zoo.counting import Counts, count_config, count_part, image_of

FPN = "{}_fpn_8xb4-40k_ade20k-512x512"
UPERNET = "{}_upernet_8xb2-160k_ade20k-512x512"
PAPER, RERUN = "arXiv 2111.11418", "mmseg re-run"
FFNET, OTHERS = "arXiv 2406.02021", "published by others than the authors"
COCO = ("box AP", "box AP50", "box AP75")
MASK = ("mask AP", "mask AP50", "mask AP75")
SIZES = ("box APs", "box APm", "box APl")


def named(names: tuple[str, ...], figures: str) -> dict[str, float]:
    return dict(zip(names, map(float, figures.split("/")), strict=True))


IN1K, IN1K_384 = "{}_8xb128_in1k", "{}_8xb128_in1k-384px"
BASELINES, IN21K = "arXiv 2210.13452", "pre-trained on ImageNet-21k"


def top_1(name: str, label: str, value: float) -> dict[tuple[str, str], dict[str, float]]:
    return {(name, label): {"Top 1 Accuracy": value}}


def sizes(family: str, values: tuple[float, ...], label: str) -> dict:
    """Top-1 of the five sizes of PoolFormer."""
    names = (f"{family}-{size}" for size in ("s12", "s24", "s36", "m36", "m48"))
    return {
        key: row
        for name, value in zip(names, values, strict=True)
        for key, row in top_1(IN1K.format(name), label, value).items()
    }


# Top-1, written out here from the publications, by name and label.
ABLATION = {
    "identity": 74.3, "random": 75.8, "depthwise": 78.1, "pool5": 77.2, "pool7": 77.1,
    "pool9": 76.8, "ln": 76.5, "bn": 76.4, "no-norm": 46.1, "relu": 76.4, "silu": 77.2,
    "no-residual": 0.1, "no-mlp": 5.7, "pppa": 78.3, "ppaa": 81.0, "pppf": 77.5, "ppff": 77.9,
}  # fmt: skip
# At 224, at 384, and both from ImageNet-21k.
BIG = {
    "convformer-s18": (83.0, 84.4, 83.7, 85.0), "convformer-s36": (84.1, 85.4, 85.4, 86.4),
    "convformer-m36": (84.5, 85.6, 86.1, 86.9), "convformer-b36": (84.8, 85.7, 87.0, 87.6),
    "caformer-s18": (83.6, 85.0, 84.1, 85.4), "caformer-s36": (84.5, 85.7, 85.8, 86.9),
    "caformer-m36": (85.2, 86.2, 86.6, 87.5), "caformer-b36": (85.5, 86.4, 87.4, 88.1),
}  # fmt: skip
CLASSIFIERS = {
    **sizes("poolformer", (77.2, 80.3, 81.4, 82.1, 82.5), PAPER),
    **sizes("identityformer", (74.6, 78.2, 79.3, 80.0, 80.4), BASELINES),
    **sizes("randformer", (76.6, 78.2, 79.5, 81.2, 81.4), BASELINES),
    **sizes("poolformerv2", (78.0, 80.7, 81.6, 82.2, 82.6), BASELINES),
    **{
        (IN1K.format(f"metaformer-s12-{change}"), PAPER): {"Top 1 Accuracy": value}
        for change, value in ABLATION.items()
    },
    **{
        (config.format(name), label): {"Top 1 Accuracy": value}
        for name, values in BIG.items()
        for (config, label), value in zip(
            ((IN1K, BASELINES), (IN1K_384, BASELINES), (IN1K, f"{BASELINES}, {IN21K}"),
             (IN1K_384, f"{BASELINES}, {IN21K}")), values, strict=True,
        )
    },
    **top_1(IN1K.format("ffnet-1"), FFNET, 81.3),
    **top_1(IN1K.format("ffnet-1"), f"{FFNET}, distilled", 82.1),
    **top_1(IN1K.format("ffnet-2"), FFNET, 82.9),
    **top_1(IN1K.format("ffnet-2"), f"{FFNET}, distilled", 83.7),
    **top_1(IN1K.format("ffnet-3"), FFNET, 83.9),
    **top_1(IN1K.format("ffnet-3"), f"{FFNET}, distilled", 84.5),
    **top_1(IN1K_384.format("ffnet-3"), FFNET, 84.5),
    **top_1(IN1K_384.format("ffnet-4"), FFNET, 85.3),
    **top_1("convmixer-768-32_10xb64_in1k", "arXiv 2201.09792", 80.16),
    **top_1("convmixer-1024-20_10xb64_in1k", "arXiv 2201.09792", 76.94),
    **top_1("convmixer-1536-20_10xb64_in1k", "arXiv 2201.09792", 81.37),
    **top_1("mlp-mixer-b16_64xb64_in1k", f"mmpretrain, {IN21K}", 76.68),
    **top_1("mlp-mixer-l16_64xb64_in1k", f"mmpretrain, {IN21K}", 72.34),
}  # fmt: skip

# The same of detectors and segmentors: all that are published for configs.
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
    assert found == PUBLISHED | CLASSIFIERS


def test_the_pages_show_every_top_1_beside_its_config(root):
    pages = "".join(
        (root / f"configs/{name}/README.md").read_text() for name in metafiles.families()
    )
    rows = [line for line in pages.splitlines() if line.startswith("| [")]
    lines = {row.removeprefix("| [").split("]")[0]: row for row in rows}
    for (name, _), metrics in CLASSIFIERS.items():
        assert f"top-1 {metrics['Top 1 Accuracy']}: " in lines[name]
        assert f"](../imagenet/{name}.py)" in lines[name]


def test_a_figure_that_needs_a_word_has_it(root):
    """FFNet-3's 84.5 stands for two files."""
    notes = [
        (row.name, row.label)
        for file in metafiles.read(root)
        for model in file.models
        for row in tables.rows(model)
        if row.published and "gives 84.5 both for the distilled" in row.published.get("Note", "")
    ]
    assert notes == [
        ("ffnet-3_8xb128_in1k", f"{FFNET}, distilled"), ("ffnet-3_8xb128_in1k-384px", FFNET)
    ]  # fmt: skip
    assert "gives 84.5 both" in (root / "configs/ffnet/README.md").read_text()


def test_the_readme_shows_every_published_headline_beside_its_config(root):
    section = (root / "README.md").read_text().split(tables.BEGIN)[1].split(tables.END)[0]
    rows = [line for line in section.splitlines() if line.startswith("| [")]
    lines = {row.removeprefix("| [").split("]")[0]: row for row in rows}
    for (name, _), metrics in PUBLISHED.items():
        for metric in metrics.keys() & {"box AP", "mask AP", "mIoU"}:
            assert f"{metric} {metrics[metric]}" in lines[name]


def test_every_network_has_its_top_1_or_is_known_to_have_none():
    networks = {metafiles.arch_of(name) for name, _ in CLASSIFIERS}
    # No weights of these, or no classifier.
    without = {"ffnet_seg", *(f"mlp_mixer_{size}" for size in ("s32", "s16", "b32", "l32", "h14"))}
    assert set(list_archs()) - without == networks


def test_every_config_of_a_classifier_has_one_entry(root):
    there = {str(path.relative_to(root)) for path in (root / "configs/imagenet").glob("*.py")}
    entries = [m["Config"] for f in metafiles.read(root) for m in f.models]
    assert len(there) == 64 and sorted(there) == sorted(e for e in entries if "/imagenet/" in e)
    assert len(entries) == len(set(entries)) == 204


def test_the_index_is_read_by_openmmlabs_own_reader(root, monkeypatch):
    load = importlib.import_module("modelindex.load_model_index").load
    monkeypatch.chdir(root)
    models = load("model-index.yml").models
    folders = (
        (root / "configs" / name).glob("*.py") for name in (*metafiles.families(), "imagenet")
    )
    assert {model.name for model in models} == {path.stem for paths in folders for path in paths}
    top_1 = {m.name: m.results[0].metrics for m in models if m.name.endswith("_in1k") and m.results}
    assert top_1["poolformer-s12_8xb128_in1k"] == {"Top 1 Accuracy": 77.2}


S12, S24 = "mask-rcnn_poolformer-s12_fpn_1x_coco", "mask-rcnn_poolformer-s24_fpn_1x_coco"
CONFIG = f"configs/poolformer/{S12}.py"
META = "configs/poolformer/metafile.yml"
FFNET_META, CAFORMER_META = "configs/ffnet/metafile.yml", "configs/caformer/metafile.yml"
POOLFORMER = "https://github.com/sail-sg/poolformer/releases/download/v1.0/poolformer"
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
        (META, "Top 1 Accuracy: 77.2", "Top 1 Accuracy: 77.3", "poolformer/README.md differs"),
        (META, f"  Weights: {POOLFORMER}_s12.pth.tar", f"  Weights: {POOLFORMER}_s24.pth.tar",
         "poolformer-s12_8xb128_in1k: weights.catalogue does not have https://"),
        (META, "20220501_115154-b5aa2f49.pth", "20220501_115154-b5aa2f48.pth",
         "weights.catalogue does not have https://download"),
        (FFNET_META, "ffnet_seg_sys_512_160k_ade20k.pth", "ffnet_seg_sys_512_160k.pth",
         "weights.catalogue does not have https://"),
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
    assert text.count(url) == 2
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
    assert "**measured** here: 1 of 204 configs" in readme
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


def test_counts_of_classifiers(root):
    def config(name: str) -> Config:
        return Config.fromfile(root / f"configs/imagenet/{name}.py")

    assert count_config(config("poolformer-s12_8xb128_in1k")).parameters == 11_915_176
    assert count_config(config("convmixer-768-32_10xb64_in1k")).parameters == 21_110_248
    caformer = config("caformer-s18_8xb128_in1k")
    counts = count_config(caformer)
    assert (round(counts.parameters / 1e6, 2), round(counts.macs / 1e9, 1)) == (26.34, 4.1)
    assert round(count_part(caformer, "backbone") / 1e6, 2) == 23.24
    ffnet = config("ffnet-3_8xb128_in1k-384px")
    assert image_of(ffnet) == (384, 384)
    fused = count_config(ffnet, fused=True)
    assert (round(fused.parameters / 1e6, 2), round(fused.macs / 1e9, 1)) == (48.33, 22.8)


def test_numbers_of_the_frozen_random_matrices(root):
    """N x N of the positions of each stage, times its blocks."""
    cfg = Config.fromfile(root / "configs/imagenet/metaformer-s12-random_8xb128_in1k.py")
    expected = sum(n * side**4 for n, side in zip((2, 2, 6, 2), (56, 28, 14, 7), strict=True))
    assert count_part(cfg, "random matrices") == expected
    with pytest.raises(ValueError, match="unknown part 'neck': expected backbone or"):
        count_part(cfg, "neck")


def test_a_classifier_that_is_tested_without_a_crop(root):
    cfg = Config.fromfile(root / "configs/imagenet/poolformer-s12_8xb128_in1k.py")
    del cfg.test_dataloader.dataset.pipeline[2]
    with pytest.raises(ValueError, match="expected one CenterCrop .* got 0"):
        image_of(cfg)


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
