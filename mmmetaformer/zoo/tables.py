"""Tables of the zoo: a page of every family, and what is published in the main README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..engine.errors import UserError
from ..weights.catalogue import list_checkpoints
from .metafiles import Metafile

BEGIN, END = "<!-- zoo:begin -->", "<!-- zoo:end -->"
_HEADLINES = ("box AP", "mask AP", "mIoU")
_COUNTS = (
    "Parameters are those of the whole model in training. GMACs are multiply-accumulate\n"
    "operations, which papers call FLOPs as a rule: on COCO of backbone, neck and RPN or\n"
    "RetinaNet head on one image of 800x1280 (heads that look at regions are left out), else of\n"
    "the segmentor without its auxiliary head on one crop, 512x512 on ADE20K and 1024x1024 on\n"
    "Cityscapes."
)


class Row(NamedTuple):
    """Figures of one config from one place, box and mask AP together."""

    config: str
    name: str
    metrics: dict[str, float]
    published: dict[str, Any] | None
    measured: dict[str, Any] | None
    test_options: tuple[str, ...]
    protocol: str | None

    @property
    def label(self) -> str:
        """Where the figures are from and how they were evaluated, in words."""
        place = self.published["Source"] if self.published else str(self.measured["Date"])
        return f"{place}, {self.protocol}" if self.protocol else place


def rows(model: dict[str, Any]) -> list[Row]:
    """The results of a config, one row for each place they are from and way of testing."""
    found: dict[tuple, Row] = {}
    for result in model.get("Results", ()):
        published, measured = result.get("Published"), result.get("Measured")
        options = tuple(result.get("Test Options", ()))
        row = Row(
            model["Config"], model["Name"], {}, published, measured, options, result.get("Protocol")
        )
        found.setdefault((repr(published), repr(measured), options), row)
        found[repr(published), repr(measured), options].metrics.update(result["Metrics"])
    return list(found.values())


def family_page(metafile: Metafile) -> str:
    """The text of ``configs/<family>/README.md``."""
    collection = metafile.collection
    paper = collection["Paper"]
    sections = [
        f"# {collection['Name']}",
        f"<!-- Written by `python tools/zoo.py --write` from {metafile.path.name}. -->",
        f"[{paper['Title']}]({paper['URL']})",
        _COUNTS,
        "An empty cell is a result that nobody has published, or that has not been measured here "
        "yet.",
    ]
    for dataset in ("COCO", "ADE20K", "Cityscapes"):
        models = [m for m in metafile.models if m["Metadata"]["Training Data"] == dataset]
        if models:
            sections += [f"## {dataset}", _table([(m, "") for m in models], details=True)]
    networks = collection.get("ImageNet Models", ())
    if networks:
        sections += ["## ImageNet-1k", _imagenet_table(networks)]
    return "\n\n".join(sections) + "\n"


def summary(metafiles: Iterable[Metafile]) -> str:
    """What stands between the markers of the main README."""
    metafiles = list(metafiles)
    measured = sum(
        any(row.measured for row in rows(model)) for file in metafiles for model in file.models
    )
    total = sum(len(file.models) for file in metafiles)
    done = f"{measured} of {total}" if measured else f"none of {total}"
    pages = ", ".join(
        f"[{file.collection['Name']}](configs/{file.family}/README.md)" for file in metafiles
    )
    sections = [
        f"**Published** figures and where they are from; **measured** here: {done} configs.\n"
        "`python tools/reproduce.py` checks sizes and settings of these rows against the\n"
        f"publications, and the figures where checkpoints and data are there.\n\n{_COUNTS}",
    ]
    with_results = [
        (model, f"configs/{file.family}/")
        for file in metafiles
        for model in file.models
        if rows(model)
    ]
    sections.append(_table(with_results, details=False))
    sections.append(
        "All configs, with all published figures and the trained weights: " + pages + ".\n"
        "`python tools/zoo.py --write` writes these tables from the metafiles beside the configs."
    )
    return "\n\n".join(sections)


def insert(readme: str, text: str) -> str:
    """A README with a text between the markers.

    Raises:
        UserError: If the markers are not there exactly once.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise UserError(f"README.md: expected one {BEGIN} and one {END}")
    before, _, rest = readme.partition(BEGIN)
    if END not in rest:
        raise UserError(f"README.md: {END} stands before {BEGIN}")
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def _table(models: list[tuple[dict[str, Any], str]], details: bool) -> str:
    """A row for each entry; beside it the folder of its config, as seen from the page."""
    lines = [
        "| config | parameters (M) | GMACs | published | measured |",
        "|---|---:|---:|---|---|",
    ]
    for model, folder in models:
        data = model["Metadata"]
        found = rows(model)
        cells = (
            f"[{model['Name']}]({folder}{Path(model['Config']).name})",
            f"{data['Parameters'] / 1e6:.2f}",
            f"{data['FLOPs'] / 1e9:.1f}",
            "<br>".join(_cell(row, details) for row in found if row.published),
            "<br>".join(_cell(row, details) for row in found if row.measured),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(re.sub(r"  +", " ", line) for line in lines)


def _cell(row: Row, details: bool) -> str:
    """``box 37.3 (AP50 59.0), mask 34.6 (...): source``."""
    figures = ", ".join(_figures(row.metrics, details))
    if row.measured:
        made = f"{row.measured['Date']}, `{row.measured['Command']}`"
        return f"{figures}: {made}" + (f", {row.protocol}" if row.protocol else "")
    label = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", row.label)
    weights = row.published.get("Weights")
    return f"{figures}: {label}" + (f", [weights]({weights})" if weights and details else "")


def _figures(metrics: dict[str, float], details: bool) -> Iterator[str]:
    for headline in _HEADLINES:
        if headline not in metrics:
            continue
        others = {
            name.removeprefix(headline.removesuffix("AP")): value
            for name, value in metrics.items()
            if name.startswith(headline) and name != headline
        }
        text = f"{headline} {metrics[headline]}"
        if details and others:
            text += f" ({', '.join(f'{name} {value}' for name, value in others.items())})"
        yield text


def _imagenet_table(networks: list[dict[str, Any]]) -> str:
    lines = ["| network | top-1, published | source |", "|---|---|---|"]
    for network in networks:
        urls = {c.tag: c.url for c in list_checkpoints(network["Arch"])}
        figures = ", ".join(
            f"{value} ([{tag}]({urls[tag]}))" if tag in urls else f"{value} (no weights released)"
            for tag, value in network["Top 1 Accuracy"].items()
        )
        lines.append(f"| {network['Arch']} | {figures} | {network['Source']} |")
    return "\n".join(lines)
