"""The wheel: what is in it, and what works with it alone, outside of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

DETECTOR = "mask-rcnn_poolformer-s12_fpn_1x_coco"
SEGMENTOR = "poolformer-s12_fpn_8xb4-40k_ade20k-512x512"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "model-index.yml")


def build(folder: Path, kind: str) -> Path:
    """Have setuptools build a ``wheel`` or ``sdist`` of a folder."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (built,) = (folder / "dist").glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def checkout(root, tmp_path_factory) -> Path:
    """A copy of the repository, links included, with what a working copy has besides."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        shutil.copy(root / name, folder)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("mmmetaformer", "configs", "tools"):
        shutil.copytree(root / name, folder / name, symlinks=True, ignore=ignore)
    for name in ("tests", "work_dirs", "data"):
        (folder / name).mkdir()
        (folder / name / "mine.py").touch()
    return folder


@pytest.fixture(scope="module")
def wheel(checkout) -> Path:
    return build(checkout, "wheel")


@pytest.fixture(scope="module")
def wheel_of_sdist(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(checkout, "sdist")) as file:
        file.extractall(folder)
    (unpacked,) = folder.iterdir()
    return build(unpacked, "wheel")


@pytest.mark.parametrize("name", ["wheel", "wheel_of_sdist"])
def test_every_file_and_no_other(name, root, request):
    archive = zipfile.ZipFile(request.getfixturevalue(name))
    found = {entry for entry in archive.namelist() if ".dist-info/" not in entry}
    expected = {f"mmmetaformer/{path.relative_to(root / 'mmmetaformer')}": path
                for path in (root / "mmmetaformer").rglob("*.py")
                if ".mim" not in path.parts}  # fmt: skip
    inside = [path for path in (root / "configs").rglob("*") if path.suffix != ".pyc"]
    files = [path for path in inside if path.is_file()]
    files += [root / "model-index.yml", root / "tools/train.py", root / "tools/test.py"]
    expected |= {f"mmmetaformer/.mim/{path.relative_to(root)}": path for path in files}
    beside = [*root.glob("mmmetaformer/constraints/*.txt"), root / "mmmetaformer/py.typed"]
    expected |= {str(path.relative_to(root)): path for path in beside}
    assert found == set(expected)
    assert all(archive.read(entry) == path.read_bytes() for entry, path in expected.items())
    suffixes = {path.suffix for path in files}
    assert suffixes == {".py", ".yml", ".md"} and "mmmetaformer/.mim/configs/recipes.yml" in found


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """The wheel, unpacked as pip does it."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture
def run(site, tmp_path):
    """Run Python with nothing of the repository, in a folder of the user's own."""

    def apply(*command: str) -> str:
        result = subprocess.run(
            [sys.executable, "-W", "ignore", *command],
            cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    return apply


def test_configs_by_name(run, site, tmp_path):
    base = f"mmmetaformer::poolformer/{DETECTOR}.py"
    (tmp_path / "mine.py").write_text(
        f"_base_ = {base!r}\nmodel = dict(neck={{**_base_.model.neck, 'out_channels': 64}})\n"
    )
    output = run(
        "-c",
        "import mmmetaformer\n"
        "from mmengine.config import Config\n"
        "from mmengine.hub import get_config\n"
        f"print(get_config({base!r}).filename)\n"
        f"print(mmmetaformer.get_config({DETECTOR!r}).filename)\n"
        "print(Config.fromfile('mine.py').model.neck.out_channels)\n",
    )
    path = str(site / f"mmmetaformer/.mim/configs/poolformer/{DETECTOR}.py")
    assert output.splitlines() == [path, path, "64"]


INFERENCERS = f"""
import torch
import mmmetaformer
from mmengine.hub import get_model
from mmdet.apis import DetInferencer
from mmseg.apis import MMSegInferencer
from mmpretrain import get_model as get_classifier

image = torch.randint(0, 256, (64, 96, 3)).byte().numpy()
for _ in range(2):  # one after the other, in one process
    for name, kind in (({DETECTOR!r}, DetInferencer), ({SEGMENTOR!r}, MMSegInferencer)):
        model = get_model(f'mmmetaformer::poolformer/{{name}}.py')
        torch.save(dict(state_dict=model.state_dict(), meta={{}}), 'mine.pth')
        inferencer = kind(name, weights='mine.pth', scope='mmmetaformer', device='cpu')
        neck = type(inferencer.model.neck).__module__
        print('@', neck, len(inferencer(image)['predictions']))
model = get_classifier(mmmetaformer.get_config('poolformer-s12_8xb128_in1k'))
print('@', type(model.backbone).__module__)
"""


def test_models_and_inferencers_by_name(run):
    """FPN is the name of two classes: each model has that of its host package."""
    lines = [line for line in run("-c", INFERENCERS).splitlines() if line.startswith("@ ")]
    assert lines == [
        *2 * ["@ mmdet.models.necks.fpn 1", "@ mmseg.models.necks.fpn 64"],
        "@ mmmetaformer.backbones.families",
    ]


def test_the_scripts_for_mim(run, site):
    for name in ("train", "test"):
        usage = run(str(site / f"mmmetaformer/.mim/tools/{name}.py"), "--help")
        # mim hands options that nobody else knows to a script that has this one.
        assert "--cfg-options" in usage and "--gpus" not in usage
