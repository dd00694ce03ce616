"""Times of interleaved runs, A B C A B C: what disturbs the machine disturbs all alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.benchmark import timer as now  # waits for the GPU

Work = Callable[[], Any]
Timer = Callable[[Work], float]


def wall_clock(work: Work) -> float:
    """Milliseconds of one run."""
    start = now()
    work()
    return 1e3 * (now() - start)


def time_interleaved(
    works: Mapping[str, Work], timer: Timer, rounds: int, runs: int = 4, warmup: int = 1
) -> dict[str, list[float]]:
    """Milliseconds of each piece of work in each round.

    In a round one piece of work follows the other: first a run that is not counted and fills the
    caches behind the others, then those whose median is the time.

    Args:
        works: What to run, by name, in this order.
        timer: What a run takes.
        rounds: Rounds that count.
        runs: Runs of a piece of work in a round that count.
        warmup: Rounds before those that count.

    Raises:
        ValueError: If ``rounds`` or ``runs`` is not positive or ``warmup`` is negative.
    """
    if rounds < 1 or runs < 1 or warmup < 0:
        raise ValueError(
            f"expected rounds >= 1, runs >= 1 and warmup >= 0, got {rounds}, {runs} and {warmup}"
        )
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-warmup, rounds):
        for name, work in works.items():
            timer(work)
            milliseconds = statistics.median(timer(work) for _ in range(runs))
            if number >= 0:
                times[name].append(milliseconds)
    return times


def speedups(baseline: list[float], times: list[float]) -> list[float]:
    """How many times faster than the baseline in each round.

    A machine that is busy with other things disturbs these ratios less than the times.
    """
    return [before / after for before, after in zip(baseline, times, strict=True)]


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
