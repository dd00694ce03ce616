"""``init_cfg=dict(type='Pretrained', ...)`` from files."""

import pickle
import zipfile
from pathlib import Path
from random import Random

import pytest
import torch
from mmengine.hub import get_config
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import init_default_scope

from mmmetaformer import MetaFormer
from mmmetaformer.weights import WeightsError, load_pretrained, read_checkpoint

TINY = dict(depths=[1, 1, 1, 1], dims=[8, 12, 16, 20])


@pytest.fixture
def weights(randomize):
    return randomize(MetaFormer(TINY)).state_dict()


@pytest.fixture
def file(tmp_path, weights):
    path = tmp_path / "weights.pth"
    torch.save(dict(state_dict=weights), path)
    return path


def built(file, **kwargs):
    backbone = MetaFormer(TINY, init_cfg=dict(type="Pretrained", checkpoint=str(file)), **kwargs)
    backbone.init_weights()
    return backbone


def test_report_says_what_became_of_every_key(tmp_path, weights, caplog):
    kept = {name: value for name, value in weights.items() if not name.startswith("norm1")}
    torch.save({**kept, "head.weight": torch.zeros(3, 20)}, tmp_path / "w.pth")
    report = load_pretrained(MetaFormer(TINY), tmp_path / "w.pth")
    assert report.conversion.new == ["norm1.weight", "norm1.bias"]
    assert report.conversion.dropped == {"classifier": ["head.weight"]}
    text = str(report)
    assert f"loaded {len(kept)} tensors" in text and "mmmetaformer layout" in text
    assert "missing, newly initialised: norm1.weight, norm1.bias" in text
    assert "classifier: 1 (head.weight)" in text


@pytest.mark.parametrize("name", ["metaformer ppaa", "caformer timm", "convmixer", "mixer timm"])
def test_published_files_of_other_families(name, tmp_path, checkpoints):
    published = checkpoints[name]
    torch.save(published.state(), tmp_path / "w.pth")
    backbone = published.build(init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "w.pth")))
    backbone.init_weights()
    loaded = backbone.state_dict()
    for key, own in published.names().items():
        assert torch.equal(loaded[own], published.state()[key].view(loaded[own].shape)), own


def test_inside_a_detector(file, weights):
    """The detector initialises the rest and the backbone loads, also with other initialisers."""
    pytest.importorskip("mmdet")
    from mmdet.registry import MODELS

    init_default_scope("mmdet")
    cfg = get_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py").model
    cfg.backbone = dict(
        type="mmmetaformer.MetaFormer",
        arch=TINY,
        out_indices=(1, 2, 3),
        init_cfg=[
            dict(type="Constant", layer="Conv2d", val=7.0),
            dict(type="Pretrained", checkpoint=str(file)),
        ],
    )
    cfg.neck.update(in_channels=[12, 16, 20], start_level=0)
    detector = MODELS.build(cfg)
    detector.init_weights()
    for name, value in detector.backbone.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize("kind", ["Pretrained", "mmengine.Pretrained", PretrainedInit])
def test_init_cfg_raises_too(kind, tmp_path):
    """In every spelling that mmengine takes: its own loading would accept this file."""
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    cfg = dict(type=kind, checkpoint=str(tmp_path / "resnet.pth"))
    with pytest.raises(WeightsError, match="resnet.pth: unknown layout"):
        MetaFormer(TINY, init_cfg=cfg).init_weights()


@pytest.mark.parametrize("options", [dict(override=dict(name="stages")), dict(checkpoint=None)])
def test_other_options_of_pretrained_are_refused(options, file):
    cfg = dict(type="Pretrained", checkpoint=str(file)) | options
    cfg = {key: value for key, value in cfg.items() if value is not None}
    with pytest.raises(ValueError, match="takes checkpoint, prefix and new"):
        MetaFormer(TINY, init_cfg=cfg).init_weights()


def test_safetensors(tmp_path, weights):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(dict(weights), tmp_path / "w.safetensors")
    assert torch.equal(built(tmp_path / "w.safetensors").norm0.weight, weights["norm0.weight"])
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_checkpoint(tmp_path / "bad.safetensors")


class Malicious:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_that_is_trusted_by_the_environment_is_loaded(tmp_path, monkeypatch):
    """torch's own switch; what the file holds is run."""
    torch.save(dict(weight=torch.ones(2), hook=Malicious(tmp_path / "run")), tmp_path / "own.pth")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert read_checkpoint(tmp_path / "own.pth")["weight"].sum() == 2
    assert (tmp_path / "run").exists()


def test_an_archive_around_the_file(tmp_path, file):
    with zipfile.ZipFile(tmp_path / "weights.zip", "w") as archive:
        archive.write(file, "weights.pth")
    with pytest.raises(WeightsError, match=r"archive of \['weights.pth'\]: unpack it first"):
        read_checkpoint(tmp_path / "weights.zip")


def test_the_code_that_is_refused_is_named(tmp_path):
    content = pickle.dumps(Malicious(tmp_path / "owned"), protocol=2)
    (tmp_path / "plain.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="plain.pth.*"):
        read_checkpoint(tmp_path / "plain.pth")
    torch.save(dict(hook=Malicious(tmp_path / "owned")), tmp_path / "bad.pth")
    message = r"not loaded: .*io\.open.*TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / "bad.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("new_format", [True, False])
def test_truncated_file(new_format, tmp_path):
    """Cut anywhere: torch raises errors of many kinds."""
    path = tmp_path / "whole.pth"
    weights = dict(a=torch.zeros(3), b=torch.ones(2, 2))
    torch.save(weights, path, _use_new_zipfile_serialization=new_format)
    content = path.read_bytes()
    assert set(read_checkpoint(path)) == {"a", "b"}
    for length in range(0, len(content) - 1, max(1, len(content) // 150)):
        (tmp_path / "cut.pth").write_bytes(content[:length])
        with pytest.raises(WeightsError, match="cut.pth"):
            read_checkpoint(tmp_path / "cut.pth")


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_damaged_files(kind, tmp_path):
    """Bytes that changed anywhere: what can be told raises one error of one line."""
    path = tmp_path / ("file.safetensors" if kind == "safetensors" else "file.pth")
    weights = dict(a=torch.zeros(3), b=torch.ones(2, 2))
    if kind == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    random = Random(0)
    told = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(random.choice([1, 4, 16])):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except WeightsError as error:
            told += 1
            assert "\n" not in str(error) and path.name in str(error)
    assert told > 20


def test_a_file_that_the_disk_does_not_give(file, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(WeightsError, match=r"weights.pth cannot be read: .*Permission denied"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("source", "message"),
    [("no/such/file.pth", "does not exist"), ("torchvision://resnet50", "got torchvision://")],
)
def test_sources_that_are_not_there(source, message):
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(source)


def test_without_network_the_error_says_where_to_put_the_file(tmp_path, monkeypatch, weights):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = "http://127.0.0.1:9/tiny.pth.tar"
    with pytest.raises(WeightsError, match=f"cannot download {url}.*put the file at ") as error:
        read_checkpoint(url)
    where = Path(str(error.value).rpartition(" at ")[2])
    assert where.parent.parent == tmp_path / "checkpoints" and where.name == "tiny.pth.tar"
    torch.save(weights, where)
    assert set(read_checkpoint(url)) == set(weights)
