"""mmengine's older training checkpoints under torch's safe loader, and what importing this package
leaves as it is."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from mmmetaformer.weights import WeightsError, read_checkpoint
from mmmetaformer.weights.mmengine_files import _history_buffer_method


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


@pytest.mark.parametrize("new_format", [True, False])
def test_training_checkpoint_loads(training_checkpoint, new_format):
    """By torch itself, since this package is imported, and in torch's older format, too."""
    content = torch.load(training_checkpoint, weights_only=False)
    torch.save(content, training_checkpoint, _use_new_zipfile_serialization=new_format)
    for read in (torch.load(training_checkpoint), read_checkpoint(training_checkpoint)):
        history = read["message_hub"]["log_scalars"]["train/loss"]
        assert isinstance(history, HistoryBuffer)
        assert history.current() == pytest.approx(0.2)
        assert history.mean(2) == pytest.approx((0.25 + 0.2) / 2)
        assert read["message_hub"]["runtime_info"] == dict(iter=5, seed=np.float32(0.5))
        assert read.keys() == content.keys() and read["meta"] == content["meta"]
        assert torch.equal(read["state_dict"]["weight"], torch.ones(3))


class Getattr:
    """Pickles a call of ``getattr`` for something that is not a statistics method."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, "__init__")


class Opens:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


class System:
    """Pickles a call of a function by which a file could do anything."""

    def __init__(self, path):
        self.command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    ("kind", "message"),
    [("system", r"GLOBAL \w+\.system"), ("open", r"GLOBAL \S*open"), ("getattr", "not allowed")],
)
def test_other_code_is_still_refused(kind, message, new_format, tmp_path):
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


@pytest.mark.parametrize(
    ("owner", "name"), [(HistoryBuffer, "__dict__"), (dict, "min"), (np, "mean"), ("x", "current")]
)
def test_stand_in_serves_history_buffers_only(owner, name):
    with pytest.raises(ValueError, match="not allowed"):
        _history_buffer_method(owner, name)
    assert _history_buffer_method(HistoryBuffer, "mean") is HistoryBuffer.mean


FOREIGN = """
import json, sys
import torch
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
before = dict(CheckpointLoader._schemes)
path = sys.argv[1]
torch.save(dict(teacher=dict(w=torch.ones(2)), student=dict(w=torch.zeros(2))), path)
seen = []
def map_location(storage, location):
    seen.append(location)
    return storage
def look():
    content = CheckpointLoader.load_checkpoint(path, map_location)
    meta = CheckpointLoader.load_checkpoint(path, 'meta')['teacher']['w'].device.type
    model = torch.nn.Linear(2, 2)
    torch.save(dict(weight=torch.ones(2, 2)), path + '.part')
    load_checkpoint(model, path + '.part')
    return [sorted(content), type(content).__name__, meta, float(model.weight.sum())]
first = look()
import mmmetaformer
mmmetaformer.list_archs()
mmmetaformer.create_backbone('poolformer_s12')
print(json.dumps([first, look(), len(seen), CheckpointLoader._schemes == before]))
"""


def test_files_of_other_projects_load_as_without_this_package(tmp_path):
    """mmengine's loader stays what it is, with whatever layout and ``map_location``."""
    command = [sys.executable, "-c", FOREIGN, str(tmp_path / "foreign.pth")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after, mapped, same_schemes = json.loads(result.stdout.splitlines()[-1])
    assert before == after == [["student", "teacher"], "dict", "meta", 4.0]
    assert mapped == 4 and same_schemes
