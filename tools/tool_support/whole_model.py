"""Whole detectors, segmentors and image classifiers with generated batches, so that costs can be
measured without data."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import nn

from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import replace_sync_bn, walk


def _detection_batch(batch_size: int, height: int, width: int, classes: int) -> dict:
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(
        batch_size,
        (3, height, width),
        num_items=[8] * batch_size,
        num_classes=classes,
        with_mask=True,
    )


def _segmentation_batch(batch_size: int, height: int, width: int, classes: int) -> dict:
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(batch_size):
        shape = (height, width)
        sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
        labels = torch.randint(0, classes, (1, height, width), generator=generator)
        samples.append(sample.set_data(dict(gt_sem_seg=PixelData(data=labels))) or sample)
    images = torch.randint(0, 256, (batch_size, 3, height, width), generator=generator)
    return dict(inputs=list(images.byte()), data_samples=samples)


def _classification_batch(batch_size: int, height: int, width: int, classes: int) -> dict:
    from mmpretrain.structures import DataSample

    images = torch.randint(0, 256, (batch_size, 3, height, width)).byte()
    labels = torch.randint(0, classes, (batch_size,))
    samples = [DataSample().set_gt_label(label) for label in labels]
    return dict(inputs=list(images), data_samples=samples)


# By the default scope of a config: the batch and the usual size.
_KINDS = {
    "mmdet": (_detection_batch, (800, 1344)),
    "mmseg": (_segmentation_batch, (512, 512)),
    "mmpretrain": (_classification_batch, (224, 224)),
}


def usual_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the images of a config's task, in pixels.

    Raises:
        UserError: If the config is of no known task.
    """
    return _kind(cfg)[1]


def build_whole_model(cfg: Config, size: tuple[int, int]) -> nn.Module:
    """The model of a config with random weights, in training mode, for one process.

    The config is changed: no part of it names weights, and the preprocessor lets images of that
    size through as they are.

    Args:
        cfg: The whole config.
        size: Height and width of the images, in pixels.

    Raises:
        UserError: If the config is of no known task.
    """
    _kind(cfg)
    scope = cfg.default_scope
    for part in walk(cfg.model):
        part.pop("init_cfg", None)  # figures do not depend on the weights
    replace_sync_bn(cfg.model)  # one process
    torch.manual_seed(0)
    init_default_scope(scope)
    if scope == "mmseg" and cfg.model.get("data_preprocessor", {}).get("size"):
        cfg.model.data_preprocessor.size = size
    if scope == "mmpretrain" and "data_preprocessor" in cfg:  # beside the model, as in its configs
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    models = import_module(f"{scope}.registry").MODELS
    return models.build(cfg.model).train()


def generated_batch(cfg: Config, batch_size: int, size: tuple[int, int]) -> dict:
    """Images of noise with labels, as a data loader hands them to the model's preprocessor.

    Args:
        cfg: The whole config.
        batch_size: Number of images.
        size: Their height and width, in pixels.

    Raises:
        UserError: If the config is of no known task.
    """
    classes = min(part["num_classes"] for part in walk(cfg.model) if "num_classes" in part)
    return _kind(cfg)[0](batch_size, *size, classes)


def _kind(cfg: Config) -> tuple[Callable[..., dict], tuple[int, int]]:
    scope = cfg.get("default_scope")
    if scope not in _KINDS:
        raise UserError(f"default_scope must be one of {', '.join(_KINDS)}, got {scope!r}")
    return _KINDS[scope]
