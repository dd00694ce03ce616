"""Train a detector, a segmentor or an image classifier."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..engine.errors import UserError
from ..engine.launch import (
    add_common_arguments,
    add_compile_argument,
    add_gpus_argument,
    compile_backbone_of,
    load_config,
    prepare_processes,
    run_in_processes,
)
from ..engine.preflight import check_config
from ..engine.runner import build_runner


def parse_args(argv: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog, description=__doc__)
    parser.add_argument("config", help="file or name of a config")
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
    if prog is not None:
        add_gpus_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line.

    Args:
        argv: Its arguments; None for those of the process.
        prog: How the console command calls it; None for a script.
    """
    args = parse_args(argv, prog)
    if argv is not None and run_in_processes(args, "train", argv):
        return
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
