"""Metafiles, configs and READMEs, kept in step."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmmetaformer.engine.errors import UserError
from mmmetaformer.weights.catalogue import CATALOGUE, TRAINED

from . import metafiles, tables
from .counting import COUNTERS, PARTS, count_config
from .metafiles import Metafile
from .recipes import FILE as recipes_file
from .recipes import read_recipes


def write(root: Path, count: bool = True) -> list[str]:
    """Bring everything in step with the configs and with what metafiles say by hand.

    Args:
        root: The repository.
        count: Whether to count all configs; otherwise only those that have no entry yet.

    Returns:
        The paths of the files that changed.

    Raises:
        UserError: If something cannot be mended by writing, such as results of a config that is
            not there.
    """
    files = []
    for metafile in metafiles.read(root):
        there = metafiles.configs(root, metafile.family)
        entries = {model["Config"] for model in metafile.models}
        wanted = [config for config in there if count or config not in entries]
        found = {config: count_metadata(root, config) for config in wanted}
        content = metafiles.sorted_content(metafile, found)
        files.append(Metafile(metafile.path, content))
    problems = check_contents(root, files)
    if problems:
        raise UserError("; ".join(problems))
    texts = expected_texts(root, files)
    changed = [path for path, text in texts.items() if _read(path) != text]
    for path in changed:
        path.write_text(texts[path])
    return [str(path.relative_to(root)) for path in changed]


def check(root: Path) -> list[str]:
    """Everything that is out of step, but for what only counting tells (:func:`recount`)."""
    files = metafiles.read(root)
    problems = check_contents(root, files)
    if problems:
        return problems
    for path, text in expected_texts(root, files).items():
        found = _read(path)
        if found is None:
            problems.append(f"{path.relative_to(root)} is not there: run tools/zoo.py --write")
        elif found != text:
            name = path.relative_to(root)
            problems.append(
                f"{name} differs from what tools/zoo.py --write makes of configs and metafiles, "
                f"first in {_first_difference(found, text)}"
            )
    return problems


def recount(root: Path) -> list[str]:
    """What metafiles say about configs otherwise than the configs themselves."""
    problems = []
    for file in metafiles.read(root):
        for model in file.models:
            found = count_metadata(root, model["Config"])
            problems += [
                f"{model['Name']}: {key} is {model['Metadata'].get(key)!r} in the metafile and "
                f"{value!r} by the config"
                for key, value in found.items()
                if model["Metadata"].get(key) != value
            ]
    return problems


def count_metadata(root: Path, config: str) -> dict[str, Any]:
    """What a config says about its entry."""
    cfg = Config.fromfile(root / config)
    return metafiles.metadata(cfg, count_config(cfg))


def expected_texts(root: Path, files: list[Metafile]) -> dict[Path, str]:
    """Each generated file, as it is to be."""
    readme = root / "README.md"
    texts = {file.path: metafiles.dump(file.content) for file in files}
    texts |= {file.path.with_name("README.md"): tables.family_page(file) for file in files}
    texts[root / metafiles.INDEX] = metafiles.index()
    texts[readme] = tables.insert(readme.read_text(), tables.summary(files))
    return texts


def check_contents(root: Path, files: list[Metafile]) -> list[str]:
    """Whether metafiles, configs and recipes name each other, and results say all they have to."""
    recipes = read_recipes(root)
    problems = [problem for file in files for problem in _file_problems(root, file, recipes)]
    models = {model["Name"]: model for file in files for model in file.models}
    followers = {name: recipes_of(model) for name, model in models.items()}
    problems += [
        f"{recipes_file}: {name} has settings for {model}, which does not name it as its recipe"
        for name, recipe in recipes.items()
        for model in recipe.get("Models", ())
        if name not in followers.get(model, ())
    ]
    unused = sorted(set(recipes).difference(*followers.values()))
    problems += [f"{recipes_file}: no metafile names the recipe {name}" for name in unused]
    problems += [
        f"{path.relative_to(root)} names no network, so it belongs to no metafile"
        for path in metafiles.classifiers(root)
        if metafiles.family_of(path.stem) is None
    ]
    return problems + _weights_problems(models)


def recipes_of(model: dict[str, Any]) -> set[str]:
    """The recipes that an entry names for itself and for single results."""
    named = {model.get("Recipe"), *(result.get("Recipe") for result in model.get("Results", ()))}
    return named - {None}


def _weights_problems(models: dict[str, dict[str, Any]]) -> list[str]:
    """Addresses of trained weights that are in a metafile or in the catalogue only."""
    in_metafiles = {
        (name, row.published["Weights"])
        for name, model in models.items()
        for row in tables.rows(model)
        if row.published and "Weights" in row.published
    }
    backbones = {(checkpoint.arch, checkpoint.url) for checkpoint in CATALOGUE}
    trained = {(entry.config, entry.url) for entry in TRAINED if entry.url is not None}
    problems = [
        f"{name}: weights.catalogue does not have {url} for it"
        for name, url in sorted(in_metafiles - trained)
        if (metafiles.arch_of(name), url) not in backbones
    ]
    return problems + [
        f"{name}: weights.catalogue has {url}, which no metafile has"
        for name, url in sorted(trained - in_metafiles)
    ]


def _file_problems(root: Path, file: Metafile, recipes: dict[str, Any]) -> list[str]:
    where = file.path.relative_to(root)
    there = set(metafiles.configs(root, file.family))
    entries = {model.get("Config") for model in file.models}
    problems = [f"{where}: no entry for {config}" for config in sorted(there - entries)]
    for model in file.models:
        if model.get("Config") in there:
            found = _model_problems(model, file.collection["Name"], recipes)
            problems += [f"{where}: {model['Name']}{problem}" for problem in found]
        else:
            name, config = model["Name"], model.get("Config")
            problems.append(f"{where}: {name} names the config {config}, which is not there")
    for entry in file.sizes:
        found = _size_problems(root, file, entry)
        problems += [f"{where}: Sizes: {entry.get('Name')}{problem}" for problem in found]
    return problems


def _model_problems(
    model: dict[str, Any], collection: str, recipes: dict[str, Any]
) -> Iterator[str]:
    """What is wrong with an entry, in words that follow its name."""
    if model["Name"] != Path(model["Config"]).stem:
        yield f" is not the name of its config {model['Config']}"
    if model.get("In Collection") != collection:
        yield " is in another collection than its file"
    if not {"Parameters", "FLOPs", "Training Data"} <= set(model.get("Metadata") or ()):
        yield " is not counted: run tools/zoo.py --write"
    if model.get("Weights", "") != metafiles.weights_of(model):
        yield " has not the Weights of its results: run tools/zoo.py --write"
    for recipe in sorted(recipes_of(model) - set(recipes)):
        yield f" names an unknown recipe {recipe!r}"
    results = model.get("Results", ())
    if "Recipe" not in model and any("Published" in result for result in results):
        yield " has published results and no recipe"
    for result in results:
        yield from (f": {problem}" for problem in _result_problems(result))
    for entry in model.get("Published Counts", ()):
        yield from (f": {problem}" for problem in _count_problems(entry))


def _size_problems(root: Path, file: Metafile, entry: dict[str, Any]) -> Iterator[str]:
    """The same of a network of which only sizes are published."""
    if not (root / str(entry.get("Config"))).is_file():
        yield f" is of the config {entry.get('Config')}, which is not there"
    if entry.get("Name") in {model["Name"] for model in file.models}:
        yield " has a config of its own"
    for count in entry.get("Published Counts", ()):
        yield from (f": {problem}" for problem in _count_problems(count))


def _result_problems(result: dict[str, Any]) -> list[str]:
    problems = []
    if result.get("Task") not in metafiles.TASKS:
        problems.append(f"unknown task {result.get('Task')!r}")
    if not result.get("Dataset") or not result.get("Metrics"):
        problems.append("a result without a dataset or without figures")
    unknown = sorted(set(result.get("Metrics") or ()) - set(metafiles.METRICS))
    if unknown:
        problems.append(f"unknown metrics {unknown}, expected some of {list(metafiles.METRICS)}")
    published, measured = result.get("Published"), result.get("Measured")
    if (published is None) == (measured is None):
        problems.append("a result is either Published or Measured")
    elif published is not None and not published.get("Source"):
        problems.append("a published result without a source")
    elif measured is not None:
        if not isinstance(measured.get("Date"), datetime.date) or not measured.get("Command"):
            problems.append("a measured result needs a date, YYYY-MM-DD, and a command")
    return problems


def _count_problems(entry: dict[str, Any]) -> list[str]:
    quantity, figure = entry.get("Quantity"), entry.get("Figure")
    problems = []
    if not isinstance(figure, str) or not entry.get("Source"):
        problems.append(f"a published count of {quantity} without a figure or without a source")
    if quantity not in ("Parameters", "FLOPs"):
        problems.append(f"unknown quantity {quantity!r}, expected Parameters or FLOPs")
    if quantity == "FLOPs" and (entry.get("Counter") not in COUNTERS or "Image" not in entry):
        problems.append(f"FLOPs {figure} need an image and a counter, {' or '.join(COUNTERS)}")
    if "Of" in entry and entry["Of"] not in PARTS:
        problems.append(f"unknown part {entry['Of']!r}, expected {' or '.join(PARTS)}")
    if "Exception" in entry and set(entry["Exception"]) != {"Counted", "Reason"}:
        problems.append(f"the exception of {quantity} {figure} needs Counted and Reason")
    return problems


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _first_difference(found: str, expected: str) -> str:
    """The first line that differs, as it is and as it should be."""
    a, b = found.splitlines(), expected.splitlines()
    for number, (line, other) in enumerate(zip(a, b, strict=False), 1):
        if line != other:
            return f"line {number}: {_excerpt(line, other)!r}, expected {_excerpt(other, line)!r}"
    return f"line {min(len(a), len(b)) + 1}: {len(a)} lines, expected {len(b)}"


def _excerpt(line: str, other: str, width: int = 60) -> str:
    """The part of a line around its first difference from another."""
    start = max(0, len(os.path.commonprefix([line, other])) - width // 2)
    return line[start : start + width]
