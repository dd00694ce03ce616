"""Metafiles: what is published and what was measured about each config.

They are in OpenMMLab's model-index format, with these additions:

- Each item of ``Results`` is either ``Published``, with ``Source`` and, where the trained weights
  are, their address as ``Weights``, or ``Measured``, with ``Date`` and ``Command``. ``Protocol``
  says in words what sets it apart from other results of the config, ``Test Options`` are the
  arguments of ``tools/test.py`` that this takes beside config and checkpoint, and ``Note`` is what
  a reader of the figure has to know.
- ``Weights`` of an entry are what ``DetInferencer`` loads: those of its first result that has any,
  else null. Files of classifiers are in layouts that mmengine does not read.
- ``Published Counts`` are figures of size as somebody printed them, with the conditions under which
  they are to be compared: ``Form: fused`` of a network whose branches are merged, ``Of: backbone``
  or ``random matrices``, the ``Image`` and the ``Counter`` of FLOPs. MACs are multiply-accumulate
  operations; MMCV adds biases, norms and pooling, and stands where only with these the printed
  digits come out. A figure that is known to be wrong has an ``Exception``: what is ``Counted``
  instead, and the ``Reason``.
- ``Sizes`` of a collection are networks of which only sizes are published and which have no config
  of their own: entries with the ``Config Options`` that make them of another ``Config``.
- ``Recipe`` names an entry of ``configs/recipes.yml``; that of a result goes before that of its
  config.

The classifiers of ``configs/imagenet`` are in the metafiles of their families.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mmengine.config import Config

from mmmetaformer.engine.errors import UserError
from mmmetaformer.variants import FAMILIES, VARIANTS

from .counting import Counts, image_of, parts_of

FILE = "metafile.yml"
INDEX = "model-index.yml"
# The folder of the classifiers, which has those of all families.
CLASSIFIERS = "imagenet"
_HEADER = (
    "# Metadata and the order are written by `python tools/zoo.py --write`, all else by hand.\n"
    "# FLOPs under Metadata are multiply-accumulate operations.\n"
)
# The order of configs in a metafile and in its tables, by the first of these in a name.
METHODS = ("retinanet", "mask-rcnn", "cascade-mask-rcnn", "fpn", "upernet", "ffnethead")

DATASETS = {
    "CocoDataset": "COCO",
    "ADE20KDataset": "ADE20K",
    "CityscapesDataset": "Cityscapes",
    "ImageNet": "ImageNet-1k",
}
TASKS = (
    "Object Detection",
    "Instance Segmentation",
    "Semantic Segmentation",
    "Image Classification",
)
# By the metrics of metafiles, what evaluators call them, and what they are multiplied by.
_COLUMNS = {"": "", "50": "_50", "75": "_75", "s": "_s", "m": "_m", "l": "_l"}
METRICS: dict[str, tuple[str, int]] = {
    **{
        f"{ours} AP{column}": (f"coco/{theirs}_mAP{suffix}", 100)
        for ours, theirs in (("box", "bbox"), ("mask", "segm"))
        for column, suffix in _COLUMNS.items()
    },
    "mIoU": ("mIoU", 1),
    "Top 1 Accuracy": ("accuracy/top1", 1),
}


class Metafile(NamedTuple):
    """The parsed metafile of one family."""

    path: Path
    content: dict[str, Any]

    @property
    def family(self) -> str:
        return self.path.parent.name

    @property
    def collection(self) -> dict[str, Any]:
        return self.content["Collections"][0]

    @property
    def models(self) -> list[dict[str, Any]]:
        return self.content["Models"]

    @property
    def sizes(self) -> list[dict[str, Any]]:
        return self.collection.get("Sizes", [])


class _Dumper(yaml.SafeDumper):
    """Lists are indented below their key, and nothing is an alias."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump(content: dict[str, Any]) -> str:
    """The one text of a metafile with this content."""
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    return _HEADER + text


def families() -> list[str]:
    """Names of the folders of configs that have a metafile."""
    return list(FAMILIES)


def read(root: Path) -> list[Metafile]:
    """The metafiles of all families.

    Raises:
        UserError: If one is not there, cannot be read or has two entries of one name.
    """
    return [_read(root / "configs" / family / FILE) for family in families()]


