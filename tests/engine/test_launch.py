"""What the tools do to a config before it runs."""

import argparse

import pytest
import torch
from mmengine.config import ConfigDict

from mmmetaformer.engine import torchrun
from mmmetaformer.engine.launch import replace_sync_bn, run_in_processes


def test_sync_bn_is_replaced_in_every_spelling():
    model = ConfigDict(
        backbone=dict(norm_cfg=["BN", "SyncBN", dict(type="SyncBN", eps=1e-3), None]),
        neck=dict(norm_cfg=dict(type="mmengine.SyncBN")),
        head=[dict(norm_cfg=dict(type=torch.nn.SyncBatchNorm)), dict(norm_cfg="SyncBN")],
        other="GN",
    )
    replace_sync_bn(model)
    assert model.to_dict() == dict(
        backbone=dict(norm_cfg=["BN", "BN", dict(type="BN", eps=1e-3), None]),
        neck=dict(norm_cfg=dict(type="BN")),
        head=[dict(norm_cfg=dict(type="BN")), dict(norm_cfg="BN")],
        other="GN",
    )


@pytest.mark.parametrize(
    ("environment", "where"),
    [
        ({}, ["--standalone"]),
        (dict(NNODES="1", PORT=""), ["--standalone"]),
        (dict(PORT="1234"), ["--nnodes=1", "--node_rank=0", "--master_addr=127.0.0.1",
                             "--master_port=1234"]),
        (dict(NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1"),
         ["--nnodes=2", "--node_rank=1", "--master_addr=10.0.0.1", "--master_port=29500"]),
    ],
)  # fmt: skip
def test_processes_and_where_they_meet(environment, where, monkeypatch):
    for name in ("NNODES", "NODE_RANK", "MASTER_ADDR", "PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    started = []
    monkeypatch.setattr(torchrun, "main", started.append)
    argv = ["a b.py", "--gpus", "2", "--cfg-options", "x=1 2"]
    args = argparse.Namespace(gpus=2, launcher="none")
    assert run_in_processes(args, "train", argv)
    command = ["-m", "mmmetaformer", "train", *argv, "--launcher", "pytorch"]
    assert started == [[*where, "--nproc_per_node=2", *command]]


@pytest.mark.parametrize(
    "settings",
    [dict(launcher="none"), dict(gpus=None, launcher="none"), dict(gpus=2, launcher="pytorch")],
)
def test_one_process_stays_one(settings):
    """Of a script, of a command without --gpus, and each of those that were started."""
    assert not run_in_processes(argparse.Namespace(**settings), "train", [])
