"""Train, evaluate and draw Mask R-CNN and Semantic FPN with PoolFormer-S12 on generated shapes.

Everything goes through the same commands that train on COCO and ADE20K. Data and results go below
the current folder, into data/ and work_dirs/.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets.shapes import generate_shapes
from ..engine.steps import choose_device, train_and_test


@dataclass(frozen=True)
class Metric:
    """A row of the table: title, key in the evaluation's report, factor to a fraction of one, and
    what the full run is expected to reach."""

    title: str
    key: str
    factor: float
    expected: float


@dataclass(frozen=True)
class Task:
    """One of the two models: what is printed, its config, the data in its format, its metrics."""

    name: str
    config: str
    data: str
    metrics: tuple[Metric, ...]


TASKS = (
    Task(
        "Mask R-CNN",
        "mask-rcnn_poolformer-s12_fpn_shapes",
        "coco",
        (
            Metric("bbox mAP", "coco/bbox_mAP", 1, 0.30),
            Metric("segm mAP", "coco/segm_mAP", 1, 0.25),
        ),
    ),
    Task(
        "Semantic FPN",
        "poolformer-s12_fpn_shapes",
        "ade",
        (Metric("mIoU", "mIoU", 0.01, 0.60),),
    ),
)

# --fast: the same path, with as few images and iterations as show that it works.
FULL_IMAGES = dict(num_train=2000, num_val=200, image_size=128)
FAST_IMAGES = dict(num_train=48, num_val=16, image_size=128)
FAST_OPTIONS = [
    "train_cfg.max_iters=20",
    "train_cfg.val_interval=20",
    "default_hooks.checkpoint.interval=20",
    "default_hooks.logger.interval=5",
    "param_scheduler.0.end=5",
    "param_scheduler.1.begin=5",
    "param_scheduler.1.end=20",
]


def main(
    argv: Sequence[str] | None = None, prog: str | None = None, folder: Path | None = None
) -> None:
    """Run the command line.

    Args:
        argv: Its arguments; None for those of the process.
        prog: How the console command calls it; None for a script.
        folder: Where data and results go; None for the current one.
    """
    parser = argparse.ArgumentParser(prog, description=__doc__)
    parser.add_argument("--fast", action="store_true", help="only see it work: under three minutes")
    args = parser.parse_args(argv)
    folder = folder or Path.cwd()
    start = time.monotonic()
    name = "shapes-fast" if args.fast else "shapes"
    images: dict[str, Any] = FAST_IMAGES if args.fast else FULL_IMAGES
    data = folder / "data" / name
    generate_shapes(data, **images)
    print(f"data {data}: {images['num_train']} images to train, {images['num_val']} held out")
    print(f"device: {choose_device()}")

    rows, sheets = [], []
    for task in TASKS:
        options = data_options(task, data / task.data) + (FAST_OPTIONS if args.fast else [])
        begin = time.monotonic()
        work_dir = folder / "work_dirs" / ("quickstart-fast" if args.fast else "quickstart")
        report, sheet = train_and_test(task.config, work_dir / task.data, options, drawn=8)
        minutes = (time.monotonic() - begin) / 60
        sheets.append(sheet)
        rows += [(task.name, metric, report[metric.key] * metric.factor, minutes)
                 for metric in task.metrics]  # fmt: skip

    print(f"\n{'model':14}{'metric':10}{'held-out':>10}{'expected':>11}{'time':>12}")
    for model, metric, value, minutes in rows:
        # A run of a few iterations has nothing to expect.
        expected = "-" if args.fast else f">= {metric.expected:.2f}"
        print(f"{model:14}{metric.title:10}{value:10.3f}{expected:>11}{minutes:8.1f} min")
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes; predictions beside the truth:")
    for sheet in sheets:
        print(f"  {sheet}")


def data_options(task: Task, data: Path) -> list[str]:
    """Point the config at the data from whatever directory this is run in."""
    options = [
        f"{split}_dataloader.dataset.data_root={data}/" for split in ("train", "val", "test")
    ]
    if task.data == "coco":
        annotations = data / "annotations" / "instances_val2017.json"
        options += [f"{split}_evaluator.ann_file={annotations}" for split in ("val", "test")]
    return options
