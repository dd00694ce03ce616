"""One case: all implementations on one network, one size and one kind of work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mmmetaformer.engine.errors import UserError

from .candidates import BackboneModel, BenchmarkModel, Candidate, full_precision
from .implementations import Implementation
from .memory import peak_bytes, saved_bytes
from .timing import Timer, speedups, spread, time_interleaved

# What the order of summation explains, in standard deviations of a map.
_SAME = 1e-3
_ROWS_OF_PROFILE = 25


@dataclass(frozen=True)
class Settings:
    """How a case is measured.

    Attributes:
        rounds: Rounds that count, in each of which every implementation runs.
        runs: Runs of an implementation in a round that count.
        warmup: Rounds before those that count.
        profiled: Whether each implementation's operators are profiled.
    """

    rounds: int = 7
    runs: int = 4
    warmup: int = 1
    profiled: bool = False


@dataclass
class Measured:
    """What one implementation costs.

    Attributes:
        implementation: What it is.
        times: Milliseconds by round.
        speedups: How many times faster than the first implementation, by round.
        saved_bytes: What the forward pass holds for the backward pass; None for inference.
        peak_bytes: Largest number of bytes at a time; see :func:`~.memory.peak_bytes`.
        difference: ``rms`` and ``max`` of the difference between its results and those of our plain
            network in float32, as a share of their standard deviation: of the worst of the maps
            for inference, of all gradients together for training. None for whole models in
            training, whose samplers draw at random.
        profile: The operators that take the most time.
    """

    implementation: Implementation
    times: list[float] = field(default_factory=list)
    speedups: list[float] = field(default_factory=list)
    saved_bytes: int | None = None
    peak_bytes: int | None = None
    difference: dict[str, float] | None = None
    profile: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """What a JSON file holds."""
        return dict(
            label=self.implementation.label,
            **asdict(self.implementation),
            milliseconds=spread(self.times),
            times=self.times,
            speedup=spread(self.speedups),
            saved_bytes=self.saved_bytes,
            peak_bytes=self.peak_bytes,
            difference=self.difference
            and {
                # JSON has no other numbers: None after an overflow, say.
                name: share if math.isfinite(share) else None
                for name, share in self.difference.items()
            },
        )


@dataclass
class Case:
    """The figures of all implementations on one network, one size and one kind of work."""

    network: str
    work: str
    batch_size: int
    size: tuple[int, int]
    measured: list[Measured]

    def as_dict(self) -> dict[str, Any]:
        """What a JSON file holds."""
        return dict(
            network=self.network,
            work=self.work,
            batch_size=self.batch_size,
            height=self.size[0],
            width=self.size[1],
            baseline=self.measured[0].implementation.label,
            implementations=[one.as_dict() for one in self.measured],
        )


def run_cases(
    model: BenchmarkModel,
    implementations: Sequence[Implementation],
    works: Sequence[str],
    settings: Settings,
    timer: Timer,
) -> Iterator[Case]:
    """Measure implementations of one network at one size.

    They are first shown to be the same function: in float32, their maps must be equal.

    Args:
        model: The network at that size.
        implementations: What to compare; the first is what the others are compared with.
        works: Some of ``WORKS``.
        settings: How.
        timer: What a run takes, in milliseconds.

    Yields:
        A case for each kind of work.

    Raises:
        UserError: If an implementation does not fit, does not run or is another function.
    """
    torch.compiler.reset()  # compiled code of the case before
    candidates = []
    for implementation in implementations:
        with _explaining(model, implementation):
            candidates.append(model.build(implementation))
    _check_same(model, candidates)
    for work in works:
        yield _run_case(model, candidates, work, settings, timer)


def _run_case(
    model: BenchmarkModel,
    candidates: Sequence[Candidate],
    work: str,
    settings: Settings,
    timer: Timer,
) -> Case:
    works = {one.implementation.label: one.work(work) for one in candidates}
    measured = [Measured(one.implementation) for one in candidates]
    expected = _reference(model, work)
    for one, candidate, run in zip(measured, candidates, works.values(), strict=True):
        with _explaining(model, candidate.implementation):
            if expected is not None:
                one.difference = difference(_results(model, candidate, work), expected)
            run()  # compiles, and makes the states of an optimiser
    del expected

    times = list(
        time_interleaved(works, timer, settings.rounds, settings.runs, settings.warmup).values()
    )
    for one, candidate, run, own in zip(measured, candidates, works.values(), times, strict=True):
        one.times, one.speedups = own, speedups(times[0], own)
        one.peak_bytes = peak_bytes(candidate, run)
        if work == "training":
            one.saved_bytes = saved_bytes(candidate)
        if settings.profiled:
            one.profile = _profile(candidate, run)
    return Case(model.name, work, model.batch_size, model.size, measured)


def _check_same(model: BenchmarkModel, candidates: Sequence[Candidate]) -> None:
    """Raise ``UserError`` unless all compute the same maps in float32."""
    first, expected = candidates[0].implementation.label, None
    for candidate in candidates:
        label = candidate.implementation.label
        candidate.work("inference")
        with _explaining(model, candidate.implementation), full_precision():
            found = candidate.features_in_float32()
        expected = found if expected is None else expected
        shapes = [[tuple(one.shape) for one in maps] for maps in (expected, found)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{model.name}: the maps of {label} are {shapes[1]}, those of {first} {shapes[0]}: "
                "at other sizes they may be the same function"
            )
        off = difference(found, expected)["max"]
        if not off <= _SAME:
            raise UserError(
                f"{model.name}: {label} and {first} are not the same function: in float32 their "
                f"maps differ by {off:.2g} standard deviations"
            )


def _reference(model: BenchmarkModel, work: str) -> list[Tensor] | None:
    """The results of our plain network in float32; None if there are none to compare."""
    # Whole models draw samples at random in training.
    if work == "training" and not isinstance(model, BackboneModel):
        return None
    plain = model.build(Implementation("plain"))
    plain.work(work)
    with full_precision():
        return _results(model, plain, work)


def _results(model: BenchmarkModel, candidate: Candidate, work: str) -> list[Tensor]:
    """What a difference is taken of: maps, or all gradients in one vector."""
    if work == "inference":
        return candidate.features()
    gradients = candidate.gradients(model.plain)
    return [torch.cat([gradients[name].flatten().double() for name in sorted(gradients)])]


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> dict[str, float]:
    """Root mean square and maximum of the difference between tensors, as shares of the standard
    deviation of the expected ones; the worst of all."""
    shares = [
        (one.double() - other.double()) / other.double().std()
        for one, other in zip(found, expected, strict=True)
    ]
    return dict(
        rms=max(float(share.square().mean().sqrt()) for share in shares),
        max=max(float(share.abs().max()) for share in shares),
    )


def _profile(candidate: Candidate, work: Callable[[], object]) -> str:
    gpu = candidate.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as recorded:
        work()
    return recorded.key_averages().table(
        sort_by="self_device_time_total" if gpu else "self_cpu_time_total",
        row_limit=_ROWS_OF_PROFILE,
        max_name_column_width=80,
    )


@contextmanager
def _explaining(model: BenchmarkModel, implementation: Implementation) -> Iterator[None]:
    """What an implementation cannot do, as a ``UserError`` that names it."""
    height, width = model.size
    what = f"{implementation.label} cannot run {model.name} at {height}x{width}"
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"{what}: the memory of the GPU is too small; use a smaller size or batch"
        ) from error
    except (AssertionError, ValueError) as error:  # how timm and mmpretrain refuse a size
        raise UserError(f"{what}: {error}") from error
    except RuntimeError as error:
        if implementation.dtype == "float32" or "scalar type" not in str(error):
            raise
        # mmcv's operators, of which some have no short floats.
        raise UserError(
            f"{what}: an operator does not take {implementation.dtype} ({error})"
        ) from error
