"""Where mmengine finds the configs behind ``mmmetaformer::`` and ``mmseg::``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmmetaformer import _scopes

OURS, THEIRS = "import mmmetaformer\n", "import mmengine.config.utils as table\n"


def run(code: str, *options: str, cwd: Path, **env: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", *options, "-c", code],
        cwd=cwd, capture_output=True, text=True, env={**os.environ, **env},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("imports", [OURS + THEIRS, THEIRS + OURS])
def test_before_and_after_mmengine(imports, tmp_path):
    code = imports + (
        "import sys\n"
        "print(table.MODULE2PACKAGE['mmmetaformer'])\n"
        "print(any('_scopes' in str(finder) for finder in sys.meta_path))\n"
    )
    assert run(code, cwd=tmp_path) == "mmmetaformer.version\nFalse\n"


@pytest.mark.parametrize(
    ("installed", "package"),
    [
        ({"mmsegmentation"}, "mmsegmentation"),
        ({"mmsegmentation", "onedl-mmsegmentation"}, "mmsegmentation"),
        ({"onedl-mmsegmentation"}, "onedl-mmsegmentation"),
        (set(), "mmsegmentation"),
    ],
)
def test_mmseg_of_either_stack(installed, package, monkeypatch):
    monkeypatch.setattr(_scopes, "_is_installed", installed.__contains__)
    module = SimpleNamespace(MODULE2PACKAGE=dict(mmseg="mmsegmentation", mmdet="mmdet"))
    _scopes.complete_table(module)
    assert module.MODULE2PACKAGE == dict(
        mmseg=package, mmdet="mmdet", mmmetaformer="mmmetaformer.version"
    )


@pytest.fixture
def onedl(tmp_path) -> Path:
    """The installed packages, mmseg under the name of the other distribution."""
    site = tmp_path / "site"
    site.mkdir()
    folders = [Path(path) for path in sys.path if path.endswith("-packages")]
    for entry in (entry for folder in folders for entry in folder.iterdir()):
        if not entry.name.startswith("mmsegmentation-") and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    if not list(site.glob("onedl_mmsegmentation-*")):
        info = site / "onedl_mmsegmentation-1.4.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: onedl-mmsegmentation\nVersion: 1.4.2\n"
        )
        (info / "top_level.txt").write_text("mmseg\n")
    return site


def test_configs_beside_onedl_without_an_import_of_ours(onedl, root, tmp_path):
    """As mmseg's own tools read them; of every config with a base of mmseg's."""
    paths = [
        path for path in sorted((root / "configs").rglob("*.py")) if "mmseg::" in path.read_text()
    ]
    assert len(paths) == 5
    (tmp_path / "plain.py").write_text("_base_ = 'mmseg::_base_/default_runtime.py'\n")
    code = (
        "import sys\n"
        "from mmengine.config import Config\n"
        "try:\n"
        "    Config.fromfile('plain.py')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n"
        "assert 'mmmetaformer' not in sys.modules\n"
        f"Config.fromfile({str(paths[-1])!r})\n"
    )
    # -S: without the folders of installed packages.
    path = os.pathsep.join([str(onedl), str(root)])
    assert run(code, "-S", cwd=tmp_path, PYTHONPATH=path) == "ModuleNotFoundError\n"
    code = (
        "from mmengine.config import Config\n"
        f"for path in {[str(path) for path in paths]!r}:\n"
        "    Config.fromfile(path)\n"
        "print('read')\n"
    )
    assert run(code, "-S", cwd=tmp_path, PYTHONPATH=path) == "read\n"
