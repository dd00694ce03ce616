"""Runner hooks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from ..weights import WeightsError, convert_classifier_state_dict
from ..weights.convert import why_unusable
from ..weights.trained import rename_parts
from .compilation import compile_backbones
from .errors import UserError
from .launch import warn


def _bare_model(runner: Runner) -> nn.Module:
    """The model without a wrapper for processes or test-time augmentation."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return getattr(model, "module", model)


class PublishedClassifierHook(Hook):
    """Lets ``load_from`` and ``tools/test.py`` take the published files of image classifiers.

    What is loaded is converted to the model's own names first, whatever its layout; a file that
    fills the model only in part is refused. Checkpoints of one's own pass through unchanged.
    """

    # In front of hooks that look at the weights, such as EMAHook.
    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the converted weights in the place of those in the file.

        Raises:
            WeightsError: If they do not fill the model.
        """
        # Of several entries, mmengine takes this one.
        checkpoint["state_dict"] = convert_classifier_state_dict(checkpoint, _bare_model(runner))


class CompileBackboneHook(Hook):
    """Compiles the backbone and nothing else, for training, validation and tests; see
    :func:`~mmmetaformer.engine.compilation.compile_backbones`. Used by ``--compile`` of the tools.

    mmengine's own ``compile`` setting compiles the whole training step, losses and samplers
    included, and leaves validation and tests uncompiled.

    Args:
        backend: Of ``torch.compile``.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend

    def before_run(self, runner: Runner) -> None:
        """Compile.

        Raises:
            UserError: If the backend is unknown, or the backbone cannot be compiled.
        """
        compile_backbones(_bare_model(runner), self.backend)


