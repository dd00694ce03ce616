"""What the tests of the fused path share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

_FUNCTIONS = {
    "PoolResidualBackward",
    "BranchBackward",
    "PoolResidualBranchBackward",
    "NormLinearBackward",
    "NormBackward",
    "ConvolutionBackward",
    "ContiguousBackward",
}


@pytest.fixture
def fused_functions() -> Callable[[torch.Tensor], list[str]]:
    """The fused functions that a tensor was computed by, by the names of their backward passes."""

    def names(*outputs: torch.Tensor) -> list[str]:
        seen, found, nodes = set(), [], [output.grad_fn for output in outputs]
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if type(node).__name__ in _FUNCTIONS:
                found.append(type(node).__name__.removesuffix("Backward"))
            nodes += [function for function, _ in node.next_functions]
        return sorted(found)

    return names
