"""Effective receptive fields:
``python tools/effective_receptive_field.py NETWORK ... --images PATH``.

For each stage the contribution of each pixel to the centre of the map, averaged over the images, as
RepLKNet (arXiv 2203.06717) measures it, and the area ratios r of the smallest centred rectangles
that hold a share t of all contributions. Writes a picture of all networks, the table as CSV, and
both with all settings as JSON.
"""

import argparse

import torch

from instruments.command_line import add_arguments, explaining, start
from instruments.effective_receptive_field import (
    SHARES,
    contribution_areas,
    effective_receptive_fields,
    measured_pixels,
)
from instruments.pictures import draw_receptive_fields
from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import run_cli
from tool_support.results import as_csv, as_table

NAME = "effective_receptive_field"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, NAME, size=(512, 512), max_images=50)
    parser.add_argument(
        "--stages", nargs="+", type=int, help="stages, 0 to 3; all that a network emits"
    )
    parser.add_argument(
        "--shares", nargs="+", type=float, default=SHARES, help="shares t; 0.2 0.3 0.5 0.99"
    )
    args = parser.parse_args()
    if not all(0 < share <= 1 for share in args.shares):
        raise UserError(f"--shares {' '.join(map(str, args.shares))}: each must be in (0, 1]")
    session = start(args)
    for model in session.models:
        absent = set(args.stages or ()) - set(model.backbone.out_indices)
        if absent:
            raise UserError(
                f"--stages: {model.label} does not emit stage {min(absent)}, only "
                f"{model.backbone.out_indices}"
            )

    shares = sorted(set(args.shares))
    rows, lines, fields, strides, described = [], [], {}, {}, []
    for model in session.models:
        label, backbone = model.label, model.backbone
        with explaining(model):
            found = effective_receptive_fields(backbone, session.images(model), args.stages)
            centres = measured_pixels(backbone, args.size)
            areas = {
                stage: contribution_areas(field, shares, centres[stage])
                for stage, field in found.items()
            }
            logarithmic = {
                stage: contribution_areas(torch.log10(field + 1), shares, centres[stage])
                for stage, field in found.items()
            }
        strides[label] = dict(zip(backbone.out_indices, backbone.out_strides, strict=True))
        stages = sorted(found)
        fields[label] = {stage: (found[stage].numpy(), areas[stage]) for stage in stages}
        table = [
            dict(
                model=label,
                stage=stage,
                stride=strides[label][stage],
                share=area.share,
                rows=area.rows,
                columns=area.columns,
                area_ratio=area.ratio,
                area_ratio_of_log=of_log.ratio,
            )
            for stage in stages
            for area, of_log in zip(areas[stage], logarithmic[stage], strict=True)
        ]
        rows += table
        lines += [
            dict(
                model=label,
                stage=stage,
                stride=strides[label][stage],
                **{f"r of {area.share:.0%}": f"{area.ratio:.2%}" for area in areas[stage]},
            )
            for stage in stages
        ]
        described.append(dict(model.describe(), areas=table))

    print(as_table(lines))
    picture = draw_receptive_fields(fields, strides)
    files = {f"{NAME}.png": picture, f"{NAME}.csv": as_csv(rows)}
    session.write(NAME, described, files, shares=shares)


if __name__ == "__main__":
    run_cli(main)
