"""From each layout to each other, and back to the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from mmmetaformer import convert_state_dict, create_backbone, export_state_dict
from mmmetaformer.weights import WeightsError, read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
# Which row of the checkpoints is which target of its network; the others are read only.
SAME = {
    "poolformer": "published",
    "poolformer detector": "published",
    "poolformer mmpretrain": "mmpretrain",
    "poolformer timm": "timm",
    "metaformer id": "published",
    "metaformer pppa": "published",
    "metaformer ppaa": "published",
    "metaformer pppf": "published",
    "metaformer ppff": "published",
    "identityformer": "published",
    "randformer": "published",
    "poolformerv2": "published",
    "convformer": "published",
    "caformer": "published",
    "poolformerv2 timm": "timm",
    "convformer timm": "timm",
    "caformer timm": "timm",
    "convmixer": "published",
    "convmixer timm": "timm",
    "convmixer mmpretrain": "mmpretrain",
    "mixer timm": "timm",
    "mixer mmpretrain": "mmpretrain",
}


def equal(left: dict, right: dict) -> bool:
    return set(left) == set(right) and all(
        left[name].shape == right[name].shape and torch.equal(left[name], right[name])
        for name in left
    )


@pytest.mark.parametrize("name", SAME)
def test_round_trip(name, checkpoints):
    """To our layout, which the backbone takes as it is, and back: names, shapes and bits."""
    published = checkpoints[name]
    state = published.state()
    own = export_state_dict(dict(state_dict=state), "mmmetaformer")
    backbone = published.build()
    expected = backbone.state_dict()
    assert set(own) == set(expected) - published.new
    assert all(own[key].shape == expected[key].shape for key in own)
    assert equal(own, convert_state_dict(state, backbone))
    back = export_state_dict(own, SAME[name])
    prefix = "backbone." if SAME[name] == "mmpretrain" else ""
    names = {key: key.removeprefix(published.prefix) for key in published.names()}
    assert equal(back, {prefix + name: state[key] for key, name in names.items()})


def test_all_checkpoints_are_covered(checkpoints):
    """Those left out: with names that no target restores, or our own layout."""
    left = set(checkpoints) - set(SAME)
    assert left == {"poolformer retinanet", "metaformer ppaa own", "caformer own",
                    "convmixer own", "mixer own"}  # fmt: skip


@pytest.mark.parametrize("name", ["ffnet_1", "ffnet_2", "ffnet_3", "ffnet_seg"])
def test_ffnet_there_and_back(name, randomize):
    """The releases' own tests say that the names are theirs."""
    backbone = randomize(create_backbone(name, depths=[1, 2, 1, 1], dims=[8, 16, 32, 64]))
    own = backbone.state_dict()
    theirs = export_state_dict(own, "published")
    assert "patch_embed.0.c.weight" in theirs and len(theirs) == len(own)
    assert equal(export_state_dict(theirs, "mmmetaformer"), own)
    assert equal(convert_state_dict(theirs, backbone), own)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("poolformer_s12", "poolformer_s12"), ("convformer_s18", "convformer_s18"),
     ("caformer_s18", "caformer_s18"), ("poolformerv2_s12", "poolformerv2_s12"),
     ("convmixer_1024_20", "convmixer_1024_20_ks9_p14"), ("mlp_mixer_s16", "mixer_s16_224")],
)  # fmt: skip
def test_timm_takes_the_export(ours, theirs, randomize):
    """Every parameter of timm's backbone, in its own shape."""
    options = dict(pyramid=None) if "mixer" in ours else {}
    backbone = randomize(create_backbone(ours, out_norm_cfg=None, **options))
    model = timm.create_model(theirs)
    missing, unexpected = model.load_state_dict(
        export_state_dict(backbone.state_dict(), "timm"), strict=False
    )
    assert unexpected == []
    heads = ("head.", "norm.")
    assert [name for name in missing if not name.startswith(heads)] == []


def test_what_a_layout_has_no_place_for():
    own = create_backbone("poolformer_s12", depths=[1] * 4, dims=[8] * 4).state_dict()
    with pytest.raises(WeightsError, match="no names for 8 tensors.*norm0.*drop_outputs"):
        export_state_dict(own, "timm")
    assert len(export_state_dict(own, "timm", drop_outputs=True)) == len(own) - 8
    fused = create_backbone("ffnet_1", depths=[1] * 4, dims=[8, 16, 32, 64]).eval()
    with pytest.raises(WeightsError, match="the FFNet layout has no names for"):
        export_state_dict(fused.switch_to_deploy().state_dict(), "published", drop_outputs=True)


def test_wrong_targets_and_sources(checkpoints):
    mixer = checkpoints["mixer timm"].state()
    with pytest.raises(WeightsError, match="unknown layout 'jax'"):
        export_state_dict(mixer, "jax")
    with pytest.raises(WeightsError, match="no published layout for this network.*timm"):
        export_state_dict(mixer, "published")
    with pytest.raises(WeightsError, match="unknown layout"):
        export_state_dict(dict(a=torch.zeros(1)), "timm")
    state = checkpoints["caformer"].state()
    state["stages.9.strange"] = torch.zeros(1)
    with pytest.raises(WeightsError, match="no names for 1 tensors.*stages.9.strange"):
        export_state_dict(state, "timm")


@pytest.mark.parametrize(
    ("key", "shape"),
    [("stages.0.0.mlp.fc1.weight", (8, 8, 3, 3)), ("stages.0.0.mlp.fc1.weight", (8,))],
)
def test_shapes_that_no_network_has(key, shape, checkpoints):
    state = checkpoints["caformer"].state()
    assert key in state
    state[key] = torch.zeros(shape)
    with pytest.raises(WeightsError, match="that fits no network"):
        export_state_dict(state, "timm")


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools/convert_weights.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_command(tmp_path, checkpoints):
    published = checkpoints["caformer"]
    torch.save(dict(model=published.state()), tmp_path / "caformer.pth")
    there = run(str(tmp_path / "caformer.pth"), str(tmp_path / "timm.safetensors"), "--to", "timm")
    assert there.returncode == 0, there.stderr
    back = run(str(tmp_path / "timm.safetensors"), str(tmp_path / "back.pth"), "--to", "published")
    assert "in the published layout" in back.stdout
    expected = {name: published.state()[name] for name in published.names()}
    assert equal(read_checkpoint(tmp_path / "back.pth"), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "back.pth", "caformer.pth", "timm.safetensors"]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing.pth", "out.pth", "--to", "timm"), "does not exist"),
        (("nothing.pth", "out.txt", "--to", "timm"), "must end in .pth or .safetensors"),
        (("nothing.pth", "no/such/out.pth", "--to", "timm"), "does not exist"),
    ],
)
def test_command_with_mistakes(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr and "Traceback" not in result.stderr
