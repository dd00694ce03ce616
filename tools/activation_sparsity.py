"""Activation sparsity by layer: ``python tools/activation_sparsity.py NETWORK ... --images PATH``.

For the channel mixers of each network, and with ``--token-mixers`` for the token mixers too, the
share of scores that are not positive, and the share of coefficients that are negligible beside the
others of their layer, averaged over the images. Writes the curves of all networks as a picture, the
numbers as CSV, and both with all settings as JSON.
"""

import argparse

from instruments.activation_sparsity import THRESHOLD, activation_sparsity
from instruments.command_line import add_arguments, explaining, start
from instruments.pictures import draw_sparsity
from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import run_cli
from tool_support.results import as_csv, as_table

NAME = "activation_sparsity"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, NAME, size=(224, 224), max_images=50)
    parser.add_argument("--token-mixers", action="store_true", help="the token mixers too")
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        help="a coefficient is inactive up to this share of the layer's root mean square; 0.01",
    )
    args = parser.parse_args()
    if not 0 <= args.threshold < 1:
        raise UserError(f"--threshold {args.threshold}: expected a number from 0 to below 1")
    session = start(args)

    branches = ("token", "channel") if args.token_mixers else ("channel",)
    models, rows, described = {}, [], []
    for model in session.models:
        with explaining(model):
            layers = activation_sparsity(
                model.backbone, session.images(model), branches, args.threshold
            )
        table = [
            dict(
                model=model.label,
                **layer.site.describe(),
                not_positive=layer.not_positive,
                inactive=layer.inactive,
            )
            for layer in layers
        ]
        models[model.label] = layers
        rows += table
        described.append(
            dict(
                model.describe(),
                layers=[
                    dict(row, why_not=layer.why_not)
                    for row, layer in zip(table, layers, strict=True)
                ],
            )
        )

    print(as_table(rows))
    picture = draw_sparsity(models, branches, args.threshold)
    files = {f"{NAME}.png": picture, f"{NAME}.csv": as_csv(rows)}
    session.write(NAME, described, files, threshold=args.threshold)


if __name__ == "__main__":
    run_cli(main)
