"""Size-locked mixers: the published function on the grid, three policies elsewhere."""

import pytest
import torch
from torch.nn import functional as F

from mmmetaformer.mixers import SIZE_POLICIES, RandomMatrix, SpatialFC, TokenMlp

GRID = (3, 4)
DIM = 10


def make(cls, policy="window", grid=GRID):
    return cls(DIM, grid_size=grid, size_policy=policy)


CLASSES = [RandomMatrix, SpatialFC, TokenMlp]
EVERY = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def published(mixer, x):
    """(B, C, N) to (B, C, N), from the papers' formulas."""
    if isinstance(mixer, RandomMatrix):
        return torch.einsum("mn,bcn->bcm", mixer.random_matrix, x)
    if isinstance(mixer, SpatialFC):
        return torch.einsum("mn,bcn->bcm", mixer.fc.weight, x)
    hidden = torch.einsum("hn,bcn->bch", mixer.fc1.weight, x) + mixer.fc1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return torch.einsum("nh,bch->bcn", mixer.fc2.weight, hidden) + mixer.fc2.bias


@EVERY
@pytest.mark.parametrize("policy", SIZE_POLICIES)
def test_every_policy_is_the_published_function_on_the_grid(cls, policy, randomize):
    mixer = randomize(make(cls, policy)).double()
    x = torch.randn(2, DIM, *GRID, dtype=torch.double)
    torch.testing.assert_close(mixer(x), published(mixer, x.flatten(2)).view_as(x))


@EVERY
def test_whole_windows_are_mixed_by_themselves(cls, randomize):
    mixer = randomize(make(cls)).double()
    x = torch.randn(2, DIM, 6, 12, dtype=torch.double)
    out = mixer(x)
    for top in (0, 3):
        for left in (0, 4, 8):
            window = (..., slice(top, top + 3), slice(left, left + 4))
            expected = published(mixer, x[window].flatten(2)).view_as(x[window])
            torch.testing.assert_close(out[window], expected)


@EVERY
def test_windows_at_the_border_see_zeros(cls, randomize):
    mixer = randomize(make(cls)).double()
    x = torch.randn(2, DIM, 2, 7, dtype=torch.double)
    padded = F.pad(x, (0, 1, 0, 1))
    for left, width in ((0, 4), (4, 3)):
        window = padded[..., left : left + 4].flatten(2)
        expected = published(mixer, window)
        # A random matrix normalises its rows over the positions inside of the image.
        valid = torch.zeros(3, 4, dtype=torch.double)
        valid[:2, :width] = 1
        if cls is RandomMatrix:
            expected = expected / (mixer.random_matrix @ valid.flatten())
        expected = expected.unflatten(2, GRID)[..., :2, :width]
        torch.testing.assert_close(mixer(x)[..., left : left + width], expected)


@pytest.mark.parametrize("policy", SIZE_POLICIES)
@pytest.mark.parametrize("size", [(2, 7), (6, 8), (5, 5), (1, 1)])
def test_a_random_matrix_keeps_constants(policy, size):
    """Rows sum to one, also at borders and after resampling."""
    x = torch.randn(2, DIM, 1, 1).expand(2, DIM, *size)
    torch.testing.assert_close(make(RandomMatrix, policy)(x), x.contiguous())


@EVERY
def test_resampled_map_is_mixed_on_the_grid(cls, randomize):
    mixer = randomize(make(cls, "resample_map")).double()
    x = torch.randn(2, DIM, 6, 8, dtype=torch.double)
    means = x.unflatten(3, (4, 2)).unflatten(2, (3, 2)).mean((3, 5))
    mixed = published(mixer, means.flatten(2)).view_as(means)
    expected = F.interpolate(mixed, (6, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(mixer(x), expected)


@pytest.mark.parametrize("cls", [SpatialFC, TokenMlp], ids=lambda cls: cls.__name__)
def test_resampled_weights_keep_the_response_to_constants(cls, randomize):
    """The sum over a map stays what it was: twice the pixels have half the weight each."""
    mixer = randomize(make(cls, "resample_weights")).double()
    constant = torch.randn(2, DIM, 1, 1, dtype=torch.double)
    small = mixer(constant.expand(2, DIM, *GRID))
    large = mixer(constant.expand(2, DIM, 6, 8))
    expected = F.interpolate(small, (6, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(large, expected)


def test_resampled_weights_are_interpolated_in_both_positions():
    """A matrix that copies the left half to the right one still does, at twice the size."""
    mixer = make(SpatialFC, "resample_weights", (1, 2))
    with torch.no_grad():
        mixer.fc.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    x = torch.zeros(1, DIM, 1, 4)
    x[..., 0] = 1
    # Bilinear enlargement of (1, 0) is (1, .75, .25, 0), with half of the weight each.
    torch.testing.assert_close(mixer(x), torch.full((1, DIM, 1, 4), 0.5))


@EVERY
@pytest.mark.parametrize("policy", SIZE_POLICIES)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 3), (12, 5)])
def test_any_size_and_gradients(cls, policy, size, randomize):
    mixer = randomize(make(cls, policy))
    x = torch.randn(2, DIM, *size, requires_grad=True)
    out = mixer(x)
    assert out.shape == x.shape and out.isfinite().all()
    out.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in mixer.parameters())


def test_the_random_matrix_is_saved_and_not_trained():
    mixer = make(RandomMatrix)
    assert list(mixer.parameters()) == []
    assert list(mixer.state_dict()) == ["random_matrix"]
    torch.testing.assert_close(mixer.random_matrix.sum(-1), torch.ones(12))
    assert mixer.random_matrix.min() > 0


@EVERY
def test_resampled_weights_are_those_of_the_interpolated_matrix(cls, randomize):
    """Against the weight itself interpolated to the positions of the map."""
    mixer = randomize(make(cls, "resample_weights")).double()
    size = (5, 9)

    def outputs(weight):  # rows are positions of the grid
        grid = weight.T.unflatten(1, GRID)[None]
        return F.interpolate(grid, size, mode="bilinear", align_corners=False)[0].flatten(1).T

    def inputs(weight):
        return outputs(weight.T).T * (12 / 45)

    x = torch.randn(2, DIM, *size, dtype=torch.double)
    flat = x.flatten(2)
    if cls is TokenMlp:
        hidden = mixer.act(F.linear(flat, inputs(mixer.fc1.weight), mixer.fc1.bias))
        bias = outputs(mixer.fc2.bias[:, None])[:, 0]
        expected = F.linear(hidden, outputs(mixer.fc2.weight), bias)
    else:
        weight = mixer.fc.weight if cls is SpatialFC else mixer.random_matrix
        matrix = outputs(inputs(weight))
        if cls is RandomMatrix:
            matrix = matrix / matrix.sum(-1, keepdim=True)
        expected = F.linear(flat, matrix)
    torch.testing.assert_close(mixer(x), expected.view_as(x))


@EVERY
def test_wrong_policy_or_grid(cls):
    with pytest.raises(ValueError, match="'tile'.*window, resample_map, resample_weights"):
        make(cls, "tile")
    for grid in (0, (3,), (3, 4, 5), (3, 4.0), "3"):
        with pytest.raises(ValueError, match="grid_size"):
            make(cls, grid=grid)
