"""Every published row against the configs: sizes, recipes and, with data, the figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmmetaformer.engine.errors import UserError
from tool_support.results import as_table

from . import metafiles, tables
from .counting import COUNTERS, Counts, count_config, count_part
from .recipes import compare, count_values, read_recipes, settings_of

OK, EXPLAINED, MISMATCH, OPEN = "ok", "explained", "MISMATCH", "-"
# What is checked of a row, in the order of a report's findings.
CHECKS = ("parameters", "FLOPs", "recipe", "evaluation")
_UNITS = {"M": 1e6, "G": 1e9}


class Finding(NamedTuple):
    """What came of a check: a status and why."""

    status: str
    text: str

    def __str__(self) -> str:
        return self.text if self.status == OPEN else f"{self.status}: {self.text}"


class PublishedRow(NamedTuple):
    """What is published of a config by one place; without ``result`` only sizes or a recipe."""

    model: dict[str, Any]
    source: str
    result: tables.Row | None = None

    @property
    def name(self) -> str:
        return self.model["Name"]

    @property
    def label(self) -> str:
        return f"{self.name} ({self.source})"

    @property
    def figures(self) -> dict[str, float]:
        return self.result.metrics if self.result else {}

    @property
    def counts(self) -> list[dict[str, Any]]:
        return self.model.get("Published Counts", [])

    @property
    def note(self) -> str | None:
        """What a reader of the figures has to know."""
        return self.result.published.get("Note") if self.result else None

    @property
    def recipe(self) -> str | None:
        """The name of the recipe in which the figures were made."""
        return (self.result and self.result.recipe) or self.model.get("Recipe")


class Report(NamedTuple):
    """A row and its findings."""

    row: PublishedRow
    parameters: Finding
    flops: Finding
    recipe: Finding
    evaluation: Finding

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, in the order of ``CHECKS``."""
        return self.parameters, self.flops, self.recipe, self.evaluation


class Tolerance(NamedTuple):
    """The largest difference of an evaluation from the published figure that counts as none.

    Attributes:
        ap: Difference in box and mask AP.
        ap_column: Difference in AP50, AP75 and the AP of small, medium and large objects.
        miou: Difference in mIoU.
        top1: Difference in top-1 accuracy.
    """

    ap: float = 0.3
    ap_column: float = 0.5
    miou: float = 0.8
    top1: float = 0.2

    def of(self, metric: str) -> float:
        named = {
            "box AP": self.ap, "mask AP": self.ap, "mIoU": self.miou, "Top 1 Accuracy": self.top1
        }  # fmt: skip
        return named.get(metric, self.ap_column)

    def __str__(self) -> str:
        return (
            f"{self.ap} AP ({self.ap_column} AP50 and the like), {self.miou} mIoU or {self.top1} "
            "top-1"
        )


def published_rows(root: Path, pattern: str = "*") -> list[PublishedRow]:
    """Every published row whose config has a name that matches.

    Raises:
        UserError: If there is none.
    """
    models = [model for file in metafiles.read(root) for model in (*file.models, *file.sizes)]
    found = [row for model in models for row in _rows_of(model)]
    matching = [row for row in found if fnmatch(row.name, pattern)]
    if not matching:
        raise UserError(f"no published row matches {pattern!r}: --list shows all")
    return matching


def _rows_of(model: dict[str, Any]) -> list[PublishedRow]:
    """A row for each published result of a config; one for its sizes or recipe if it has none."""
    rows = [PublishedRow(model, row.label, row) for row in tables.rows(model) if row.published]
    if rows or not model.keys() & {"Published Counts", "Recipe"}:
        return rows
    sources = [count["Source"] for count in model.get("Published Counts", ())]
    return [PublishedRow(model, ", ".join(dict.fromkeys(sources)) or "recipe only")]


