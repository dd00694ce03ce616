"""Parameters and operations of backbones: ``python tools/complexity.py ['caformer_*'] [options]``.

Counted on the meta device, so that any size of network and image takes a moment. GMACs are
multiply-accumulate operations of convolutions, matrix products and attention.
"""

import argparse

import torch

from mmmetaformer import list_archs
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.engine.complexity import count_macs, count_parameters
from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import image_size, run_cli
from mmmetaformer.variants import FAMILIES, find_variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="archs, e.g. 'caformer_*'")
    parser.add_argument("--sizes", nargs="+", type=image_size, default=[(512, 512), (800, 1280)])
    parser.add_argument(
        "--plain",
        action="store_true",
        help="without output norms and pyramid: the published network up to its classifier",
    )
    parser.add_argument(
        "--token-mixers", nargs="+", help="instead of the archs' own: one name, or one per stage"
    )
    args = parser.parse_args()
    mixers = {}
    if args.token_mixers:
        one = len(args.token_mixers) == 1
        mixers["token_mixers"] = args.token_mixers[0] if one else args.token_mixers
    names = list_archs(args.pattern)
    if not names:
        raise UserError(f"no arch matches {args.pattern!r}: see mmmetaformer.list_archs()")

    columns = [f"GMACs {height}x{width}" for height, width in args.sizes]
    print(f"| {'arch':<26} | {'parameters':>11} | {' | '.join(columns)} |")
    print(f"|{'-' * 28}|{'-' * 12}:|{'|'.join('-' * (len(c) + 1) + ':' for c in columns)}|")
    for name in names:
        structure = FAMILIES[find_variant(name)["family"]]["structure"]
        options = dict(mixers, out_norm_cfg=None) if args.plain else dict(mixers)
        if args.plain and structure == "isotropic":
            options["pyramid"] = None
        try:
            with torch.device("meta"):
                backbone = build_backbone(name, **options).eval()
        except (TypeError, ValueError) as error:
            raise UserError(f"{name}: {error}") from error
        macs = [count_macs(backbone, *image) / 1e9 for image in args.sizes]
        figures = [f"{value:>{len(c)}.2f}" for value, c in zip(macs, columns, strict=True)]
        print(f"| {name:<26} | {count_parameters(backbone):>11,} | {' | '.join(figures)} |")


if __name__ == "__main__":
    run_cli(main)
