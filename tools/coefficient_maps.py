"""Maps of the most active keys: ``python tools/coefficient_maps.py NETWORK ... --images PATH``.

A MetaMixer (arXiv 2406.02021) weighs values by how active each of its keys is. For chosen blocks of
each network, by default the last of each stage, this draws where the most active keys are active,
in a picture for each image, network and branch of the blocks, and writes their means, maxima and
positions as JSON. Mixers without keys, such as pooling, are named as such.
"""

import argparse
import re
from dataclasses import asdict

from instruments.coefficient_maps import (
    RANKINGS,
    KeyActivations,
    choose_sites,
    coefficient_maps,
)
from instruments.command_line import add_arguments, explaining, start
from instruments.pictures import draw_coefficients
from instruments.recording import BRANCHES
from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import OldOption, positive, run_cli

NAME = "coefficient_maps"


def block(text: str) -> tuple[int, int]:
    """A command-line argument STAGE.BLOCK, such as ``2.5`` or ``2.-1``."""
    match = re.fullmatch(r"(\d+)\.(-?\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected STAGE.BLOCK such as 2.5 or 2.-1, got {text!r}")
    return int(match.group(1)), int(match.group(2))


def describe(found: KeyActivations, size: tuple[int, int]) -> dict:
    """One mixer for the JSON file, positions on the map and as pixels of the resized image."""
    place = dict(found.site.describe(), has_coefficients=found.why_not is None)
    if found.why_not is not None:
        return dict(place, why_not=found.why_not)
    map_size = tuple(found.maps.shape[1:])
    keys = []
    for key in found.keys:
        fields = asdict(key)
        pixel = [
            int((at + 0.5) * side / sides)
            for at, side, sides in zip(key.position, size, map_size, strict=True)
        ]
        keys.append(dict(key=fields.pop("index"), **fields, pixel=pixel))
    return dict(place, map_size=map_size, num_keys=found.num_keys, keys=keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, NAME, size=(224, 224), max_images=4)
    parser.add_argument(
        "--blocks",
        nargs="+",
        type=block,
        metavar="STAGE.BLOCK",
        help="counted from 0, negative blocks from the end; the last of each stage",
    )
    parser.add_argument("--branches", nargs="+", choices=BRANCHES, default=BRANCHES, help="both")
    parser.add_argument("--halves", nargs="+", choices=BRANCHES, dest="branches", action=OldOption)
    parser.add_argument("--top", type=positive, default=4, help="keys; 4")
    parser.add_argument(
        "--by",
        choices=RANKINGS,
        default="mean",
        help="rank keys by the mean of their activity over the image, or by its maximum; mean",
    )
    args = parser.parse_args()
    session = start(args)
    for model in session.models:
        try:
            choose_sites(model.backbone, args.blocks)
        except ValueError as error:
            raise UserError(f"--blocks, {model.label}: {error}") from error

    files: dict[str, bytes] = {}
    described = []
    for model in session.models:
        with explaining(model):
            found = coefficient_maps(
                model.backbone,
                session.images(model),
                args.blocks,
                args.branches,
                args.top,
                args.by,
            )
        images = []
        for number, (picture, activations) in enumerate(zip(session.pictures, found, strict=True)):
            stem = f"{model.label}_{number}_{picture.path.stem}"
            stem = re.sub(r"[^\w.@-]+", "-", stem)
            for branch in args.branches:
                rows = [item for item in activations if item.site.branch == branch]
                title = f"{model.label}: {branch} mixers, {args.top} keys by {args.by} activity"
                if any(item.why_not is None for item in rows):
                    files[f"{stem}_{branch}.png"] = draw_coefficients(
                        title, picture.pixels, rows, args.top
                    )
            images.append(
                dict(
                    image=str(picture.path),
                    mixers=[describe(item, picture.pixels.shape[:2]) for item in activations],
                )
            )
        described.append(dict(model.describe(), images=images))
        for item in found[0]:
            if item.why_not is not None:
                print(f"{model.label}, {item.site}: {item.why_not}")

    session.write(NAME, described, files, ranked_by=args.by, top=args.top)


if __name__ == "__main__":
    run_cli(main)
