"""Average pooling minus the input."""

import pytest
import torch

from mmmetaformer.mixers import Identity, Pooling


@pytest.mark.parametrize("pool_size", [1, 3, 5, 7, 9])
def test_is_the_mean_of_the_pixels_in_the_image_minus_the_input(pool_size):
    x = torch.randn(2, 3, 6, 9, dtype=torch.double)
    expected = torch.empty_like(x)
    reach = pool_size // 2
    for row in range(6):
        for column in range(9):
            window = x[
                ...,
                max(0, row - reach) : row + reach + 1,
                max(0, column - reach) : column + reach + 1,
            ]
            expected[..., row, column] = window.mean((-2, -1)) - x[..., row, column]
    torch.testing.assert_close(Pooling(3, pool_size)(x), expected)


@pytest.mark.parametrize("pool_size", [0, 2, -3, 3.0, "3", None])
def test_wrong_pool_size(pool_size):
    with pytest.raises(ValueError, match="positive odd integer"):
        Pooling(3, pool_size)


def test_identity():
    x = torch.randn(2, 3, 6, 9)
    assert Identity(3)(x) is x
