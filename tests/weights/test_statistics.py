"""Mean and std that weights want: set by a helper, and reported where a config has others."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmmetaformer import MlpMixer, data_preprocessor_for, find_checkpoint
from mmmetaformer.engine import preflight
from mmmetaformer.engine.errors import UserError
from mmmetaformer.weights import statistics
from mmmetaformer.weights.statistics import published_file, published_weights

HALF = dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True)
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
GOOGLE = find_checkpoint("mlp_mixer_b16")
MIXER = dict(type="mmmetaformer.MlpMixer", arch="b16")


def from_file(checkpoint: object) -> dict:
    return dict(MIXER, init_cfg=dict(type="Pretrained", checkpoint=str(checkpoint)))


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("mlp_mixer_b16", HALF),
        ("poolformer_s12", IMAGENET),
        (dict(MIXER, pretrained="in21ft1k"), HALF),
        (dict(MIXER, type=MlpMixer, pretrained=True), HALF),
        (from_file(GOOGLE.url), HALF),
        (from_file(f"/somewhere/{Path(GOOGLE.url).name}"), HALF),
        (from_file(f"https://mirror.example.org/{Path(GOOGLE.url).name}?download=1"), HALF),
        (dict(type="mmmetaformer.PoolFormer", pretrained=True), IMAGENET),  # of its default arch
        (dict(MIXER, init_cfg=[dict(type="Constant", val=0), from_file(GOOGLE.url)["init_cfg"]]),
         HALF),
    ],
)  # fmt: skip
def test_what_a_backbone_wants(backbone, expected):
    assert data_preprocessor_for(backbone) == expected


def test_as_mmpretrain_calls_it():
    given = data_preprocessor_for("mlp_mixer_b16", "in21ft1k", channel_order="to_rgb")
    assert given == dict(mean=HALF["mean"], std=HALF["std"], to_rgb=True)
    with pytest.raises(ValueError, match="channel_order must be 'bgr_to_rgb' or 'to_rgb', got 'x'"):
        data_preprocessor_for("mlp_mixer_b16", channel_order="x")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (MIXER, "no published weights are known of"),
        (from_file("work_dirs/epoch_12.pth"), "no published weights are known of"),
        (dict(MIXER, pretrained="in22k"), "unknown pretrained='in22k'"),
        (dict(MIXER, arch=dict(depth=2), pretrained=True), "pretrained=True needs an arch by name"),
        (dict(type="mmdet.ResNet", depth=50, pretrained=True), "no published weights are known"),
        ("mlp_mixer_c16", "unknown arch 'mlp_mixer_c16'"),
    ],
)
def test_of_what_nothing_is_known(backbone, message):
    with pytest.raises(ValueError, match=message):
        data_preprocessor_for(backbone)


@pytest.mark.parametrize("backbone", [None, ["mlp_mixer_b16"], torch.nn.Identity()])
def test_what_is_no_backbone(backbone):
    with pytest.raises(TypeError, match=f"name of a network, got {type(backbone).__name__}"):
        data_preprocessor_for(backbone)


def test_in_a_config_file(tmp_path):
    """As its documentation has it: below a base, and as it is written into a work folder."""
    (tmp_path / "base.py").write_text(f"model = dict(data_preprocessor=dict(pad=32, **{IMAGENET}))")
    (tmp_path / "mine.py").write_text(
        "_base_ = 'base.py'\n"
        "from mmmetaformer import data_preprocessor_for\n"
        "backbone = dict(type='mmmetaformer.MlpMixer', arch='b16', pretrained='in21ft1k')\n"
        "model = dict(backbone=backbone, data_preprocessor=data_preprocessor_for(backbone))\n"
    )
    cfg = Config.fromfile(tmp_path / "mine.py")
    assert cfg.model.data_preprocessor.to_dict() == dict(pad=32, **HALF)
    cfg.dump(tmp_path / "dumped.py")
    again = Config.fromfile(tmp_path / "dumped.py")
    assert again.model.data_preprocessor.to_dict() == dict(pad=32, **HALF)
    assert "import" not in (tmp_path / "dumped.py").read_text()


def test_for_a_config_in_pythons_own_style(tmp_path):
    (tmp_path / "base.py").write_text(f"model = dict(data_preprocessor=dict(pad=32, **{IMAGENET}))")
    (tmp_path / "mine.py").write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n"
        "    from .base import *\n"
        "from mmmetaformer.backbones import MlpMixer\n"
        "model.update(backbone=dict(type=MlpMixer, arch='b16', pretrained='in21ft1k'))\n"
    )
    cfg = Config.fromfile(tmp_path / "mine.py")
    cfg.model.data_preprocessor.update(data_preprocessor_for(cfg.model.backbone))
    assert cfg.model.data_preprocessor.to_dict() == dict(pad=32, **HALF)


# ---------------------------------------------------------------- copies


@pytest.fixture
def copied(tmp_path, monkeypatch) -> Path:
    """A file that the catalogue knows under another name."""
    path = tmp_path / "renamed.pth"
    torch.save(dict(a=torch.zeros(1)), path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    url = GOOGLE.url.replace(GOOGLE.sha256_prefix, digits)
    monkeypatch.setattr(statistics, "CATALOGUE", (find_checkpoint("poolformer_s12"),
                                                  replace(GOOGLE, url=url)))  # fmt: skip
    return path


def test_a_copy_under_another_name(copied, tmp_path):
    assert published_file(str(copied), "mlp_mixer_b16").arch == "mlp_mixer_b16"
    assert published_file(str(copied), "poolformer_s12") is None
    assert published_file(str(tmp_path / "nowhere.pth"), "mlp_mixer_b16") is None
    torch.save(dict(a=torch.ones(1)), copied)
    assert published_file(str(copied), "mlp_mixer_b16") is None


def config(backbone: dict, settings: dict, **more: object) -> Config:
    return Config(dict(model=dict(data_preprocessor=settings, backbone=backbone), **more))


@pytest.mark.parametrize(("settings", "warned"), [(IMAGENET, True), (HALF, False), ({}, True)])
@pytest.mark.parametrize("place", ["load_from", "Pretrained"])
def test_copies_are_reported(place, settings, warned, copied, capsys):
    """As ``load_from``, which is also the CHECKPOINT of tools/test.py, and in ``init_cfg``."""
    if place == "load_from":
        cfg = config(MIXER, settings, load_from=str(copied))
    else:
        cfg = config(from_file(copied), settings)
    preflight.check_config(cfg, ())
    message = capsys.readouterr().err
    assert bool(message) is warned
    assert ("wants images with {'mean': [127.5, 127.5, 127.5]" in message) is warned
    assert ("data_preprocessor_for(backbone)" in message) is warned


def test_an_address_as_load_from(capsys):
    preflight.check_config(config(MIXER, IMAGENET, load_from=GOOGLE.url), ())
    assert f"warning: {GOOGLE.url} wants images with" in capsys.readouterr().err
    other = dict(type="mmdet.ResNet", depth=50)
    preflight.check_config(config(other, IMAGENET, load_from="http://x/epoch_12.pth"), ())
    assert capsys.readouterr().err == ""


def test_an_arch_that_does_not_exist_is_one_sentence():
    cfg = config(dict(MIXER, arch="b17"), IMAGENET)
    with pytest.raises(UserError, match="mmmetaformer.MlpMixer: unknown arch 'b17'"):
        preflight.check_config(cfg, ())


@pytest.mark.parametrize(
    "kind",
    ["FPN", "mmmetaformer.FFNetHead", "mmmetaformer.LN2d", "mmmetaformer.NoSuchNet",
     "mmmetaformer.mixers.attention.Attention", nn.Conv2d, None],
)  # fmt: skip
def test_other_parts_name_no_weights(kind):
    """They may be of any registry, and are for others to judge."""
    assert list(published_weights(dict(type=kind, pretrained="torchvision://x"))) == []


def test_a_backbone_by_the_path_of_its_class():
    backbone = dict(type="mmmetaformer.backbones.MlpMixer", arch="b16", pretrained=True)
    (known,) = published_weights(backbone)
    assert known == GOOGLE
