"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.registry import DefaultScope
from packaging.version import Version
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT.parent / "shared" / "golden"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``@pytest.mark.torch("2.4")``: what an older torch cannot do is not tested there."""
    for mark in item.iter_markers("torch"):
        (least,) = mark.args
        if Version(torch.__version__) < Version(least):
            pytest.skip(f"torch {least} or newer")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> dict:
    """Outputs of the published implementations."""
    if not (GOLDEN / "golden.json").is_file():
        pytest.skip("the golden outputs are not there")
    return json.loads((GOLDEN / "golden.json").read_text())


@pytest.fixture(scope="session")
def formula() -> ModuleType:
    """Weights, image and digest of the golden outputs."""
    path = GOLDEN / "formula_weights.py"
    if not path.is_file():
        pytest.skip("the golden outputs are not there")
    spec = importlib.util.spec_from_file_location("formula_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def default_scope() -> Iterator[None]:
    """A scope that a test makes mmengine's default ends with it."""
    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


@pytest.fixture
def randomize() -> Callable[[nn.Module], nn.Module]:
    """Give every parameter a value that shows in the output, LayerScale included."""

    def apply(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim > 1:
                    parameter.copy_(noise / parameter[0].numel() ** 0.5)
                elif name.endswith("bias"):
                    parameter.copy_(0.1 * noise)
                else:
                    parameter.copy_(1 + 0.1 * noise)
        return module

    return apply


@pytest.fixture
def randomize_norms(randomize) -> Callable[[nn.Module], nn.Module]:
    """The same with running statistics that show, too, in eval mode."""

    def apply(module: nn.Module) -> nn.Module:
        randomize(module)
        generator = torch.Generator().manual_seed(1)
        for norm in module.modules():
            if isinstance(norm, _BatchNorm):
                norm.running_mean.normal_(generator=generator)
                norm.running_var.uniform_(0.5, 2, generator=generator)
        return module.eval()

    return apply
