"""Activation checkpointing that leaves running statistics alone."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """BatchNorm in training mode normalises by the batch and does not note it down."""
    norms = [
        module
        for module in block.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def checkpoint_block(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block, and run it again in the backward pass instead of storing its activations.

    The second run would update the running statistics of BatchNorm a second time with the same
    batch; here it does not, so checkpointed training equals plain training.
    """
    return checkpoint(
        block,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _without_statistics(block)),
    )
