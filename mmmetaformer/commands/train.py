"""Train a detector, a segmentor or an image classifier:
``python tools/train.py CONFIG [options]``."""

import argparse

from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import (
    add_common_arguments,
    add_compile_argument,
    compile_backbone_of,
    load_config,
    prepare_processes,
    run_cli,
)
from mmmetaformer.engine.preflight import check_config
from mmmetaformer.engine.runner import build_runner


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision (GPU)")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by the batch size over the config's base batch size",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from a checkpoint, a file or an http(s) address; without one, from the latest "
        "in the work directory",
    )
    add_compile_argument(parser)
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args, needs=("model", "train_dataloader", "train_cfg", "optim_wrapper"))
    if args.amp:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.loss_scale = "dynamic"
    if cfg.optim_wrapper.get("type") == "AmpOptimWrapper":
        require_gpu_for_amp()
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise UserError(f"--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size")
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume

    if args.compile:
        compile_backbone_of(cfg)

    check_config(cfg, splits=("train", "val"))
    use = "resume" if cfg.get("resume") else "load_from"
    cfg.custom_hooks = [
        *cfg.get("custom_hooks", []),
        dict(type="mmmetaformer.engine.hooks.CompleteCheckpointHook", use=use),
        dict(type="mmmetaformer.engine.hooks.PlainCheckpointHook"),
    ]
    prepare_processes(cfg)
    build_runner(cfg).train()


def require_gpu_for_amp() -> None:
    import torch

    if not torch.cuda.is_available():
        raise UserError("automatic mixed precision (AmpOptimWrapper) needs a GPU; none was found")


if __name__ == "__main__":
    run_cli(main)
