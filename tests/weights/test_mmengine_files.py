"""mmengine's training checkpoints under torch's safe loader."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

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
