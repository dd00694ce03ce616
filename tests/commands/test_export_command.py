"""mmmetaformer export: a backbone as ONNX, compared before it is there."""

from __future__ import annotations

import sys

import pytest
import torch

import mmmetaformer
from mmmetaformer.commands import export
from mmmetaformer.engine.errors import UserError

FFNET = "mask-rcnn_ffnet-1_fpn_1x_coco"


@pytest.fixture
def checkpoint(tmp_path, randomize_norms):
    """A trained backbone with branches to fold, inside of a detector."""
    backbone = randomize_norms(mmmetaformer.create_backbone("ffnet_1"))
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def run(checkpoint, out) -> None:
    export.main([FFNET, str(checkpoint), str(out), "--size", "64x96"], "export")


def test_any_size_and_batch(checkpoint, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    run(checkpoint, tmp_path / "out.onnx")
    assert "under onnxruntime, maps within" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"))
    images = torch.rand(3, 3, 70, 33).numpy()
    maps = session.run(None, {"image": images})
    assert [value.shape[2:] for value in maps] == [(18, 9), (9, 5), (5, 3), (3, 2)]


class Session:
    """Stands in for onnxruntime's: the maps of another network."""

    def __init__(self, path: str, providers: list[str]) -> None:
        self.path = path

    def run(self, names, inputs):
        with torch.no_grad():
            maps = mmmetaformer.create_backbone("ffnet_1")(torch.from_numpy(inputs["image"]))
        return [value.numpy() for value in maps]


def test_a_file_that_differs_is_refused(checkpoint, tmp_path, monkeypatch):
    fake = type(sys)("onnxruntime")
    fake.InferenceSession = Session
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setitem(sys.modules, "onnx", type(sys)("onnx"))
    monkeypatch.setattr(export, "write", lambda backbone, size, path: path.touch())
    with pytest.raises(UserError, match="onnxruntime's maps differ by .* of their standard dev"):
        run(checkpoint, tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.pth"]


@pytest.mark.parametrize("absent", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing(absent, checkpoint, tmp_path, monkeypatch):
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == absent else type(sys)(name))
    with pytest.raises(UserError, match=f"export needs {absent}: pip install onnx onnxruntime"):
        run(checkpoint, tmp_path / "out.onnx")
