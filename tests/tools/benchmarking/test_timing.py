"""Order of the runs, what counts, and ratios; with a clock that only counts."""

from __future__ import annotations

import time

import pytest

from benchmarking.timing import speedups, spread, time_interleaved, wall_clock


def test_runs_are_interleaved_and_the_first_do_not_count():
    order, times = [], iter(range(100))

    def timer(work):
        work()
        return float(next(times))

    works = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    found = time_interleaved(works, timer, rounds=2, runs=3, warmup=1)
    assert "".join(order) == 3 * "aaaabbbb"
    # The runs 0 to 7 are the round before; of each round the first of each is left out.
    assert found == {"a": [10.0, 18.0], "b": [14.0, 22.0]}


@pytest.mark.parametrize("bad", [dict(rounds=0), dict(runs=0), dict(warmup=-1)])
def test_numbers_that_make_no_sense(bad):
    with pytest.raises(ValueError, match="expected rounds >= 1, runs >= 1 and warmup >= 0"):
        time_interleaved({"a": lambda: None}, lambda work: 1.0, **{"rounds": 1, **bad})


def test_ratios_are_of_the_same_round():
    """A machine that becomes twice as slow in between changes no ratio."""
    assert speedups([3.0, 6.0], [2.0, 4.0]) == [1.5, 1.5]


def test_spread():
    found = spread([1.0, 2.0, 3.0, 4.0, 9.0])
    assert found == dict(
        median=3.0, lower_quartile=2.0, upper_quartile=4.0, minimum=1.0, maximum=9.0
    )
    assert set(spread([7.0]).values()) == {7.0}


def test_wall_clock_is_in_milliseconds():
    assert 50 <= wall_clock(lambda: time.sleep(0.05)) < 5000
