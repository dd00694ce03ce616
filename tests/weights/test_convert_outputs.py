"""What dense prediction adds to a published network, and what it leaves out."""

from __future__ import annotations

import pytest
import torch

from mmmetaformer.weights.convert import convert

BEHIND = "behind the last emitted output"
NOT_EMITTED = "for outputs that are not emitted"


def test_mmpretrain_norm6_is_the_last_output_norm(checkpoints):
    """Its classifier is ``backbone.`` with the classifier's norm as the output of stage 3."""
    published = checkpoints["poolformer mmpretrain"]
    result = convert(dict(state_dict=published.state(), meta=dict(epoch=300)), published.build())
    assert torch.equal(
        result.state_dict["norm3.weight"], published.state()["backbone.norm6.weight"]
    )
    assert set(result.new) == {f"norm{i}.{k}" for i in range(3) for k in ("weight", "bias")}


def test_fewer_stages_take_what_they_have(checkpoints):
    published = checkpoints["poolformer detector"]
    backbone = published.build(out_indices=(0, 1))
    result = convert(published.state(), backbone)
    assert set(result.state_dict) == set(backbone.state_dict())
    assert result.new == []
    entries = tuple(f"backbone.network.{index}." for index in (3, 4, 5, 6))
    behind = {name for name in published.names() if name.startswith(entries)}
    assert len(behind) == 2 * 2 + (2 + 1) * 10
    norms = {f"backbone.norm{i}.{kind}" for i in (4, 6) for kind in ("weight", "bias")}
    dropped = {reason: set(names) for reason, names in result.dropped.items()}
    beside = {"outside of the backbone": set(published.beside)}
    assert dropped == {BEHIND: behind, NOT_EMITTED: norms} | beside


@pytest.mark.parametrize(
    ("name", "out_indices", "last"),
    [("metaformer pppa", (0, 1, 2), 5), ("metaformer ppaa", (0, 1), 3)],
)
def test_an_embedding_behind_the_last_output_is_dropped(name, out_indices, last, checkpoints):
    """With the downsampling in front of it and the stage behind it."""
    published = checkpoints[name]
    result = convert(published.state(), published.build(out_indices=out_indices))
    behind = {key for key in published.names()
              if key.startswith("network.") and int(key.split(".")[1]) >= last}  # fmt: skip
    assert any(key.endswith("pos_embed") for key in behind)
    assert set(result.dropped[BEHIND]) == behind
    assert set(result.dropped) == {BEHIND, "classifier"}


@pytest.mark.parametrize("out_indices", [(0,), (0, 1), (2, 0), (1, 3)])
@pytest.mark.parametrize(
    "name",
    ["convmixer", "convmixer timm", "convmixer mmpretrain", "mixer timm", "mixer mmpretrain"],
)
def test_isotropic_networks_drop_the_blocks_behind(name, out_indices, checkpoints):
    published = checkpoints[name]
    backbone = published.build(out_indices=out_indices)
    result = convert(published.state(), backbone)
    blocks = (1, 3, 4, 6)[max(out_indices)]
    behind = {
        key
        for key, own in published.names().items()
        if own.startswith("blocks.") and int(own.split(".")[1]) >= blocks
    }
    assert set(result.dropped.get(BEHIND, [])) == behind
    kept = {key: own for key, own in published.names().items() if key not in behind}
    assert set(result.state_dict) == set(kept.values())
    for key, own in kept.items():
        target = backbone.state_dict()[own]
        assert torch.equal(result.state_dict[own], published.state()[key].view(target.shape))


def test_a_deeper_isotropic_network_is_refused_also_with_fewer_outputs(checkpoints):
    """Its blocks 0 and 1 would fit; that they are not those of this network, its depth says."""
    published = checkpoints["mixer timm"]
    with pytest.raises(ValueError, match=r"12 unexpected: blocks\.6\.norm1\.weight"):
        convert(published.state(deeper=1), published.build(out_indices=(0,)))


