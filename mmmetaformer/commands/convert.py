"""Bring published weights from one key layout into another.

The source is a file or address in any layout that `init_cfg=dict(type='Pretrained', ...)` takes, of
a backbone, classifier, detector or segmentor, and has to be whole; the target is a plain dict of
tensors, of the backbone and its classifier, if there is one, as .pth or .safetensors.

Example:
    mmmetaformer convert poolformer_s12.pth.tar poolformer_s12_timm.pth --to timm
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from ..backbones.base import Backbone
from ..engine.errors import UserError
from ..engine.launch import read_config, walk
from ..registry import MODELS
from ..weights import read_checkpoint
from ..weights.export import TARGETS, export


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line; arguments as of :func:`mmmetaformer.commands.train.main`."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="file or address")
    parser.add_argument("target", help="file to write, .pth or .safetensors")
    parser.add_argument("--to", choices=TARGETS, required=True, help="layout of the target")
    parser.add_argument(
        "--drop-outputs",
        action="store_true",
        help="leave out output norms and pyramids, which timm and mmpretrain do not have",
    )
    parser.add_argument(
        "--drop-classifier",
        action="store_true",
        help="leave out the classifier and the norm in front of it",
    )
    parser.add_argument(
        "--config", help="config with the backbone, where it is none of list_archs()"
    )
    args = parser.parse_args(argv)
    target = Path(args.target)
    if target.suffix not in (".pth", ".safetensors"):
        raise UserError(f"the target must end in .pth or .safetensors, got {args.target!r}")
    if not target.absolute().parent.is_dir():
        raise UserError(f"folder {str(target.absolute().parent)!r} does not exist")
    result = export(
        read_checkpoint(args.source),
        args.to,
        drop_outputs=args.drop_outputs,
        drop_classifier=args.drop_classifier,
        model=args.config and backbone_of(args.config),
    )
    weights = {name: tensor.contiguous() for name, tensor in result.state_dict.items()}
    # Under another name until it is whole.
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        if target.suffix == ".safetensors":
            from safetensors.torch import save

            # Without this note transformers and others refuse the file. (Its save_file makes one
            # that nobody else may read.)
            partial.write_bytes(save(weights, metadata=dict(format="pt")))
        else:
            torch.save(weights, partial)
        os.replace(partial, target)
    except (OSError, RuntimeError) as error:  # torch raises the latter
        raise UserError(f"cannot write {args.target!r}: {error}".split("\n")[0]) from error
    finally:
        partial.unlink(missing_ok=True)
    print(f"wrote {len(weights)} tensors in the {args.to} layout to {target}")
    if result.dropped:
        shown = ", ".join(result.dropped[:4]) + (" ..." if len(result.dropped) > 4 else "")
        print(f"left out {len(result.dropped)} of the source: {shown}")


def backbone_of(config: str, device: str = "meta") -> Backbone:
    """The backbone of a config; on the device ``'meta'`` it takes no memory.

    Raises:
        UserError: If it has none of this package, or it cannot be built.
    """
    model = read_config(config, needs=("model",)).model
    cfg = next((part["backbone"] for part in walk(model) if part.get("backbone")), None)
    if cfg is None:
        raise UserError(f"the model of config {config!r} has no backbone")
    try:
        with torch.device(device):
            backbone = MODELS.build(cfg)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the backbone of config {config!r}: {error}") from error
    if not isinstance(backbone, Backbone):
        raise UserError(f"the backbone of config {config!r} is none of mmmetaformer")
    return backbone
