"""tools/latency.py: what is timed, in which order, and what is said of it."""

from __future__ import annotations

import re
import runpy
import sys

import pytest
import torch
from torch import nn

from mmmetaformer import create_backbone
from mmmetaformer.compat import autocast_dtype
from mmmetaformer.engine.errors import UserError


class Sleeper(nn.Module):
    """A network that takes so many ticks of a clock that stands still otherwise."""

    def __init__(self, name: str, ticks: float, log: list) -> None:
        super().__init__()
        self.name, self.ticks, self.log = name, ticks, log

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cold = not self.log or self.log[-1][0] != self.name
        self.log.append((self.name, tuple(x.shape), autocast_dtype("cpu") is not None))
        Sleeper.now += 1e-3 * (self.ticks + 100 * cold)
        return x


@pytest.fixture
def latency(root, monkeypatch):
    """Its names, on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(*args: str, **replaced) -> dict:
        monkeypatch.setattr(sys, "argv", ["latency.py", *args])
        module = runpy.run_path(str(root / "tools/latency.py"))
        module["main"].__globals__.update(replaced)
        module["main"]()
        return module

    return run


def test_runs_are_interleaved_and_warm_the_caches(latency, monkeypatch, capsys):
    """The run behind a change of networks is not in the figures, nor is the first round."""
    log: list = []
    monkeypatch.setattr("benchmarking.timing.now", lambda: Sleeper.now)
    monkeypatch.setattr(Sleeper, "now", 0.0, raising=False)
    module = latency(
        "ffnet_1", "--size", "32x64", "--batch-size", "2", "--rounds", "2", "--dtype", "bfloat16",
        create_backbone=lambda arch: Sleeper("plain", 30, log),
        switch_to_deploy=lambda model: Sleeper("fused", 20, log),
    )  # fmt: skip
    runs = 1 + module["RUNS"]
    assert [name for name, _, _ in log] == 3 * (runs * ["plain"] + runs * ["fused"])
    assert {(shape, autocast) for _, shape, autocast in log} == {((2, 3, 32, 64), True)}
    assert re.search(r"ffnet_1 +30\.0 +20\.0 +1\.50\n", capsys.readouterr().out)


def test_networks(latency, capsys):
    """Both are in eval mode, of the same weights, and one of them is fused."""
    built = []

    def build(arch):
        built.append(create_backbone(arch, depths=[1] * 4, dims=[8, 16, 32, 64]))
        return built[-1]

    latency("ffnet_1", "--size", "32x64", "--rounds", "1", create_backbone=build)
    assert re.search(r"ffnet_1( +\d+\.\d+){3}\n", capsys.readouterr().out)
    plain, fused = built
    assert not plain.training and not fused.training
    assert torch.equal(plain.stages[0][0].mlp.fc1.weight, fused.stages[0][0].mlp.fc1.weight)
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) for model in built]
    assert norms[0] > 0 and norms[1] == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("ffnet_9",), r"unknown archs \['ffnet_9'\]"),
        (("ffnet_1", "--rounds", "0"), "must be positive"),
    ],
)
def test_wrong_arguments(latency, args, message):
    with pytest.raises(UserError, match=message):
        latency(*args)