class CompleteCheckpointHook(Hook):
    """Refuses a checkpoint that does not fit, before anything is copied.

    mmengine loads with ``strict=False``, so that a test with the wrong config or file gives
    figures of a random network, and a training starts from one. Used by the tools.

    Args:
        use: ``'test'`` and ``'resume'`` want the whole model, and ``'resume'`` what a training
            goes on from. ``'load_from'`` wants the backbone (each part with
            :class:`~mmmetaformer.weights.PublishedNames`); necks and heads may start anew, such as
            one for other classes, and mmengine logs it.

    Raises:
        ValueError: If ``use`` is none of them.
    """

    # In front of EMAHook, which loads its copy; behind PublishedClassifierHook if that comes first.
    priority = "VERY_HIGH"

    def __init__(self, use: str = "test") -> None:
        if use not in ("test", "load_from", "resume"):
            raise ValueError(f"use must be 'test', 'load_from' or 'resume', got {use!r}")
        self.use = use

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names, shapes and values before the weights are copied.

        Raises:
            UserError: If a parameter is missing or has another shape, or if the file is none to
                resume from.
            WeightsError: If a part does not fit, or a parameter has unusable values.
        """
        check_fit(_bare_model(runner), checkpoint["state_dict"], whole=self.use != "load_from")
        if self.use == "resume":
            _check_resumable(checkpoint)
        if self.use == "test":
            _warn_of_other_classes(runner, checkpoint)


def check_fit(model: nn.Module, state_dict: Mapping[str, Any], whole: bool = True) -> None:
    """Compare names, shapes and values of a checkpoint with a model.

    Args:
        model: A detector, segmentor or image classifier.
        state_dict: The weights, with a backbone under any of its published names.
        whole: Whether all of the model has to be there.

    Raises:
        UserError: If a parameter is missing or has another shape.
        WeightsError: If a part does not fit, or a parameter has unusable values.
    """
    weights = rename_parts(model, state_dict)
    expected = model.state_dict()
    wrong = []
    for name, value in expected.items():
        if name in weights and (reason := why_unusable(weights[name], value)):
            raise WeightsError(f"the checkpoint does not fit the config: {name} {reason}")
        if name not in weights or weights[name].shape != value.shape:
            wrong.append(name)
    if wrong and whole:
        shown = ", ".join(wrong[:5]) + " ..." * (len(wrong) > 5)
        raise UserError(
            f"the checkpoint does not fit the config: {len(wrong)} of {len(expected)} tensors "
            f"are missing or differ in shape ({shown})"
        )


class PlainCheckpointHook(Hook):
    """Saves checkpoints that ``torch.load(weights_only=True)`` reads, whoever calls it.

    mmengine's message hub holds ``HistoryBuffer`` and numpy scalars, which torch's safe loader
    refuses. ``DetInferencer`` and ``MMSegInferencer`` read a file before this package could allow
    them. This hook saves plain containers, numbers and tensors instead, and restores the
    ``HistoryBuffer`` on loading. Without the hook such a checkpoint resumes, too, but for the
    history of the logged scalars. Added by ``tools/train.py``.

    numpy arrays become tensors, and objects of other classes None, with a warning.
    """

    # Behind hooks that add to the checkpoint, such as EMAHook.
    priority = "LOWEST"

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace what torch's safe loader refuses."""
        for name, content in checkpoint.items():
            checkpoint[name] = _plain(content, name)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make the histories what they were; older checkpoints pass as they are."""
        hub = checkpoint.get("message_hub")
        scalars = hub.get("log_scalars", {}) if isinstance(hub, dict) else {}
        for name, history in scalars.items():
            if isinstance(history, dict):
                log, count = (history[f"{kind}_history"].cpu().numpy() for kind in _HISTORIES)
                scalars[name] = HistoryBuffer(log, count, history["max_length"])


_HISTORIES = ("log", "count")
_PLAIN = (Tensor, str, bytes, bool, int, float, complex, type(None), torch.Size, torch.device)


def _plain(value: Any, where: str) -> Any:
    """A copy of a value in containers, numbers and tensors; ``where`` names it in warnings."""
    if type(value) in _PLAIN or isinstance(value, Tensor | torch.dtype):
        return value
    if isinstance(value, HistoryBuffer):
        history = dict(zip(_HISTORIES, value.data, strict=True))
        content = {f"{kind}_history": array for kind, array in history.items()}
        return _plain({**content, "max_length": value.max_length}, where)
    if isinstance(value, Mapping):
        if all(isinstance(item, Tensor) for item in value.values()):
            return value  # a state dict, with its metadata
        return {_plain(k, where): _plain(item, f"{where}.{k}") for k, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        kind = next(k for k in (list, tuple, set, frozenset) if isinstance(value, k))
        return (set if kind is frozenset else kind)(_plain(item, where) for item in value)
    if isinstance(value, np.generic | np.ndarray):
        is_array = isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
        return torch.from_numpy(value.copy()) if is_array else _plain(value.tolist(), where)
    plain: Any  # subclasses of these become what they derive from
    for plain in (bool, int, float, complex, str, bytes):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    warn(f"{where} is of {type(value).__name__}, which checkpoints cannot hold: saved as None")
    return None


def _check_resumable(checkpoint: dict) -> None:
    meta = checkpoint.get("meta") or {}
    absent = [name for name in ("epoch", "iter") if name not in meta]
    if "message_hub" not in checkpoint:
        absent.append("message_hub")
    if absent:
        raise UserError(
            f"the checkpoint is none to resume from, it has no {', '.join(absent)}: "
            "--cfg-options load_from=CHECKPOINT starts a new training with its weights"
        )


def _warn_of_other_classes(runner: Runner, checkpoint: dict) -> None:
    """Say so when a checkpoint and the data set number their classes differently."""
    meta = checkpoint.get("meta") or {}
    trained = meta.get("CLASSES") or (meta.get("dataset_meta") or {}).get("classes")
    dataset = getattr(getattr(runner.test_loop, "dataloader", None), "dataset", None)
    tested = (getattr(dataset, "metainfo", None) or {}).get("classes")
    if not isinstance(trained, list | tuple) or not isinstance(tested, list | tuple):
        return
    differing = [pair for pair in zip(trained, tested, strict=False) if pair[0] != pair[1]]
    if differing:
        theirs, ours = differing[0]
        warn(
            f"the checkpoint was trained with other classes than the data set's, or in another "
            f"order: {theirs!r} where this has {ours!r}, the first of {len(differing)}"
        )
