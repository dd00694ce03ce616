"""Training and testing as steps of something larger: progress, logs, metrics and contact sheets.
Used by the quickstart and ``tools/overfit.py``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.ops import get_compiling_cuda_version

from ..configs import find_config
from .errors import UserError

_PROGRESS = re.compile(r"Iter\(train\) (\[.*?\]).*?eta: (\S+).*?loss: (\S+)")


def choose_device() -> str:
    """Name the GPU or the CPU; without CUDA operators in mmcv a GPU cannot run detectors, and is
    hidden from the tools that are started from here on."""
    if not torch.cuda.is_available():
        return "CPU"
    if get_compiling_cuda_version() == "not available":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return "CPU (mmcv has no CUDA operators: see `mmmetaformer check`)"
    return torch.cuda.get_device_name()


def run_verb(verb: str, work_dir: Path, options: list[str], *arguments: str) -> None:
    """Run a verb of the console command; show its progress, keep its output, stop if it fails.

    Args:
        verb: ``'train'`` or ``'test'``.
        work_dir: Where it works; ``output.log`` in it holds everything that it says.
        options: ``KEY=VALUE`` pairs for ``--cfg-options``.
        *arguments: The other arguments, config first.

    Raises:
        UserError: If it fails; shows the end of its output.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    log = work_dir / "output.log"
    last: deque[str] = deque(maxlen=15)
    command = [sys.executable, "-m", "mmmetaformer", verb, *arguments, "--work-dir", str(work_dir)]
    with (
        open(log, "w") as file,
        subprocess.Popen(
            [*command, "--cfg-options", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        for line in process.stdout or ():
            file.write(line)
            last.append(line)
            progress = _PROGRESS.search(line)
            if progress:
                done, eta, loss = progress.groups()
                print(f"  {done} loss {loss}, {eta} to go", flush=True)
    if process.returncode:
        raise UserError(f"{verb} failed; its log is {log} and ends:\n{''.join(last)}")


def train_and_test(
    config: str, work_dir: Path, options: list[str], drawn: int
) -> tuple[dict[str, float], Path]:
    """Train, evaluate the last checkpoint and draw some predictions beside the truth.

    Args:
        config: File or name of a config whose ``test_dataloader`` is what is evaluated.
        work_dir: Gets ``train/``, ``test/`` and ``draw/``.
        options: ``KEY=VALUE`` pairs for ``--cfg-options``.
        drawn: Number of images to draw.

    Returns:
        The metrics, and the sheet with the drawn images.
    """
    print(f"training {find_config(config).stem}", flush=True)
    run_verb("train", work_dir / "train", options, config)
    checkpoint = (work_dir / "train" / "last_checkpoint").read_text().strip()

    print(f"evaluating {checkpoint}", flush=True)
    run_verb("test", work_dir / "test", options, config, checkpoint)
    newest = max((work_dir / "test").glob("*/*.json"), key=lambda path: path.stat().st_mtime)
    # Everything is evaluated above; drawing every image would take longer than that.
    few = [*options, f"test_dataloader.dataset.indices={drawn}"]
    pictures = work_dir / "draw" / "pictures"
    run_verb("test", work_dir / "draw", few, config, checkpoint, "--show-dir", str(pictures))
    sheet = work_dir / "predictions.png"
    draw_sheet(pictures, sheet, drawn)
    return json.loads(newest.read_text()), sheet


def draw_sheet(folder: Path, target: Path, count: int, columns: int = 2, width: int = 640) -> None:
    """Put drawn images, each the truth on the left and the prediction on the right, on one sheet.

    Args:
        folder: Where ``mmmetaformer test --show-dir`` has drawn.
        target: The sheet, a PNG.
        count: Number of images at most.
        columns: Images in a row.
        width: Width of each image on the sheet, in pixels.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))
    if not paths:
        raise UserError(f"no pictures were drawn in {folder}")
    images: list[Any] = [cv2.imread(str(path)) for path in paths[:count]]
    scaled = [
        cv2.resize(
            image, (width, width * image.shape[0] // image.shape[1]), interpolation=cv2.INTER_CUBIC
        )
        for image in images
    ]
    height = max(image.shape[0] for image in scaled)
    sheet = np.full((-(-len(scaled) // columns) * height, columns * width, 3), 255, np.uint8)
    for index, image in enumerate(scaled):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + image.shape[0], left : left + width] = image
    cv2.imwrite(str(target), sheet)
