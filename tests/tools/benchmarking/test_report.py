"""Exponents of costs that are known, and what becomes of measured cases."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from benchmarking.cases import Case, Measured
from benchmarking.implementations import Implementation
from benchmarking.report import (
    describe_machine,
    draw_growths,
    fit_exponent,
    growths,
    rows,
)

SIZES = [(64, 64), (32, 32), (128, 96)]


def case(size: tuple[int, int], work: str = "training") -> Case:
    """One implementation that is linear and one that is quadratic in the pixels."""
    pixels = size[0] * size[1]
    measured = [
        Measured(Implementation(name), [cost, cost, 9 * cost], [1.0, 2.0, 3.0])
        for name, cost in (("timm", 3.0 * pixels), ("fused", 1e-4 * pixels**2))
    ]
    measured[1].saved_bytes, measured[1].difference = 3 * 2**20, dict(rms=1e-6, max=2e-5)
    return Case("poolformer_s12", work, 2, size, measured)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_a_power_law_is_found(exponent):
    pixels = [256**2, 512**2, 640 * 800, 1280**2]
    costs = [3e-5 * count**exponent for count in pixels]
    assert fit_exponent(pixels, costs) == pytest.approx(exponent, rel=1e-9)


def test_noise_moves_the_exponent_little():
    rng = np.random.default_rng(0)
    pixels = [side**2 for side in (256, 384, 512, 768, 1024, 1280)]
    costs = [count * rng.uniform(0.97, 1.03) for count in pixels]
    assert fit_exponent(pixels, costs) == pytest.approx(1, abs=0.03)


def test_one_size_has_no_exponent():
    assert fit_exponent([1024], [1.0]) is None
    assert fit_exponent([1024, 1024], [1.0, 2.0]) is None


def test_growths_are_by_work_and_implementation_over_medians():
    cases = [case(size, work) for size in SIZES for work in ("inference", "training")]
    found = growths(cases)
    assert [(one.work, one.label) for one in found] == [
        (work, name) for work in ("inference", "training")
        for name in ("timm@float32", "fused@float32")
    ]  # fmt: skip
    assert [one.exponent for one in found] == pytest.approx([1, 2, 1, 2])
    assert found[0].sizes == ((32, 32), (64, 64), (128, 96))
    assert found[0].milliseconds == pytest.approx((3 * 1024, 3 * 4096, 3 * 12288))
    assert found[1].implementation == "fused"


def test_picture():
    pixels = cv2.imdecode(
        np.frombuffer(draw_growths(growths([case(s) for s in SIZES]), "t"), np.uint8), 1
    )
    assert pixels.shape[0] > 400 and pixels.std() > 10


def test_table():
    first, second = rows(case((32, 32)))
    assert first["ms"] == "3072.0" and first["quartiles"] == "3072.0 to 15360.0"
    assert first["saved MiB"] is None and second["saved MiB"] == "3.0"
    assert second["x faster"] == "2.00" and second["rms difference"] == "1.0e-06"


def test_numbers_that_are_none_are_null_in_json():
    """An overflow of float16, say."""
    one = Measured(Implementation("plain", dtype="float16"), [1.0], [1.0])
    one.difference = dict(rms=float("nan"), max=float("inf"))
    assert one.as_dict()["difference"] == dict(rms=None, max=None)


def test_machine():
    machine = describe_machine(torch.device("cpu"))
    assert machine["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert machine["threads"] == torch.get_num_threads() and "gpu" not in machine
