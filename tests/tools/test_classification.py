"""Training, evaluating, drawing and published files of image classifiers through the tools, on a
folder of images that is drawn here."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmmetaformer import FFNet

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

COLOURS = dict(blue=(220, 40, 40), green=(40, 220, 40), red=(40, 40, 220))

TINY = """
model = dict(
    backbone=dict(
        # The base has a name here, which a dict cannot be merged into.
        arch=dict(_delete_=True, depths=[1, 1, 1, 1], dims=[8, 16, 32, 64]), drop_path_rate=0.0),
    head=dict(in_channels=64, num_classes=3))
data_preprocessor = dict(num_classes=3)
dataset = dict(_delete_=True, type='CustomDataset', data_root={data!r}, data_prefix='train')
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='RandomResizedCrop', scale=32),
    dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=36, edge='short'),
    dict(type='CenterCrop', crop_size=32), dict(type='PackInputs')]
loader = dict(batch_size=4, num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=dict(dataset, pipeline=train_pipeline), **loader)
val_dataloader = dict(
    dataset=dict(dataset, data_prefix='val', pipeline=test_pipeline), **loader)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2)
param_scheduler = []
optim_wrapper = dict(accumulative_counts=1)
default_hooks = dict(logger=dict(interval=1))
randomness = dict(seed=0)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three classes of eight and two images, a colour each, in folders as ImageNet's."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    rng = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 2)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(number):
                image = rng.normal(colour, 20, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                assert cv2.imwrite(str(folder / split / name / f"{name}{i}.png"), image)
    return folder


@pytest.fixture
def config(data, tmp_path) -> Callable[[str], str]:
    def write(name: str) -> str:
        (base,) = (ROOT / "configs/imagenet").glob(f"{name}_*_in1k.py")
        path = tmp_path / f"{name}.py"
        path.write_text(f"_base_ = {str(base)!r}\n" + TINY.replace("{data!r}", repr(str(data))))
        return str(path)

    return write


def python_tool(name: str, *args: str, cwd: Path, fails: bool = False) -> str:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "tools" / name), *args]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env)
    output = result.stdout + result.stderr
    assert bool(result.returncode) == fails, output[-3000:]
    return output


def top1(work: Path) -> float:
    (report,) = work.glob("*/*.json")
    return json.loads(report.read_text())["accuracy/top1"]


def published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In the names of ConvFormer's release."""
    state = {re.sub(r"^head\.norm\.", "norm.", name): value for name, value in state.items()}
    state = {name.replace("head.hidden_norm.", "head.norm."): v for name, v in state.items()}
    return {name.removeprefix("backbone."): value for name, value in state.items()}


def test_train_test_and_published_files(config, tmp_path):
    path = config("convformer-s18")
    output = python_tool("train.py", path, "--work-dir", "work", cwd=tmp_path)
    assert "Epoch(train) [2][6/6]" in output and "accuracy/top1:" in output
    checkpoint = tmp_path / "work/epoch_2.pth"

    out, drawn = tmp_path / "results.pkl", tmp_path / "drawn"
    python_tool("test.py", path, str(checkpoint), "--work-dir", "own", "--out", str(out),
                "--show-dir", "drawn", cwd=tmp_path)  # fmt: skip
    results = pickle.loads(out.read_bytes())
    right = [int(r["pred_label"]) == int(r["gt_label"]) for r in results]
    assert len(right) == 6 and top1(tmp_path / "own") == pytest.approx(100 * sum(right) / 6)
    pictures = list(drawn.glob("*.png"))
    assert len(pictures) == 6 and all(cv2.imread(str(file)) is not None for file in pictures)

    # The same weights as their authors would have published them, and as the start of a training.
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
    torch.save(published(state), tmp_path / "published.pth")
    python_tool("test.py", path, "published.pth", "--work-dir", "theirs", "--out", "theirs.pkl",
                cwd=tmp_path)  # fmt: skip
    theirs = pickle.loads((tmp_path / "theirs.pkl").read_bytes())
    for ours, other in zip(results, theirs, strict=True):
        assert torch.equal(ours["pred_score"], other["pred_score"])
    python_tool("convert_weights.py", "published.pth", "own.pth", "--to", "mmmetaformer",
                cwd=tmp_path)  # fmt: skip
    own = torch.load(tmp_path / "own.pth")
    assert own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)
    output = python_tool(
        "train.py", path, "--work-dir", "tuned", "--cfg-options", "load_from=own.pth",
        "train_cfg.max_epochs=1", "optim_wrapper.optimizer.lr=0.0", cwd=tmp_path,
    )  # fmt: skip
    tuned = torch.load(tmp_path / "tuned/epoch_1.pth", map_location="cpu", weights_only=False)
    assert all(torch.equal(value, state[name]) for name, value in tuned["state_dict"].items())

    tta = python_tool("test.py", path, "own.pth", "--tta", "--work-dir", "tta", cwd=tmp_path)
    assert "accuracy/top1" in tta

    torch.save({**published(state), "head.fc3.weight": torch.zeros(1)}, tmp_path / "more.pth")
    output = python_tool("test.py", path, "more.pth", cwd=tmp_path, fails=True)
    assert "error: more.pth: " in output and "1 unexpected: head.fc3.weight" in output
    assert "Traceback" not in output


def test_ffnet_with_averaged_weights(config, tmp_path):
    """What is saved and evaluated are the averages; resuming goes on with both."""
    path = config("ffnet-1")
    python_tool("train.py", path, "--work-dir", "work", cwd=tmp_path)
    resumed = python_tool("train.py", path, "--work-dir", "work", "--resume", "--cfg-options",
                          "train_cfg.max_epochs=3", cwd=tmp_path)  # fmt: skip
    assert "Epoch(train) [3][6/6]" in resumed and "Epoch(train) [2]" not in resumed
    file = torch.load(tmp_path / "work/epoch_3.pth", map_location="cpu", weights_only=False)
    averaged, plain = file["state_dict"], file["ema_state_dict"]
    key = "backbone.norm3.running_mean"
    assert not torch.equal(averaged[key], plain[f"module.{key}"])
    output = python_tool("test.py", path, "work/epoch_3.pth", cwd=tmp_path)
    assert "accuracy/top1" in output

    # The backbone goes under a detector, whose norm of the last stage is another one.
    arch = dict(depths=[1, 1, 1, 1], dims=[8, 16, 32, 64])
    weights = str(tmp_path / "work/epoch_3.pth")
    init_cfg = dict(type="Pretrained", checkpoint=weights, new=[r"^norm3\."])
    backbone = FFNet(arch, init_cfg=init_cfg)
    backbone.init_weights()
    key = "stages.3.0.token_mixer.query.conv.weight"
    assert torch.equal(backbone.state_dict()[key], averaged[f"backbone.{key}"])
