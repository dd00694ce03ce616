"""Evaluate a detector or a segmentor: ``python tools/test.py CONFIG CHECKPOINT [options]``."""

import argparse
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import (
    add_common_arguments,
    load_config,
    prepare_processes,
    run_cli,
    walk,
)
from mmmetaformer.engine.preflight import check_config
from mmmetaformer.weights import allow_mmengine_checkpoints, is_pretrained


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--out",
        help="write the predictions: a .pkl file for detection, a folder of label maps for "
        "segmentation",
    )
    parser.add_argument("--show-dir", help="draw predictions beside the truth into this folder")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args, needs=("model", "test_dataloader", "test_cfg", "test_evaluator"))
    cfg.load_from = args.checkpoint
    # The checkpoint holds all weights; no other file has to be there or be downloaded.
    drop_pretrained(cfg.model)
    segmentation = cfg.get("default_scope") == "mmseg"

    if args.show_dir:
        draw(cfg, args.show_dir, segmentation)
    if args.out:
        save_predictions(cfg, args.out, segmentation)
    if args.tta:
        use_tta(cfg, segmentation)
    check_config(cfg, splits=("test",))
    cfg.custom_hooks = [
        *cfg.get("custom_hooks", []),
        dict(type="mmmetaformer.engine.hooks.CompleteCheckpointHook"),
    ]

    allow_mmengine_checkpoints()
    prepare_processes(cfg)
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    runner.test()


def drop_pretrained(model: ConfigDict) -> None:
    """Remove ``Pretrained`` initialisations, which a test would load only to overwrite them."""
    for part in walk(model):
        init_cfg = part.get("init_cfg")
        if is_pretrained(init_cfg):
            part["init_cfg"] = None
        elif isinstance(init_cfg, list | tuple):
            part["init_cfg"] = [cfg for cfg in init_cfg if not is_pretrained(cfg)]


def draw(cfg: Config, folder: str, segmentation: bool) -> None:
    """Have the visualisation hook of mmdet or mmseg write to a folder."""
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise UserError("--show-dir needs default_hooks.visualization in the config")
    hook.draw = True
    hook.interval = 1
    # mmdet's hook joins a relative folder to the previous result for every image.
    folder = str(Path(folder).resolve())
    if segmentation:
        cfg.visualizer.save_dir = folder
    else:
        hook.test_out_dir = folder


def save_predictions(cfg: Config, out: str, segmentation: bool) -> None:
    """Have a metric of mmdet or mmseg write the predictions."""
    if not segmentation:
        if Path(out).suffix not in (".pkl", ".pickle"):
            raise UserError(f"--out {out}: for detection this is a .pkl file")
        metrics = cfg.test_evaluator
        metrics = list(metrics) if isinstance(metrics, list | tuple) else [metrics]
        cfg.test_evaluator = [*metrics, dict(type="mmdet.DumpDetResults", out_file_path=out)]
    else:
        if Path(out).suffix:
            raise UserError(f"--out {out}: for segmentation this is a folder")
        for metric in walk(cfg.test_evaluator):
            if metric.get("type") == "IoUMetric":
                metric.update(output_dir=out, keep_results=True)


def use_tta(cfg: Config, segmentation: bool) -> None:
    """Wrap model and pipeline for test-time augmentation, by the config's own settings or, for
    detection, by mmdet's default: the image and its mirror image."""
    pipeline = cfg.get("tta_pipeline")
    model = cfg.get("tta_model")
    if segmentation and (pipeline is None or model is None):
        raise UserError("--tta: the config has no tta_model and tta_pipeline")
    if not segmentation:
        if model is None and any("mask_head" in part for part in walk(cfg.model)):
            raise UserError("--tta: mmdet has no test-time augmentation for instance segmentation")
        model = model or dict(
            type="DetTTAModel",
            tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
        )
        if pipeline is None:
            pipeline = deepcopy(innermost(cfg.test_dataloader.dataset).pipeline)
            pack = pipeline.pop()
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


if __name__ == "__main__":
    run_cli(main)
