"""What the README shows, done from outside of the package as a reader would."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def mixer_section() -> str:
    from pathlib import Path

    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    return re.search(r"\n## Add a token mixer\n(.+?)\n## ", readme, re.DOTALL).group(1)


def test_the_tools_find_modules_of_the_current_folder(tmp_path):
    (tmp_path / "my_mixers.py").write_text("print('found')")
    code = (
        "from mmmetaformer.engine.launch import run_cli; run_cli(lambda: __import__('my_mixers'))"
    )
    # Started as a script, whose folder is not the current one.
    script = tmp_path / "tools" / "tool.py"
    script.parent.mkdir()
    script.write_text(code)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout.strip() == "found", result.stderr


def code_blocks(section: str) -> list[str]:
    return re.findall(r"```python\n(.+?)```", section, re.DOTALL)


def test_the_mixer_of_the_readme_under_mask_rcnn(mixer_section, root, tmp_path):
    """Its file and its config line, copied into a folder of the user's own: one training step."""
    mixer, line = code_blocks(mixer_section)
    assert len(mixer.splitlines()) <= 30
    (tmp_path / "my_mixers.py").write_text(mixer)
    base = root / "configs/poolformer/mask-rcnn_poolformer-s12_fpn_1x_coco.py"
    (tmp_path / "mine.py").write_text(f"_base_ = {str(base)!r}\n{line}")
    (tmp_path / "step.py").write_text(
        """
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs

cfg = Config.fromfile('mine.py')
cfg.model.backbone.init_cfg = None
init_default_scope('mmdet')
model = MODELS.build(cfg.model).train()
print([type(stage[0].token_mixer).__name__ for stage in model.backbone.stages])
batch = demo_mm_inputs(2, (3, 64, 96), num_classes=80, with_mask=True)
loss, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
loss.backward()
print(bool(loss.isfinite()), all(p.grad is not None for p in model.backbone.parameters()))
"""
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "step.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-2:] == [
        "['Pooling', 'Pooling', 'Shift', 'Shift']",
        "True True",
    ]
