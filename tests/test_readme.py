"""What the README shows, done from outside of the package as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmmetaformer import MODELS, create_backbone
from mmmetaformer.metamixer import StaticMetaMixer
from mmmetaformer.mixers import Attention, FFNifiedAttention


def code_blocks(root: Path, title: str, language: str = "python") -> list[str]:
    """The Python blocks of a section or subsection, or those of another language."""
    readme = (root / "README.md").read_text()
    section = re.search(rf"\n##+ {title}\n(.+?)\n##+ ", readme, re.DOTALL).group(1)
    return re.findall(rf"```{language}\n(.+?)```", section, re.DOTALL)


def values(block: str) -> dict:
    """What a config of the README assigns."""
    names: dict = {}
    exec(block, names)
    del names["__builtins__"]
    return names


def test_the_tools_find_modules_of_the_current_folder(root, tmp_path):
    (tmp_path / "my_mixers.py").write_text("from torch import nn\nclass Mine(nn.Identity): ...\n")
    command = [sys.executable, "-W", "ignore", root / "tools/complexity.py", "poolformer_s12"]
    result = subprocess.run(
        [*command, "--token-mixers", "my_mixers.Mine"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "| poolformer_s12 " in result.stdout


def test_the_mixer_of_the_readme_under_mask_rcnn(root, tmp_path):
    """Its file and its config line, copied into a folder of the user's own: one training step."""
    mixer, line = code_blocks(root, "Add a token mixer")
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


def test_metamixers_of_the_readme(root):
    """A MetaMixer put together from configs, and a hybrid that keeps FFNet's own kernels."""
    composed, hybrid = (values(block)["backbone"] for block in code_blocks(root, "MetaMixer"))
    backbone = MODELS.build(composed)
    mixer = backbone.stages[2][0].token_mixer
    assert type(mixer) is StaticMetaMixer
    assert mixer.query.kernel_size == (1, 1) and mixer.key.kernel_size == (5, 5)
    assert type(mixer.act) is torch.nn.ReLU and len(mixer.value.branches) == 2
    assert len(backbone(torch.rand(1, 3, 64, 64))) == 4

    backbone = MODELS.build(hybrid)
    mixers = [stage[0].token_mixer for stage in backbone.stages]
    kinds = [FFNifiedAttention, FFNifiedAttention, Attention, Attention]
    assert [type(mixer) for mixer in mixers] == kinds
    published = create_backbone("ffnet_2", out_indices=(0, 1)).stages.state_dict()
    ours = backbone.stages[:2].state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in published.items()
    }


def test_instruments_in_python(root):
    """As the page of their folder shows."""
    page = (root / "tools/instruments/README.md").read_text()
    (block,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    found = values(block)
    assert [field.shape for field in found["fields"].values()] == 4 * [(64, 64)]
    depth = len(list(found["backbone"].numbered_blocks()))
    assert len(found["sparsity"]) == depth
    assert [len(mixers) for mixers in found["keys"]] == [8, 8]
    assert all(len(mixer.keys) == 4 for mixers in found["keys"] for mixer in mixers)


def test_every_folder_of_tools_has_a_page_that_the_readme_leads_to(root):
    readme = (root / "README.md").read_text()
    for folder in (path.parent for path in (root / "tools").glob("*/__init__.py")):
        page = folder / "README.md"
        assert page.is_file() and str(page.relative_to(root)) in readme


def test_layer_decay_of_the_readme(root):
    """lr * decay_rate ** (n + 1 - i), of which PoolFormer-S12 has n = 6 layers."""
    (block,) = code_blocks(root, "Layer-wise learning-rate decay")
    backbone = create_backbone("poolformer_s12")
    groups = build_optim_wrapper(backbone, values(block)["optim_wrapper"]).optimizer.param_groups
    rates = {name: group["lr"] for group in groups for name in group["param_names"]}
    assert rates["norm3.weight"] == 1e-4
    assert abs(rates["stages.3.0.mlp.fc1.weight"] / (1e-4 * 0.8) - 1) < 1e-9
    assert abs(rates["stages.1.0.mlp.fc1.weight"] / (1e-4 * 0.8**5) - 1) < 1e-9
    assert abs(rates["downsample_layers.0.conv.weight"] / (1e-4 * 0.8**7) - 1) < 1e-9


@pytest.mark.parametrize("wrap", [dict, lambda state: dict(model=state, args=Path("of/a/release"))])
def test_plain_tensors_of_a_trusted_file(root, tmp_path, wrap):
    (command,) = code_blocks(root, "Checkpoints", "bash")
    state = dict(a=torch.ones(2))
    torch.save(wrap(state), tmp_path / "TRUSTED.pth")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    plain = torch.load(tmp_path / "PLAIN.pth", weights_only=True)
    assert plain.keys() == state.keys() and torch.equal(plain["a"], state["a"])
