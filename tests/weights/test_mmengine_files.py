"""mmengine's training checkpoints under torch's safe loader."""

import os
import pickle
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from mmmetaformer.weights import WeightsError, mmengine_files, read_checkpoint
from mmmetaformer.weights.mmengine_files import _history_buffer_method, allow_mmengine_checkpoints


@pytest.fixture
def training_checkpoint(tmp_path):
    """What mmengine's runner saves: weights, optimiser and the message hub with its history."""
    hub = MessageHub("test_checkpoint")
    for step in range(5):
        hub.update_scalar("train/loss", 1.0 / (step + 1))
    hub.update_info("iter", np.int64(5))
    hub.update_info("seed", np.float32(0.5))
    path = tmp_path / "iter_5.pth"
    torch.save(
        dict(
            state_dict=dict(weight=torch.ones(3)),
            message_hub=hub.state_dict(),
            meta=dict(experiment_name="x", dataset_meta=dict(classes=("a", "b"))),
        ),
        path,
    )
    return path


def test_without_it_the_file_is_refused(training_checkpoint):
    """In a fresh process: what is allowed stays allowed for the life of one."""
    code = f"import torch; torch.load({str(training_checkpoint)!r}, weights_only=True)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1 and "UnpicklingError" in result.stderr


@pytest.mark.skipif(
    not mmengine_files._is_extensible(), reason="nothing can be allowed before torch 2.6"
)
def test_training_checkpoint_loads(training_checkpoint):
    allow_mmengine_checkpoints()
    checkpoint = torch.load(training_checkpoint, weights_only=True)
    history = checkpoint["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(history, HistoryBuffer)
    assert history.current() == pytest.approx(0.2)
    assert history.mean(2) == pytest.approx((0.25 + 0.2) / 2)
    assert checkpoint["message_hub"]["runtime_info"]["iter"] == 5


class Getattr:
    """Pickles a call of ``getattr`` for something that is not a statistics method."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, "__init__")


class Opens:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", ["getattr", "open"])
def test_other_code_is_still_refused(kind, tmp_path):
    allow_mmengine_checkpoints()
    payload = Getattr() if kind == "getattr" else Opens(tmp_path / "owned")
    torch.save(dict(payload=payload), tmp_path / "bad.pth")
    with pytest.raises(Exception, match="not allowed|Unsupported|not an allowed"):
        torch.load(tmp_path / "bad.pth", weights_only=True)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("owner", "name"), [(HistoryBuffer, "__dict__"), (dict, "min"), (np, "mean"), ("x", "current")]
)
def test_stand_in_serves_history_buffers_only(owner, name):
    with pytest.raises(ValueError, match="not allowed"):
        _history_buffer_method(owner, name)
    assert _history_buffer_method(HistoryBuffer, "mean") is HistoryBuffer.mean


# ---------------------------------------------------------------- by torch of any version


@pytest.fixture(params=["this torch", "torch < 2.6"])
def torch_version(request, monkeypatch):
    """With what torch allows by itself from 2.6 on, and by the unpickler here before."""
    if request.param != "this torch":
        monkeypatch.setattr(mmengine_files, "_is_extensible", lambda: False)


class System:
    """Pickles a call of a function by which a file could do anything."""

    def __init__(self, path):
        self.command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self.command,)


def rewrite(path, new_format):
    """The same checkpoint as torch of other times wrote it."""
    content = torch.load(path, weights_only=False)
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    return content


@pytest.mark.parametrize("new_format", [True, False])
def test_every_torch_reads_training_checkpoints(training_checkpoint, new_format, torch_version):
    content = rewrite(training_checkpoint, new_format)
    read = read_checkpoint(training_checkpoint)
    assert read.keys() == content.keys() and read["meta"] == content["meta"]
    assert torch.equal(read["state_dict"]["weight"], torch.ones(3))
    hub = read["message_hub"]
    assert hub["log_scalars"]["train/loss"].mean(2) == pytest.approx((0.25 + 0.2) / 2)
    assert hub["runtime_info"] == dict(iter=5, seed=np.float32(0.5))


@pytest.mark.parametrize("new_format", [True, False])
def test_every_torch_reads_tensors_of_all_kinds(new_format, tmp_path, torch_version):
    dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8,
              torch.bool]  # fmt: skip
    tensors = {str(dtype): torch.ones(2, 3).to(dtype).T for dtype in dtypes}
    tensors["parameter"] = torch.nn.Parameter(torch.ones(2))
    path = tmp_path / "all.pth"
    torch.save(dict(state_dict=OrderedDict(tensors), more=[(1, 2.0, None, "x", True)]), path,
               _use_new_zipfile_serialization=new_format)  # fmt: skip
    read = read_checkpoint(path)
    assert read["more"] == [(1, 2.0, None, "x", True)]
    for name, tensor in tensors.items():
        assert torch.equal(read["state_dict"][name], tensor)
        assert read["state_dict"][name].dtype == tensor.dtype


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    ("kind", "message"),
    [("system", r"GLOBAL \w+\.system"), ("open", r"GLOBAL \S*open"), ("getattr", "not allowed")],
)
def test_every_torch_refuses_code(kind, message, new_format, tmp_path, torch_version):
    owned, path = tmp_path / "owned", tmp_path / "bad.pth"
    payload = dict(system=System(owned), open=Opens(owned), getattr=Getattr())[kind]
    content = dict(state_dict=dict(a=torch.ones(1)), payload=payload)
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(path)
    # Nor in a bare pickle.
    path.write_bytes(pickle.dumps(content["payload"]))
    with pytest.raises(WeightsError, match="bad.pth"):
        read_checkpoint(path)
    assert not owned.exists()
