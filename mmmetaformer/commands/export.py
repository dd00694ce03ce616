"""Write the backbone of a trained model, or of a published file, as ONNX for images of any size.

It is folded for prediction first, and compared with onnxruntime before the file is there. Images
are what the model's data_preprocessor makes of them; the outputs are the maps of the backbone.

Example:
    mmmetaformer export CONFIG work_dirs/.../epoch_12.pth backbone.onnx --size 800x1344
"""

from __future__ import annotations

import argparse
import inspect
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbones.base import Backbone
from ..engine.errors import UserError
from ..engine.launch import check_sides, image_size, warn
from ..layers import switch_to_deploy
from ..weights import load_pretrained
from .convert import backbone_of

# Of a map's standard deviation; float32 gives some 1e-5.
TOLERANCE = 1e-3


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line; arguments as of :func:`mmmetaformer.commands.train.main`."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="file or name of a config")
    parser.add_argument("checkpoint", help="checkpoint, a file or an http(s) address")
    parser.add_argument("out", help="file to write, .onnx")
    parser.add_argument(
        "--size", type=image_size, default=(512, 512), help="of the image to trace with (512x512)"
    )
    args = parser.parse_args(argv)
    check_sides("--size", args.size)
    target = Path(args.out)
    if target.suffix != ".onnx":
        raise UserError(f"the file to write must end in .onnx, got {args.out!r}")
    if not target.absolute().parent.is_dir():
        raise UserError(f"folder {str(target.absolute().parent)!r} does not exist")
    _require_packages()

    backbone = backbone_of(args.config, device="cpu")
    new = load_pretrained(backbone, args.checkpoint).conversion.new
    if new:
        warn(f"not in the checkpoint, so as initialised: {', '.join(new)}")
    switch_to_deploy(backbone.eval())
    # Under another name until it is whole and right.
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        write(backbone, args.size, partial)
        difference = compare(backbone, args.size, partial)
        relation = f"{difference:.1e} of their standard deviation"
        if not difference < TOLERANCE:
            raise UserError(f"onnxruntime's maps differ by {relation}")
        os.replace(partial, target)
    except OSError as error:
        raise UserError(f"cannot write {args.out!r}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    print(f"wrote {target}: under onnxruntime, maps within {relation}")


def _require_packages() -> None:
    for name in ("onnx", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise UserError(f"export needs {name}: pip install onnx onnxruntime") from error


def write(backbone: Backbone, size: tuple[int, int], path: Path) -> None:
    """Write a backbone in eval mode as ONNX, with any batch, height and width.

    Args:
        backbone: It.
        size: Height and width of the image (1, 3, H, W) that it is traced with.
        path: The file.
    """
    names = [f"map{index}" for index in range(len(backbone.out_channels))]
    axes = {0: "batch", 2: "height", 3: "width"}
    own = ({axis: f"{name}_{text}" if axis else text for axis, text in axes.items()}
           for name in names)  # fmt: skip
    # The exporter by tracing, which needs no more packages and is the only one of old versions.
    known = inspect.signature(torch.onnx.export).parameters
    options: dict[str, Any] = dict(dynamo=False) if "dynamo" in known else {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            backbone,
            (torch.zeros(1, 3, *size),),
            str(path),
            input_names=["image"],
            output_names=names,
            dynamic_axes={"image": axes, **dict(zip(names, own, strict=True))},
            opset_version=17,
            **options,
        )


def compare(backbone: Backbone, size: tuple[int, int], path: Path) -> float:
    """The largest difference of a file's maps from the backbone's, over the standard deviation of a
    map, on two random images of another size."""
    import onnxruntime

    height, width = size
    images = torch.randn(2, 3, height + 40, width + 24, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(value) for value in session.run(None, {"image": images.numpy()})]
    with torch.no_grad():
        expected: Sequence[Tensor] = backbone(images)
    return max(
        float((ours - theirs).abs().max() / ours.std()) if ours.shape == theirs.shape else torch.inf
        for ours, theirs in zip(expected, found, strict=True)
    )