class Reproduction:
    """The checks, and what they share.

    Args:
        root: The repository.
        data_root: The folder with the data sets, as ``data`` in README.md.
        checkpoints: Folder with trained models.
        work_dir: Where evaluations write.
        tolerance: What evaluations may differ by.
    """

    def __init__(
        self,
        root: Path,
        data_root: Path | None = None,
        checkpoints: Path | None = None,
        work_dir: Path = Path("work_dirs/reproduce"),
        tolerance: Tolerance = Tolerance(),  # noqa: B008  a constant
    ) -> None:
        self.root = root
        self.data_root = data_root
        self.checkpoints = checkpoints
        self.work_dir = work_dir
        self.tolerance = tolerance
        self.recipes = read_recipes(root)
        self._configs: dict[str, Config] = {}
        self._counts: dict[tuple, Counts] = {}
        self._measured: dict[tuple[str, ...], dict[str, float] | UserError] = {}

    def check(self, row: PublishedRow) -> Report:
        """All that can be checked of a row."""
        return Report(
            row,
            self.check_counts(row, "Parameters"),
            self.check_counts(row, "FLOPs"),
            self.check_recipe(row),
            self.check_evaluation(row),
        )

    def _config(self, row: PublishedRow) -> Config:
        if row.name not in self._configs:
            cfg = Config.fromfile(self.root / row.model["Config"])
            cfg.merge_from_dict(row.model.get("Config Options", {}))
            self._configs[row.name] = cfg
        return self._configs[row.name]

    def check_counts(self, row: PublishedRow, quantity: str) -> Finding:
        """Parameters or operations against those that somebody printed."""
        entries = [entry for entry in row.counts if entry["Quantity"] == quantity]
        return _worst([compare_count(entry, self._counted(row, entry)) for entry in entries])

    def _counted(self, row: PublishedRow, entry: dict[str, Any]) -> int:
        cfg = self._config(row)
        if "Of" in entry:
            return count_part(cfg, entry["Of"])
        image = tuple(int(side) for side in entry["Image"].split("x")) if "Image" in entry else None
        conditions = (row.name, image, entry.get("Form") == "fused")
        if conditions not in self._counts:
            self._counts[conditions] = count_config(cfg, *conditions[1:])
        counts = self._counts[conditions]
        if entry["Quantity"] == "Parameters":
            return counts.parameters
        return counts[1:][COUNTERS.index(entry["Counter"])]

    def check_recipe(self, row: PublishedRow) -> Finding:
        """Every setting of the published recipe against the merged config."""
        if row.recipe is None:
            return Finding(OPEN, "none published")
        settings = settings_of(self.recipes[row.recipe], row.name)
        differing = compare(self._config(row), settings)
        if differing:
            return Finding(MISMATCH, "; ".join(differing))
        return Finding(OK, f"{count_values(settings)} settings")

    def check_evaluation(self, row: PublishedRow) -> Finding:
        """The published figures against those of a checkpoint, where there are one and data."""
        if row.result is None:
            return Finding(OPEN, "no result published")
        if self.checkpoints is None or self.data_root is None:
            return Finding(OPEN, "not evaluated: needs --checkpoints and --data-root")
        names = checkpoint_names(row)
        if not names:
            return Finding(OPEN, "not evaluated: the trained weights were not released")
        found = [self.checkpoints / name for name in names if (self.checkpoints / name).is_file()]
        if not found:
            return Finding(OPEN, f"not evaluated: no {' or '.join(names)} in {self.checkpoints}")
        cfg = self._config(row)
        missing = [path for path in data_paths(cfg, self.data_root) if not path.exists()]
        if missing:
            return Finding(OPEN, f"not evaluated: {missing[0]} is not there")
        return self._evaluate(row, found[0], cfg)

    def _evaluate(self, row: PublishedRow, checkpoint: Path, cfg: Config) -> Finding:
        """The figures of one run of ``tools/test.py``, which rows that need the same run share."""
        run = (row.name, str(checkpoint), *row.result.test_options)
        if run not in self._measured:
            # The runs of one config, each to a folder of its own.
            work_dir = self.work_dir / row.name / re.sub(r"\W+", "-", row.result.label)
            command = [
                sys.executable, str(self.root / "tools/test.py"),
                str(self.root / row.model["Config"]), str(checkpoint),
                "--work-dir", str(work_dir), *row.result.test_options,
                "--cfg-options", *data_options(cfg, self.data_root),
            ]  # fmt: skip
            try:
                self._measured[run] = run_test(command, work_dir)
            except UserError as error:
                self._measured[run] = error
        measured = self._measured[run]
        if isinstance(measured, UserError):
            return Finding(MISMATCH, f"evaluation failed: {measured}")
        return compare_figures(row.figures, measured, self.tolerance)


def run_test(command: list[str], work_dir: Path) -> dict[str, float]:
    """Run ``tools/test.py`` and read the metrics that it writes.

    Raises:
        UserError: If it fails or writes none.
    """
    before = set(work_dir.glob("*/*.json"))
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise UserError(lines[-1])
    written = sorted(set(work_dir.glob("*/*.json")) - before)
    if not written:
        raise UserError(f"no metrics below {work_dir}")
    return json.loads(written[-1].read_text())


def compare_count(entry: dict[str, Any], counted: int) -> Finding:
    """A printed figure of size against a counted one, in the digits that are printed."""
    figure, exception = entry["Figure"], entry.get("Exception")
    agrees = in_digits_of(figure, counted) == figure
    conditions = [entry[key] for key in ("Of", "Form", "Image", "Counter") if key in entry]
    told = figure + (f" ({', '.join(conditions)})" if conditions else "")
    if agrees and exception:
        return Finding(MISMATCH, f"{told} agrees with the count, but has an Exception")
    if agrees:
        return Finding(OK, told)
    if exception and in_digits_of(exception["Counted"], counted) == exception["Counted"]:
        text = f"{told} printed, {exception['Counted']} counted: {exception['Reason']}"
        return Finding(EXPLAINED, text)
    precise = f"{counted:,}"
    return Finding(MISMATCH, f"{told} printed in {entry['Source']}, {precise} counted")


def in_digits_of(figure: str, value: float) -> str:
    """A value as a figure such as ``21,653,044`` or ``23.2 M`` is written."""
    number, _, unit = figure.partition(" ")
    if not unit:
        return f"{value:,}"
    if unit not in _UNITS:
        raise UserError(f"unknown unit in {figure!r}: expected M or G")
    return f"{value / _UNITS[unit]:.{len(number.partition('.')[2])}f} {unit}"


