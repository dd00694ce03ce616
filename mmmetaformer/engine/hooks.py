"""Runner hooks."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from .errors import UserError


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
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model = getattr(model, "module", model)  # a test-time-augmentation model holds the model
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
