"""State dicts in the published layouts, built by formula from the layouts themselves."""

from __future__ import annotations

import re

import pytest
import torch

from mmmetaformer import convert_state_dict, create_backbone, list_archs
from mmmetaformer.weights import WeightsError
from mmmetaformer.weights.convert import convert

ARCH = "poolformer_s12"
CLASSIFIER = {"norm.weight": (512,), "norm.bias": (512,), "head.weight": (1000, 512),
              "head.bias": (1000,)}  # fmt: skip


@pytest.fixture(scope="module")
def backbone():
    return create_backbone(ARCH)


def to_published(name: str) -> str:
    """From our names to those of PoolFormer's release; written independently of the converter."""
    name = re.sub(r"^stages\.(\d)\.", lambda m: f"network.{2 * int(m[1])}.", name)
    name = re.sub(r"^downsample_layers\.0\.conv", "patch_embed.proj", name)
    name = re.sub(
        r"^downsample_layers\.(\d)\.conv", lambda m: f"network.{2 * int(m[1]) - 1}.proj", name
    )
    name = re.sub(r"layer_scale(\d)\.scale", r"layer_scale_\1", name)
    return re.sub(r"^norm(\d)", lambda m: f"norm{2 * int(m[1])}", name)


def to_timm(name: str) -> str:
    name = name.replace("downsample_layers.0.conv", "stem.conv")
    name = re.sub(r"^downsample_layers\.(\d)\.conv", r"stages.\1.downsample.conv", name)
    return re.sub(r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2.", name)


def source(rename, *, out_norms: bool, extra: dict | None = None) -> dict[str, torch.Tensor]:
    reference = create_backbone(ARCH)
    generator = torch.Generator().manual_seed(0)
    own = {
        name: torch.randn(value.shape, generator=generator)
        for name, value in reference.state_dict().items()
        if out_norms or not name.startswith("norm")
    }
    state = {rename(name): value for name, value in own.items()}
    state |= {name: torch.zeros(shape) for name, shape in (extra or {}).items()}
    return state


LAYOUTS = {
    "published": source(to_published, out_norms=False, extra=CLASSIFIER),
    "published detector's": source(to_published, out_norms=True),
    "timm": source(
        to_timm,
        out_norms=False,
        extra={"head.norm.weight": (512,), "head.norm.bias": (512,), "head.fc.weight": (1000, 512),
               "head.fc.bias": (1000,)},
    ),
    "our own": source(str, out_norms=True),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_finds_its_place(layout, backbone):
    state = LAYOUTS[layout]
    converted = convert_state_dict(state, backbone)
    expected = set(backbone.state_dict())
    missing = expected - set(converted)
    has_norms = any(re.match(r"norm\d", name) for name in state)
    assert missing == (set() if has_norms else {n for n in expected if n.startswith("norm")})
    assert set(converted) <= expected
    # Equal to the source, tensor by tensor, through names derived the other way round.
    rename = {"timm": to_timm, "our own": str}.get(layout, to_published)
    for name, tensor in converted.items():
        assert torch.equal(tensor, state[rename(name)]), name


def test_mmpretrain_norm6_is_the_last_output_norm(backbone):
    """Its classifier is ``backbone.`` with the classifier's norm as the output of stage 3."""
    state = source(to_published, out_norms=False)
    state |= {"norm6.weight": torch.rand(512), "norm6.bias": torch.rand(512)}
    wrapped = {f"backbone.{name}": tensor for name, tensor in state.items()}
    wrapped |= {"head.fc.weight": torch.zeros(1000, 512), "head.fc.bias": torch.zeros(1000)}
    result = convert(dict(state_dict=wrapped, meta=dict(epoch=300)), backbone)
    assert result.prefix == "backbone."
    assert torch.equal(result.state_dict["norm3.weight"], state["norm6.weight"])
    assert set(result.new) == {f"norm{i}.{k}" for i in range(3) for k in ("weight", "bias")}
    assert set(result.dropped) == {"outside of the backbone"}


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "ema_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "_orig_mod."])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_wrappers_and_prefixes(layout, prefix, wrapper, backbone):
    state = {prefix + name: tensor for name, tensor in LAYOUTS[layout].items()}
    state = state if wrapper is None else {wrapper: state, "epoch": 3}
    plain = convert_state_dict(LAYOUTS[layout], backbone)
    converted = convert_state_dict(state, backbone)
    assert set(converted) == set(plain)
    assert all(torch.equal(converted[name], plain[name]) for name in plain)


def test_fewer_stages_take_what_they_have():
    small = create_backbone(ARCH, out_indices=(0, 1))
    result = convert(LAYOUTS["published detector's"], small)
    assert set(result.state_dict) == set(small.state_dict())
    assert result.new == []
    dropped = result.dropped["stage behind the last emitted one"]
    assert all(name.startswith(("network.3", "network.4", "network.5", "network.6"))
               for name in dropped)  # fmt: skip
    assert len(result.dropped["output norm of a stage that has none"]) == 4


def test_half_precision_files_are_kept_as_they_are(backbone):
    state = {name: tensor.half() for name, tensor in LAYOUTS["published"].items()}
    backbone.load_state_dict(convert_state_dict(state, backbone), strict=False)
    assert backbone.downsample_layers[0].conv.weight.dtype == torch.float32


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_renamed_reshaped_and_added_keys_are_refused(layout, backbone):
    state = LAYOUTS[layout]
    victim = next(name for name in state if name.endswith("mlp.fc2.weight"))
    without = {name: tensor for name, tensor in state.items() if name != victim}
    with pytest.raises(WeightsError, match=r"1 missing: stages\.0\.0\.mlp\.fc2\.weight"):
        convert_state_dict(without, backbone)
    renamed = victim.replace("fc2", "fc3")
    with pytest.raises(WeightsError, match=f"1 unexpected: {re.escape(renamed)}"):
        convert_state_dict({**without, renamed: state[victim]}, backbone)
    with pytest.raises(WeightsError, match=r"1 of another shape: .*\(64, 128, 1, 1\)"):
        convert_state_dict({**state, victim: torch.zeros(64, 128, 1, 1)}, backbone)
    added = victim.replace("fc2", "extra")
    with pytest.raises(WeightsError, match=f"unexpected: {re.escape(added)}"):
        convert_state_dict({**state, added: torch.zeros(1)}, backbone)


def test_a_deeper_network_does_not_load_into_a_shallower_one(backbone):
    deep = create_backbone("poolformer_s24", out_norm_cfg=None)
    state = {to_published(name): value for name, value in deep.state_dict().items()}
    with pytest.raises(WeightsError, match=r"unexpected: .*network\.0\.2\."):
        convert_state_dict(state, backbone)


def test_a_shallower_network_does_not_load_into_a_deeper_one():
    with pytest.raises(WeightsError, match=r"missing: stages\.0\.2\."):
        convert_state_dict(LAYOUTS["published"], create_backbone("poolformer_s24"))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no tensors"),
        ([1, 2], "got list"),
        (dict(state_dict=dict(a=1)), "no tensors"),
        ({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, "unknown layout.*conv1"),
        ({f"{p}.{k}": v for p in ("teacher", "student")
          for k, v in LAYOUTS["published"].items()}, "several networks.*teacher"),
    ],
)  # fmt: skip
def test_what_is_not_weights_of_this_family(state, message, backbone):
    with pytest.raises(WeightsError, match=message):
        convert_state_dict(state, backbone)


def test_a_named_prefix_picks_one_of_several(backbone):
    state = {
        f"{prefix}.{name}": value + (prefix == "student")
        for prefix in ("teacher", "student")
        for name, value in LAYOUTS["published"].items()
    }
    converted = convert(state, backbone, prefix="student.").state_dict
    plain = LAYOUTS["published"]["patch_embed.proj.weight"]
    assert torch.equal(converted["downsample_layers.0.conv.weight"], plain + 1)
    without_dot = convert(state, backbone, prefix="student").state_dict
    assert torch.equal(without_dot["downsample_layers.0.conv.weight"], plain + 1)
    with pytest.raises(WeightsError, match="under the prefix 'nobody.'"):
        convert(state, backbone, prefix="nobody.")  # fmt: skip


@pytest.mark.parametrize("name", list_archs("poolformer_*"))
def test_timm_gives_the_same_features(name, randomize):
    """The whole way for every size: timm's own weights, converted, at an odd size."""
    timm = pytest.importorskip("timm")
    theirs = randomize(timm.create_model(name)).eval()
    ours = create_backbone(name, out_norm_cfg=None).eval()
    ours.load_state_dict(convert_state_dict(theirs.state_dict(), ours))
    x = torch.randn(1, 3, 65, 97, generator=torch.Generator().manual_seed(0))
    levels = []
    with torch.no_grad():
        y = theirs.stem(x)
        for stage in theirs.stages:
            y = stage(y)
            levels.append(y)
        for level, expected in zip(ours(x), levels, strict=True):
            assert float((level - expected).abs().max() / expected.std()) < 1e-4


def test_mmpretrain_gives_the_same_features(randomize):
    models = pytest.importorskip("mmpretrain.models")
    theirs = randomize(models.PoolFormer("s12", out_indices=(0, 2, 4, 6), frozen_stages=-1))
    theirs.train(False)  # returns None there
    ours = create_backbone(ARCH).eval()
    ours.load_state_dict(convert_state_dict(theirs.state_dict(), ours))
    x = torch.randn(1, 3, 65, 97, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for level, expected in zip(ours(x), theirs(x), strict=True):
            assert float((level - expected).abs().max() / expected.std()) < 1e-4