def compare_figures(
    published: dict[str, float], measured: dict[str, float], tolerance: Tolerance
) -> Finding:
    """The figures of a row against an evaluation's metrics."""
    texts, agree = [], True
    for metric in published:
        key, factor = metafiles.METRICS[metric]
        if key not in measured:
            return Finding(MISMATCH, f"the evaluation gave no {key}")
        value = measured[key] * factor
        difference = round(value - published[metric], 4)
        # Not `>`: NaN is no agreement.
        agree &= abs(difference) <= tolerance.of(metric)
        texts.append(f"{metric} {value:.2f}, published {published[metric]} ({difference:+.2f})")
    return Finding(OK if agree else MISMATCH, "; ".join(texts))


def checkpoint_names(row: PublishedRow) -> list[str]:
    """Names under which the trained weights of a row are looked for: the published file's and,
    where this can mean no other file, the config's."""
    weights = row.result.published.get("Weights")
    names = [] if weights is None else [_file_name(weights)]
    files = {r.published.get("Weights") for r in tables.rows(row.model) if r.published} - {None}
    if len(files) < 2:
        names.insert(0, f"{row.name}.pth")
    return names


def _file_name(url: str) -> str:
    """That of a published file; of an archive, that of what is in it."""
    name = Path(url).name
    return f"{Path(name).stem}.pth" if name.endswith(".zip") else name


def data_options(cfg: Config, data_root: Path) -> list[str]:
    """Settings that move the test data of a config from ``data`` to another folder."""
    dataset = cfg.test_dataloader.dataset
    options = [f"test_dataloader.dataset.data_root={_moved(dataset.data_root, data_root)}"]
    if "ann_file" in cfg.test_evaluator:
        moved = _moved(cfg.test_evaluator.ann_file, data_root)
        options.append(f"test_evaluator.ann_file={moved}")
    return options


def data_paths(cfg: Config, data_root: Path) -> list[Path]:
    """What has to be there for an evaluation."""
    dataset = cfg.test_dataloader.dataset
    # ImageNet's folder is called as its split.
    folders = dataset.get("data_prefix") or dataset.get("split") or {}
    folders = folders.values() if isinstance(folders, dict) else [folders]
    root = _moved(dataset.data_root, data_root)
    paths = [root, *(root / folder for folder in folders)]
    if "ann_file" in cfg.test_evaluator:
        paths.append(_moved(cfg.test_evaluator.ann_file, data_root))
    return paths


def _moved(path: str, data_root: Path) -> Path:
    return data_root / Path(path).relative_to("data")


def _worst(findings: list[Finding]) -> Finding:
    """Several findings in one cell, under the status that matters most."""
    if not findings:
        return Finding(OPEN, "none published")
    statuses = [finding.status for finding in findings]
    status = next(s for s in (MISMATCH, EXPLAINED, OK) if s in statuses)
    return Finding(status, "; ".join(finding.text for finding in findings))


def describe(row: PublishedRow) -> str:
    """A row in one line, without any check."""
    figures = ", ".join(f"{name} {value}" for name, value in row.figures.items())
    note = f" ({row.note})" if row.note else ""
    return f"{row.label}: {figures or 'size or recipe only'}{note}"


def _headlines(row: PublishedRow) -> str:
    """The published figures less AP50 and the like."""
    titles = tables.HEADLINES.items()
    return ", ".join(f"{t} {row.figures[name]}" for name, t in titles if name in row.figures)


def table(reports: Iterable[Report]) -> str:
    """The reports as a table. What differs, and why, is for :func:`notes`."""
    return as_table(
        [
            dict(
                row=report.row.label,
                published=_headlines(report.row),
                **dict(zip(CHECKS, map(_short, report.findings), strict=True)),
            )
            for report in reports
        ]
    )


def _short(finding: Finding) -> str:
    """A finding for a table: of what is wrong or explained only the status, which notes tell."""
    return finding.status if finding.status in (MISMATCH, EXPLAINED) else str(finding)


def notes(reports: Iterable[Report], status: str) -> list[str]:
    """Every finding of a status in full, once."""
    return list(
        dict.fromkeys(
            f"{report.row.label if check == 'evaluation' else report.row.name}, {check}: "
            f"{finding.text}"
            for report in reports
            for check, finding in zip(CHECKS, report.findings, strict=True)
            if finding.status == status
        )
    )


def summary(reports: Sequence[Report]) -> str:
    """How many findings of each status there are, by check."""
    parts = []
    names = {OK: "ok", EXPLAINED: "explained", MISMATCH: "MISMATCHED", OPEN: "not checked"}
    for index, check in enumerate(CHECKS):
        statuses = [report.findings[index].status for report in reports]
        found = (f"{statuses.count(s)} {text}" for s, text in names.items() if s in statuses)
        parts.append(f"{check} {', '.join(found)}")
    return f"{len(reports)} rows: {'; '.join(parts)}"
