"""Configs by their names."""

from __future__ import annotations

import pytest

import mmmetaformer
from mmmetaformer.configs import find_config, is_config, list_configs

NAME = "mask-rcnn_poolformer-s12_fpn_1x_coco"


def test_every_whole_config_has_one_name(root):
    paths = [path for path in (root / "configs").glob("*/*.py") if path.parent.name != "_base_"]
    assert list_configs() == sorted(path.stem for path in paths)
    assert list_configs("mask-rcnn_poolformer-s?2_*_coco") == [
        NAME, "mask-rcnn_poolformer-s12_fpn_coco",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "spelling",
    [NAME, f"{NAME}.py", f"poolformer/{NAME}", f"mmmetaformer::poolformer/{NAME}.py",
     f"mmmetaformer::{NAME}"],
)  # fmt: skip
def test_spellings(spelling, root):
    assert find_config(spelling) == root / f"configs/poolformer/{NAME}.py"
    assert is_config(spelling)


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{NAME}.py").write_text("a = 1\n")
    assert mmmetaformer.get_config(f"{NAME}.py").to_dict() == dict(a=1)
    assert mmmetaformer.get_config(NAME).model.type == "MaskRCNN"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("mask-rcnn_poolformer_s12_fpn_1x_coco", f"does not exist: did you mean {NAME} or"),
        (f"ffnet/{NAME}", f"does not exist: did you mean {NAME}"),
        ("mmmetaformer::_base_/imagenet", "config 'mmmetaformer::_base_/imagenet' does not exist"),
        ("xyz", "config 'xyz' does not exist: see `mmmetaformer configs`"),
        ("tools", "does not exist"),
    ],
)
def test_no_such_config(wrong, message):
    with pytest.raises(ValueError, match=message):
        mmmetaformer.get_config(wrong)
    assert not is_config(wrong)


def test_what_is_no_config():
    assert is_config("of/mine.py") and not is_config("poolformer_s12")
