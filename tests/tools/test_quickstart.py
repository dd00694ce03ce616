"""The quickstart from end to end, as ``--fast``."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from mmmetaformer.commands import quickstart


@pytest.mark.slow
def test_fast_quickstart(tmp_path):
    """In any folder: data, training with progress, evaluation, table and pictures."""
    result = subprocess.run(
        [sys.executable, "-m", "mmmetaformer", "quickstart", "--fast"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(re.findall(r"\[20/20\] loss \d+\.\d+, 0:00:00 to go", result.stdout)) == 2
    rows = re.findall(
        r"^(?:Mask R-CNN|Semantic FPN)\s+(\S+ ?\S*)\s+(\d\.\d{3})", result.stdout, re.M
    )
    assert [title.strip() for title, _ in rows] == ["bbox mAP", "segm mAP", "mIoU"]
    assert all(0 <= float(value) <= 1 for _, value in rows)
    sheets = re.findall(r"^  (/.*predictions\.png)$", result.stdout, re.M)
    assert len(sheets) == 2
    assert all(Path(sheet).is_relative_to(tmp_path) for sheet in sheets)
    # Four rows of two images, each the truth beside the prediction.
    assert all(cv2.imread(sheet).shape == (1280, 1280, 3) for sheet in sheets)


def test_the_script_keeps_its_places(root, tmp_path, monkeypatch):
    """Data and results go below the checkout, wherever it is started."""
    places = []
    monkeypatch.setattr(quickstart, "main", lambda folder: places.append(folder))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(root / "tools/quickstart.py"), run_name="__main__")
    assert places == [root]
