"""mmmetaformer predict: pictures and predictions of each kind of model."""

from __future__ import annotations

import json
from importlib import import_module

import cv2
import numpy as np
import pytest
import torch

import mmmetaformer
from mmmetaformer.commands.predict import find_images, main
from mmmetaformer.engine.errors import UserError
from mmmetaformer.weights import WeightsError, export_state_dict

DETECTOR = "mask-rcnn_poolformer-s12_fpn_shapes"
SEGMENTOR = "poolformer-s12_fpn_shapes"
CLASSIFIER = "poolformer-s12_8xb128_in1k"


@pytest.fixture
def images(tmp_path):
    """A folder with two images and something else."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b"):
        noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), noise)
    (folder / "notes.txt").write_text("text")
    return folder


def weights(name: str) -> dict:
    cfg = mmmetaformer.get_config(name)
    cfg.model.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
    registry = import_module(f"{cfg.default_scope}.registry").MODELS
    with registry.switch_scope_and_registry(cfg.default_scope):
        return registry.build(cfg.model).state_dict()


def predict(name: str, content: dict, images, out) -> None:
    torch.save(content, out.parent / "mine.pth")
    checkpoint = str(out.parent / "mine.pth")
    main([name, checkpoint, str(images), "--out", str(out), "--device", "cpu"], "predict")


def test_detector(images, tmp_path):
    predict(DETECTOR, dict(state_dict=weights(DETECTOR)), images, tmp_path / "out")
    for name in ("a", "b"):
        assert cv2.imread(str(tmp_path / f"out/vis/{name}.png")).shape == (64, 96, 3)
        found = json.loads((tmp_path / f"out/preds/{name}.json").read_text())
        assert found.keys() == {"labels", "scores", "bboxes", "masks"}


def test_segmentor(images, tmp_path):
    predict(SEGMENTOR, weights(SEGMENTOR), images, tmp_path / "out")  # not wrapped in anything
    for name in ("a", "b"):
        assert cv2.imread(str(tmp_path / f"out/vis/{name}.png")).shape == (64, 96, 3)
        labels = cv2.imread(str(tmp_path / f"out/pred/{name}.png"), cv2.IMREAD_UNCHANGED)
        assert labels.shape == (64, 96)


def test_classifier_from_a_published_file(images, tmp_path):
    published = export_state_dict(weights(CLASSIFIER), "published")
    predict(CLASSIFIER, published, images, tmp_path / "out")
    found = json.loads((tmp_path / "out/predictions.json").read_text())
    assert found.keys() == {str(images / "a.png"), str(images / "b.png")}
    assert all(0 <= one["pred_label"] < 1000 for one in found.values())
    assert len(list((tmp_path / "out/vis").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "error"),
    [("neck.lateral_convs.0.conv.weight", UserError), ("backbone.norm0.weight", WeightsError),
     ("backbone.stages.0.0.mlp.fc1.weight", WeightsError)],
)  # fmt: skip
def test_a_checkpoint_in_part_is_refused(name, error, images, tmp_path):
    content = weights(SEGMENTOR)
    del content[name]
    with pytest.raises(error, match="missing"):
        predict(SEGMENTOR, content, images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images(images, tmp_path):
    assert find_images([str(images)]) == [str(images / "a.png"), str(images / "b.png")]
    (tmp_path / "empty").mkdir()
    (tmp_path / "more").mkdir()
    (tmp_path / "more/a.jpg").write_bytes((images / "a.png").read_bytes())
    for inputs, message in (
        (["no.png"], "image 'no.png' not found"),
        ([tmp_path / "empty"], "has no images"),
        ([images / "notes.txt"], "is no image that OpenCV can read"),
        ([images, tmp_path / "more"], "2 images are called 'a', and would be written to one file"),
    ):
        with pytest.raises(UserError, match=message):
            find_images([str(path) for path in inputs])
