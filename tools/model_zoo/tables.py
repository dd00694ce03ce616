"""Tables of the zoo: a page of every family, and what is published in the main README."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mmmetaformer.engine.errors import UserError

from .metafiles import Metafile

BEGIN, END = "<!-- zoo:begin -->", "<!-- zoo:end -->"
# By the metrics of metafiles, what tables call them.
HEADLINES = {"box AP": "box AP", "mask AP": "mask AP", "mIoU": "mIoU", "Top 1 Accuracy": "top-1"}
_DENSE = ("COCO", "ADE20K", "Cityscapes")
CLASSIFICATION = "ImageNet-1k"
_COUNTS = (
    "Parameters are those of the whole model in training. GMACs are multiply-accumulate\n"
    "operations, which papers call FLOPs as a rule: on COCO of backbone, neck and RPN or\n"
    "RetinaNet head on one image of 800x1280 (heads that look at regions are left out), else of\n"
    "the segmentor without its auxiliary head on one crop, 512x512 on ADE20K and 1024x1024 on\n"
    "Cityscapes."
)
_CLASSIFIER_COUNTS = (
    "Figures are those of whole classifiers on one test crop: 384x384 for configs that are named\n"
    "so, 256x256 for FFNet's others, 224x224 for the rest. `-384px` configs only evaluate."
)


class Row(NamedTuple):
    """Figures of one config from one place, box and mask AP together.

    Attributes:
        config: Its path inside the repository.
        name: Its name.
        metrics: The figures by what metafiles call them.
        published: Where they are from; None if they were measured here.
        measured: When and how they were measured; None if they are published.
        test_options: What ``tools/test.py`` takes for them beside config and checkpoint.
        protocol: What sets them apart from other figures of the config, in words.
        recipe: Their recipe, if not the one of the config.
    """

    config: str
    name: str
    metrics: dict[str, float]
    published: dict[str, Any] | None
    measured: dict[str, Any] | None
    test_options: tuple[str, ...]
    protocol: str | None
    recipe: str | None

    @property
    def label(self) -> str:
        """Where the figures are from and how they were evaluated, in words."""
        place = self.published["Source"] if self.published else str(self.measured["Date"])
        return f"{place}, {self.protocol}" if self.protocol else place


def rows(model: dict[str, Any]) -> list[Row]:
    """The results of a config, one row for each place they are from and way of testing."""
    found: dict[str, Row] = {}
    for result in model.get("Results", ()):
        row = Row(
            config=model["Config"],
            name=model["Name"],
            metrics={},
            published=result.get("Published"),
            measured=result.get("Measured"),
            test_options=tuple(result.get("Test Options", ())),
            protocol=result.get("Protocol"),
            recipe=result.get("Recipe"),
        )
        found.setdefault(repr(row), row).metrics.update(result["Metrics"])
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
    for dataset in (*_DENSE, CLASSIFICATION):
        models = [m for m in metafile.models if m["Metadata"]["Training Data"] == dataset]
        if models:
            sections.append(f"## {dataset}")
            sections += [_CLASSIFIER_COUNTS] if dataset == CLASSIFICATION else []
            sections.append(_table(models, f"configs/{metafile.family}", details=True))
            sections += _notes(models)
    return "\n\n".join(sections) + "\n"


def summary(metafiles: Iterable[Metafile]) -> str:
    """What stands between the markers of the main README."""
    metafiles = list(metafiles)
    models = [model for file in metafiles for model in file.models]
    measured = sum(any(row.measured for row in rows(model)) for model in models)
    done = f"{measured or 'none'} of {len(models)}"
    pages = ", ".join(
        f"[{file.collection['Name']}](configs/{file.family}/README.md)" for file in metafiles
    )
    sections = [
        f"**Published** figures and where they are from; **measured** here: {done} configs.\n"
        "`python tools/reproduce.py` checks sizes and settings of these rows against the\n"
        f"publications, and the figures where checkpoints and data are there.\n\n{_COUNTS}",
    ]
    dense = [model for model in models if model["Metadata"]["Training Data"] in _DENSE]
    sections.append(_table([model for model in dense if rows(model)], ".", details=False))
    sections.append(
        f"All configs, the {len(models) - len(dense)} classifiers for ImageNet-1k included, with "
        f"all published\nfigures and the trained weights: {pages}.\n"
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


def _table(models: Iterable[dict[str, Any]], folder: str, details: bool) -> str:
    """A row for each entry, with links as from a page in a folder of the repository."""
    lines = [
        "| config | parameters (M) | GMACs | published | measured |",
        "|---|---:|---:|---|---|",
    ]
    for model in models:
        data = model["Metadata"]
        found = rows(model)
        cells = (
            f"[{model['Name']}]({os.path.relpath(model['Config'], folder)})",
            f"{data['Parameters'] / 1e6:.2f}",
            f"{data['FLOPs'] / 1e9:.1f}",
            "<br>".join(_cell(row, details) for row in found if row.published),
            "<br>".join(_cell(row, details) for row in found if row.measured),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(re.sub(r"  +", " ", line) for line in lines)


def _notes(models: Iterable[dict[str, Any]]) -> list[str]:
    """What a reader has to know of figures, in one paragraph each."""
    notes: dict[str, list[str]] = {}
    for row in (row for model in models for row in rows(model) if row.published):
        if "Note" in row.published:
            notes.setdefault(row.published["Note"], []).append(f"{row.name}, {row.label}")
    return [f"{'; '.join(names)}: {note}." for note, names in notes.items()]


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
    for headline, title in HEADLINES.items():
        if headline not in metrics:
            continue
        others = {
            name.removeprefix(headline.removesuffix("AP")): value
            for name, value in metrics.items()
            if name.startswith(headline) and name != headline
        }
        text = f"{title} {metrics[headline]}"
        if details and others:
            text += f" ({', '.join(f'{name} {value}' for name, value in others.items())})"
        yield text
