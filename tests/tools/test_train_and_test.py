"""Training, resuming, evaluating and drawing through the tools, on one process and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

from mmmetaformer.datasets.shapes import generate_shapes
from mmmetaformer.weights import export_state_dict

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

# The shapes configs on a network and a schedule of a few seconds.
TINY = """
model = dict(
    backbone=dict(
        # The base has a name here, which a dict cannot be merged into.
        arch=dict(_delete_=True, depths=[1, 1, 1, 1], dims=[8, 12, 16, 20]),
        layer_scale_init_value=1.0),
    neck=dict(in_channels=[8, 12, 16, 20]))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=2, max_keep_ckpts=-1))
randomness = dict(seed=0)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(folder, num_train=16, num_val=4, image_size=64)
    return folder


def write_config(folder: Path, base: str, data: Path, extra: str = "") -> str:
    text = f"_base_ = {str(ROOT / 'configs' / base)!r}\n" + TINY
    kind = "coco" if "mask-rcnn" in base else "ade"
    for split in ("train", "val", "test"):
        text += f"{split}_dataloader['dataset'] = dict(data_root={str(data / kind) + '/'!r})\n"
    if kind == "coco":
        annotations = str(data / kind / "annotations/instances_val2017.json")
        text += f"val_evaluator = dict(ann_file={annotations!r})\ntest_evaluator = val_evaluator\n"
    path = folder / f"{kind}.py"
    path.write_text(text + extra)
    return str(path)


def call(*command: str, cwd: Path, fails: bool = False) -> str:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}
    env["PYTHONPATH"] = os.pathsep.join([str(cwd), env.get("PYTHONPATH", "")])
    result = subprocess.run([*command], cwd=cwd, capture_output=True, text=True, env=env)
    output = result.stdout + result.stderr
    assert bool(result.returncode) == fails, output[-3000:]
    return output


def python_tool(name: str, *args: str, cwd: Path, **kwargs) -> str:
    return call(sys.executable, str(ROOT / "tools" / name), *args, cwd=cwd, **kwargs)


INFERENCER = """
import sys
import torch
from mmengine.logging import MMLogger
from {module} import {inferencer}
config, checkpoint, picture = sys.argv[1:]
assert 'mmmetaformer' not in sys.modules
torch.load(checkpoint, weights_only=True)
result = {inferencer}(config, checkpoint, device='cpu')(picture)
print('predicted', len(result['predictions']))
"""


