"""Copies of metafiles and configs to tamper with."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config


@pytest.fixture(scope="module", autouse=True)
def find_bases_once():
    """mmengine reads the whole model index of mmdet or mmseg for each of their base files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "_get_cfg_path", staticmethod(functools.cache(Config._get_cfg_path)))
        yield


@pytest.fixture
def copy(root, tmp_path) -> Path:
    """A folder with everything that is checked."""
    folder = tmp_path / "copy"
    shutil.copytree(root / "configs", folder / "configs")
    for name in ("README.md", "model-index.yml"):
        shutil.copy(root / name, folder)
    return folder


@pytest.fixture
def replace(copy) -> Callable[[str, str, str], None]:
    """Replace a text in a file of the copy."""

    def apply(file: str, old: str, new: str) -> None:
        text = (copy / file).read_text()
        assert old in text
        (copy / file).write_text(text.replace(old, new, 1))

    return apply