@pytest.mark.parametrize(
    ("name", "new"),
    [
        # Stride 8: level 4 is one doubling. No output norms.
        ("convmixer", {"pyramid.levels.0.0.weight", "pyramid.levels.0.0.bias"}),
        # Stride 16: level 4 is two, with a norm between them, and level 8 one.
        ("mixer mmpretrain", {
            f"{layer}.{kind}"
            for layer in ("pyramid.levels.0.0", "pyramid.levels.0.1", "pyramid.levels.0.3",
                          "pyramid.levels.1.0", "norm0", "norm1", "norm2", "norm3")
            for kind in ("weight", "bias")
        }),
    ],
)  # fmt: skip
def test_pyramid_and_output_norms_are_new_for_a_classifier(name, new, checkpoints):
    result = convert(checkpoints[name].state(), checkpoints[name].build())
    assert set(result.new) == new
    raw = checkpoints[name].build(pyramid=None, out_norm_cfg=None)
    result = convert(checkpoints[name].state(), raw)
    assert result.new == []
    raw.load_state_dict(result.state_dict, strict=True)


@pytest.mark.parametrize("name", ["convmixer own", "mixer own", "caformer own"])
def test_a_detector_of_this_package_loads_completely(name, checkpoints):
    published = checkpoints[name]
    backbone = published.build()
    result = convert(dict(state_dict=published.state(), meta={}, optimizer={}), backbone)
    assert result.new == []
    assert result.dropped == {"outside of the backbone": list(published.beside)}
    backbone.load_state_dict(result.state_dict, strict=True)
    loaded = backbone.state_dict()
    assert len(loaded) == len(published.names())
    state = published.state()
    for name_here, value in loaded.items():
        assert torch.equal(value, state[f"backbone.{name_here}"]), name_here


@pytest.mark.parametrize("name", ["convmixer own", "mixer own"])
def test_without_pyramid_and_norms_those_of_a_file_are_reported(name, checkpoints):
    published = checkpoints[name]
    result = convert(published.state(), published.build(pyramid=None, out_norm_cfg=None))
    outputs = {key for key in published.names() if ".pyramid." in key or key[9:13] == "norm"}
    assert len(outputs) == {"convmixer own": 2, "mixer own": 16}[name]
    assert set(result.dropped[NOT_EMITTED]) == outputs


@pytest.mark.parametrize("out_indices", [(1, 2, 3), (3, 0)])
def test_each_level_takes_its_own_part_of_a_pyramid(out_indices, checkpoints, randomize):
    """Weights of one level are not loaded into another that has layers of the same shape."""
    published = checkpoints["mixer own"]
    everything = published.build().eval()
    state = convert(published.state(), everything).state_dict
    everything.load_state_dict(state)
    randomize(everything)
    backbone = published.build(out_indices=out_indices).eval()
    result = convert(everything.state_dict(), backbone)
    assert result.new == []
    backbone.load_state_dict(result.state_dict, strict=True)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = everything(x)
    for index, level in zip(out_indices, backbone(x), strict=True):
        torch.testing.assert_close(level, expected[index])


PARTS_OF_OUTPUTS = pytest.mark.parametrize(
    ("name", "key", "own"),
    [
        ("mixer own", "backbone.pyramid.levels.0.3.weight", "pyramid.levels.0.3.weight"),
        ("mixer own", "backbone.norm2.bias", "norm2.bias"),
        ("caformer own", "backbone.norm2.bias", "norm2.bias"),
        ("poolformer detector", "backbone.norm4.bias", "norm2.bias"),
    ],
)


@PARTS_OF_OUTPUTS
def test_half_of_an_output_is_refused(name, key, own, checkpoints):
    """The file has this norm or level: the rest of it cannot be left at random."""
    published = checkpoints[name]
    state = published.state()
    del state[key]
    with pytest.raises(ValueError, match=f": 1 missing: {own}$"):
        convert(state, published.build())


@PARTS_OF_OUTPUTS
def test_renamed_keys_of_emitted_outputs_are_refused(name, key, own, checkpoints):
    published = checkpoints[name]
    state = published.state()
    state[f"{key}_x"] = state.pop(key)
    with pytest.raises(ValueError, match=f": 1 missing: {own}; 1 unexpected: {key}_x$"):
        convert(state, published.build())