@pytest.mark.parametrize(
    ("base", "metric"),
    [("shapes/mask-rcnn_poolformer-s12_fpn_shapes.py", "coco/bbox_mAP"),
     ("shapes/poolformer-s12_fpn_shapes.py", "mIoU")],
)  # fmt: skip
def test_train_resume_test(base, metric, data, tmp_path):
    config = write_config(tmp_path, base, data)
    work = tmp_path / "work"
    segmentation = metric == "mIoU"

    python_tool("train.py", config, "--work-dir", str(work), cwd=tmp_path)
    assert (work / "iter_2.pth").is_file() and (work / "iter_4.pth").is_file()

    # mmdet's and mmseg's inferencers read the file before this package is imported.
    inferencer = ("mmseg.apis", "MMSegInferencer") if segmentation else (
        "mmdet.apis", "DetInferencer")  # fmt: skip
    picture = next((data / ("ade" if segmentation else "coco")).rglob("*.jpg"))
    output = call(
        sys.executable, "-c", INFERENCER.format(module=inferencer[0], inferencer=inferencer[1]),
        config, str(work / "iter_2.pth"), str(picture), cwd=tmp_path,
    )  # fmt: skip
    assert f"predicted {64 if segmentation else 1}\n" in output
    assert "do not match" not in output

    resumed = python_tool(
        "train.py", config, "--work-dir", str(tmp_path / "resumed"),
        "--resume", str(work / "iter_2.pth"), cwd=tmp_path,
    )  # fmt: skip
    assert "resumed epoch: 0, iter: 2" in resumed
    assert "Iter(train) [3/4]" in resumed and "Iter(train) [2/4]" not in resumed
    again = python_tool(
        "train.py", config, "--work-dir", str(work), "--resume", "--cfg-options",
        "train_cfg.max_iters=5", "train_cfg.val_interval=5", cwd=tmp_path,
    )  # fmt: skip
    assert "Iter(train) [5/5]" in again

    out = tmp_path / ("maps" if segmentation else "results.pkl")
    python_tool(
        "test.py", config, str(work / "iter_4.pth"), "--work-dir", str(tmp_path / "test"),
        "--show-dir", "drawn", "--out", str(out), cwd=tmp_path,
    )  # fmt: skip
    (report,) = (tmp_path / "test").glob("*/*.json")
    assert metric in json.loads(report.read_text())
    pictures = (p for p in (tmp_path / "drawn").rglob("*") if p.suffix in (".jpg", ".png"))
    drawn = [cv2.imread(str(path)) for path in pictures]
    assert len(drawn) == 4
    # The truth on the left, the prediction on the right.
    assert all(picture.shape[:2] == (64, 128) for picture in drawn)
    assert len(list(out.glob("*.png"))) == 4 if segmentation else out.stat().st_size > 0

    tta = python_tool(
        "test.py", config, str(work / "iter_4.pth"), "--tta", "--work-dir",
        str(tmp_path / "tta"), cwd=tmp_path, fails=not segmentation,
    )  # fmt: skip
    assert ("mIoU" if segmentation else "error: --tta: mmdet has no") in tta

    for broken, message in ((b"PK", "it is cut off"), (b"<html>", "it is a web page")):
        (tmp_path / "bad.pth").write_bytes(broken)
        output = python_tool("test.py", config, "bad.pth", cwd=tmp_path, fails=True)
        assert f"error: bad.pth cannot be read as a checkpoint: {message}" in output
        assert "Traceback" not in output


def test_a_checkpoint_of_another_model_is_refused(data, tmp_path):
    config = write_config(tmp_path, "shapes/poolformer-s12_fpn_shapes.py", data)
    python_tool("train.py", config, "--work-dir", "work", "--cfg-options",
                "train_cfg.max_iters=1", "train_cfg.val_interval=2", cwd=tmp_path)  # fmt: skip
    output = python_tool(
        "test.py", config, "work/iter_1.pth", "--cfg-options",
        "model.neck.out_channels=32", "model.decode_head.in_channels=[32,32,32,32]",
        cwd=tmp_path, fails=True,
    )  # fmt: skip
    assert "error: the checkpoint does not fit the config" in output
    assert "Traceback" not in output


