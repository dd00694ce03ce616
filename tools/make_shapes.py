"""Write the synthetic shapes data set in the formats of COCO instances and ADE20K.

Example:
    python tools/make_shapes.py data/shapes --num-train 500 --num-val 100
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mmmetaformer.datasets.shapes import generate_shapes


def _side(text: str) -> int | tuple[int, int]:
    """Read ``160`` or a range ``128-192``."""
    parts = text.split("-")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a range like 128-192")
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", help="folder of the data set: new, empty or a shapes data set")
    parser.add_argument("--num-train", type=int, default=500, help="training images (500)")
    parser.add_argument("--num-val", type=int, default=100, help="validation images (100)")
    parser.add_argument(
        "--image-size",
        type=_side,
        nargs="+",
        default=[160],
        metavar="SIDE",
        help="the side of square images or HEIGHT WIDTH; each a number or a range LOW-HIGH (160)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all randomness (0)")
    parser.add_argument("--max-shapes", type=int, default=6, help="most shapes per image (6)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a shapes data set of other arguments"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for anything the user can mend."""
    args = _parser().parse_args(argv)
    if len(args.image_size) > 2:
        print("error: --image-size takes one side or HEIGHT WIDTH, not more", file=sys.stderr)
        return 2
    # One side means square images, but two independent draws if it is a range.
    args.image_size = (args.image_size[0], args.image_size[-1])
    try:
        summary = generate_shapes(**vars(args))
    except (OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = ", ".join(
        f"{split}: {summary['images'][split]} images with {summary['instances'][split]} instances "
        f"and {summary['crowds'][split]} crowds"
        for split in summary["images"]
    )
    print(f"{'reused' if summary['reused'] else 'wrote'} {summary['root']} ({counts})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
