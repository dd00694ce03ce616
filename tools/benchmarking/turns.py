"""Time, measured in turns: A B C A B C, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Work = Callable[[], Any]
Timer = Callable[[Work], float]


def wall_clock(device: torch.device) -> Timer:
    """A timer of pieces of work, in milliseconds, that waits for a GPU to finish them."""

    def milliseconds(work: Work) -> float:
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        return 1e3 * (time.perf_counter() - start)

    return milliseconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(
    works: Mapping[str, Work], timer: Timer, rounds: int, runs: int = 4, warmup: int = 1
) -> dict[str, list[float]]:
    """Milliseconds of each piece of work in each round.

    In a round each piece of work has one turn. A turn is one run that fills the caches behind the
    others' turns and is not counted, and some that are; its time is their median.

    Args:
        works: What to run, by name, in the order of the turns.
        timer: What a run takes.
        rounds: Rounds that count.
        runs: Runs of a turn that count.
        warmup: Rounds before them.

    Raises:
        ValueError: If ``rounds`` or ``runs`` is not positive or ``warmup`` is negative.
    """
    if rounds < 1 or runs < 1 or warmup < 0:
        raise ValueError(
            f"expected rounds >= 1, runs >= 1 and warmup >= 0, got {rounds}, {runs} and {warmup}"
        )
    turns: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-warmup, rounds):
        for name, work in works.items():
            timer(work)
            milliseconds = statistics.median(timer(work) for _ in range(runs))
            if number >= 0:
                turns[name].append(milliseconds)
    return turns


def speedups(baseline: list[float], turns: list[float]) -> list[float]:
    """How many times faster than the baseline, from the turns of the same round.

    A machine that is busy with other things disturbs these ratios less than the times.
    """
    return [before / after for before, after in zip(baseline, turns, strict=True)]


def spread(values: list[float]) -> dict[str, float]:
    """Median, quartiles and extremes."""
    lower, median, upper = (
        statistics.quantiles(values, method="inclusive") if len(values) > 1 else values * 3
    )
    return dict(
        median=median,
        lower_quartile=lower,
        upper_quartile=upper,
        minimum=min(values),
        maximum=max(values),
    )
