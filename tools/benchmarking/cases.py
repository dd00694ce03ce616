"""One case: all contenders on one network, one size and one kind of work."""

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

from .candidates import BackboneSubject, Candidate, Subject, full_precision
from .contenders import Contender
from .memory import peak_bytes, saved_bytes
from .turns import Timer, speedups, spread, take_turns

# Of a map's standard deviation: more than the order of summation explains.
_SAME = 1e-3
_ROWS_OF_PROFILE = 25


@dataclass(frozen=True)
class Settings:
    """How a case is measured.

    Attributes:
        rounds: Rounds of turns that count.
        runs: Runs of a turn that count.
        warmup: Rounds before them.
        profiled: Whether each contender's operators are profiled.
    """

    rounds: int = 7
    runs: int = 4
    warmup: int = 1
    profiled: bool = False


@dataclass
class Measured:
    """What one contender costs.

    Attributes:
        contender: What it is.
        turns: Milliseconds of its turns.
        speedups: By turn, how many times faster than the first contender.
        saved_bytes: What the forward pass holds for the backward pass; None for inference.
        peak_bytes: Largest number of bytes at a time; see :func:`~.memory.peak_bytes`.
        difference: ``rms`` and ``max`` of the difference between its results and those of our plain
            network in float32, as a share of their standard deviation: of the worst of the maps
            for inference, of all gradients together for training. None for whole models in
            training, whose samplers draw at random.
        profile: The operators that take the most time.
    """

    contender: Contender
    turns: list[float] = field(default_factory=list)
    speedups: list[float] = field(default_factory=list)
    saved_bytes: int | None = None
    peak_bytes: int | None = None
    difference: dict[str, float] | None = None
    profile: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return dict(
            name=self.contender.label,
            **asdict(self.contender),
            milliseconds=spread(self.turns),
            turns=self.turns,
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
    """The figures of all contenders on one network, one size and one kind of work."""

    network: str
    work: str
    batch_size: int
    size: tuple[int, int]
    measured: list[Measured]

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return dict(
            network=self.network,
            work=self.work,
            batch_size=self.batch_size,
            height=self.size[0],
            width=self.size[1],
            baseline=self.measured[0].contender.label,
            contenders=[one.as_dict() for one in self.measured],
        )


def run_cases(
    subject: Subject,
    contenders: Sequence[Contender],
    works: Sequence[str],
    settings: Settings,
    timer: Timer,
) -> Iterator[Case]:
    """Measure contenders on one network at one size.

    They are first shown to be the same function: in float32, their maps must be equal.

    Args:
        subject: The network.
        contenders: Whom to compare, the first being the one that the others are compared with.
        works: Some of ``WORKS``.
        settings: How.
        timer: What a run takes, in milliseconds.

    Yields:
        A case for each kind of work.

    Raises:
        UserError: If a contender does not fit, does not run or is another function.
    """
    torch.compiler.reset()  # compiled code of the case before
    candidates = {}
    for contender in contenders:
        with _explaining(subject, contender):
            candidates[contender] = subject.build(contender)
    _check_same(subject, candidates)
    for work in works:
        yield _run_case(subject, candidates, work, settings, timer)


def _run_case(
    subject: Subject,
    candidates: dict[Contender, Candidate],
    name: str,
    settings: Settings,
    timer: Timer,
) -> Case:
    works = {contender.label: one.work(name) for contender, one in candidates.items()}
    measured = {contender: Measured(contender) for contender in candidates}
    expected = _reference(subject, name)
    for contender, candidate in candidates.items():
        with _explaining(subject, contender):
            if expected is not None:
                found = _results(subject, candidate, name)
                measured[contender].difference = difference(found, expected)
                del found
            works[contender.label]()  # compiles, and makes the states of an optimiser
    del expected

    turns = take_turns(works, timer, settings.rounds, settings.runs, settings.warmup)
    baseline = next(iter(turns.values()))
    for contender, candidate in candidates.items():
        one, work = measured[contender], works[contender.label]
        one.turns = turns[contender.label]
        one.speedups = speedups(baseline, one.turns)
        one.peak_bytes = peak_bytes(candidate, work)
        if name == "training":
            one.saved_bytes = saved_bytes(candidate)
        if settings.profiled:
            one.profile = _profile(candidate, work)
    return Case(subject.name, name, subject.batch_size, subject.size, list(measured.values()))


def _check_same(subject: Subject, candidates: dict[Contender, Candidate]) -> None:
    """Raise ``UserError`` unless all compute the same maps in float32."""
    expected = None
    for contender, candidate in candidates.items():
        candidate.work("inference")
        with _explaining(subject, contender), full_precision():
            found = candidate.features_in_float32()
        if expected is None:
            expected, first = found, contender
        shapes = [[tuple(one.shape) for one in maps] for maps in (expected, found)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{subject.name}: the maps of {contender.label} are {shapes[1]}, those of "
                f"{first.label} {shapes[0]}: at other sizes they may be the same function"
            )
        off = difference(found, expected)["max"]
        if not off <= _SAME:
            raise UserError(
                f"{subject.name}: {contender.label} and {first.label} are not the same function: "
                f"in float32 their maps differ by {off:.2g} standard deviations"
            )


def _reference(subject: Subject, work: str) -> list[Tensor] | None:
    """The results of our plain network in float32; None if there are none to compare."""
    if not _comparable(subject, work):
        return None
    plain = subject.build(Contender("plain", False, False, "float32"))
    plain.work(work)
    with full_precision():
        return _results(subject, plain, work)


def _comparable(subject: Subject, work: str) -> bool:
    # Whole models draw samples at random in training.
    return work == "inference" or isinstance(subject, BackboneSubject)


def _results(subject: Subject, candidate: Candidate, work: str) -> list[Tensor]:
    """What a difference is taken of: maps, or all gradients in one vector."""
    if work == "inference":
        return candidate.features()
    gradients = candidate.gradients(subject.plain)
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
def _explaining(subject: Subject, contender: Contender) -> Iterator[None]:
    """What a contender cannot do, as a ``UserError`` that names it."""
    height, width = subject.size
    what = f"{contender.label} cannot run {subject.name} at {height}x{width}"
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"{what}: the memory of the GPU is too small; use a smaller size or batch"
        ) from error
    except (AssertionError, ValueError) as error:  # how timm and mmpretrain refuse a size
        raise UserError(f"{what}: {error}") from error
    except RuntimeError as error:
        if contender.dtype == "float32" or "scalar type" not in str(error):
            raise
        # mmcv's operators, of which some have no short floats.
        raise UserError(f"{what}: an operator does not take {contender.dtype} ({error})") from error
