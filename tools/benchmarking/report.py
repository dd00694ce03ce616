"""What is made of the figures: a table, exponents, a picture, and what machine it was."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tool_support.drawing import as_png, line_style

from .cases import Case
from .timing import spread

_PACKAGES = (
    "torch",
    "triton",
    "timm",
    "mmpretrain",
    "mmdet",
    "mmsegmentation",
    "mmengine",
    "numpy",
)
_UNITS = ("avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16")
_MIB = 2**20


@dataclass(frozen=True)
class Growth:
    """How the time of an implementation grows with the pixels.

    Attributes:
        network: The network.
        work: ``'inference'`` or ``'training'``.
        label: The implementation as on the command line, with its dtype.
        implementation: Its name, which says whose code it is.
        sizes: Height and width of the images, the smallest first.
        milliseconds: Medians.
        exponent: Exponent of the power law that fits best on logarithmic axes; 1 is linear. None
            for one size.
    """

    network: str
    work: str
    label: str
    implementation: str
    sizes: tuple[tuple[int, int], ...]
    milliseconds: tuple[float, ...]
    exponent: float | None

    @property
    def pixels(self) -> list[int]:
        """Pixels of one image of each size."""
        return [height * width for height, width in self.sizes]


def growths(cases: Sequence[Case]) -> list[Growth]:
    """One for each network, kind of work and implementation."""
    found: dict[tuple[str, str, str, str], list[tuple[tuple[int, int], float]]] = {}
    for case in cases:
        for one in case.measured:
            key = (case.network, case.work, one.implementation.label, one.implementation.name)
            found.setdefault(key, []).append((case.size, spread(one.times)["median"]))
    result = []
    for key, points in found.items():
        points = sorted(points, key=lambda point: math.prod(point[0]))
        sizes, milliseconds = zip(*points, strict=True)
        exponent = fit_exponent([math.prod(size) for size in sizes], milliseconds)
        result.append(Growth(*key, sizes, milliseconds, exponent))
    return result


def fit_exponent(pixels: Sequence[float], costs: Sequence[float]) -> float | None:
    """The exponent b of ``cost = a * pixels ** b`` by least squares of the logarithms; None if all
    sizes are the same."""
    if len(set(pixels)) < 2:
        return None
    return float(np.polyfit(np.log(pixels), np.log(costs), 1)[0])


def rows(case: Case) -> list[dict[str, Any]]:
    """A case as rows of a table."""
    return [
        {
            "implementation": one.implementation.label,
            "ms": f"{spread(one.times)['median']:.1f}",
            "quartiles": "{lower_quartile:.1f} to {upper_quartile:.1f}".format(**spread(one.times)),
            "x faster": f"{spread(one.speedups)['median']:.2f}",
            "peak MiB": _mib(one.peak_bytes),
            "saved MiB": _mib(one.saved_bytes),
            "rms difference": f"{one.difference['rms']:.1e}" if one.difference else None,
            "max": f"{one.difference['max']:.1e}" if one.difference else None,
        }
        for one in case.measured
    ]


def _mib(count: int | None) -> str | None:
    return None if count is None else f"{count / _MIB:.1f}"


def draw_growths(growths: Sequence[Growth], title: str) -> bytes:
    """Time against pixels on logarithmic axes, as PNG: a panel for each network and kind of work, a
    line for each implementation with its exponent, and a dashed one that is linear."""
    panels = list(dict.fromkeys((growth.network, growth.work) for growth in growths))
    labels = list(dict.fromkeys(growth.label for growth in growths))
    figure = Figure(figsize=(1.2 + 5.2 * len(panels), 5.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        lines = [growth for growth in growths if (growth.network, growth.work) == panel]
        for line in lines:
            _draw_line(axes, line, *line_style(labels.index(line.label)))
        _draw_axes(axes, lines[0])
        axes.set_title(", ".join(panel), fontsize=10)
        axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    return as_png(figure)


def _draw_line(axes: Axes, growth: Growth, colour: str, marker: str) -> None:
    label = growth.label
    if growth.exponent is not None:
        label += f": pixels^{growth.exponent:.3f}"
    axes.plot(
        growth.pixels,
        growth.milliseconds,
        color=colour,
        marker=marker,
        markerfacecolor="white",
        label=label,
    )


def _draw_axes(axes: Axes, first: Growth) -> None:
    pixels, top = np.array(first.pixels), first.milliseconds[-1]
    if first.exponent is not None:
        linear = top * pixels / pixels[-1]
        axes.plot(pixels, linear, color="0.6", linestyle="dashed", label="linear")
    axes.set_xscale("log")
    axes.set_yscale("log")
    names = [f"{height}x{width}" for height, width in first.sizes]
    axes.set_xticks(pixels, labels=names, rotation=45, ha="right", fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel("image, spaced by the logarithm of its pixels")
    axes.set_ylabel("ms")
    axes.grid(alpha=0.3)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, GPU, threads and versions, without which figures mean nothing."""
    machine: dict[str, Any] = dict(
        device=str(device),
        **_processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        load_average=list(os.getloadavg()),
        python=platform.python_version(),
        system=platform.system(),
        versions={name: found for name in _PACKAGES if (found := _version(name)) is not None},
    )
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine["gpu"] = dict(
            name=properties.name,
            memory_bytes=properties.total_memory,
            capability=list(torch.cuda.get_device_capability(device)),
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
            tf32_of_products=torch.backends.cuda.matmul.allow_tf32,
            tf32_of_convolutions=torch.backends.cudnn.allow_tf32,
        )
    return machine


def _processor() -> dict[str, Any]:
    """Name of the processor, and which of the units for short floats it has."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    fields = {key.strip(): value.strip() for key, _, value in (n.partition(":") for n in lines)}
    flags = fields.get("flags", "").split()
    return dict(
        processor=fields.get("model name", platform.processor()),
        units=[flag for flag in _UNITS if flag in flags],
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
