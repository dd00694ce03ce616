"""Overfit a few real images: does a model learn what the files of COCO or ADE20K hold?

    python tools/overfit.py --coco data/coco
    python tools/overfit.py --ade data/ade/ADEChallengeData2016

Trains PoolFormer-S12 from scratch on a handful of images and evaluates it on the same ones, by
the same commands as whole trainings. On two CPU cores each takes some minutes. The figures say
nothing about accuracy; low ones say that annotations and images do not belong together.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import run_cli
from mmmetaformer.engine.steps import choose_device, train_and_test

WORK_DIR = Path(__file__).resolve().parents[1] / "work_dirs" / "overfit"
SPLITS = ("train", "val", "test")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coco", type=Path, help="folder with annotations/ and train2017/")
    parser.add_argument("--ade", type=Path, help="folder with images/ and annotations/")
    parser.add_argument("--images", type=int, default=4, help="number of COCO images (4)")
    args = parser.parse_args()
    if not args.coco and not args.ade:
        parser.error("one of --coco and --ade is needed")
    print(f"device: {choose_device()}")
    if args.coco:
        overfit_coco(args.coco.resolve(), args.images)
    if args.ade:
        overfit_ade(args.ade.resolve())


def overfit_coco(folder: Path, count: int) -> None:
    source = folder / "annotations" / "instances_train2017.json"
    images = next(
        (d for d in (folder / "train2017", folder / "images" / "train2017") if d.is_dir()), None
    )
    if not source.is_file() or images is None:
        raise UserError(f"{folder} has no annotations/instances_train2017.json and train2017/")
    chosen = choose_images(json.loads(source.read_text()), count)
    annotations = WORK_DIR / "coco" / "instances.json"
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps(chosen))
    names = ", ".join(image["file_name"] for image in chosen["images"])
    print(f"{len(chosen['annotations'])} objects in {names}")
    options = [f"{split}_evaluator.ann_file={annotations}" for split in ("val", "test")]
    for split in SPLITS:
        options.append(f"{split}_dataloader.dataset.ann_file={annotations}")
        options.append(f"{split}_dataloader.dataset.data_prefix.img={images}/")
    show("mask-rcnn_poolformer-s12_fpn_coco", "coco", options, ("coco/bbox_mAP", "coco/segm_mAP"))


def choose_images(content: dict, count: int) -> dict:
    """A COCO file with ``count`` images, those whose smallest object is the largest among all with
    at least two objects and no crowd region: an image reduced to the size of the config can still
    show them."""
    objects: dict[int, list[dict]] = {}
    for annotation in content["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
    fit = {
        image_id: min(annotation["area"] for annotation in annotations)
        for image_id, annotations in objects.items()
        if len(annotations) >= 2 and not any(a["iscrowd"] for a in annotations)
    }
    if len(fit) < count:
        raise UserError(f"only {len(fit)} images have two objects and no crowd; {count} are needed")
    chosen = set(sorted(fit, key=fit.get, reverse=True)[:count])
    return dict(
        images=[image for image in content["images"] if image["id"] in chosen],
        annotations=[a for a in content["annotations"] if a["image_id"] in chosen],
        categories=content["categories"],
    )


def overfit_ade(folder: Path) -> None:
    options = [f"{split}_dataloader.dataset.data_root={folder}/" for split in SPLITS]
    show("poolformer-s12_fpn_ade20k", "ade", options, ("mIoU",))


def show(config: str, name: str, options: list[str], keys: tuple[str, ...]) -> None:
    start = time.monotonic()
    report, sheet = train_and_test(config, WORK_DIR / name, options, drawn=4)
    figures = ", ".join(f"{key.split('/')[-1]} {report[key]}" for key in keys)
    print(f"{config}: {figures} on the training images, {(time.monotonic() - start) / 60:.1f} min")
    print(f"  {sheet}")


if __name__ == "__main__":
    run_cli(main)
