"""Drawing what the instruments measure. Each function returns a PNG as bytes.

Magma rises evenly in brightness and can be read with any colour vision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tool_support.drawing import as_png, line_style

from .activation_sparsity import LayerSparsity
from .coefficient_maps import KeyActivations
from .effective_receptive_field import Area

_ON_DARK = "#56B4E9"
# Contributions below a thousandth of the largest are black.
_DECADES = 3


def _without_ticks(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])


def draw_receptive_fields(
    fields: Mapping[str, Mapping[int, tuple[np.ndarray, Sequence[Area]]]],
    strides: Mapping[str, Mapping[int, int]],
) -> bytes:
    """Effective receptive fields: a row for each model, a column for each stage.

    Brightness is ``log10(1 + 1000 c / max c)`` of the contributions c: all maps use the whole
    scale, whatever the size of the gradients. Frames are the two largest areas.

    Args:
        fields: For each model and stage the contributions (H, W) and their areas, the shares in
            ascending order.
        strides: For each model and stage the stride of its map.
    """
    stages = sorted({stage for found in fields.values() for stage in found})
    anything, areas = next(iter(next(iter(fields.values())).values()))
    framed = [area.share for area in areas[-2:]]
    side = 2.9
    tall = side * anything.shape[0] / anything.shape[1]
    figure = Figure(
        figsize=(side * len(stages) + 1.6, (tall + 0.8) * len(fields) + 1.2), layout="compressed"
    )
    grid = figure.subplots(len(fields), len(stages), squeeze=False)
    for row, (model, found) in zip(grid, fields.items(), strict=True):
        for axes, stage in zip(row, stages, strict=True):
            if stage not in found:
                axes.text(0.5, 0.5, "not emitted", ha="center", va="center")
                axes.set_axis_off()
                continue
            contributions, areas = found[stage]
            shown = axes.imshow(
                _brightness(contributions / contributions.max()), cmap="magma", vmin=0, vmax=1
            )
            for area, style in zip(reversed(areas), ("solid", "dashed"), strict=False):
                axes.add_patch(_frame(area, style))
            ratios = [f"{area.share:.0%} in r = {area.ratio:.2%}" for area in areas[-2:]]
            axes.set_title(
                "\n".join([f"stage {stage}, stride {strides[model][stage]}", *ratios]), fontsize=9
            )
            axes.tick_params(labelsize=8)
        row[0].set_ylabel(f"{model}\npixels", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("pixels", fontsize=10)
    bar = figure.colorbar(shown, ax=grid, shrink=0.8, pad=0.02, aspect=30)
    ticks = [0, *(10.0**-power for power in range(_DECADES, -1, -1))]
    bar.set_ticks([_brightness(tick) for tick in ticks], labels=[f"{tick:g}" for tick in ticks])
    bar.set_label("contribution to the central position, over the largest")
    styles = zip(("solid", "dashed"), reversed(framed), strict=False)
    held = ", ".join(f"{style} {share:.0%}" for style, share in styles)
    figure.suptitle(
        f"Effective receptive fields; frames hold a share of all contributions: {held}",
        fontsize=11,
    )
    return as_png(figure)


def _brightness(contributions: np.ndarray | float) -> np.ndarray | float:
    """Brightness, 0 to 1, of contributions over the largest."""
    return np.log10(1 + 10**_DECADES * contributions) / np.log10(1 + 10**_DECADES)


def _frame(area: Area, style: str) -> Rectangle:
    return Rectangle(
        (area.left - 0.5, area.top - 0.5),
        area.columns,
        area.rows,
        fill=False,
        edgecolor=_ON_DARK,
        linestyle=style,
        linewidth=1.2,
    )


def draw_coefficients(
    title: str, pixels: np.ndarray, rows: Sequence[KeyActivations], top: int
) -> bytes:
    """The most active keys over an image: a row for each mixer, a column for each key.

    Args:
        title: Above everything.
        pixels: The image, RGB (H, W, 3) in uint8.
        rows: One for each mixer; one without keys becomes a line of text.
        top: Number of columns.
    """
    height, width = pixels.shape[:2]
    side = 2.2
    tall, flat = side * height / width + 0.65, 0.6
    heights = [flat if found.why_not else tall for found in rows]
    figure = Figure(figsize=(side * (top + 1) + 1.2, sum(heights) + 0.9), layout="compressed")
    grid = figure.subplots(
        len(rows), top + 1, squeeze=False, gridspec_kw=dict(height_ratios=heights)
    )
    grey = pixels.mean(axis=2)
    for axes_row, found in zip(grid, rows, strict=True):
        site = found.site
        name = f"block {site.stage}.{site.block} (stage {site.stage})"
        if found.why_not:
            for axes in axes_row:
                axes.set_axis_off()
            note = f"{name}: {found.why_not}"
            # Runs across the whole row, and must not widen the first column.
            axes_row[0].text(0, 0.5, note, va="center", fontsize=10).set_in_layout(False)
            continue
        axes_row[0].imshow(pixels)
        axes_row[0].set_title(f"{name}\n{site.mixer_name}, {found.num_keys} keys", fontsize=9)
        _without_ticks(axes_row[0])
        rows_of_map, columns_of_map = found.maps.shape[1:]
        axes_row[0].set_ylabel(f"map {rows_of_map}x{columns_of_map}", fontsize=9)
        limit = max(key.max_activity for key in found.keys) or 1.0
        shown = None
        for axes, key, activity in zip(axes_row[1:], found.keys, found.maps, strict=False):
            axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
            shown = axes.imshow(
                activity.numpy(),
                cmap="magma",
                vmin=0,
                vmax=limit,
                alpha=0.65,
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                interpolation="nearest",
            )
            row, column = key.position
            axes.plot(
                (column + 0.5) * width / columns_of_map - 0.5,
                (row + 0.5) * height / rows_of_map - 0.5,
                marker="o",
                markersize=9,
                markerfacecolor="none",
                markeredgecolor=_ON_DARK,
                markeredgewidth=1.8,
            )
            axes.set_title(f"{key.name}\nmean {key.mean:.2g}, max {key.max:.2g}", fontsize=9)
            _without_ticks(axes)
        for axes in axes_row[1 + len(found.keys) :]:
            axes.set_axis_off()
        bar = figure.colorbar(shown, ax=list(axes_row), pad=0.01, aspect=14)
        bar.solids.set_alpha(1)
        bar.formatter.set_powerlimits((-2, 3))
        bar.set_label("activity |c - c0|", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    figure.suptitle(f"{title}\nrings: where the activity is largest", fontsize=11)
    return as_png(figure)


def draw_sparsity(
    models: Mapping[str, Sequence[LayerSparsity]], branches: Sequence[str], threshold: float
) -> bytes:
    """Sparsity by layer: a row for each branch of the blocks, a column for each measure, a curve
    for each model. The first block of each stage has a filled marker.

    Args:
        models: The layers of each.
        branches: ``'token'``, ``'channel'`` or both.
        threshold: What the second measure is relative to.
    """
    measures = dict(
        not_positive="scores that are zero or less",
        inactive=f"coefficients |c - c0| up to {threshold:g} of their RMS",
    )
    figure = Figure(figsize=(11, 3.9 * len(branches) + 0.9), layout="constrained")
    grid = figure.subplots(len(branches), len(measures), squeeze=False, sharex=True, sharey=True)
    for row, branch in zip(grid, branches, strict=True):
        for axes, (measure, title) in zip(row, measures.items(), strict=True):
            for number, (model, layers) in enumerate(models.items()):
                _draw_curve(
                    axes, number, model, [x for x in layers if x.site.branch == branch], measure
                )
            axes.set_title(f"{branch} mixers: {title}", fontsize=10)
            axes.set_ylim(-0.03, 1.03)
            axes.grid(alpha=0.3)
            axes.xaxis.get_major_locator().set_params(integer=True)
        row[0].set_ylabel("share")
    for axes in grid[-1]:
        axes.set_xlabel("layer (block of the network)")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    figure.suptitle("Activation sparsity (filled markers: first block of a stage)", fontsize=11)
    return as_png(figure)


def _draw_curve(
    axes: Axes, number: int, model: str, layers: Sequence[LayerSparsity], measure: str
) -> None:
    """One curve; layers without the measure leave a gap, and a model without any a note."""
    values = [getattr(layer, measure) for layer in layers]
    there = any(value is not None for value in values)
    first = [layer.site.layer for layer in layers if layer.site.block == 0]
    x = [layer.site.layer for layer in layers]
    y = [np.nan if value is None else value for value in values]
    colour, marker = line_style(number)
    axes.plot(x, y, color=colour, marker=marker, markerfacecolor="white", markersize=6, label=model)
    starts = [(a, b) for a, b in zip(x, y, strict=True) if a in first]
    axes.plot(*zip(*starts, strict=True), linestyle="", color=colour, marker=marker, markersize=7)
    if not there:
        axes.text(
            0.02,
            0.94 - 0.07 * number,
            f"{model}: nothing to measure",
            transform=axes.transAxes,
            color=colour,
            bbox=dict(facecolor="white", edgecolor="none", pad=1.5),
        )
