import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """Networks with random weights are the same in every run."""
    torch.manual_seed(0)
