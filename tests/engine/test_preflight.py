"""Mistakes in data and classes are found before anything is built, in one sentence."""

import copy
import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from PIL import Image

from mmmetaformer.datasets.shapes import generate_shapes
from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.preflight import check_config


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(folder, num_train=8, num_val=4, image_size=64)
    return folder


def load(root, name: str, data) -> Config:
    cfg = Config.fromfile(root / "configs" / "shapes" / name)
    for split in ("train", "val", "test"):
        cfg[f"{split}_dataloader"].dataset.data_root = f"{data}/"
        if "coco" in str(data) and split != "train":
            cfg[f"{split}_evaluator"].ann_file = f"{data}/annotations/instances_val2017.json"
    return cfg


@pytest.fixture
def detection(root, shapes):
    return load(root, "mask-rcnn_poolformer-s12_fpn_shapes.py", shapes / "coco")


@pytest.fixture
def segmentation(root, shapes):
    return load(root, "poolformer-s12_fpn_shapes.py", shapes / "ade")


def check_refused(cfg, message: str, splits=("train", "val", "test")):
    with pytest.raises(UserError, match=message) as caught:
        check_config(cfg, splits)
    assert "\n" not in str(caught.value)


def test_right_configs_pass(detection, segmentation):
    assert check_config(detection, ("train", "val", "test")) is None
    assert check_config(segmentation, ("train", "val", "test")) is None


def test_missing_data(detection, segmentation):
    detection.train_dataloader.dataset.data_root = "no/such/data/"
    check_refused(detection, "train annotations 'no/such/data/annotations/.*README")
    segmentation.test_dataloader.dataset.data_root = "no/such/data/"
    check_config(segmentation, ("train", "val"))
    check_refused(segmentation, r"test folder \(img_path\) 'no/such/data/images/validation'")


def test_missing_image_folder(detection):
    detection.val_dataloader.dataset.data_prefix.img = "nowhere/"
    check_refused(detection, r"val folder \(img\)")


def test_missing_metric_annotations(detection):
    detection.test_evaluator.ann_file = "nowhere.json"
    check_refused(detection, "test annotations of the metric 'nowhere.json'")


def test_missing_weights(detection):
    detection.model.backbone.init_cfg = [dict(type="Pretrained", checkpoint="nowhere.pth")]
    check_refused(detection, "pretrained weights 'nowhere.pth'")
    detection.model.backbone.init_cfg = None
    detection.load_from = "nowhere.pth"
    check_refused(detection, "checkpoint 'nowhere.pth'")


@pytest.mark.parametrize("head", ["bbox_head", "mask_head"])
def test_detector_num_classes(detection, head):
    detection.model.roi_head[head].num_classes = 80
    check_refused(detection, r"num_classes=80.*5 classes: circle, rectangle")


def test_segmentor_num_classes(segmentation):
    segmentation.model.decode_head.num_classes = 150
    check_refused(segmentation, r"decode_head FPNHead has num_classes=150.*7 classes")


def test_classes_that_the_annotations_do_not_have(detection):
    """The default of CocoDataset, 80 classes, on somebody's own annotations."""
    for split in ("train", "val", "test"):
        del detection[f"{split}_dataloader"].dataset.metainfo
    for head in ("bbox_head", "mask_head"):
        detection.model.roi_head[head].num_classes = 80
    check_refused(
        detection, r"no category for 80 of .*80 classes \(person.*circle.*metainfo.classes"
    )


