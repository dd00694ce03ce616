"""Effective receptive fields of networks whose fields are known, and areas of known maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from instruments import (
    SHARES,
    contribution_areas,
    effective_receptive_fields,
    measured_pixels,
)
from mmmetaformer import MetaFormer, create_backbone, switch_to_deploy

# Small and without norms over positions, which would let every pixel contribute.
TINY = dict(depths=[1, 1, 1, 1], dims=[3, 4, 5, 6], norm_cfg=None, out_norm_cfg=None)


def brute_force(
    contributions: torch.Tensor, share: float, centre: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Rows and columns of the area, by growing it one pixel at a time."""
    height, width = contributions.shape
    row, column = centre or (height // 2, width // 2)
    longer, shorter = max(height, width), min(height, width)
    for reach in range(longer + 1):
        other = int(reach * shorter / longer + 0.5)
        down, across = (reach, other) if height == longer else (other, reach)
        inside = contributions[
            max(0, row - down) : row + down + 1,
            max(0, column - across) : column + across + 1,
        ]
        if inside.sum() >= share * contributions.sum() - 1e-9:
            return tuple(inside.shape)
    raise AssertionError("the whole image holds everything")


@pytest.mark.parametrize("size", [(9, 9), (8, 8), (7, 12), (13, 6)])
def test_a_single_pixel_at_the_centre(size):
    contributions = torch.zeros(size)
    contributions[size[0] // 2, size[1] // 2] = 0.3
    areas = contribution_areas(contributions, (0.2, 1.0))
    assert [(area.rows, area.columns) for area in areas] == [(1, 1), (1, 1)]
    assert areas[0].ratio == 1 / (size[0] * size[1])


def test_even_contributions():
    """The smallest odd square with that share of the area, in 101x101 pixels."""
    areas = contribution_areas(torch.full((101, 101), 0.1), (*SHARES, 1.0))
    assert [area.share for area in areas] == [0.2, 0.3, 0.5, 0.99, 1.0]
    # 45² = 2025 and 47² = 2209 lie around 0.2 * 101² = 2040.2, and so on
    assert [area.rows for area in areas] == [47, 57, 73, 101, 101]
    assert [area.ratio for area in areas] == [side**2 / 101**2 for side in (47, 57, 73, 101, 101)]


def test_half_at_the_centre_and_half_elsewhere():
    contributions = torch.zeros(21, 21)
    contributions[10, 10] = contributions[15, 10] = 1
    sides = [area.rows for area in contribution_areas(contributions, (0.5, 0.51))]
    assert sides == [1, 11]


@pytest.mark.parametrize(
    ("size", "centre"),
    [
        ((16, 16), None), ((17, 17), None), ((12, 20), None), ((21, 8), None), ((1, 5), None),
        ((1, 1), None), ((16, 16), (4, 9)), ((12, 20), (11, 0)), ((21, 8), (0, 7)),
    ],
)  # fmt: skip
def test_areas_are_those_of_brute_force(size, centre):
    contributions = (
        torch.rand(size, dtype=torch.double, generator=torch.Generator().manual_seed(0)) ** 4
    )
    shares = (0.01, 0.2, 0.5, 0.75, 0.99, 1.0)
    for area in contribution_areas(contributions, shares, centre):
        assert (area.rows, area.columns) == brute_force(contributions, area.share, centre), area
        inside = contributions[area.top :, area.left :][: area.rows, : area.columns]
        assert inside.shape == (area.rows, area.columns)
        assert inside.sum() >= area.share * contributions.sum() - 1e-9
        assert area.ratio == pytest.approx(area.rows * area.columns / contributions.numel())


def test_areas_do_not_depend_on_scale_or_orientation():
    contributions = (
        torch.rand(31, 31, dtype=torch.double, generator=torch.Generator().manual_seed(0)) ** 8
    )
    areas = contribution_areas(contributions)
    for other in (1e-12 * contributions, 1e12 * contributions, contributions.flip(0),
                  contributions.T, contributions.float()):  # fmt: skip
        assert contribution_areas(other) == areas


@pytest.mark.parametrize(
    ("contributions", "shares", "message"),
    [
        (torch.zeros(4, 4), SHARES, "no pixel contributes"),
        (torch.tensor([[1.0, -1.0]]), SHARES, "finite and not negative"),
        (torch.tensor([[1.0, torch.nan]]), SHARES, "finite and not negative"),
        (torch.ones(1, 4, 4), SHARES, r"a map \(H, W\), got \(1, 4, 4\)"),
        (torch.ones(4, 4), (0.5, 0), r"shares must be in \(0, 1\], got 0"),
        (torch.ones(4, 4), (1.5,), r"got 1.5"),
    ],
)
def test_wrong_maps_and_shares(contributions, shares, message):
    with pytest.raises(ValueError, match=message):
        contribution_areas(contributions, shares)


@pytest.mark.parametrize("centre", [(4, 0), (0, 5), (-1, 2)])
def test_centres_outside_of_the_map(centre):
    with pytest.raises(ValueError, match="a pixel of the 4x5 map, got"):
        contribution_areas(torch.ones(4, 5), centre=centre)


def test_by_finite_differences(randomize):
    """Every pixel of every colour is moved; in float64 the difference is the gradient."""
    arch = dict(TINY, out_norm_cfg=dict(type="LN2d"), token_mixers="sepconv")
    backbone = randomize(MetaFormer(arch, out_indices=(0, 2))).double().eval()
    images = torch.randn(
        2, 3, 32, 32, dtype=torch.double, generator=torch.Generator().manual_seed(0)
    )
    found = effective_receptive_fields(backbone, images)

    step = 1e-4 * torch.eye(3 * 32 * 32, dtype=torch.double).view(-1, 3, 32, 32)
    for level, stage in enumerate((0, 2)):
        expected = 0
        for image in images:
            with torch.no_grad():
                ends = []
                for moved in (image + step, image - step):
                    maps = torch.cat([backbone(part)[level] for part in moved.split(512)])
                    centre = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
                    ends.append(centre.relu().sum(1))
            gradient = ((ends[0] - ends[1]) / 2e-4).view(3, 32, 32)
            expected = expected + gradient.relu().sum(0) / len(images)
        assert expected.max() > 1e-2
        torch.testing.assert_close(found[stage], expected, rtol=1e-4, atol=1e-6)


def receptive_field(layers: list[nn.Conv2d], position: int, side: int) -> tuple[int, int]:
    """First and last pixel of a row that a position behind a chain of convolutions sees."""
    first = last = position
    for conv in reversed(layers):
        kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
        first, last = first * stride - padding, last * stride - padding + kernel - 1
    return max(first, 0), min(last, side - 1)


def test_without_mixing_it_is_the_receptive_field_of_the_downsamplings():
    backbone = MetaFormer(TINY, token_mixers="identity")
    with torch.no_grad():
        for parameter in backbone.parameters():  # nothing cancels and nothing is switched off
            parameter.copy_(parameter.abs() + 0.01)
    height, width = 128, 96
    fields = effective_receptive_fields(backbone, torch.rand(1, 3, height, width))
    assert list(fields) == [0, 1, 2, 3]
    for stage, field in fields.items():
        layers = [layer.conv for layer in backbone.downsample_layers[: stage + 1]]
        stride = backbone.out_strides[stage]
        top, bottom = receptive_field(layers, height // stride // 2, height)
        left, right = receptive_field(layers, width // stride // 2, width)
        expected = torch.zeros(height, width, dtype=torch.bool)
        expected[top : bottom + 1, left : right + 1] = True
        assert torch.equal(field > 0, expected)
        assert expected.sum() < height * width


@pytest.mark.parametrize("size", [(64, 128), (96, 160), (33, 90)])
def test_areas_lie_around_the_position_that_was_measured(size):
    """Also in maps of odd sides, where it is beside the centre of the image."""
    backbone = MetaFormer(TINY, token_mixers="identity")
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.copy_(parameter.abs() + 0.01)
    centres = measured_pixels(backbone, size)
    fields = effective_receptive_fields(backbone, torch.rand(1, 3, *size))
    for stage, field in fields.items():
        for side, centre, axis in zip(size, centres[stage], (1, 0), strict=True):
            rows = (field > 0).any(axis).nonzero().flatten()
            middle = (int(rows[0]) + int(rows[-1])) / 2
            # Kernels of odd sides lie one pixel beside; the image may cut off one end.
            cut = rows[0] == 0 or rows[-1] == side - 1
            assert abs(middle - centre) <= (backbone.out_strides[stage] if cut else 1)
    assert centres[3] == {(64, 128): (32, 64), (96, 160): (32, 64), (33, 90): (0, 32)}[size]


def test_mixing_widens_the_field():
    """One 3x3 pooling in stage 0: one position more on each side, 4 pixels."""
    sides = []
    for mixer in ("identity", dict(type="depthwise", kernel_size=3)):
        backbone = MetaFormer(TINY, token_mixers=mixer, out_indices=(0,))
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.copy_(parameter.abs() + 0.01)
        (field,) = effective_receptive_fields(backbone, torch.rand(1, 3, 64, 64)).values()
        sides.append(int((field > 0).any(1).sum()))
    assert sides == [7, 7 + 2 * 4]


def test_behind_a_layer_norm_there_is_something_to_see():
    """The plain sum over normalised channels is constant; what is measured is not."""
    backbone = create_backbone("ffnet_1", out_indices=(0,))
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (field,) = effective_receptive_fields(backbone, image).values()
    pixels = image.requires_grad_()
    (plain,) = torch.autograd.grad(backbone.eval()(pixels)[0][0, :, 4, 4].sum(), pixels)
    assert plain.abs().max() < 1e-4 < field.max()


def test_averages_over_images_and_leaves_the_network_as_it_was(randomize):
    arch = dict(TINY, norm_cfg="BN", token_mixers="pooling")
    backbone = randomize(MetaFormer(arch, frozen_stages=1)).train()
    modes = [module.training for module in backbone.modules()]
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    images = torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # switched on where it is needed
        together = effective_receptive_fields(backbone, images, stages=(3, 1))
    single = [effective_receptive_fields(backbone, (image,), stages=(3, 1)) for image in images]
    assert list(together) == [3, 1] and together[1].shape == (32, 48)
    for stage, field in together.items():
        torch.testing.assert_close(field, sum(one[stage] for one in single) / 3)
    assert [module.training for module in backbone.modules()] == modes
    assert True in modes and False in modes
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert not images.requires_grad
    torch.testing.assert_close(backbone.state_dict(), state)


def test_fused_and_not(randomize):
    arch = dict(depths=[1, 1, 1, 1], dims=[8, 16, 32, 64])
    backbone = randomize(create_backbone("ffnet_1", **arch)).eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = effective_receptive_fields(backbone, images)
    after = effective_receptive_fields(switch_to_deploy(backbone), images)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-5)


def test_of_an_isotropic_network_at_the_emitted_levels():
    arch = dict(depth=4, dim=16, stem=dict(type="PatchActNorm", patch_size=8))
    backbone = create_backbone("convmixer_768_32", **arch, out_indices=(3, 0))
    fields = effective_receptive_fields(backbone, torch.randn(1, 3, 64, 64))
    assert list(fields) == [3, 0]
    # Level 0 comes behind one 7x7 convolution on patches of 8: position 8 of its 16x16 map lies in
    # the patch 4 of 8, which sees the patches 1 to 7.
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[8:, 8:] = True
    assert not (fields[0] > 0)[~expected].any()
    assert (fields[0] > 0)[expected].double().mean() > 0.8  # some gradients are negative
    assert (fields[3] > 0)[:8].any()


@pytest.mark.parametrize(
    ("images", "stages", "message"),
    [
        (torch.rand(1, 3, 32, 32), (0, 3), r"those that are emitted, \(0, 1\), got \(0, 3\)"),
        (torch.rand(1, 3, 32, 32), (), "got ()"),
        (torch.rand(0, 3, 32, 32), None, "an average over images, got none"),
        (torch.full((1, 3, 32, 32), torch.nan), None, "stage 0 is not finite"),
    ],
)
def test_wrong_arguments(images, stages, message):
    backbone = MetaFormer(TINY, out_indices=(0, 1))
    with pytest.raises(ValueError, match=message):
        effective_receptive_fields(backbone, images, stages)
