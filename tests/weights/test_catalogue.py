"""The table of published files, and what ``pretrained=`` makes of it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save_file

from mmmetaformer import (
    ConvFormer,
    MlpMixer,
    PoolFormer,
    create_backbone,
    find_checkpoint,
    list_archs,
    list_checkpoints,
)
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.engine import preflight
from mmmetaformer.engine.errors import UserError
from mmmetaformer.variants import VARIANTS
from mmmetaformer.weights import WeightsError, export_state_dict, read_checkpoint
from mmmetaformer.weights.catalogue import list_trained
from mmmetaformer.weights.files import cached_path
from mmmetaformer.weights.layouts import LAYOUTS
from mmmetaformer.weights.statistics import published_file

ROOT = Path(__file__).resolve().parents[2]
FFNET = "https://github.com/ysj9909/FFNet/releases/download/v1.0"


def test_rows_are_consistent():
    rows = list_checkpoints()
    assert len({(row.arch, row.tag) for row in rows}) == len(rows) == 146
    urls = [row.url for row in rows]
    assert len(set(urls)) == len(urls)
    # In one folder no file takes another's place.
    assert len({row.file_name for row in rows}) == len(urls)
    assert {row.arch for row in rows} <= set(list_archs())
    assert {row.layout for row in rows} <= {layout.name for layout in LAYOUTS}
    assert {row.image_size for row in rows} == {224, 256, 384, None}
    assert all(url.startswith("https://") for url in urls)


def test_timms_files_are_what_timm_says_of_them():
    """Every file of these networks, and nothing else: name, image size, mean and std, address."""
    timm = pytest.importorskip("timm")
    archs = [
        f"{prefix}*" for prefix in ("poolformer", "convformer", "caformer", "convmixer", "mixer_")
    ]
    file_name = timm.models._hub.HF_SAFE_WEIGHTS_NAME
    theirs = {}
    for name in timm.list_models(archs, pretrained=True):
        cfg = timm.models.get_pretrained_cfg(name)
        bytes_ = (tuple(255 * value for value in values) for values in (cfg.mean, cfg.std))
        hub = f"https://huggingface.co/{cfg.hf_hub_id}/resolve/main/{file_name}"
        theirs[f"timm/{name}"] = (cfg.input_size[-1], *bytes_, cfg.url or hub)
    ours = {row.hub_id: row for row in list_checkpoints() if row.hub_id}
    assert set(ours) == set(theirs)
    for hub_id, (size, mean, std, url) in theirs.items():
        row = ours[hub_id]
        assert (row.image_size, row.url) == (size, url), hub_id
        assert row.mean == pytest.approx(mean) and row.std == pytest.approx(std), hub_id
        name = hub_id.removeprefix("timm/").partition(".")[0]
        assert re.sub("^mixer_", "mlp_mixer_", re.sub("_224$|_ks9_p14$", "", name)) == row.arch


def test_files_of_timms_hub_have_names_of_their_own(tmp_path, monkeypatch, randomize):
    """There, all have one. A copy that is put into the folder is found, and told by its name."""
    monkeypatch.setenv("MMMETAFORMER_WEIGHTS", str(tmp_path))
    row = find_checkpoint("caformer_s18", "timm_384_in1k")
    assert row.url.endswith("/timm/caformer_s18.sail_in1k_384/resolve/main/model.safetensors")
    assert (row.image_size, row.layout, row.sha256_prefix) == (384, "timm MetaFormer", None)
    path = tmp_path / "caformer_s18.sail_in1k_384.safetensors"
    assert cached_path(row.url) == path
    assert published_file(str(path)) is row and published_file(row.url) is row

    small = {**VARIANTS["poolformer_s12"], "depths": (1,) * 4, "dims": (8,) * 4}
    monkeypatch.setitem(VARIANTS, "poolformer_s12", small)
    source = randomize(build_backbone("poolformer_s12", out_norm_cfg=None))
    state = export_state_dict(source.state_dict(), "timm")
    save_file(state, tmp_path / "poolformer_s12.sail_in1k.safetensors")
    loaded = create_backbone("poolformer_s12", out_norm_cfg=None, pretrained="timm_in1k")
    for name, tensor in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


# Detectors and segmentors


def test_trained_models_are_those_of_the_configs():
    """Each under a config that is there."""
    rows = list_trained()
    assert len(rows) == 24
    for row in rows:
        assert len(list((ROOT / "configs").glob(f"*/{row.config}.py"))) == 1
        assert row.url or row.note


@pytest.mark.parametrize(
    ("config", "urls"),
    [
        ("mask-rcnn_poolformer-s12_fpn_1x_coco", [None]),
        (
            "poolformer-m48_fpn_8xb4-40k_ade20k-512x512",
            [
                None,
                "https://download.openmmlab.com/mmsegmentation/v0.5/poolformer/"
                "fpn_poolformer_m48_8x4_512x512_40k_ade20k/"
                "fpn_poolformer_m48_8x4_512x512_40k_ade20k_20220504_003923-64168d3b.pth",
            ],
        ),
        (
            "cascade-mask-rcnn_ffnet-3_fpn_3x_coco",
            [f"{FFNET}/casc_mask_rcnn_ffnet_3_fpn_3x_coco.pth"],
        ),
        (
            "cascade-mask-rcnn_ffnet-4_fpn_3x_coco",
            [f"{FFNET}/casc_mask_rcnn_ffnet_4_fpn_3x_coco.zip"],
        ),
        (
            "ffnet-4_upernet_8xb2-160k_ade20k-512x512",
            [f"{FFNET}/upernet_ffnet_4_512_160k_ade20k.pth"],
        ),
        (
            "ffnet-seg_ffnethead_8xb2-160k_cityscapes-1024x1024",
            [f"{FFNET}/ffnet_seg_sys_1024_160k_cityscapes.pth"],
        ),
        ("mask-rcnn_ffnet-4_fpn_1x_coco", []),
    ],
)
def test_addresses_of_trained_models(config, urls):
    assert [row.url for row in list_trained(config)] == urls


def test_every_checkpoint_of_the_configs_is_in_the_table():
    """Under the arch that the config has."""
    urls = {row.url: row.arch for row in list_checkpoints() if row.url}
    named = {}
    for path in (ROOT / "configs").glob("*/*.py"):
        for url in re.findall(r"'(https://[^']+)'", path.read_text()):
            named[url] = path.name
    assert len(named) > 40
    assert set(named) <= set(urls)
    for url, config in named.items():
        # metaformer-s12-pppa, ffnet-2, poolformer-s12, ...
        assert urls[url].replace("_", "-") in config


def test_by_tag():
    url = "https://huggingface.co/sail/dl/resolve/main/convformer/convformer_s36_384_in21ft1k.pth"
    row = find_checkpoint("convformer_s36", "384_in21ft1k")
    assert (row.url, row.image_size) == (url, 384)
    for backbone in (
        build_backbone("convformer_s36", pretrained="384_in21ft1k"),
        ConvFormer("s36", pretrained="384_in21ft1k"),
        ConvFormer("convformer_s36", pretrained="384_in21ft1k"),
    ):
        assert backbone.init_cfg == dict(type="Pretrained", checkpoint=url)
    assert PoolFormer("s12", pretrained=True).init_cfg["checkpoint"].endswith("_s12.pth.tar")
    assert PoolFormer("s12", pretrained=False).init_cfg is None
    new = dict(type="Pretrained", new=["token_mixer"])
    backbone = PoolFormer("s12", token_mixers="sepconv", pretrained=True, init_cfg=new)
    assert backbone.init_cfg == dict(new, checkpoint=find_checkpoint("poolformer_s12").url)
    assert MlpMixer("b16", pretrained=True).init_cfg["checkpoint"].endswith("1377e3e0.pth")


def test_statistics_of_the_google_weights():
    half = dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True)
    assert find_checkpoint("mlp_mixer_b16").data_preprocessor() == half
    usual = find_checkpoint("caformer_s18").data_preprocessor()
    assert (usual["mean"][0], usual["std"][2]) == (123.675, 57.375)


@pytest.mark.parametrize(
    ("arch", "options", "error", "message"),
    [
        ("s36", dict(pretrained="384"), ValueError, "expected True or one of .*384_in21ft1k"),
        ("s36", dict(pretrained="in21ft1"), ValueError, "Did you mean 'in21ft1k'"),
        ("s36", dict(pretrained=3), TypeError, "True or a tag, got 3"),
        (dict(depths=[1] * 4, dims=[8] * 4), dict(pretrained=True), ValueError, "arch by name"),
        (
            "s36",
            dict(pretrained="in1k", init_cfg=dict(type="Pretrained", checkpoint="x")),
            TypeError,
            "cannot both be given",
        ),
        ("s36", dict(pretrained=True, init_cfg=dict(type="Normal")), TypeError, "both"),
    ],
)
def test_wrong_choices(arch, options, error, message):
    with pytest.raises(error, match=message):
        ConvFormer(arch, **options)


def test_names_that_do_not_exist():
    with pytest.raises(ValueError, match="unknown arch 'ffnet3'.*Did you mean 'ffnet_3'"):
        find_checkpoint("ffnet3")
    with pytest.raises(ValueError, match="unknown arch 'FFNet_3'"):
        list_checkpoints("FFNet_3")
    with pytest.raises(ValueError, match="a file is given with init_cfg"):
        PoolFormer("s12", pretrained="work_dirs/epoch_12.pth")


def test_an_arch_without_published_weights():
    with pytest.raises(ValueError, match="no pretrained weights of 'mlp_mixer_h14' are known"):
        MlpMixer("h14", pretrained=True)


def test_files_of_a_cache_folder_need_no_network(tmp_path, monkeypatch, randomize):
    monkeypatch.setenv("MMMETAFORMER_WEIGHTS", str(tmp_path))
    weights = randomize(build_backbone("identityformer_s12")).state_dict()
    torch.save(weights, tmp_path / "identityformer_s12.pth")
    loaded = create_backbone("identityformer_s12", pretrained="in1k").state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_a_file_with_another_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MMMETAFORMER_WEIGHTS", str(tmp_path))
    address = "https://download.openmmlab.com/mmclassification/v0/x/net_in1k_20220101-"
    torch.save(dict(a=torch.zeros(1)), tmp_path / "file")
    digits = hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()[:8]
    (tmp_path / f"net_in1k_20220101-{digits}.pth").write_bytes((tmp_path / "file").read_bytes())
    assert read_checkpoint(f"{address}{digits}.pth")["a"].shape == (1,)
    (tmp_path / "net_in1k_20220101-00000000.pth").write_bytes((tmp_path / "file").read_bytes())
    with pytest.raises(WeightsError, match="SHA-256 does not begin with 00000000"):
        read_checkpoint(f"{address}00000000.pth")


MEAN = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
HALF = dict(mean=[127.5] * 3, std=(127.5, 127.5, 127.5), bgr_to_rgb=True)
GOOGLE = dict(type="mmmetaformer.MlpMixer", arch="b16", pretrained="in21ft1k")


@pytest.mark.parametrize(
    ("backbone", "statistics", "warned"),
    [
        (dict(type="mmmetaformer.MlpMixer", arch="b16", pretrained=True), MEAN, True),
        (
            dict(
                type="mmmetaformer.MlpMixer",
                arch="b16",
                init_cfg=dict(
                    type="Pretrained", checkpoint=find_checkpoint("mlp_mixer_b16", True).url
                ),
            ),
            MEAN,
            True,
        ),
        (
            dict(
                type="mmmetaformer.MlpMixer",
                arch="b16",
                init_cfg=[dict(type="Pretrained", checkpoint=find_checkpoint("mlp_mixer_b16").url)],
            ),
            MEAN,
            True,
        ),
        (GOOGLE, HALF, False),
        (GOOGLE, dict(type="DetDataPreprocessor"), True),
        (GOOGLE, dict(HALF, mean=None, std=None), True),
        (dict(type="mmmetaformer.PoolFormer", arch="s12", pretrained=True), MEAN, False),
        (dict(type="mmmetaformer.MlpMixer", arch="b16"), MEAN, False),
    ],
)
def test_other_statistics_than_the_weights_want_are_reported(backbone, statistics, warned, capsys):
    cfg = Config(dict(model=dict(data_preprocessor=statistics, backbone=backbone)))
    preflight.check_config(cfg, ())
    message = capsys.readouterr().err
    assert ("wants images with {'mean': [127.5, 127.5, 127.5]" in message) is warned
    assert ("warning" in message) is warned


def test_swapped_channels_are_reported(capsys):
    cfg = dict(data_preprocessor=dict(HALF, bgr_to_rgb=False), backbone=GOOGLE)
    preflight.check_config(Config(dict(model=cfg)), ())
    message = "wants images with {'bgr_to_rgb': True}, and model.data_preprocessor has"
    assert message in capsys.readouterr().err


def test_an_unknown_tag_in_a_config_is_one_sentence():
    cfg = Config(dict(model=dict(backbone=dict(GOOGLE, pretrained="in21k"))))
    with pytest.raises(UserError, match="mmmetaformer.MlpMixer: unknown pretrained='in21k'"):
        preflight.check_config(cfg, ())
