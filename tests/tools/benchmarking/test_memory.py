"""Bytes of work small enough to count by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarking.candidates import BackboneCandidate
from benchmarking.implementations import Implementation
from benchmarking.memory import peak_bytes, saved_bytes

KIB = 1024


class Squares(nn.Module):
    """Four maps of an image; one is on the way only."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 32, 32))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [(self.scale * x).square()]


@pytest.fixture
def candidate():
    def build(optimiser_step: bool) -> BackboneCandidate:
        implementation = Implementation("plain", False, False, "float32")
        return BackboneCandidate(
            implementation, Squares(), torch.ones(1, 3, 32, 32), optimiser_step
        )

    return build


def test_saved(candidate):
    """The value of the product; the image and the parameter are there anyway."""
    assert saved_bytes(candidate(False)) == 12 * KIB


def test_peak_of_inference(candidate):
    """The parameter, the product and its square."""
    one = candidate(False)
    assert peak_bytes(one, one.work("inference")) == 36 * KIB


def test_peak_counts_the_states_of_the_optimiser(candidate):
    peaks = []
    for step in (False, True):
        one = candidate(step)
        work = one.work("training")
        work()
        peaks.append(peak_bytes(one, work))
    # Two averages of the parameter; AdamW counts its steps, too, and has temporary tensors, but
    # less than the backward pass.
    assert 24 * KIB <= peaks[1] - peaks[0] < 36 * KIB
