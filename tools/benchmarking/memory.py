"""Bytes that a piece of work needs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mmmetaformer.engine.complexity import saved_for_backward

from .candidates import Candidate
from .timing import Work


def saved_bytes(candidate: Candidate) -> int:
    """Bytes that the forward pass of a training step holds for the backward pass: distinct
    storages, without parameters, buffers and images."""
    inputs = candidate.inputs()
    with saved_for_backward() as saved:
        candidate.forward()
    return saved.total(exclude=candidate.module, inputs=inputs)


def peak_bytes(candidate: Candidate, work: Work) -> int:
    """Largest number of bytes in tensors while a piece of work runs: what the candidate owns, and
    what torch's allocator hands out on top. Tensors of other candidates and of the images do not
    count, nor does what libraries allocate by themselves.

    On a GPU the allocator says it; on a CPU each allocation is recorded by torch's profiler.
    """
    device = candidate.device
    if device.type != "cuda":
        return _owned(candidate) + _peak_on_cpu(work)
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return _owned(candidate) + torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(work: Work) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = highest = 0
    # Before torch 2.4 in microseconds.
    start = "start_ns" if events and hasattr(events[0], "start_ns") else "start_us"
    for event in sorted(events, key=lambda event: getattr(event, start)()):
        held += event.nbytes()  # negative where memory is given back
        highest = max(highest, held)
    return highest


def _owned(candidate: Candidate) -> int:
    """Bytes of parameters, buffers and the states of the optimiser."""
    states = candidate.optimiser.state.values() if candidate.optimiser else ()
    tensors = [
        *candidate.module.parameters(),
        *candidate.module.buffers(),
        *(value for state in states for value in state.values() if isinstance(value, Tensor)),
    ]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
