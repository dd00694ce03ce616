"""Tests of what differs between versions of torch, in the form of the installed one and, where it
can be played, in that of older ones."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmmetaformer import compat
from mmmetaformer.weights.mmengine_files import mmengine_globals


class Call:
    """Pickled, it asks for a call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Change:
    """Pickled, it changes the class Linear."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, "mean"), {"weights": 1}


@pytest.fixture(params=["installed", "older"])
def load(request, monkeypatch, tmp_path):
    """Saves and loads; "older" is the way of torch before 2.6."""
    if request.param == "older":
        monkeypatch.setattr(compat, "_TORCH", (2, 5))

    def apply(content, **options):
        path = tmp_path / "file.pth"
        torch.save(content, path, **options)
        return compat.load_plain(path, mmengine_globals())

    return apply


@pytest.mark.parametrize("zipped", [True, False])
def test_what_mmengine_saves(load, zipped):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    content = {
        "state_dict": nn.Linear(2, 3).state_dict(),
        "message_hub": {"loss": history, "scalar": np.float64(3), "array": np.arange(4)},
        "meta": {"iter": 5, "half": torch.zeros(2, dtype=torch.bfloat16)},
    }
    found = load(content, _use_new_zipfile_serialization=zipped)
    assert torch.equal(found["state_dict"]["weight"], content["state_dict"]["weight"])
    hub = found["message_hub"]
    assert np.array_equal(hub["loss"].data, history.data)
    assert hub["scalar"] == 3 and hub["array"].tolist() == [0, 1, 2, 3]
    assert found["meta"]["iter"] == 5 and found["meta"]["half"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    "content",
    [Call(os.system, "true"), Call(eval, "1"), Call(getattr, HistoryBuffer, "__init__"), Change()],
)
def test_nothing_else_is_called_or_changed(load, content):
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        load({"state_dict": content})
    assert not hasattr(HistoryBuffer.mean, "weights")


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_autocast(dtype):
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        assert compat.autocast_dtype("cpu") == dtype
        assert compat.autocast_dtype("cuda") is None


def test_a_torch_without_one_of_the_private_names_runs_literally(monkeypatch):
    assert not compat.interprets_operators()
    monkeypatch.setattr(compat, "_KNOWN", False)
    assert compat.interprets_operators()