def test_a_checkpoint_of_the_old_stack(data, tmp_path):
    """The same figures as under our own names; what does not fit is refused in one sentence."""
    config = write_config(tmp_path, "shapes/poolformer-s12_fpn_shapes.py", data)
    python_tool("train.py", config, "--work-dir", "work", "--cfg-options",
                "train_cfg.max_iters=1", "train_cfg.val_interval=2", cwd=tmp_path)  # fmt: skip
    own = torch.load(tmp_path / "work/iter_1.pth", map_location="cpu", weights_only=False)
    classes = own["meta"]["dataset_meta"]["classes"]
    backbone = {n[9:]: t for n, t in own["state_dict"].items() if n.startswith("backbone.")}
    old = {f"backbone.{n}": t for n, t in export_state_dict(backbone, "published").items()}
    assert "backbone.network.6.0.layer_scale_2" in old and "backbone.norm6.bias" in old
    old |= {n: t for n, t in own["state_dict"].items() if not n.startswith("backbone.")}
    meta = dict(mmseg_version="0.19.0", CLASSES=classes[::-1], PALETTE=None, iter=1)
    torch.save(dict(meta=meta, state_dict=old), tmp_path / "old.pth")
    figures = []
    for name in ("work/iter_1.pth", "old.pth"):
        folder = tmp_path / f"test {Path(name).stem}"
        output = python_tool("test.py", config, name, "--work-dir", str(folder), cwd=tmp_path)
        (report,) = folder.glob("*/*.json")
        report = json.loads(report.read_text())
        figures.append({key: report[key] for key in ("aAcc", "mIoU", "mAcc")})
        # Classes are counted the other way round there, as far as its meta tells.
        assert ("warning: the checkpoint was trained with other" in output) == (name == "old.pth")
        assert "do not match" not in output
    assert figures[0] == figures[1]

    del old["backbone.network.2.0.mlp.fc1.weight"]
    torch.save(dict(meta=meta, state_dict=old), tmp_path / "broken.pth")
    output = python_tool("test.py", config, "broken.pth", cwd=tmp_path, fails=True)
    assert "error: broken.pth: backbone.* of the checkpoint: weights in the PoolFormer" in output
    assert "1 missing: stages.1.0.mlp.fc1.weight" in output and "Traceback" not in output


def test_compile_option(data, tmp_path, monkeypatch):
    """Both tools hand the backbone to torch.compile, which is switched off here to save its time:
    tests/engine/test_compilation.py trains with it."""
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    config = write_config(tmp_path, "shapes/poolformer-s12_fpn_shapes.py", data)
    options = ["--cfg-options", "train_cfg.max_iters=2", "train_cfg.val_interval=3"]
    python_tool("train.py", config, "--compile", "--work-dir", "work", *options, cwd=tmp_path)
    output = python_tool(
        "test.py", config, "work/iter_2.pth", "--compile", "--work-dir", "test", cwd=tmp_path
    )
    assert "mIoU" in output
    for folder in ("work", "test"):
        (dumped,) = (tmp_path / folder).glob("*/vis_data/config.py")
        assert "CompileBackboneHook" in dumped.read_text()


RECORDER = """
import torch.distributed as dist
from mmengine.hooks import Hook

class Recorder(Hook):
    '''Writes the loss of each iteration, averaged over the processes.'''
    def __init__(self, path):
        self.path = path
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs['loss'].detach().clone()
        if dist.is_initialized():
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        if runner.rank == 0:
            with open(self.path, 'a') as file:
                file.write(f'{float(loss):.9f}\\n')
"""

# What differs between one batch of four and two of two is taken out: statistics over the batch,
# random augmentation, and pixels that do not count (their number would weigh the halves).
COMPARABLE = """
model['neck']['norm_cfg'] = norm_cfg
model['decode_head'] = dict(norm_cfg=norm_cfg, dropout_ratio=0.0, num_classes=8)
plain = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=False),
    dict(type='PackSegInputs'),
]
classes = [str(i) for i in range(8)]
palette = [[i, i, i] for i in range(8)]
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader['dataset'].update(
        pipeline=plain, reduce_zero_label=False, metainfo=dict(classes=classes, palette=palette))
train_cfg = dict(max_iters=10, val_interval=20)
del loader
"""


GROUP_NORMS = "norm_cfg = dict(type='GN', num_groups=4)\n"
SYNC_NORMS = (
    "norm_cfg = dict(type='SyncBN')\n"
    "model['backbone'].update(type='mmmetaformer.FFNet', inner_norm_cfg=norm_cfg)\n"
    "model['backbone']['arch'].update(dims=[8, 16, 32, 64])\n"
    "model['neck'] = dict(in_channels=[8, 16, 32, 64])\n"
)


