"""Published results against this repository: ``python tools/reproduce.py [PATTERN] [options]``.

For every published row, or those of configs that match: parameters and FLOPs in the digits
that are printed, every setting of the config against the published recipe, and, where data and
checkpoint are there, the figures by ``tools/test.py``. What could not be evaluated is shown so. The
exit status is 1 if anything differs.
"""

import argparse
import sys
from pathlib import Path

from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import run_cli
from model_zoo import reproduction
from model_zoo.reproduction import EXPLAINED, MISMATCH, Reproduction, Tolerance

FLOPS = (
    "FLOPs are what each source counts: multiply-accumulate operations (MACs), or those and\n"
    "biases, norms and pooling, as MMCV's counter (MMCV); fused: with the branches merged."
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "pattern", nargs="?", default="*", help="names of configs, e.g. '*poolformer-s12*'"
    )
    parser.add_argument("--list", action="store_true", help="only list the rows")
    parser.add_argument(
        "--data-root", type=Path, help="folder with coco, ade, cityscapes, imagenet"
    )
    parser.add_argument(
        "--checkpoints",
        type=Path,
        help="folder with trained models, each named as published or CONFIG_NAME.pth",
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/reproduce"))
    for name, value in Tolerance()._asdict().items():
        option = f"--tolerance-{name.replace('_', '-')}"
        parser.add_argument(option, type=float, default=value, help="default: %(default)s")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    rows = reproduction.published_rows(args.root, args.pattern)
    if args.list:
        print("\n".join(map(reproduction.describe, rows)))
        return
    for name in ("data_root", "checkpoints"):
        folder = getattr(args, name)
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{name.replace('_', '-')}: {folder} is not a folder")
    tolerance = Tolerance(*(getattr(args, f"tolerance_{name}") for name in Tolerance._fields))
    checks = Reproduction(args.root, args.data_root, args.checkpoints, args.work_dir, tolerance)
    reports = []
    for row in rows:
        print(f"checking {row.label}", file=sys.stderr, flush=True)
        reports.append(checks.check(row))

    print(FLOPS)
    print(f"An evaluation may differ by {tolerance}.\n")
    for row in rows:
        if row.note:
            print(f"note: {row.label}: {row.note}")
    for status in (EXPLAINED, MISMATCH):
        for note in reproduction.notes(reports, status):
            print(f"{status}: {note}")
    print(f"\n{reproduction.table(reports)}\n\n{reproduction.summary(reports)}")
    if reproduction.notes(reports, MISMATCH):
        sys.exit(1)


if __name__ == "__main__":
    run_cli(main)
