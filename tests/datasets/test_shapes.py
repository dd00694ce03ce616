"""The shapes data set: determinism, both formats, and what happens to folders."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmmetaformer.datasets import shapes
from mmmetaformer.datasets.shapes import (
    CATEGORY_IDS,
    SEMANTIC_CLASSES,
    THING_CLASSES,
    generate_shapes,
)

SMALL = {"num_train": 8, "num_val": 3, "image_size": 96}
REPOSITORY = Path(__file__).resolve().parents[2]


def _files(root: Path) -> dict[str, bytes]:
    """Every file below ``root`` with its content."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _times(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*")}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 + 8 images, enough for every kind of annotation to occur."""
    root = tmp_path_factory.mktemp("shapes") / "data"
    generate_shapes(root, num_train=40, num_val=8, image_size=96, seed=3)
    return root


@pytest.fixture(scope="module")
def coco(dataset: Path) -> COCO:
    return COCO(str(dataset / "coco" / "annotations" / "instances_train2017.json"))


def _semantic(dataset: Path, image_id: int) -> np.ndarray:
    path = dataset / "ade" / "annotations" / "training" / f"ADE_train_{image_id:08d}.png"
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def _scenes(count: int) -> list[shapes._Scene]:
    """The scenes behind the first training images of the ``dataset`` fixture."""
    size = ((96, 96), (96, 96))
    return [
        shapes._Scene(np.random.default_rng([3, 0, index]), index, size, 6)
        for index in range(count)
    ]


# ---------------------------------------------------------------------------- determinism
def test_same_arguments_give_the_same_bytes(tmp_path):
    generate_shapes(tmp_path / "a", **SMALL)
    generate_shapes(tmp_path / "b", **SMALL)
    first, second = _files(tmp_path / "a"), _files(tmp_path / "b")
    # Per image: the COCO jpg, the ADE jpg, the ADE png; then two jsons, objectInfo, shapes.json.
    assert len(first) == (8 + 3) * 3 + 4
    assert first == second


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    generate_shapes(tmp_path / "few", num_train=4, num_val=2, image_size=96)
    generate_shapes(tmp_path / "many", num_train=9, num_val=3, image_size=96)
    few, many = _files(tmp_path / "few"), _files(tmp_path / "many")
    images = [name for name in few if name.endswith((".jpg", ".png"))]
    assert len(images) == (4 + 2) * 3
    assert [name for name in images if few[name] != many[name]] == []
    name = "coco/annotations/instances_train2017.json"
    small, large = json.loads(few[name]), json.loads(many[name])
    assert large["images"][:4] == small["images"]
    assert large["annotations"][: len(small["annotations"])] == small["annotations"]


def test_other_seed_and_other_split_give_other_images(tmp_path):
    generate_shapes(tmp_path / "a", num_train=3, num_val=3, image_size=96, seed=0)
    generate_shapes(tmp_path / "b", num_train=3, num_val=3, image_size=96, seed=1)
    first, second = _files(tmp_path / "a"), _files(tmp_path / "b")
    assert list(first) == list(second)
    images = [name for name in first if name.endswith((".jpg", ".png"))]
    assert [name for name in images if first[name] == second[name]] == []
    for index in (1, 2, 3):
        train = first[f"coco/train2017/{index:012d}.jpg"]
        assert train != first[f"coco/val2017/{index:012d}.jpg"]


# ------------------------------------------------------------------------------------ COCO
@pytest.mark.parametrize("split", ["train", "val"])
def test_json_has_the_keys_and_types_of_coco(dataset, split):
    path = dataset / "coco" / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    assert set(content['info']) == {
        'description', 'url', 'version', 'year', 'contributor', 'date_created',
    }  # fmt: skip
    assert [set(item) for item in content["licenses"]] == [{"url", "id", "name"}]
    image_keys = {
        'license', 'file_name', 'coco_url', 'height', 'width', 'date_captured', 'flickr_url', 'id',
    }  # fmt: skip
    assert all(set(item) == image_keys for item in content["images"])
    annotation_keys = {
        'segmentation', 'area', 'iscrowd', 'image_id', 'bbox', 'category_id', 'id',
    }  # fmt: skip
    assert all(set(item) == annotation_keys for item in content["annotations"])
    assert content["categories"] == [
        {"supercategory": "shape", "id": CATEGORY_IDS[label], "name": name}
        for label, name in enumerate(THING_CLASSES)
    ]
    crowds = [item for item in content["annotations"] if item["iscrowd"] == 1]
    single = [item for item in content["annotations"] if item["iscrowd"] == 0]
    assert len(crowds) >= 1
    assert len(crowds) + len(single) == len(content["annotations"])
    assert all(set(item["segmentation"]) == {"counts", "size"} for item in crowds)
    assert all(item["segmentation"]["size"] == [96, 96] for item in crowds)
    assert all(sum(item["segmentation"]["counts"]) == 96 * 96 for item in crowds)
    polygons = [polygon for item in single for polygon in item["segmentation"]]
    assert len(polygons) > len(single)
    assert all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons)
    # Whole-number polygons would be scaled in whole numbers by some augmentations.
    assert {type(value) for polygon in polygons for value in polygon} == {float}
    assert min(map(min, polygons)) >= 0
    assert max(map(max, polygons)) <= 96


def test_category_ids_are_no_indices():
    assert len(CATEGORY_IDS) == len(THING_CLASSES) == len(set(CATEGORY_IDS)) == 5
    assert min(CATEGORY_IDS) == 1
    assert list(CATEGORY_IDS) != list(range(1, 6))
    assert SEMANTIC_CLASSES[:5] == THING_CLASSES


def test_ids_are_unique_and_refer_to_something(dataset, coco):
    content = coco.dataset
    image_ids = [item["id"] for item in content["images"]]
    assert image_ids == list(range(1, 41))
    assert len({item["id"] for item in content["annotations"]}) == len(content["annotations"])
    assert {item["image_id"] for item in content["annotations"]} <= set(image_ids)
    for item in content["images"]:
        image = cv2.imread(str(dataset / "coco" / "train2017" / item["file_name"]))
        assert image.shape == (item["height"], item["width"], 3)


def test_area_and_box_are_those_of_the_mask(coco):
    assert len(coco.anns) > 60
    for item in coco.anns.values():
        mask = coco.annToMask(item)
        rows, cols = np.nonzero(mask)
        assert item["area"] == len(rows)
        assert item['bbox'] == [
            cols.min(), rows.min(), cols.max() - cols.min() + 1, rows.max() - rows.min() + 1,
        ]  # fmt: skip


def test_every_kind_of_annotation_occurs(coco):
    per_image = [len(coco.getAnnIds(image_id)) for image_id in coco.getImgIds()]
    assert per_image.count(0) == 2
    assert max(per_image) >= 5
    assert len(coco.getAnnIds(iscrowd=True)) == 5
    assert {item["category_id"] for item in coco.anns.values()} == set(CATEGORY_IDS)
    single = coco.loadAnns(coco.getAnnIds(iscrowd=False))
    assert max(len(item["segmentation"]) for item in single) >= 2
    areas = np.array([item["area"] for item in single])
    assert (areas < 32**2).sum() >= 10
    assert (areas >= 32**2).sum() >= 10


def test_sizes_reach_coco_large_at_160_pixels():
    scenes = [
        shapes._Scene(np.random.default_rng([0, 0, index]), index, ((160, 160),) * 2, 6)
        for index in range(60)
    ]
    areas = np.concatenate([np.bincount(scene.owner.ravel())[1:] for scene in scenes])
    assert (areas < 32**2).any()
    assert ((areas >= 32**2) & (areas < 96**2)).any()
    assert (areas >= 96**2).any()


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ground_truth_scores_one_against_itself(coco, kind):
    results = [
        {
            "image_id": item["image_id"],
            "category_id": item["category_id"],
            "bbox": item["bbox"],
            "segmentation": coco.annToRLE(item),
            "score": 0.9,
        }
        for item in coco.loadAnns(coco.getAnnIds(iscrowd=False))
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


# ------------------------------------------------------------------------------------- ADE
def test_semantic_maps_agree_with_the_instances(dataset, coco):
    crowds = 0
    for image_id in coco.getImgIds():
        semantic = _semantic(dataset, image_id)
        items = coco.loadAnns(coco.getAnnIds(image_id))
        masks = [coco.annToMask(item).astype(bool) for item in items]
        covered = np.zeros(semantic.shape, int)
        in_crowd = np.zeros(semantic.shape, bool)
        expected = np.zeros(semantic.shape, np.uint8)
        for index, item in enumerate(items):
            covered += masks[index]
            value = CATEGORY_IDS.index(item["category_id"]) + 1
            expected[masks[index]] = value
            if item["iscrowd"]:
                crowds += 1
                in_crowd |= masks[index]
        assert covered.max() <= 1
        things = np.where(semantic <= len(THING_CLASSES), semantic, 0)
        np.testing.assert_array_equal(things[~in_crowd], expected[~in_crowd])
        # A crowd region holds its class and, between the shapes, "other"; nothing else.
        gaps = in_crowd & (semantic == 0)
        np.testing.assert_array_equal(semantic[in_crowd & ~gaps], expected[in_crowd & ~gaps])
        assert gaps.sum() < 0.8 * max(in_crowd.sum(), 1)
    assert crowds == 5


def test_semantic_maps_are_ade20k(dataset, coco):
    image_module = pytest.importorskip("PIL.Image")
    values = set()
    for image_id in coco.getImgIds():
        name = f"ADE_train_{image_id:08d}"
        path = dataset / "ade" / "annotations" / "training" / f"{name}.png"
        with image_module.open(path) as image:
            assert image.mode == "L"
            values |= set(np.unique(np.asarray(image)).tolist())
        jpeg = dataset / "ade" / "images" / "training" / f"{name}.jpg"
        same = dataset / "coco" / "train2017" / f"{image_id:012d}.jpg"
        assert jpeg.read_bytes() == same.read_bytes()
    assert values == set(range(len(SEMANTIC_CLASSES) + 1))
    for part, ending in (("images", ".jpg"), ("annotations", ".png")):
        for split, count in (("training", 40), ("validation", 8)):
            names = [path.name for path in (dataset / "ade" / part / split).iterdir()]
            assert len(names) == count
            assert all(name.endswith(ending) for name in names)
    lines = (dataset / "ade" / "objectInfo.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    assert [(row[0], row[-1]) for row in rows] == [
        (str(value), name) for value, name in enumerate(SEMANTIC_CLASSES, start=1)
    ]


# --------------------------------------------------------------------------------- drawing
def test_occlusion_happens_and_stays_fair():
    occluded = 0
    for scene in _scenes(40):
        for index, instance in enumerate(scene.instances, start=1):
            mask = scene.owner == index
            share = mask.sum() / instance.full_area
            assert share >= shapes._MIN_VISIBLE
            border = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
            # Not cut by the border, so what is missing lies under another shape.
            occluded += int(not border and share < 1)
    assert occluded >= 10


def test_masks_follow_the_drawn_edges():
    """The image changes at the outline of a mask, and less so two pixels further in."""
    kernel = np.ones((3, 3), np.uint8)
    at_edge, inside = [], []
    for scene in _scenes(40):
        image = cv2.GaussianBlur(scene.image.astype(np.float32), (3, 3), 0)
        dy, dx = np.gradient(image, axis=(0, 1))
        slope = np.sqrt((dx**2 + dy**2).sum(axis=-1))
        for index, instance in enumerate(scene.instances, start=1):
            mask = (scene.owner == index).astype(np.uint8)
            eroded = [cv2.erode(mask, kernel, iterations=k, borderValue=1) for k in (1, 2, 3)]
            if instance.iscrowd or not (eroded[1] - eroded[2]).any():
                continue
            at_edge.append(slope[(mask - eroded[0]).astype(bool)].mean())
            inside.append(slope[(eroded[1] - eroded[2]).astype(bool)].mean())
    assert len(at_edge) > 50
    assert np.mean(np.array(at_edge) > 1.5 * np.array(inside)) > 0.9


def test_polygons_decode_to_the_mask_whatever_its_form():
    rng = np.random.default_rng(0)
    ring = np.ones((9, 11), bool)
    ring[3:6, 4:8] = False
    corner = np.eye(4, dtype=bool)
    loop = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 1]], bool)
    noise = [rng.uniform(size=(23, 17)) < share for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
    dot = np.zeros((8, 8), bool)
    dot[7, 7] = True
    for mask in [ring, corner, loop, dot, np.ones((5, 7), bool), *noise]:
        polygons = shapes._polygons(mask)
        encoded = mask_utils.merge(mask_utils.frPyObjects(polygons, *mask.shape))
        np.testing.assert_array_equal(mask_utils.decode(encoded).astype(bool), mask)
    # The ring in two halves, the diagonal in one square per pixel.
    assert len(shapes._polygons(ring)) == 2
    assert len(shapes._polygons(corner)) == 4


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(1)
    masks = [rng.uniform(size=(13, 9)) < 0.5 for _ in range(4)]
    masks += [np.ones((3, 4), bool), np.zeros((3, 4), bool)]
    starts = set()
    for mask in masks:
        coded = shapes._run_lengths(mask)
        starts.add(coded["counts"][0] == 0)
        decoded = mask_utils.decode(mask_utils.frPyObjects(coded, *mask.shape))
        np.testing.assert_array_equal(decoded.astype(bool), mask)
    assert starts == {True, False}


def test_image_size_may_be_a_range(tmp_path):
    generate_shapes(tmp_path / "d", num_train=12, num_val=0, image_size=((64, 80), 120))
    path = tmp_path / "d" / "coco" / "annotations" / "instances_train2017.json"
    images = json.loads(path.read_text(encoding="utf-8"))["images"]
    heights = {item["height"] for item in images}
    assert len(heights) > 3
    assert heights <= set(range(64, 81))
    assert {item["width"] for item in images} == {120}
    image = cv2.imread(str(tmp_path / "d" / "coco" / "train2017" / images[0]["file_name"]))
    assert image.shape == (images[0]["height"], 120, 3)


def test_max_shapes_bounds_the_instances(tmp_path):
    summary = generate_shapes(tmp_path / "d", num_train=3, num_val=0, image_size=96, max_shapes=1)
    assert summary["instances"] == {"train": 3, "val": 0}


# --------------------------------------------------------------------------------- folders
def test_summary_counts_what_was_written(tmp_path):
    summary = generate_shapes(tmp_path / "new" / "data", **SMALL)
    root = tmp_path / "new" / "data"
    assert summary["root"] == str(root.resolve())
    assert summary["reused"] is False
    assert summary["images"] == {"train": 8, "val": 3}
    for split in ("train", "val"):
        path = root / "coco" / "annotations" / f"instances_{split}2017.json"
        items = json.loads(path.read_text(encoding="utf-8"))["annotations"]
        crowds = sum(item["iscrowd"] for item in items)
        assert summary["crowds"][split] == crowds
        assert summary["instances"][split] == len(items) - crowds
    assert sorted(path.name for path in root.parent.iterdir()) == ["data"]


def test_same_arguments_reuse_without_writing(tmp_path, monkeypatch):
    root = tmp_path / "data"
    first = generate_shapes(root, **SMALL)
    before = _times(root)

    def fail(*args, **kwargs):
        raise AssertionError("drew again")

    monkeypatch.setattr(shapes, "_write_all", fail)
    again = generate_shapes(root, num_train=8, num_val=3, image_size=(96, [96, 96]))
    assert again == {**first, "reused": True}
    assert _times(root) == before


def test_other_arguments_are_an_error_that_names_the_fix(tmp_path):
    root = tmp_path / "data"
    generate_shapes(root, **SMALL)
    before = _files(root)
    with pytest.raises(FileExistsError) as caught:
        generate_shapes(root, num_train=8, num_val=3, image_size=96, seed=7)
    message = str(caught.value)
    assert str(root) in message
    for part in ('"seed": 0', '"seed": 7', "overwrite=True", "--overwrite"):
        assert part in message
    assert _files(root) == before


def test_overwrite_replaces(tmp_path):
    root = tmp_path / "data"
    generate_shapes(root, num_train=6, num_val=1, image_size=96, seed=7)
    summary = generate_shapes(root, **SMALL, overwrite=True)
    assert summary["reused"] is False
    generate_shapes(tmp_path / "fresh", **SMALL)
    assert _files(root) == _files(tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "fresh"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("marker", [None, "not json", "[1, 2]", '{"name": "other"}'])
def test_a_foreign_folder_is_left_alone(tmp_path, overwrite, marker):
    root = tmp_path / "data"
    root.mkdir()
    (root / "thesis.txt").write_text("years of work", encoding="utf-8")
    if marker is not None:
        (root / "shapes.json").write_text(marker, encoding="utf-8")
    before = _files(root)
    with pytest.raises(FileExistsError, match="no shapes data set"):
        generate_shapes(root, **SMALL, overwrite=overwrite)
    assert _files(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_overwrite_keeps_what_others_put_into_the_data_set(tmp_path):
    root = tmp_path / "data"
    generate_shapes(root, **SMALL)
    (root / "notes.txt").write_text("mine", encoding="utf-8")
    before = _files(root)
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        generate_shapes(root, **SMALL, overwrite=True)
    assert _files(root) == before


def test_a_file_at_root_and_a_missing_part_are_errors(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(FileExistsError, match="is a file"):
        generate_shapes(tmp_path / "file", **SMALL, overwrite=True)
    generate_shapes(tmp_path / "data", **SMALL)
    shutil.rmtree(tmp_path / "data" / "ade")
    with pytest.raises(FileExistsError, match=r"part missing.*--overwrite"):
        generate_shapes(tmp_path / "data", **SMALL)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "data").mkdir()
    assert generate_shapes(tmp_path / "data", **SMALL)["reused"] is False
    assert (tmp_path / "data" / "shapes.json").is_file()


def _interrupt_in_val(monkeypatch):
    """Make the second split fail, when the first is written already."""
    write = shapes._write_split

    def interrupted(folder, split, arguments):
        if split == "val":
            raise KeyboardInterrupt
        return write(folder, split, arguments)

    monkeypatch.setattr(shapes, "_write_split", interrupted)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    _interrupt_in_val(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        generate_shapes(tmp_path / "data", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_overwrite_keeps_the_old_data_set(tmp_path, monkeypatch):
    root = tmp_path / "data"
    generate_shapes(root, **SMALL)
    before = _files(root)
    _interrupt_in_val(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        generate_shapes(root, num_train=2, num_val=1, image_size=64, overwrite=True)
    assert _files(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_failed_exchange_puts_the_old_data_set_back(tmp_path, monkeypatch):
    root = tmp_path / "data"
    generate_shapes(root, **SMALL)
    before = _files(root)
    replace = shapes.os.replace

    def failing(source, target):
        if Path(source).name == "new":
            raise OSError("no rename today")
        replace(source, target)

    monkeypatch.setattr(shapes.os, "replace", failing)
    with pytest.raises(OSError, match="no rename today"):
        generate_shapes(root, num_train=2, num_val=1, image_size=64, overwrite=True)
    assert _files(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_two_runs_at_once_agree(tmp_path, monkeypatch):
    """The other process finishes while this one is still drawing."""
    root = tmp_path / "data"
    write = shapes._write_all

    def overtaken(folder, arguments):
        monkeypatch.setattr(shapes, "_write_all", write)
        generate_shapes(root, **SMALL)
        return write(folder, arguments)

    monkeypatch.setattr(shapes, "_write_all", overtaken)
    summary = generate_shapes(root, **SMALL)
    assert summary["reused"] is True
    assert summary["images"] == {"train": 8, "val": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_appears_at_root_meanwhile_is_kept(tmp_path, monkeypatch):
    root = tmp_path / "data"
    write = shapes._write_all

    def overtaken(folder, arguments):
        root.mkdir()
        (root / "thesis.txt").write_text("years of work", encoding="utf-8")
        return write(folder, arguments)

    monkeypatch.setattr(shapes, "_write_all", overtaken)
    with pytest.raises(FileExistsError, match="no shapes data set"):
        generate_shapes(root, **SMALL, overwrite=True)
    assert _files(root) == {"thesis.txt": b"years of work"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_train": -1}, ValueError, "num_train must be .* at least 0, not -1"),
        ({"num_val": 2.5}, TypeError, "num_val must be a whole number .*2.5"),
        ({"num_val": True}, TypeError, "num_val .*True"),
        ({"num_train": "8"}, TypeError, "num_train .*'8'"),
        ({"num_train": 0, "num_val": 0}, ValueError, "at least one image"),
        ({"image_size": 63}, ValueError, "image_size .*64 to 2048, not 63"),
        ({"image_size": 4096}, ValueError, "image_size .*64 to 2048, not 4096"),
        ({"image_size": (96, 32)}, ValueError, "image_size width .*not 32"),
        ({"image_size": (96.0, 96)}, TypeError, r"image_size height .*96\.0"),
        ({"image_size": (96, 96, 3)}, ValueError, r"\(height, width\).*\(96, 96, 3\)"),
        ({"image_size": ((128, 96), 96)}, ValueError, "low <= high"),
        ({"image_size": ((96,), 96)}, ValueError, "range"),
        ({"image_size": None}, TypeError, "image_size .*None"),
        ({"seed": -3}, ValueError, "seed .*-3"),
        ({"max_shapes": 0}, ValueError, "max_shapes .*1 to 20, not 0"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        generate_shapes(tmp_path / "data", **{**SMALL, **arguments})
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------ tool
@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location(
        "make_shapes", REPOSITORY / "tools/make_shapes.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tool_writes_what_the_function_writes(tmp_path, tool, capsys):
    arguments = ["--num-train", "5", "--num-val", "2", "--image-size", "64-96", "80", "--seed", "4"]
    assert tool.main([str(tmp_path / "a"), *arguments, "--max-shapes", "3"]) == 0
    assert capsys.readouterr().out.startswith("wrote ")
    generate_shapes(
        tmp_path / "b", num_train=5, num_val=2, image_size=((64, 96), 80), seed=4, max_shapes=3
    )
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert tool.main([str(tmp_path / "a"), *arguments, "--max-shapes", "3"]) == 0
    assert capsys.readouterr().out.startswith("reused ")


def test_the_tool_ends_with_one_sentence_and_code_2(tmp_path, tool, capsys):
    root = str(tmp_path / "data")
    assert tool.main([root, "--num-train", "-4"]) == 2
    assert capsys.readouterr().err == (
        "error: num_train must be a whole number of at least 0, not -4\n"
    )
    assert tool.main([root, "--image-size", "64", "64", "64"]) == 2
    assert "--image-size" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        tool.main([root, "--image-size", "wide"])
    assert caught.value.code == 2
    assert "'wide' is neither a number nor a range" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

    size = ["--num-train", "2", "--num-val", "1", "--image-size", "64"]
    assert tool.main([root, *size]) == 0
    assert tool.main([root, *size, "--seed", "1"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert tool.main([root, *size, "--seed", "1", "--overwrite"]) == 0
