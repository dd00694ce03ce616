"""Predict on images and draw what is found, by mmdet's, mmseg's or mmpretrain's inferencer.

OUT gets a folder vis/ with the pictures, and the predictions: preds/ with a JSON file each of a
detector, pred/ with a label map each of a segmentor, predictions.json of a classifier.

Example:
    mmmetaformer predict CONFIG work_dirs/.../epoch_12.pth photos/ one_more.jpg --out predictions
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader

from ..engine.errors import UserError
from ..engine.hooks import check_fit
from ..engine.launch import find_device, read_config
from ..engine.runner import as_runner_checkpoint
from ..weights import convert_classifier_state_dict, read_checkpoint

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Under this prefix inferencers get checkpoints as our other commands read them.
SCHEME = "mmmetaformer:"


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line; arguments as of :func:`mmmetaformer.commands.train.main`."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="file or name of a config")
    parser.add_argument("checkpoint", help="checkpoint, a file or an http(s) address")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="images and folders of images")
    parser.add_argument("--out", required=True, help="folder for pictures and predictions")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; a GPU where there is one")
    args = parser.parse_args(argv)
    cfg = read_config(args.config, needs=("model", "test_dataloader"))
    scope = cfg.get("default_scope")
    if scope not in PREDICTORS:
        raise UserError(f"default_scope must be one of {', '.join(PREDICTORS)}, got {scope!r}")
    device = str(find_device(args.device))
    images = find_images(args.inputs)
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: there is a file of that name, expected a folder")
    checkpoint = as_runner_checkpoint(read_checkpoint(args.checkpoint))

    init_default_scope(scope)
    MMLogger.get_current_instance().setLevel("ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PREDICTORS[scope](cfg, checkpoint, images, out, device)
    print(f"{len(images)} image{'s' * (len(images) > 1)}: pictures and predictions in {out}")


def find_images(inputs: Sequence[str]) -> list[str]:
    """The images that are named, and those in folders that are named.

    Raises:
        UserError: If one is not there or cannot be read, or two would be written to one file.
    """
    found: list[Path] = []
    for path in map(Path, inputs):
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES)
            if not inside:
                raise UserError(f"folder {str(path)!r} has no images ({', '.join(IMAGES)})")
        found += inside
    for path in found:
        if not path.is_file():
            raise UserError(f"image {str(path)!r} not found")
        if not cv2.haveImageReader(str(path)):
            raise UserError(f"{str(path)!r} is no image that OpenCV can read")
    name, count = Counter(path.stem for path in found).most_common(1)[0]
    if count > 1:
        raise UserError(f"{count} images are called {name!r}, and would be written to one file")
    return [str(path) for path in found]


def _detect(cfg: Config, checkpoint: dict, images: list[str], out: Path, device: str) -> None:
    from mmdet.apis import DetInferencer

    inferencer = _build(DetInferencer, cfg, checkpoint, device)
    inferencer(images, out_dir=str(out), no_save_pred=False)


def _segment(cfg: Config, checkpoint: dict, images: list[str], out: Path, device: str) -> None:
    from mmseg.apis import MMSegInferencer

    inferencer = _build(MMSegInferencer, cfg, checkpoint, device)
    inferencer.show_progress = False
    for image in images:  # each label map is in memory
        # Its own call would write label maps under numbers, too.
        vis = str(out / "vis")
        labels = BaseInferencer.__call__(inferencer, image, img_out_dir=vis)["predictions"]
        target = out / "pred" / f"{Path(image).stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), labels.astype("uint8"))


def _classify(cfg: Config, checkpoint: dict, images: list[str], out: Path, device: str) -> None:
    from mmpretrain import ImageClassificationInferencer, get_model

    model = get_model(cfg)
    weights = convert_classifier_state_dict(checkpoint, model)
    check_fit(model, weights)
    model.load_state_dict(weights)
    classes = (checkpoint["meta"].get("dataset_meta") or {}).get("classes")
    inferencer = ImageClassificationInferencer(model, device=device, classes=classes)
    out.mkdir(parents=True, exist_ok=True)
    results = inferencer(images, show_dir=str(out / "vis"))
    names = ("pred_label", "pred_score", "pred_class")
    content = {
        image: {name: result[name] for name in names if name in result}
        for image, result in zip(images, results, strict=True)
    }
    (out / "predictions.json").write_text(json.dumps(content, indent=2) + "\n")


PREDICTORS = {"mmdet": _detect, "mmseg": _segment, "mmpretrain": _classify}


def _build(cls: Any, cfg: Config, checkpoint: dict, device: str) -> Any:
    """mmdet's or mmseg's inferencer with the checkpoint, which fills its model."""
    CheckpointLoader.register_scheme(SCHEME, lambda *args, **kwargs: checkpoint, force=True)
    # Without a device of its own mmseg leaves SyncBN, which the CPU refuses.
    inferencer = cls(cfg, weights=SCHEME, device=device)
    check_fit(inferencer.model, checkpoint["state_dict"])
    return inferencer