@pytest.mark.parametrize("norms", [GROUP_NORMS, SYNC_NORMS], ids=["group_norms", "ffnet_sync_bn"])
def test_two_processes_equal_one_with_the_same_total_batch(data, tmp_path, norms):
    (tmp_path / "loss_recorder.py").write_text(RECORDER)
    losses = {}
    for processes, batch in ((1, 4), (2, 2)):
        path = tmp_path / f"losses{processes}.txt"
        recorder = f"custom_hooks = [dict(type='loss_recorder.Recorder', path={str(path)!r})]\n"
        config = write_config(
            tmp_path, "shapes/poolformer-s12_fpn_shapes.py", data, norms + COMPARABLE + recorder
        )
        options = ["--work-dir", f"work{processes}", "--cfg-options",
                   f"train_dataloader.batch_size={batch}"]  # fmt: skip
        if processes == 1:
            python_tool("train.py", config, *options, cwd=tmp_path)
        else:
            script = str(ROOT / "tools/dist_train.sh")
            call("bash", script, config, str(processes), *options, cwd=tmp_path)
        losses[processes] = [float(line) for line in path.read_text().splitlines()]
    assert len(losses[1]) == len(losses[2]) == 10
    differences = [abs(a - b) for a, b in zip(losses[1], losses[2], strict=True)]
    print(f"largest difference {max(differences):.2e} of losses {losses[1]}")
    assert max(differences) < 1e-4
    assert losses[1][-1] < losses[1][0]


def test_retinanet_leaves_no_parameter_unused_under_ddp(data, tmp_path):
    """find_unused_parameters is False: DDP itself raises at the second iteration otherwise."""
    coco = data / "coco"
    config = tmp_path / "retinanet.py"
    config.write_text(
        f"_base_ = {str(ROOT / 'configs/poolformer/retinanet_poolformer-s12_fpn_1x_coco.py')!r}\n"
        + TINY.replace("(max_iters=4, val_interval=4)", "(max_epochs=1, val_interval=2)")
        .replace("interval=2, max_keep_ckpts", "interval=1, max_keep_ckpts")
        .replace("in_channels=[8, 12, 16, 20]", "in_channels=[12, 16, 20]")
        + f"model['backbone']['init_cfg'] = None\nmodel['bbox_head'] = dict(num_classes=5)\n"
        "classes = ('circle', 'rectangle', 'triangle', 'star', 'cross')\n"
        "for loader in (train_dataloader, val_dataloader, test_dataloader):\n"
        "    loader['dataset'] = dict(metainfo=dict(classes=classes))\n"
        f"    loader['dataset']['data_root'] = {str(coco) + '/'!r}\n"
        "del loader\n"
        f"val_evaluator = dict(ann_file={str(coco / 'annotations/instances_val2017.json')!r})\n"
        "test_evaluator = val_evaluator\n"
        "train_dataloader['dataset']['pipeline'] = [\n"
        "    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),\n"
        "    dict(type='PackDetInputs')]\n"
    )
    script = str(ROOT / "tools/dist_train.sh")
    output = call(
        "bash", script, str(config), "2", "--work-dir", "work", "--auto-scale-lr", cwd=tmp_path
    )
    assert "Epoch(train) [1][4/4]" in output
    # Two processes with two images each, where the recipe has sixteen.
    assert "Scaling the original LR by 0.25" in output

    script = str(ROOT / "tools/dist_test.sh")
    checkpoint = str(tmp_path / "work/epoch_1.pth")
    options = ["--tta", "--cfg-options", "model.test_cfg.score_thr=0.0"]
    output = call("bash", script, str(config), checkpoint, "2", *options, cwd=tmp_path)
    assert "bbox_mAP:" in output


def test_distributed_failure_is_one_sentence(tmp_path):
    script = str(ROOT / "tools/dist_train.sh")
    config = str(ROOT / "configs/poolformer/poolformer-s12_fpn_8xb4-40k_ade20k-512x512.py")
    output = call("bash", script, config, "2", cwd=tmp_path, fails=True)
    assert output.count("error: train folder (img_path)") == 1
    assert "Traceback" not in output
