"""Time a backbone before and after `switch_to_deploy`, with interleaved runs in one process.

In each round either network has a few runs behind one that warms the caches; its time is their
median. Prints the medians over the rounds in milliseconds, and the median of the rounds' ratios,
which a machine that is busy with other things disturbs less than the times.

Example:
    python tools/latency.py ffnet_1 ffnet_3 --size 512x512
    python tools/latency.py ffnet_1 ffnet_3 --size 800x1344 --dtype bfloat16   # on a GPU
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import torch
from torch import nn

from benchmarking.timing import speedups, time_interleaved, wall_clock
from mmmetaformer import create_backbone, list_archs, switch_to_deploy
from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import image_size, run_cli

RUNS = 4


def run_once(model: nn.Module, image: torch.Tensor, dtype: torch.dtype) -> None:
    """One forward pass, under autocast for a dtype other than float32."""
    autocast = dtype != torch.float32  # which older versions of torch refuse as its dtype
    with torch.autocast(image.device.type, dtype if autocast else None, enabled=autocast):
        model(image)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archs", nargs="+", metavar="ARCH", help="names of list_archs()")
    parser.add_argument("--size", type=image_size, default=(512, 512), help="HEIGHTxWIDTH")
    parser.add_argument("--batch-size", type=int, default=1, help="images")
    parser.add_argument("--rounds", type=int, default=7, help="rounds behind one more")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    args = parser.parse_args()
    unknown = sorted(set(args.archs) - set(list_archs()))
    if unknown:
        raise UserError(f"unknown archs {unknown}: expected some of {list_archs()}")
    if args.rounds < 1 or args.batch_size < 1:
        raise UserError("--rounds and --batch-size must be positive")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"{args.batch_size} x {args.size[0]}x{args.size[1]}, {args.dtype}, {device} ({name})")
    print(f"{'arch':24}{'plain ms':>10}{'fused ms':>10}{'ratio':>8}")
    image = torch.randn(args.batch_size, 3, *args.size, device=device)
    for arch in args.archs:
        torch.manual_seed(0)
        plain = create_backbone(arch).to(device).eval()
        torch.manual_seed(0)
        fused = switch_to_deploy(create_backbone(arch).to(device).eval())
        dtype = getattr(torch, args.dtype)
        works = {
            name: partial(run_once, model, image, dtype)
            for name, model in (("plain", plain), ("fused", fused))
        }
        with torch.no_grad():
            times = time_interleaved(works, wall_clock, args.rounds, RUNS)
        before, after = (statistics.median(times[name]) for name in works)
        ratio = statistics.median(speedups(times["plain"], times["fused"]))
        print(f"{arch:24}{before:10.1f}{after:10.1f}{ratio:8.2f}", flush=True)


if __name__ == "__main__":
    run_cli(main)