def test_annotations_that_are_not_coco(detection, tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").mkdir()
    path = tmp_path / "annotations/instances_train2017.json"
    detection.train_dataloader.dataset.data_root = str(tmp_path)
    for text in ("{}", "not json", json.dumps(dict(categories=[1, 2]))):
        path.write_text(text)
        check_refused(detection, "not an annotation file in COCO format", splits=("train",))


def test_categories_at_the_start_of_a_large_file(detection, tmp_path):
    """The part after the last ``"categories"`` is cut at a million characters."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").mkdir()
    names = ["circle", "rectangle", "triangle", "star", "cross"]
    categories = [dict(id=i, name=n) for i, n in enumerate(names)]
    content = dict(categories=categories, images=["\u00e9x"] * 300000)

    (tmp_path / "annotations/instances_train2017.json").write_text(
        json.dumps(content, ensure_ascii=False)
    )
    detection.train_dataloader.dataset.data_root = str(tmp_path)
    assert check_config(detection, ("train",)) is None


@pytest.fixture
def maps(segmentation, tmp_path):
    """The config on a folder with one map, and a function that writes its labels."""
    (tmp_path / "images/training").mkdir(parents=True)
    (tmp_path / "annotations/training").mkdir(parents=True)
    cfg = copy.deepcopy(segmentation)
    cfg.train_dataloader.dataset.data_root = str(tmp_path)

    def write(labels, *channels):
        path = tmp_path / "annotations/training/a.png"
        cv2.imwrite(str(path), np.resize(np.uint8(labels), (8, 8, *channels)))

    return cfg, write


def test_labels_beyond_the_classes(maps):
    cfg, write = maps
    check_refused(cfg, r"holds no \*.png", splits=("train",))
    write([0, 1, 7, 255])
    assert check_config(cfg, ("train",)) is None
    write([0, 8])
    check_refused(cfg, r"a.png has the label 7 \(0 not counted\).* 7 classes", splits=("train",))
    write([0, 1, 2], 3)
    check_refused(cfg, "single-channel", splits=("train",))


def test_datasets_inside_of_wrappers(detection):
    dataset = detection.train_dataloader.dataset
    missing = copy.deepcopy(dataset)
    missing.ann_file = "annotations/nowhere.json"
    detection.train_dataloader.dataset = dict(
        type="RepeatDataset", times=2, dataset=dict(datasets=[dataset, missing])
    )
    check_refused(detection, "annotations/nowhere.json")


@pytest.mark.parametrize(
    "name",
    [
        "mmdet::htc/htc_r50_fpn_1x_coco.py",
        "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
        "mmdet::rpn/rpn_r50_fpn_1x_coco.py",
        "mmdet::faster_rcnn/faster-rcnn_r50_fpn_fcos-rpn_1x_coco.py",
        "mmdet::detectors/cascade-rcnn_r50-rfp_1x_coco.py",
        "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py",
        "mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py",
        "mmseg::upernet/upernet_r50_4xb4-20k_voc12aug-512x512.py",
    ],
)
def test_shipped_configs_are_not_refused_for_their_classes(name, monkeypatch):
    """Heads with classes of their own are not mistaken for wrong ones."""
    monkeypatch.setattr("mmmetaformer.engine.preflight._check_paths", lambda *args: None)
    monkeypatch.setattr("mmmetaformer.engine.preflight._require", lambda *args: None)
    monkeypatch.setattr("mmmetaformer.engine.preflight._check_coco_categories", lambda *args: None)
    monkeypatch.setattr(
        "mmmetaformer.engine.preflight._check_segmentation_maps", lambda *args: None
    )
    assert check_config(get_config(name), ("train", "val", "test")) is None


def test_palette_maps_suffixes_and_chosen_classes(tmp_path):
    """As mmseg's own data sets have them: palette images, a suffix of the class, a label map."""
    folder = tmp_path / "gtFine/train/a"
    folder.mkdir(parents=True)
    (tmp_path / "leftImg8bit/train").mkdir(parents=True)
    cfg = get_config("mmseg::_base_/datasets/cityscapes.py")
    cfg.update(model=dict(), default_scope="mmseg")
    cfg.train_dataloader.dataset.data_root = str(tmp_path)
    cv2.imwrite(str(folder / "a_gtFine_color.png"), np.zeros((8, 8, 3), np.uint8))
    palette = Image.fromarray(np.uint8([[0, 18], [255, 3]]), mode="P")
    palette.putpalette([1, 2, 3] * 256)
    palette.save(folder / "a_gtFine_labelTrainIds.png")
    assert check_config(cfg, ("train",)) is None
    Image.fromarray(np.uint8([[0, 19]])).save(folder / "a_gtFine_labelTrainIds.png")
    check_refused(cfg, "has the label 19, but the data set has 19 classes", splits=("train",))
    cfg.train_dataloader.dataset.metainfo = dict(classes=("road", "car"))
    assert check_config(cfg, ("train",)) is None


def test_remote_storage_and_class_files_are_left_to_mmengine(detection):
    detection.train_dataloader.dataset.data_root = "s3://bucket/coco/"
    detection.train_dataloader.dataset.metainfo = dict(classes="classes.txt")
    detection.train_dataloader.dataset.data_prefix = "images"
    assert check_config(detection, ("train",)) is None
