"""Evaluate a detector, a segmentor or an image classifier."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..engine.errors import UserError
from ..engine.launch import (
    add_common_arguments,
    add_compile_argument,
    add_gpus_argument,
    compile_backbone_of,
    load_config,
    prepare_processes,
    run_in_processes,
    walk,
)
from ..engine.preflight import check_config
from ..engine.runner import build_runner
from ..weights import is_pretrained


def parse_args(argv: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog, description=__doc__)
    parser.add_argument("config", help="file or name of a config")
    parser.add_argument("checkpoint", help="checkpoint, a file or an http(s) address")
    parser.add_argument(
        "--out",
        help="write the predictions: a .pkl file for detection and classification, a folder of "
        "label maps for segmentation",
    )
    parser.add_argument("--show-dir", help="draw predictions beside the truth into this folder")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    add_compile_argument(parser)
    add_common_arguments(parser)
    if prog is not None:
        add_gpus_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line; arguments as of :func:`mmmetaformer.commands.train.main`."""
    args = parse_args(argv, prog)
    if argv is not None and run_in_processes(args, "test", argv):
        return
    cfg = load_config(args, needs=("model", "test_dataloader", "test_cfg", "test_evaluator"))
    cfg.load_from = args.checkpoint
    # The checkpoint holds all weights; no other file has to be there or be downloaded.
    drop_pretrained(cfg.model)
    scope = cfg.get("default_scope")

    if args.show_dir:
        draw(cfg, args.show_dir, scope)
    if args.out:
        save_predictions(cfg, args.out, scope)
    if args.tta:
        use_tta(cfg, scope)
    if args.compile:
        compile_backbone_of(cfg)
    check_config(cfg, splits=("test",))
    cfg.custom_hooks = [
        *cfg.get("custom_hooks", []),
        dict(type="mmmetaformer.engine.hooks.CompleteCheckpointHook"),
    ]

    prepare_processes(cfg)
    build_runner(cfg).test()


def drop_pretrained(model: ConfigDict) -> None:
    """Remove ``Pretrained`` initialisations, which a test would load only to overwrite them."""
    for part in walk(model):
        init_cfg = part.get("init_cfg")
        if is_pretrained(init_cfg):
            part["init_cfg"] = None
        elif isinstance(init_cfg, list | tuple):
            part["init_cfg"] = [cfg for cfg in init_cfg if not is_pretrained(cfg)]


def draw(cfg: Config, folder: str, scope: str) -> None:
    """Have the visualisation hook of the host package write to a folder."""
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise UserError("--show-dir needs default_hooks.visualization in the config")
    hook.interval = 1
    # mmdet's hook joins a relative folder to the previous result for every image.
    folder = str(Path(folder).resolve())
    if scope == "mmpretrain":
        hook.update(enable=True, out_dir=folder)
    elif scope == "mmseg":
        hook.draw = True
        cfg.visualizer.save_dir = folder
    else:
        hook.update(draw=True, test_out_dir=folder)


def save_predictions(cfg: Config, out: str, scope: str) -> None:
    """Have a metric write the predictions."""
    if scope == "mmseg":
        if Path(out).suffix:
            raise UserError(f"--out {out}: for segmentation this is a folder")
        for metric in walk(cfg.test_evaluator):
            if metric.get("type") == "IoUMetric":
                metric.update(output_dir=out, keep_results=True)
        return
    if Path(out).suffix not in (".pkl", ".pickle"):
        task = "classification" if scope == "mmpretrain" else "detection"
        raise UserError(f"--out {out}: for {task} this is a .pkl file")
    metrics = cfg.test_evaluator
    metrics = list(metrics) if isinstance(metrics, list | tuple) else [metrics]
    dump = "DumpResults" if scope == "mmpretrain" else "mmdet.DumpDetResults"
    cfg.test_evaluator = [*metrics, dict(type=dump, out_file_path=out)]


def use_tta(cfg: Config, scope: str) -> None:
    """Wrap model and pipeline for test-time augmentation, by the config's own settings or, but for
    segmentation, by the host package's default: the image and its mirror image."""
    pipeline = cfg.get("tta_pipeline")
    model = cfg.get("tta_model")
    if scope == "mmseg" and (pipeline is None or model is None):
        raise UserError("--tta: the config has no tta_model and tta_pipeline")
    if scope == "mmpretrain":
        model = model or dict(type="AverageClsScoreTTA")
    elif scope != "mmseg":
        if model is None and any("mask_head" in part for part in walk(cfg.model)):
            raise UserError("--tta: mmdet has no test-time augmentation for instance segmentation")
        model = model or dict(
            type="DetTTAModel",
            tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
        )
    if pipeline is None:
        pipeline = deepcopy(innermost(cfg.test_dataloader.dataset).pipeline)
        pack = pipeline.pop()
        if scope != "mmpretrain":
            keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
            pack["meta_keys"] = (*pack.get("meta_keys", keys), "flip", "flip_direction")
        flips = [dict(type="RandomFlip", prob=prob) for prob in (1.0, 0.0)]
        pipeline.append(dict(type="TestTimeAug", transforms=[flips, [pack]]))
    innermost(cfg.test_dataloader.dataset).pipeline = pipeline
    cfg.model = ConfigDict(**model, module=cfg.model)


def innermost(dataset: ConfigDict) -> ConfigDict:
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    return dataset
