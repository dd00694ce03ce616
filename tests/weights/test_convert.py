"""Every tensor of a published file finds its place, and a file that does not fit is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

import pytest
import torch

from mmmetaformer import MetaFormer, PoolFormer, convert_state_dict
from mmmetaformer.weights import WeightsError
from mmmetaformer.weights.convert import convert
from mmmetaformer.weights.layouts import LAYOUTS


def refusal(state, backbone) -> str:
    """Why a state dict is refused."""
    with pytest.raises(WeightsError) as error:
        convert_state_dict(state, backbone)
    return str(error.value)


def test_every_tensor_finds_its_place(published):
    backbone, state, names = published.build(), published.state(), published.names()
    expected = backbone.state_dict()
    result = convert(state, backbone)
    assert (result.layout, result.prefix) == (published.layout, published.prefix)
    # Exactly what the file lacks is missing, and exactly the classifier and the rest of the
    # detector is left over.
    assert set(result.state_dict) == set(names.values())
    assert set(expected) - set(result.state_dict) == published.new == set(result.new)
    assert {reason: set(dropped) for reason, dropped in result.dropped.items()} == {
        reason: set(dropped)
        for reason, dropped in {
            "classifier": [published.prefix + name for name in published.classifier],
            "outside of the backbone": published.beside,
        }.items()
        if dropped
    }
    # Equal to the source, tensor by tensor.
    for name, own in names.items():
        assert torch.equal(result.state_dict[own], state[name].reshape(expected[own].shape)), name
    backbone.load_state_dict(expected | result.state_dict, strict=True)


def test_a_stage_is_one_entry_of_network(checkpoints):
    published = checkpoints["metaformer ppaa"]
    state = published.state()
    state["network.8.0.norm1.weight"] = state.pop("network.7.0.norm1.weight")
    with pytest.raises(WeightsError, match=r"unexpected: network\.8\.0\.norm1\.weight"):
        convert_state_dict(state, published.build())


def test_the_hybrids_embedding_is_an_entry_of_network(checkpoints):
    """It shifts what is behind it."""
    names = checkpoints["metaformer ppaa"].names()
    state = checkpoints["metaformer ppaa"].state()
    converted = convert_state_dict(state, checkpoints["metaformer ppaa"].build())
    for name, own in {
        "network.3.proj.weight": "downsample_layers.2.conv.weight",
        "network.4.pos_embed": "pos_embeds.2.pos_embed",
        "network.5.1.token_mixer.qkv.weight": "stages.2.1.token_mixer.qkv.weight",
        "network.6.proj.weight": "downsample_layers.3.conv.weight",
        "network.7.0.token_mixer.proj.bias": "stages.3.0.token_mixer.proj.bias",
    }.items():
        assert names[name] == own
        assert torch.equal(converted[own], state[name])


@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [
        ("", "state_dict"),
        ("module.", "model"),
        ("backbone.", None),
        ("module.backbone.", "ema_state_dict"),
        ("_orig_mod.", "model_state_dict"),
        ("", "state_dict_ema"),
    ],
)
def test_wrappers_and_prefixes(published, prefix, wrapper):
    backbone = published.build()
    plain = convert_state_dict(published.state(), backbone)
    state = {prefix + name: tensor for name, tensor in published.state().items()}
    result = convert(state if wrapper is None else {wrapper: state, "epoch": 3}, backbone)
    assert result.prefix == prefix + published.prefix
    assert set(result.state_dict) == set(plain)
    assert all(torch.equal(result.state_dict[name], plain[name]) for name in plain)


def test_wrappers_within_wrappers(checkpoints):
    published = checkpoints["poolformer"]
    state = dict(state_dict=dict(model=published.state()), model_ema={"x": torch.zeros(1)})
    converted = convert_state_dict(state, published.build())
    stem = published.state()["patch_embed.proj.weight"]
    assert torch.equal(converted["downsample_layers.0.conv.weight"], stem)


def test_linear_weights_and_1x1_convolutions_are_the_same(checkpoints):
    """Both ways: the release has linear layers where we have convolutions, and attention is
    linear with us."""
    published = checkpoints["caformer"]
    backbone, state = published.build(), published.state()
    plain = convert_state_dict(state, backbone)
    assert state["stages.3.0.mlp.fc1.weight"].shape == (256, 64)
    assert plain["stages.3.0.mlp.fc1.weight"].shape == (256, 64, 1, 1)
    as_conv = {
        name: tensor[..., None, None] if tensor.ndim == 2 else tensor
        for name, tensor in state.items()
    }
    assert as_conv["stages.3.0.token_mixer.qkv.weight"].shape == (192, 64, 1, 1)
    converted = convert_state_dict(as_conv, backbone)
    assert converted["stages.3.0.token_mixer.qkv.weight"].shape == (192, 64)
    assert all(torch.equal(converted[name], plain[name]) for name in plain)


def test_half_precision_files_are_kept_as_they_are(published):
    backbone, names = published.build(), published.names()
    state = {
        name: t.half() if t.is_floating_point() else t for name, t in published.state().items()
    }
    converted = convert_state_dict(state, backbone)
    missing, _ = backbone.load_state_dict(converted, strict=False)
    assert set(missing) == published.new
    loaded = backbone.state_dict()
    assert {loaded[own].dtype for own in names.values()} <= {torch.float32, torch.int64}
    for name, own in names.items():
        assert converted[own].dtype == state[name].dtype
        assert torch.equal(loaded[own], state[name].reshape(loaded[own].shape).to(loaded[own]))


# ---------------------------------------------------------------- what does not fit


def body(published) -> dict[str, str]:
    """The names of all but what dense prediction adds."""
    outputs = re.compile(r"(backbone\.)?(norm\d|pyramid)\..+")
    return {name: own for name, own in published.names().items() if not outputs.fullmatch(name)}


def some(names: dict[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """All names of a small checkpoint, and every second or third of one with many branches."""
    step = 1 + len(names) // 150
    chosen = {*list(names)[::step], *also}
    return {name: own for name, own in names.items() if name in chosen}


def test_each_missing_key_is_named(published):
    backbone, state = published.build(), published.state()
    names = some(body(published), published.marks)
    messages = {
        name: refusal({k: v for k, v in state.items() if k != name}, backbone) for name in names
    }
    unknown = {name for name, message in messages.items() if "unknown layout" in message}
    assert unknown == published.marks
    assert len(messages.keys() - unknown) > 40
    for name in messages.keys() - unknown:
        assert re.search(f": 1 missing: {re.escape(names[name])}$", messages[name])


def test_each_renamed_key_is_named(published):
    backbone, state, names = published.build(), published.state(), some(body(published))
    assert len(names.keys() - published.marks) > 40
    for name in names.keys() - published.marks:
        renamed = {k: v for k, v in state.items() if k != name} | {f"{name}_x": state[name]}
        expected = f": 1 missing: {names[name]}; 1 unexpected: {name}_x"
        assert refusal(renamed, backbone).endswith(expected)


def test_each_reshaped_tensor_is_named(published):
    """Also with the same number of elements, and if torch would broadcast it."""
    backbone, state = published.build(), published.state()
    expected = backbone.state_dict()
    for name, own in some(published.names()).items():
        for other in (state[name][None], state[name].flatten()[:-1]):
            message = refusal({**state, name: other}, backbone)
            assert message.endswith(
                f"1 of another shape: {name} is {tuple(other.shape)}, the model's {own} "
                f"{tuple(expected[own].shape)}"
            )


def test_added_keys_are_named(published):
    """One in each layer of the network."""
    backbone, state = published.build(), published.state()
    layers = {name.rpartition(".")[0] for name in some(body(published))}
    assert len(layers) > 20
    for layer in layers:
        message = refusal({**state, f"{layer}.extra": torch.zeros(1)}, backbone)
        assert message.endswith(f": 1 unexpected: {layer}.extra")


def test_a_deeper_network_does_not_load_into_a_shallower_one(published):
    extra = published.names(deeper=1).keys() - published.names().keys()
    message = refusal(published.state(deeper=1), published.build())
    assert f": {len(extra)} unexpected: " in message
    assert re.search(r"unexpected: (.*?)(; | \.\.\.)", message)[1] in extra


def test_a_shallower_network_does_not_load_into_a_deeper_one(published):
    extra = set(published.names(deeper=1).values()) - set(published.names().values())
    message = refusal(published.state(), published.build(deeper=1))
    assert f": {len(extra)} missing: " in message
    assert re.search(r"missing: (.*?)(; | \.\.\.)", message)[1] in extra


@pytest.mark.parametrize(
    ("weights_of", "network", "message"),
    [
        ("metaformer pppa", "metaformer ppaa", r"missing: .*unexpected: network\.6\.pos_embed"),
        ("metaformer pppa", "poolformer", r"unexpected: .*network\.6\.pos_embed.*network\.7\.0"),
        ("metaformer pppf", "metaformer ppff", r"missing: stages\.2\.0\.token_mixer\.fc\.weight"),
        ("poolformer", "poolformerv2", r"missing: downsample_layers\.0\.post_norm\.weight"),
        ("convformer", "caformer", r"missing: stages\.2\.0\.token_mixer\.qkv\.weight"),
        ("caformer timm", "convformer", r"missing: stages\.2\.0\.token_mixer\.pwconv1\.weight"),
        ("identityformer", "randformer", r"missing: stages\.2\.0\.token_mixer\.random_matrix"),
        ("mixer timm", "convmixer", r"stem\.proj\.weight is \(16, 3, 16, 16\)"),
        ("convmixer", "mixer timm", r"0\.weight is \(16, 3, 7, 7\)"),
        ("mixer own", "poolformer", r"unexpected: backbone\.stem\.conv\.weight"),
        ("poolformer", "mixer own", r"unexpected: patch_embed\.proj\.weight"),
    ],
)
def test_weights_of_another_network_are_refused(weights_of, network, message, checkpoints):
    backbone = checkpoints[network].build()
    assert re.search(message, refusal(checkpoints[weights_of].state(), backbone))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("metaformer pppa", "network.6.pos_embed"),
        ("metaformer ppff", "network.4.0.token_mixer.fc.weight"),
        ("randformer", "stages.3.0.token_mixer.random_matrix"),
        ("mixer timm", "blocks.0.mlp_tokens.fc1.weight"),
    ],
)
def test_weights_of_another_grid_are_refused(name, tensor, checkpoints):
    """What belongs to positions is not resized in silence."""
    published = checkpoints[name]
    wider = [2 * side for side in published.state()[tensor].shape]
    message = refusal({**published.state(), tensor: torch.zeros(wider)}, published.build())
    assert f"1 of another shape: {tensor} is {tuple(wider)}" in message


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no tensors"),
        ([1, 2], "got list"),
        (dict(state_dict=dict(a=1)), "no tensors"),
        ({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, "unknown layout.*conv1"),
    ],
)
def test_what_is_not_weights_of_this_family(state, message):
    backbone = MetaFormer(dict(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8]))
    assert re.search(message, refusal(state, backbone))


def test_a_named_prefix_picks_one_of_several(published):
    backbone, plain = published.build(), published.state()
    # Whole numbers, for BatchNorm's count is one.
    state = {
        f"{prefix}.{name}": value + (prefix == "student")
        for prefix in ("teacher", "student")
        for name, value in plain.items()
    }
    assert re.search("several networks.*'student.*'teacher", refusal(state, backbone))
    prefix = "student." + published.prefix
    first = next(iter(published.names()))
    for given in (prefix, prefix.removesuffix(".")):
        result = convert(state, backbone, prefix=given)
        assert result.prefix == prefix
        assert torch.equal(result.state_dict[published.names()[first]], plain[first] + 1)
        assert len(result.dropped["outside of the backbone"]) == len(plain) + len(published.beside)
    with pytest.raises(WeightsError, match=r"unknown layout under the prefix 'nobody\.'"):
        convert(state, backbone, prefix="nobody.")


def test_a_network_without_channel_mixers_takes_its_own_checkpoint(checkpoints):
    backbone = checkpoints["mixer own"].build(channel_mixers=None)
    state = backbone.state_dict()
    assert convert(state, backbone).state_dict.keys() == state.keys()


def test_two_names_for_one_parameter_are_refused(checkpoints):
    """Without the first downsampling, stage 1 is taken for stage 0; if all stages are as wide,
    nothing else tells."""
    sizes = dict(depths=[1] * 4, dims=[8] * 4)
    block = {
        "norm1.weight": (8,), "norm1.bias": (8,), "norm2.weight": (8,), "norm2.bias": (8,),
        "layer_scale_1": (8,), "layer_scale_2": (8,), "mlp.fc1.weight": (32, 8, 1, 1),
        "mlp.fc1.bias": (32,), "mlp.fc2.weight": (8, 32, 1, 1), "mlp.fc2.bias": (8,),
    }  # fmt: skip
    state = {
        f"network.{i}.0.{name}": torch.rand(s) for i in (0, 2, 4, 6) for name, s in block.items()
    }
    for name, size in {"patch_embed": 7, "network.1": 3, "network.3": 3, "network.5": 3}.items():
        channels = 3 if name == "patch_embed" else 8
        state[f"{name}.proj.weight"] = torch.rand(8, channels, size, size)
        state[f"{name}.proj.bias"] = torch.rand(8)
    backbone = PoolFormer(sizes, out_norm_cfg=None, out_indices=(0, 1, 2))
    assert convert(state, backbone).state_dict.keys() == backbone.state_dict().keys()
    del state["network.1.proj.weight"], state["network.1.proj.bias"]
    with pytest.raises(WeightsError, match=r"network\.2\.0"):
        convert(state, backbone)


@pytest.mark.parametrize("entry", ["network.5", "network.6"])
def test_an_added_key_does_not_change_what_an_entry_is(entry, checkpoints):
    """A downsampling and an embedding stay what they are, and the rest keeps its stage."""
    published = checkpoints["metaformer pppa"]
    state = published.state() | {f"{entry}.extra": torch.zeros(1)}
    assert refusal(state, published.build()).endswith(f": 1 unexpected: {entry}.extra")


# ---------------------------------------------------------------- parts that were replaced


def test_only_what_is_declared_starts_anew(checkpoints):
    """Stage 3 has another mixer; the attention of stage 2 is loaded, and must be there."""
    published = checkpoints["caformer"]
    mixers = ["sepconv", "sepconv", "attention", "random_matrix"]
    backbone, state = published.build(token_mixers=mixers), published.state()
    new = [r"stages\.3\.\d+\.token_mixer"]
    result = convert(state, backbone, new=new)
    assert result.new == ["stages.3.0.token_mixer.random_matrix"]
    dropped = [f"stages.3.0.token_mixer.{name}.weight" for name in ("qkv", "proj")]
    assert result.dropped["declared new"] == dropped
    del state["stages.2.0.token_mixer.qkv.weight"]
    with pytest.raises(WeightsError, match=r"1 missing: stages\.2\.0\.token_mixer\.qkv\.weight$"):
        convert(state, backbone, new=new)


def test_declared_new_may_have_another_shape(checkpoints):
    """Another grid: the token MLPs start anew, and nothing of the file's is in them."""
    published = checkpoints["mixer timm"]
    backbone = published.build(token_mixers=dict(type="token_mlp", grid_size=3))
    assert "of another shape" in refusal(published.state(), backbone)
    result = convert(published.state(), backbone, new=["token_mixer"])
    assert not [name for name in result.state_dict if "token_mixer" in name]
    assert "blocks.5.mlp.fc2.weight" in result.state_dict


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_the_nearest_layout_is_named(prefix, checkpoints):
    """When what tells the layout is not there under its name."""
    published = checkpoints["convformer timm"]
    state = {f"{prefix}{name}": tensor for name, tensor in published.state().items()}
    state[f"{prefix}first.conv.weight"] = state.pop(f"{prefix}stem.conv.weight")
    with pytest.raises(WeightsError) as error:
        convert_state_dict(state, published.build())
    message = str(error.value)
    assert "the nearest is timm MetaFormer" in message
    assert "first.conv.weight" in message.partition("keys and not")[2]


def test_the_nearest_layout_is_named_when_it_knows_all_keys(published):
    """What it has to have and is not there is told, too."""
    for mark in published.marks:
        state = {name: tensor for name, tensor in published.state().items() if name != mark}
        message = refusal(state, published.build())
        assert f"; the nearest is {published.layout}, which knows " in message
        pattern = re.search(r"; it has (\S+), which are not there$", message)[1]
        assert fnmatchcase(mark.removeprefix(published.prefix), pattern)


def test_nothing_is_near(checkpoints):
    """The first keys and the known layouts are all that can be told."""
    state = {f"layer1.{i}.conv1.weight": torch.zeros(1) for i in range(9)}
    message = refusal(state, checkpoints["poolformer"].build())
    assert all(layout.name in message for layout in LAYOUTS if layout.signature)
    assert message.endswith("'layer1.3.conv1.weight', 'layer1.4.conv1.weight']")
