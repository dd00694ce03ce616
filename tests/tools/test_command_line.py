"""The tools from the command line: what goes wrong is said in one sentence, and the shell
scripts start what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MASK_RCNN = "configs/shapes/mask-rcnn_poolformer-s12_fpn_shapes.py"
IMAGENET = "poolformer-s12_8xb128_in1k"  # by name
ADE = "configs/poolformer/poolformer-s12_fpn_8xb4-40k_ade20k-512x512.py"


def run(*command: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*command], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **env}
    )


def tool(name: str, *args: str) -> subprocess.CompletedProcess:
    return run(sys.executable, "-W", "ignore", f"tools/{name}", *args, CUDA_VISIBLE_DEVICES="")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train.py", "configs/shapes/mask-rcnn_poolformer_fpn_shapes.py"],
         "does not exist: did you mean mask-rcnn_poolformer-s12_fpn_shapes"),
        (["train.py", "tools"], "config 'tools' does not exist"),
        (["train.py", "README.md"], "config 'README.md'"),
        (["train.py", ADE, "--amp"], "needs a GPU"),
        (["train.py", ADE, "--cfg-options", "train_dataloader.dataset.data_root=/no/data"],
         "train folder (img_path) '/no/data/images/training' not found: see 'Data' in README"),
        (["train.py", MASK_RCNN, "--resume", "/no/such"], "checkpoint '/no/such' not found"),
        (["train.py", "configs/_base_/fpn_8xb4-40k_ade20k-512x512.py", "--cfg-options",
          "train_dataloader=None"], "has no train_dataloader: not a whole config"),
        (["test.py", MASK_RCNN, "/no/such.pth"], "checkpoint '/no/such.pth' not found"),
        (["test.py", MASK_RCNN, "README.md", "--out", "results.json"],
         "--out results.json: for detection this is a .pkl file"),
        (["test.py", ADE, "README.md", "--out", "maps.pkl"], "for segmentation this is a folder"),
        (["test.py", MASK_RCNN, "README.md", "--tta"], "no test-time augmentation for instance"),
        (["train.py", IMAGENET], "train data (data_root) 'data/imagenet' not found: see 'Data'"),
        (["train.py", IMAGENET, "--cfg-options", "train_dataloader.dataset.data_root=tests",
          "train_dataloader.dataset.data_prefix=tools", "model.head.num_classes=10"],
         "head LinearClsHead has num_classes=10, but the train data set has 1000 classes"),
        (["test.py", IMAGENET, "README.md", "--out", "scores.json"],
         "--out scores.json: for classification this is a .pkl file"),
        (["train.py", ADE, "--cfg-options", "train_dataloader.batch_size"], "takes KEY=VALUE"),
        (["train.py", ADE, "--cfg-options", "custom_hooks=[dict(a=1,b=2)]"], "cannot read"),
        (["test.py", ADE, "README.md"], "README.md cannot be read as a checkpoint: it is none"),
        (["train.py", ADE, "--cfg-options", "load_from=README.md"],
         "README.md cannot be read as a checkpoint: it is none"),
    ],
)  # fmt: skip
def test_one_clear_sentence(args, message):
    result = tool(*args)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1 and message in errors[0], result.stderr


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "tools").glob("*.sh")))
def test_shell_scripts_are_valid(script):
    assert run("bash", "-n", f"tools/{script}").returncode == 0


@pytest.mark.parametrize(
    ("script", "args"),
    [("dist_train.sh", [MASK_RCNN]), ("dist_test.sh", [MASK_RCNN, "x.pth"]),
     ("slurm_train.sh", ["part", "job", MASK_RCNN]), ("slurm_test.sh", ["part", "job"])],
)  # fmt: skip
def test_too_few_arguments(script, args):
    result = run("bash", f"tools/{script}", *args)
    assert result.returncode == 2 and "usage:" in result.stderr


def test_number_of_gpus_is_a_number():
    result = run("bash", "tools/dist_train.sh", MASK_RCNN, "two", PYTHON=sys.executable)
    assert result.returncode == 2 and "positive integer, got 'two'" in result.stderr


@pytest.fixture
def recorder(tmp_path):
    """A stand-in for python and srun that prints its arguments."""
    for name in ("python", "srun"):
        path = tmp_path / name
        path.write_text('#!/usr/bin/env bash\n[ "$1" = -c ] && exit 0\nprintf "%s\\n" "$@"\n')
        path.chmod(0o755)
    return tmp_path


def recorded(recorder: Path, *command: str, **env: str) -> list[str]:
    path = f"{recorder}{os.pathsep}{os.environ['PATH']}"
    return run("bash", *command, PATH=path, PYTHON="", **env).stdout.splitlines()


def test_dist_train_passes_options_on(recorder):
    args = recorded(
        recorder, "tools/dist_train.sh", "a b.py", "2", "--amp", "--cfg-options", "x=1 2"
    )
    assert args[:5] == ["-m", "mmmetaformer", "train", "--gpus", "2"]
    assert args[5:] == ["a b.py", "--amp", "--cfg-options", "x=1 2"]


def test_dist_test_passes_options_on(recorder):
    args = recorded(recorder, "tools/dist_test.sh", "c.py", "w.pth", "8", "--tta")
    assert args == ["-m", "mmmetaformer", "test", "--gpus", "8", "c.py", "w.pth", "--tta"]


def test_slurm(recorder):
    args = recorded(recorder, "tools/slurm_train.sh", "part", "job", "c.py", "work", "--amp",
                    GPUS="4", SRUN_ARGS="--time=1 --mem=2")  # fmt: skip
    assert args[:2] == ["-p", "part"]
    assert {"--ntasks=4", "--ntasks-per-node=4", "--gres=gpu:4", "--time=1", "--mem=2"} <= set(args)
    assert args[-6:] == ["c.py", "--work-dir", "work", "--amp", "--launcher", "slurm"]


def test_shellcheck():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    scripts = sorted(str(path) for path in (ROOT / "tools").glob("*.sh"))
    result = run("shellcheck", "-x", *scripts)
    assert result.returncode == 0, result.stdout
