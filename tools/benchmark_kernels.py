"""Time each Triton kernel against the operators of torch that it stands for, eager and compiled.

Prints microseconds (medians), gigabytes per second of the bytes that have to move, and how many
times faster the kernel is; then the numbers of warps that Triton's search chose. Needs a GPU.

Example:
    python tools/benchmark_kernels.py --maps 8x64x200x336 8x512x25x42
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import run_cli
from mmmetaformer.fused.primitives import find_implementation

# The four stages of PoolFormer-S12 on 800x1344 in a batch of 8.
MAPS = ["8x64x200x336", "8x128x100x168", "8x320x50x84", "8x512x25x42"]
FORMATS = dict(channels_last=torch.channels_last, contiguous=torch.contiguous_format)
# Of the maps between blocks, and of the hidden maps and their gradients.
DTYPES = [
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float32, torch.float32),
]


def map_size(text: str) -> tuple[int, ...]:
    """A command-line argument BxCxHxW."""
    sides = text.split("x")
    if len(sides) != 4 or not all(side.isdigit() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"expected BxCxHxW such as {MAPS[0]}, got {text!r}")
    return tuple(map(int, sides))


def cases(
    size: tuple[int, ...], dtype: torch.dtype, hidden: torch.dtype, memory_format: Any
) -> dict[str, tuple[str, tuple, int]]:
    """By label: the primitive, its arguments, and the bytes that have to move."""

    def random_map(channels: int, dtype: torch.dtype) -> Tensor:
        shape = (size[0], channels, *size[2:])
        return torch.randn(shape, device="cuda").to(dtype).contiguous(memory_format=memory_format)

    channels = size[1]
    x, grad, n = (random_map(channels, kind) for kind in (dtype, dtype, hidden))
    z, grad_z = random_map(4 * channels, hidden), random_map(4 * channels, hidden)
    mean, rstd = find_implementation("torch").moments(x, 1e-5)
    factor = torch.randn(size[:2], device="cuda")
    gamma, number = torch.randn(channels, device="cuda"), torch.ones(1, device="cuda")
    one, one_hidden = x.nbytes, n.nbytes
    back = (x, mean, rstd, factor, None, 3)
    return {
        "moments": ("moments", (x, 1e-5), one),
        "normalize": ("normalize", (x, mean, rstd, gamma, gamma, hidden), one + one_hidden),
        "normalize backward": (
            "normalize_backward",
            (n, x, mean, rstd, gamma),
            3 * one + 2 * one_hidden,
        ),
        "pooling": ("pool_residual", (x, factor, None, 3, dtype), 2 * one),
        "pooling, moments": ("pool_residual_moments", (x, factor, None, 3, dtype, 1e-5), 2 * one),
        "pooling backward": ("pool_residual_backward", (grad, *back), 5 * one),
        "GELU": ("activate", (z, "gelu", ()), 2 * z.nbytes),
        "GELU backward": ("activate_backward", (grad_z, z, "gelu", ()), 4 * z.nbytes),
        "StarReLU backward": (
            "activate_backward",
            (grad_z, z, "star_relu", (number, number)),
            4 * z.nbytes,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", nargs="+", type=map_size, default=[map_size(m) for m in MAPS])
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise UserError("the kernels are timed on a GPU, and this machine has none")
    from triton.testing import do_bench

    from triton_kernels import device

    def microseconds(call: Callable[..., Any], arguments: tuple) -> float:
        return 1e3 * do_bench(lambda: call(*arguments), return_mode="median")

    plain, kernels = find_implementation("torch"), find_implementation("triton")
    for size, (dtype, hidden), name in itertools.product(args.maps, DTYPES, FORMATS):
        print(f"{'x'.join(map(str, size))}, {dtype}, hidden maps {hidden}, {name}")
        for label, (primitive, arguments, moved) in cases(
            size, dtype, hidden, FORMATS[name]
        ).items():
            ours = microseconds(getattr(kernels, primitive), arguments)
            eager = microseconds(getattr(plain, primitive), arguments)
            compiled = torch.compile(getattr(plain, primitive), dynamic=False)
            others = [("eager", eager), ("compiled", microseconds(compiled, arguments))]
            ratios = "".join(f"{other:>10} {time / ours:5.2f}" for other, time in others)
            print(f"  {label:20}{ours:9.1f} us{moved / ours / 1e3:7.0f} GB/s{ratios}", flush=True)
        torch._dynamo.reset()  # or it stops compiling for ever new shapes
    for name, kernel in vars(device).items():
        chosen = getattr(kernel, "cache", None)
        for key, config in chosen.items() if isinstance(chosen, dict) else ():
            print(f"{name} {key}: {config.num_warps} warps")


if __name__ == "__main__":
    run_cli(main)