def _read(path: Path) -> Metafile:
    content = read_yaml(path)
    try:
        names = [model["Name"] for model in content["Models"]]
        content["Collections"][0]["Name"]
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: no metafile, {type(error).__name__}: {error}") from error
    if len(set(names)) != len(names):
        raise UserError(f"{path}: {max(names, key=names.count)} has two entries")
    return Metafile(path, content)


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a YAML file, which is a mapping."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, got {type(content).__name__}")
    return content


def index() -> str:
    """The text of ``model-index.yml``."""
    paths = [f"configs/{family}/{FILE}" for family in families()]
    return yaml.dump(dict(Import=paths), Dumper=_Dumper, sort_keys=False)


def configs(root: Path, family: str) -> list[str]:
    """The configs of a family, by their paths inside the repository, in the order of tables."""
    own = (root / "configs" / family).glob("*.py")
    of_classifiers = (path for path in classifiers(root) if family_of(path.stem) == family)
    found = (str(path.relative_to(root)) for path in (*own, *of_classifiers))
    return sorted(found, key=order)


def classifiers(root: Path) -> list[Path]:
    """The configs of classifiers, of all families."""
    return sorted((root / "configs" / CLASSIFIERS).glob("*.py"))


def arch_of(name: str) -> str | None:
    """The arch that the name of a config names; None if it names none."""
    archs = [part.replace("-", "_") for part in name.split("_")]
    return next((arch for arch in archs if arch in VARIANTS), None)


def family_of(name: str) -> str | None:
    """The family of the arch that the name of a config names; None if it names none."""
    arch = arch_of(name)
    return None if arch is None else VARIANTS[arch]["family"]


def order(config: str) -> tuple[int, int, str]:
    """Sorting key of a config's path or name: method, size of the network, name."""
    name = Path(config).stem
    parts = name.split("_")
    method = next((i for i, method in enumerate(METHODS) if method in parts), len(METHODS))
    arch = arch_of(name)
    return method, len(VARIANTS) if arch is None else list(VARIANTS).index(arch), name


def metadata(cfg: Config, counts: Counts) -> dict[str, Any]:
    """What a config itself says about its entry."""
    height, width = image_of(cfg)
    kind = cfg.train_dataloader.dataset.type
    found = {
        "Training Data": DATASETS.get(kind, kind),
        "Parameters": counts.parameters,
        "FLOPs": counts.macs,
        "FLOPs Image": f"{height}x{width}",
        "FLOPs Parts": parts_of(cfg),
    }
    if cfg.default_scope != "mmpretrain":  # whose own training this would be
        init_cfg = cfg.model.backbone.get("init_cfg") or {}
        found["ImageNet Weights"] = init_cfg.get("checkpoint")
    return found


def sorted_content(metafile: Metafile, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A metafile's content with what configs say put into it.

    Args:
        metafile: As it was read.
        entries: By the paths of configs, what :func:`metadata` says; those without an entry get
            one.
    """
    models = {model["Config"]: model for model in metafile.models}
    for config, found in entries.items():
        model = models.get(config, {})
        known = {"Name", "In Collection", "Config", "Metadata"}
        models[config] = {
            "Name": Path(config).stem,
            "In Collection": metafile.collection["Name"],
            "Config": config,
            "Metadata": {**model.get("Metadata", {}), **found},
            **{key: value for key, value in model.items() if key not in known},
        }
    ordered = sorted(models.values(), key=lambda model: order(model["Config"]))
    return {**metafile.content, "Models": [_with_weights(model) for model in ordered]}


def weights_of(model: dict[str, Any]) -> str | None:
    """What ``Weights`` of an entry have to be."""
    results = [row for row in model.get("Results", ()) if row.get("Task") != "Image Classification"]
    return next(filter(None, (row.get("Published", {}).get("Weights") for row in results)), None)


def _with_weights(model: dict[str, Any]) -> dict[str, Any]:
    """An entry with its ``Weights``, behind its metadata."""
    first = {key: model[key] for key in ("Name", "In Collection", "Config", "Metadata")}
    first["Weights"] = weights_of(model)
    return {**first, **{key: value for key, value in model.items() if key not in first}}
