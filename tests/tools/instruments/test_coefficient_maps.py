"""Keys that were planted are found where they were planted."""

from __future__ import annotations

import pytest
import torch

from instruments import coefficient_maps
from mmmetaformer import MetaFormer

PATCHES = dict(type="ConvDownsampling", kernel_size=4, stride=4, padding=0)
ARCH = dict(depths=[2, 1, 1, 1], dims=[8, 8, 8, 8], norm_cfg=None, stem=PATCHES)


def planted(act_cfg: dict | str = "ReLU") -> MetaFormer:
    """Channel 0 of stage 0 is the mean of a patch of 4x4 pixels. Key 5 of the MLP of block 0.1
    is active where that is above 1/2; key 9 is weakly active everywhere; the others never are."""
    backbone = MetaFormer(
        ARCH,
        token_mixers=["identity", "pooling", "identity", "identity"],
        act_cfg=act_cfg,
        layer_scale_init_value=None,
        out_indices=(0, 1),
    )
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
        backbone.downsample_layers[0].conv.weight[0] = 1 / 48
        # The identity token mixer doubles: x + x, in two blocks.
        mlp = backbone.stages[0][1].mlp
        mlp.fc1.weight[5, 0] = 1 / 4
        mlp.fc1.bias[:] = -1.0
        mlp.fc1.bias[5] = -0.5
        mlp.fc1.bias[9] = 0.01
        for act in (mlp.act,):
            for parameter in act.parameters():  # of StarReLU, zeroed above
                parameter.fill_(1.0)
    return backbone


def picture() -> torch.Tensor:
    """Black, with one bright patch in row 3 and column 5 of the map of 8x16."""
    image = torch.zeros(3, 32, 64)
    image[:, 12:16, 20:24] = 3.0
    return image


@pytest.mark.parametrize("by", ["mean", "max"])
def test_a_planted_key(by):
    (mixers,) = coefficient_maps(planted(), picture()[None], branches=("channel",), top=3, by=by)
    assert [(item.site.stage, item.site.block) for item in mixers] == [(0, 1), (1, 0)]
    found = mixers[0]
    assert found.why_not is None and found.num_keys == 32 and found.maps.shape == (3, 8, 16)
    strong, weak, off = found.keys
    assert (strong.index, strong.name, strong.position) == (5, "key 5", (3, 5))
    assert strong.max == strong.max_activity == pytest.approx(3 - 0.5)
    assert strong.mean == strong.mean_activity == pytest.approx(2.5 / (8 * 16))
    expected = torch.zeros(8, 16)
    expected[3, 5] = 2.5
    torch.testing.assert_close(found.maps[0], expected)
    assert (weak.index, weak.mean) == (9, pytest.approx(0.01))
    assert off.max_activity == 0 and off.index not in (5, 9)


def test_rankings_differ():
    """Everywhere a little against a lot at one place."""
    backbone = planted()
    with torch.no_grad():
        backbone.stages[0][1].mlp.fc1.bias[9] = 0.1
    order = {}
    for by in ("mean", "max"):
        ((found, _),) = coefficient_maps(backbone, [picture()], branches=("channel",), by=by)
        order[by] = [key.index for key in found.keys[:2]]
    assert order == dict(mean=[9, 5], max=[5, 9])


def test_a_bias_of_the_activation_is_no_activity():
    """StarReLU with a bias of 1: what is switched off has the coefficient 1."""
    ((found, _),) = coefficient_maps(planted("StarReLU"), [picture()], branches=("channel",), top=3)
    strong, weak, off = found.keys
    assert (strong.index, strong.position) == (5, (3, 5))
    assert strong.max_activity == pytest.approx(2.5**2)
    assert strong.max == pytest.approx(2.5**2 + 1)
    assert weak.index == 9 and off.max_activity == 0 and off.mean == 1


def test_mixers_without_coefficients_say_so():
    (found,) = coefficient_maps(planted(), [picture()], branches=("token",))
    assert [item.why_not for item in found] == [
        "Identity is not a MetaMixer: it has no keys and no coefficients",
        "Pooling is not a MetaMixer: it has no keys and no coefficients",
    ]
    assert all(item.keys == [] and item.maps is None for item in found)


def test_chosen_blocks_and_one_list_for_each_image():
    images = torch.stack([picture(), torch.zeros(3, 32, 64)])
    found = coefficient_maps(planted(), images, blocks=[(0, -2), (0, 1)], top=1)
    places = [(i.site.stage, i.site.block, i.site.branch) for i in found[0]]
    assert places == [
        (0, 0, "token"), (0, 0, "channel"), (0, 1, "token"), (0, 1, "channel"),
    ]  # fmt: skip
    assert [mixers[-1].keys[0].index for mixers in found] == [5, 9]


def test_keys_of_attention(randomize):
    """The key is a position of a head: what the most active one of them has, by hand."""
    attention = dict(type="attention", head_dim=4)
    backbone = randomize(MetaFormer(ARCH, token_mixers=attention, out_indices=(0,)))
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    ((found, _),) = coefficient_maps(backbone, [image], blocks=[(0, 0)], top=2)
    assert found.num_keys == 2 * 64
    key = found.keys[0]
    head, position = divmod(key.index, 64)
    assert key.name == f"head {head}, key {position}"
    x = backbone.downsample_layers[0](image[None])
    mixer = backbone.stages[0][0].token_mixer
    coefficients = mixer.coefficients(x)[0, head, :, position]
    torch.testing.assert_close(found.maps[0].flatten(), coefficients)
    assert key.mean == pytest.approx(mixer.coefficients(x)[0].mean(1).max().item())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(blocks=[(0, 2)]), "no block 0.2: the blocks are 0.0 to 0.1, 1.0 to 1.0"),
        (dict(blocks=[(2, 0)]), "no block 2.0"),
        (dict(by="median"), "one of mean, max, got 'median'"),
        (dict(top=0), "positive integer, got 0"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        coefficient_maps(planted(), [picture()], **options)
