"""Activation checkpointing that leaves running statistics alone."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def _norms_with_statistics(block: nn.Module) -> list[_NormBase]:
    return [m for m in block.modules() if isinstance(m, _NormBase) and m.track_running_stats]


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """BatchNorm in training mode normalises by the batch and does not note it down."""
    norms = _norms_with_statistics(block)
    before = [
        (norm.momentum, None if norm.num_batches_tracked is None else norm.num_batches_tracked + 0)
        for norm in norms
    ]
    for norm in norms:
        # The same operations as in the first run, so that autograd saves the same tensors.
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)


def checkpoint_block(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block, and run it again in the backward pass instead of storing its activations.

    The second run would update the running statistics of BatchNorm a second time with the same
    batch; here it does not, so checkpointed training equals plain training.
    """
    if not _norms_with_statistics(block):
        return checkpoint(block, x, use_reentrant=False)  # which torch.compile understands
    return checkpoint(
        block,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _without_statistics(block)),
    )
