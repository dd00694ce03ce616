"""Checks of a config against the disk before anything is built.

mmengine, mmdet and mmseg find these mistakes too, but late, and from forty frames down. What cannot
be judged here (remote storage, unusual data sets, heads with classes of their own) is left to them:
a check that refuses a sound config would be worse than none.
"""

from __future__ import annotations

import inspect
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from ..weights import Checkpoint, is_pretrained, read_checkpoint
from ..weights.files import is_local
from ..weights.statistics import arch_of, published_file, published_weights
from .errors import UserError
from .launch import walk, warn

_HOW_TO_GET_DATA = "see 'Data' in README.md, or set the path with --cfg-options"
# Annotation maps that are opened to find labels that no class stands for.
_SAMPLED_MAPS = 8
# Heads whose classes are those of the data set, that of an image classifier last. Others (RPN,
# semantic branches, boundary heads) have classes of their own.
_HEADS = ("bbox_head", "mask_head", "decode_head", "head")


def check_config(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check data, class counts and checkpoints that a run will need.

    Args:
        cfg: The whole config.
        splits: Those of ``'train'``, ``'val'``, ``'test'`` that will be used.

    Raises:
        UserError: With one sentence on the first thing that is wrong.
    """
    # First what the command line names, then what the config does.
    if cfg.get("load_from"):
        check_checkpoint(cfg.load_from)
    for part in walk(cfg.model):
        if is_pretrained(part) and isinstance(part.get("checkpoint"), str):
            check_checkpoint(part["checkpoint"], "pretrained weights")
    _check_statistics(cfg)
    for split in splits:
        for dataset in _leaf_datasets((cfg.get(f"{split}_dataloader") or {}).get("dataset")):
            _check_paths(dataset, split)
            _check_classes(cfg, dataset, split)
        if split != "train":
            for metric in walk(cfg.get(f"{split}_evaluator")):
                if isinstance(metric.get("ann_file"), str):
                    _require(metric["ann_file"], f"{split} annotations of the metric")


def _check_statistics(cfg: Config) -> None:
    """Warn when images are normalised otherwise than known weights expect."""
    # mmpretrain's configs have it beside the model.
    given = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    for source, known in _known_weights(cfg):
        wanted = known.data_preprocessor()
        found = {name: given.get(name) for name in wanted}
        # Sequences of any kind; whole numbers for what need not be any.
        found = {n: list(v) if isinstance(v, list | tuple) else v for n, v in found.items()}
        # mmpretrain calls it to_rgb.
        found["bgr_to_rgb"] = bool(found["bgr_to_rgb"] or given.get("to_rgb"))
        differing = {name: value for name, value in wanted.items() if found[name] != value}
        if differing:
            warn(
                f"{source} wants images with {differing}, and model.data_preprocessor has "
                f"{ {name: found[name] for name in differing} }: "
                "mmmetaformer.data_preprocessor_for(backbone) gives a config what it should have"
            )


def _known_weights(cfg: Config) -> Iterator[tuple[str, Checkpoint]]:
    """What a run will load, as far as the catalogue knows it."""
    for part in walk(cfg.model):
        try:
            yield from ((known.url, known) for known in published_weights(part))
            arch = arch_of(part)
        except (TypeError, ValueError) as error:
            raise UserError(f"{part.get('type')}: {error}") from error
        if arch is not None and cfg.get("load_from"):
            known = published_file(cfg.load_from, arch)
            if known is not None:
                yield cfg.load_from, known


def check_checkpoint(source: str, what: str = "checkpoint") -> None:
    """Raise ``UserError`` if a local checkpoint is not there, ``WeightsError`` if it is none."""
    if is_local(source):
        if not Path(source).expanduser().is_file():
            raise UserError(f"{what} {source!r} not found")
        # Read twice, which costs less than the traceback of a file that is none.
        read_checkpoint(source)


def _require(path: str | Path, what: str) -> None:
    if is_local(str(path)) and not Path(path).expanduser().exists():
        raise UserError(f"{what} {str(path)!r} not found: {_HOW_TO_GET_DATA}")


def _leaf_datasets(dataset: Any) -> Iterator[dict]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if isinstance(dataset, list | tuple):
        for part in dataset:
            yield from _leaf_datasets(part)
    elif isinstance(dataset, dict):
        inner = dataset.get("datasets") or dataset.get("dataset")
        if inner:
            yield from _leaf_datasets(inner)
        else:
            yield dataset


def _path(dataset: dict, value: str) -> str:
    # As mmengine's BaseDataset: the root applies to relative paths.
    root = dataset.get("data_root") or ""
    return value if not is_local(value) or not root else str(_join(root, value))


def _join(root: str, value: str) -> str | Path:
    return Path(root, value) if is_local(root) else f"{root.rstrip('/')}/{value}"


def _check_paths(dataset: dict, split: str) -> None:
    if isinstance(dataset.get("split"), str) and isinstance(dataset.get("data_root"), str):
        _require(dataset["data_root"], f"{split} data (data_root)")  # ImageNet's folder
    if isinstance(dataset.get("ann_file"), str) and dataset["ann_file"]:
        _require(_path(dataset, dataset["ann_file"]), f"{split} annotations")
    prefixes = dataset.get("data_prefix") or {}
    for kind, prefix in prefixes.items() if isinstance(prefixes, dict) else ():
        if isinstance(prefix, str) and prefix:
            _require(_path(dataset, prefix), f"{split} folder ({kind})")


def _check_classes(cfg: Config, dataset: dict, split: str) -> None:
    cls = _dataset_class(cfg, dataset)
    chosen = (dataset.get("metainfo") or {}).get("classes")
    own = getattr(cls, "METAINFO", {}).get("classes")
    classes = own if chosen is None else chosen
    # A text file of names is mmengine's to read; panoptic sets count things and stuff together.
    if cls is None or not isinstance(classes, list | tuple) or "Panoptic" in cls.__name__:
        return
    _check_heads(cfg, list(classes), split)
    ann_file = dataset.get("ann_file")
    if isinstance(ann_file, str) and ann_file.endswith(".json") and "Coco" in cls.__name__:
        path = _path(dataset, ann_file)
        if is_local(path):
            _check_coco_categories(Path(path), list(classes))
    elif _is_segmentation(dataset) and not (own and chosen):
        # Classes chosen from a set's own are mapped by mmseg, whatever else the maps hold.
        _check_segmentation_maps(dataset, cls, len(classes))


def _dataset_class(cfg: Config, dataset: dict) -> type | None:
    kind = dataset.get("type")
    if inspect.isclass(kind) or not isinstance(kind, str):
        return kind if inspect.isclass(kind) else None
    with DATASETS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
        try:
            return registry.get(kind)
        except RuntimeError:  # unknown; the runner says so better
            return None


def _check_heads(cfg: Config, classes: list[str], split: str) -> None:
    def heads(node: Any, key: str = "") -> Iterator[tuple[str, dict]]:
        if isinstance(node, list | tuple):
            for item in node:
                yield from heads(item, key)
        elif isinstance(node, dict):
            if key in _HEADS:
                yield key, node
            for name, value in node.items():
                if name == "roi_head" or name in _HEADS:
                    yield from heads(value, name)

    if cfg.model.get("semantic_head") or cfg.model.get("panoptic_fusion_head"):
        return
    for key, head in heads(cfg.model):
        count = head.get("num_classes")
        if isinstance(count, int) and count != len(classes):
            raise UserError(
                f"{key} {head.get('type')} has num_classes={count}, but the {split} data set has "
                f"{len(classes)} classes: {_some(classes)}"
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _check_coco_categories(path: Path, classes: list[str]) -> None:
    try:
        names = {category["name"] for category in _coco_categories(path)}
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise UserError(f"{path} is not an annotation file in COCO format ({reason})") from error
    absent = [name for name in classes if name not in names]
    if absent:
        raise UserError(
            f"{path} has no category for {len(absent)} of the data set's {len(classes)} classes "
            f"({_some(absent)}); its categories are {_some(sorted(names))}: set metainfo.classes "
            "of the data sets and num_classes of the heads"
        )


def _coco_categories(path: Path) -> list[dict]:
    """``categories`` of a COCO file, as a rule without parsing the half gigabyte around it."""
    key = b'"categories"'
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.rfind(key)
        text = content[start + len(key) : start + len(key) + 1_000_000].decode(errors="ignore")
    try:
        found = json.JSONDecoder().raw_decode(text.lstrip(" \t\r\n:"))[0]
        if all(isinstance(category["name"], str) for category in found):
            return found
    except (ValueError, KeyError, TypeError):
        pass  # cut off, or another key of that name: the whole file decides
    return json.loads(path.read_bytes())["categories"]


def _is_segmentation(dataset: dict) -> bool:
    prefixes = dataset.get("data_prefix")
    return isinstance(prefixes, dict) and isinstance(prefixes.get("seg_map_path"), str)


def _check_segmentation_maps(dataset: dict, cls: type, num_classes: int) -> None:
    """Open some maps; suffix, zero label and ignored index are the data set's own."""

    def setting(name: str, default: Any) -> Any:
        if name in dataset:
            return dataset[name]
        for base in inspect.getmro(cls):
            parameter = inspect.signature(vars(base).get("__init__", base)).parameters.get(name)
            if parameter is not None and parameter.default is not inspect.Parameter.empty:
                return parameter.default
        return default

    folder = _path(dataset, dataset["data_prefix"]["seg_map_path"])
    suffix = setting("seg_map_suffix", ".png")
    if not is_local(folder) or not isinstance(suffix, str) or dataset.get("ann_file"):
        return
    paths = sorted(Path(folder).rglob(f"*{suffix}"))
    if not paths:
        raise UserError(f"{folder} holds no *{suffix} annotation maps")
    ignored = setting("ignore_index", 255)
    reduced = bool(setting("reduce_zero_label", False)) or any(
        step.get("reduce_zero_label") for step in walk(dataset.get("pipeline"))
    )
    for path in paths[:: max(1, len(paths) // _SAMPLED_MAPS)]:
        try:
            labels = np.asarray(Image.open(path))
        except OSError as error:
            raise UserError(f"{path} cannot be read as an annotation map: {error}") from error
        if labels.ndim != 2:
            raise UserError(f"{path} is not a single-channel annotation map")
        labels = np.unique(labels[(labels != ignored) & (labels != 255)])
        highest = int(labels.max(initial=0)) - int(reduced)
        if highest >= num_classes:
            raise UserError(
                f"{path} has the label {highest}{' (0 not counted)' if reduced else ''}, but the "
                f"data set has {num_classes} classes"
            )
