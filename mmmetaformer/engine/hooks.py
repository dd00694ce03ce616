"""Runner hooks."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ..weights.trained import published_parts, rename_parts
from .errors import UserError
from .launch import warn


class CompleteCheckpointHook(Hook):
    """Refuses a checkpoint that leaves a part of the model as it was initialised, or that is of a
    deeper backbone.

    mmengine loads with ``strict=False``, so that a test with the wrong config or file gives
    figures of a random network. Used by ``tools/test.py``.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names and shapes before the weights are copied.

        Raises:
            UserError: If a parameter is missing or has another shape, or if a backbone has no
                place for one.
            WeightsError: If a part is in a published layout and does not fit.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model = getattr(model, "module", model)  # a test-time-augmentation model holds the model
        weights = checkpoint.get("state_dict", checkpoint)
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
        weights = rename_parts(model, weights)
        expected = model.state_dict()
        wrong = [
            name
            for name, value in expected.items()
            if name not in weights or weights[name].shape != value.shape
        ]
        if wrong:
            raise UserError(
                f"the checkpoint does not fit the config: {len(wrong)} of {len(expected)} tensors "
                f"are missing or differ in shape ({_some(wrong)})"
            )
        for prefix, part in published_parts(model):
            inside = {
                n: n[len(prefix) :] for n in weights.keys() - expected if n.startswith(prefix)
            }
            spare = sorted(
                name
                for name, own in inside.items()
                if not (part.is_for_outputs(own) or part.is_behind_outputs(own))
            )
            if spare:
                raise UserError(
                    f"the checkpoint does not fit the config: {type(part).__name__} has no place "
                    f"for {len(spare)} of its tensors ({_some(spare)})"
                )
        _warn_of_other_classes(runner, checkpoint)


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


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
