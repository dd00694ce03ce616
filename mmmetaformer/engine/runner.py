"""The runner of ``tools/train.py`` and ``tools/test.py``."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from ..weights import WeightsError, read_checkpoint
from ..weights.convert import innermost, unwrap

_DDP_PREFIX = r"^module\."


class ToolRunner(Runner):
    """mmengine's runner, with checkpoints read as ``init_cfg=dict(type='Pretrained')`` does.

    That is for ``load_from`` and ``--resume``: safely, from the same cache and in every container;
    see :func:`~mmmetaformer.weights.read_checkpoint`.
    """

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = "cpu",
        strict: bool = False,
        revise_keys: Sequence[tuple[str, str]] = ((_DDP_PREFIX, ""),),
    ) -> dict[str, Any]:
        """As mmengine's, but ``map_location`` is not used: files are read to the CPU.

        Raises:
            WeightsError: If the file cannot be read or does not fit; names the file.
        """
        try:
            checkpoint = as_runner_checkpoint(read_checkpoint(filename))
            self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
            model = self.model.module if is_model_wrapper(self.model) else self.model
            _load_checkpoint_to_model(model, checkpoint, strict, revise_keys=list(revise_keys))
        except WeightsError as error:
            if filename in str(error):
                raise
            raise WeightsError(f"{filename}: {error}") from error
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint


def build_runner(cfg: Config) -> Runner:
    """The runner of a config; a class that reads checkpoints in its own way is left as it is."""
    cls = RUNNERS.get(cfg.get("runner_type", "Runner"))
    if cls is None or cls.load_checkpoint is not Runner.load_checkpoint:
        return RUNNERS.build(cfg)
    tool_runner: type[Runner] = type(cls.__name__, (ToolRunner, cls), {})
    return tool_runner.from_cfg(cfg)


def as_runner_checkpoint(content: Any) -> dict[str, Any]:
    """What was read from a file, as mmengine's runner and hooks expect it.

    Args:
        content: Weights, bare or under any of the keys that training scripts wrap them in.

    Returns:
        ``state_dict`` with the weights, without DistributedDataParallel's prefix; ``meta``, which
        may be empty; and whatever else the file holds.

    Raises:
        WeightsError: If there are no weights.
    """
    unwrap(content)
    weights = innermost(content)
    state: Any = OrderedDict(
        (re.sub(_DDP_PREFIX, "", k), v) for k, v in weights.items() if isinstance(k, str)
    )
    metadata = getattr(weights, "_metadata", {})
    # torch reads the versions of modules from this attribute.
    state._metadata = {re.sub(_DDP_PREFIX, "", k): v for k, v in metadata.items()}
    beside = {} if weights is content else content
    meta = beside.get("meta")
    return {**beside, "meta": meta if isinstance(meta, Mapping) else {}, "state_dict": state}
