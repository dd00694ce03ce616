"""The console command: verbs, and what it needs for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mmmetaformer import __main__ as console

NAME = "mask-rcnn_poolformer-s12_fpn_1x_coco"
# Python with the repository and nothing that is installed, as far as imports go.
BARE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'mmengine', 'mmcv', 'numpy'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Absent())
from mmmetaformer.__main__ import main
main()
"""


def run(*command: str, cwd) -> subprocess.CompletedProcess:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *command], cwd=cwd, capture_output=True, text=True, env=env
    )


def command(*args: str, cwd) -> subprocess.CompletedProcess:
    return run("-m", "mmmetaformer", *args, cwd=cwd)


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_help_names_every_verb(args, tmp_path):
    result = run("-c", BARE, *args, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert all(f"  {verb} " in result.stdout for verb in console.VERBS)


def test_configs_without_torch(root, tmp_path):
    result = run("-c", BARE, "configs", "mask-rcnn_poolformer-s1*_1x_coco", cwd=tmp_path)
    assert result.stdout == f"{NAME}\n", result.stderr
    result = run("-c", BARE, "configs", "--path", NAME, cwd=tmp_path)
    assert result.stdout == f"{root}/configs/poolformer/{NAME}.py\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["learn"], "error: unknown verb 'learn': expected one of train, test, predict, export,"),
        (["configs", "nothing*"], "error: no config matches 'nothing*': without a pattern, all"),
        (["configs", "--path", f"{NAME}x"], f"does not exist: did you mean {NAME}"),
        (
            ["train", NAME],
            "mmmetaformer train cannot be used: torch is not installed; get it",
        ),
    ],
)
def test_one_sentence_without_torch(args, message, tmp_path):
    result = run("-c", BARE, *args, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_check_says_what_is_missing(tmp_path, monkeypatch, capsys):
    """It is the module of that name, with its options and its status."""
    monkeypatch.setattr(console.check_env, "import_modules", lambda names: ({}, {}))
    monkeypatch.setattr(sys, "argv", ["mmmetaformer", "check", "--quiet"])
    with pytest.raises(SystemExit) as status:
        console.main()
    assert status.value.code == 0 and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", NAME, "--gpus", "two"], "--gpus: expected a positive integer, got 'two'"),
        (["train", NAME], "error: train annotations 'data/coco/annotations/instances_train2017"),
        (["test", f"{NAME}x", "a.pth"], f"error: config '{NAME}x' does not exist: did you mean"),
        (["convert", "a.pth", "b.onnx", "--to", "timm"], "target must end in .pth or .safetensors"),
        (["predict", NAME, "a.pth", "a.jpg", "--out", "out"], "error: image 'a.jpg' not found"),
        (["export", NAME, "a.pth", "a.pth"], "error: the file to write must end in .onnx, got"),
    ],
)
def test_one_sentence(args, message, tmp_path):
    result = command(*args, cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1 and message in errors[0], result.stderr


@pytest.mark.parametrize("verb", [verb for verb in console.VERBS if verb != "check"])
def test_every_verb_has_help_under_its_name(verb, tmp_path):
    result = command(verb, "--help", cwd=tmp_path)
    assert result.stdout.startswith(f"usage: mmmetaformer {verb} "), result.stderr
    assert ("--gpus N" in result.stdout) == (verb in ("train", "test"))
