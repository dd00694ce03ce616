"""Runner hooks."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..weights import convert_classifier_state_dict
from .errors import UserError


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
        model = _bare_model(runner)
        # Of several entries, mmengine takes this one.
        checkpoint["state_dict"] = convert_classifier_state_dict(checkpoint, model)


class CompleteCheckpointHook(Hook):
    """Refuses a checkpoint that leaves a part of the model as it was initialised.

    mmengine loads with ``strict=False``, so that a test with the wrong config or file gives
    figures of a random network. Used by ``tools/test.py``.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names and shapes before the weights are copied.

        Raises:
            UserError: If a parameter is missing or has another shape.
        """
        model = _bare_model(runner)
        weights = checkpoint.get("state_dict", checkpoint)
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
        wrong = [
            name
            for name, value in model.state_dict().items()
            if name not in weights or weights[name].shape != value.shape
        ]
        if wrong:
            shown = ", ".join(wrong[:5]) + (" ..." if len(wrong) > 5 else "")
            raise UserError(
                f"the checkpoint does not fit the config: {len(wrong)} of "
                f"{len(model.state_dict())} tensors are missing or differ in shape ({shown})"
            )
