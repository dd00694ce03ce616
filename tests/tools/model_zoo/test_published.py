"""What is published, and where pages show it."""

from __future__ import annotations

import importlib

from mmmetaformer import list_archs
from model_zoo import metafiles, tables

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
