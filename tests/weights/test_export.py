"""From each layout to each other, and back to the same bits."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from mmmetaformer import (
    MetaFormer,
    convert_classifier_state_dict,
    convert_state_dict,
    create_backbone,
    export_state_dict,
)
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.weights import WeightsError, load_pretrained, read_checkpoint
from mmmetaformer.weights.export import TARGETS, export

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
    "ffnet": "published",
    "ffnet detector": "published",
    "convmixer": "published",
    "convmixer timm": "timm",
    "convmixer mmpretrain": "mmpretrain",
    "mixer timm": "timm",
    "mixer mmpretrain": "mmpretrain",
}
# What the names of a classifier begin with there and here; the first that fits counts.
NORM3 = {"norm.": "backbone.norm3.", "head.": "head.fc."}
LINEAR = {"norm.": "head.norm.", "head.": "head.fc."}
MLP = {"norm.": "head.norm.", "head.norm.": "head.hidden_norm.", "head.fc": "head.fc"}
TIMM_MLP = {"head.norm.": "head.norm.", "head.fc.norm.": "head.hidden_norm.",
            "head.fc.fc": "head.fc"}  # fmt: skip
CLASSIFIERS = {
    "poolformer": NORM3,
    "poolformer mmpretrain": {"backbone.norm6.": "backbone.norm3.", "head.fc.": "head.fc."},
    "poolformer timm": {"head.norm.": "backbone.norm3.", "head.fc.": "head.fc."},
    "metaformer id": NORM3,
    "metaformer pppa": NORM3,
    "metaformer ppaa": NORM3,
    "metaformer pppf": NORM3,
    "metaformer ppff": NORM3,
    "identityformer": LINEAR,
    "randformer": LINEAR,
    "poolformerv2": LINEAR,
    "convformer": MLP,
    "caformer": MLP,
    "poolformerv2 timm": {"head.norm.": "head.norm.", "head.fc.": "head.fc."},
    "convformer timm": TIMM_MLP,
    "caformer timm": TIMM_MLP,
    "ffnet": NORM3,
    # Six blocks from index 3, pooling and flattening in front of it.
    "convmixer": {"11.": "head.fc."},
    "convmixer timm": {"head.": "head.fc."},
    "convmixer mmpretrain": {"head.fc.": "head.fc."},
    "mixer timm": NORM3,
    "mixer mmpretrain": {"backbone.ln1.": "backbone.norm3.", "head.fc.": "head.fc."},
}


def equal(left: dict, right: dict) -> bool:
    return set(left) == set(right) and all(
        left[name].shape == right[name].shape and torch.equal(left[name], right[name])
        for name in left
    )


def our_names(name: str, published) -> dict[str, str]:
    """By the names in a file with a classifier, those of our image classifier."""
    classifier = CLASSIFIERS[name]
    names = {}
    for theirs in published.state():
        start = next((start for start in classifier if theirs.startswith(start)), None)
        if start is None:
            names[theirs] = f"backbone.{published.names()[theirs]}"
        else:
            names[theirs] = classifier[start] + theirs.removeprefix(start)
    return names


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name, checkpoints, build_classifier):
    """To our image classifier, which takes it as it is, and back: names, shapes and bits."""
    published = checkpoints[name]
    state = published.state()
    own = export_state_dict(dict(state_dict=state), "mmmetaformer")
    names = our_names(name, published)
    assert set(own) == set(names.values())
    for theirs, ours in names.items():
        assert torch.equal(own[ours].flatten(), state[theirs].flatten()), theirs
    model = build_classifier(published)
    model.load_state_dict(own, strict=True)
    assert equal(own, convert_classifier_state_dict(own, model))
    assert equal(own, convert_classifier_state_dict(state, model))
    assert equal(export_state_dict(own, SAME[name]), state)


@pytest.mark.parametrize("name", SAME)
def test_backbones_alone(name, checkpoints):
    """Without the classifier it is a backbone's own state dict, and the way back is as sure."""
    published = checkpoints[name]
    state = published.state()
    own = export_state_dict(state, "mmmetaformer", drop_classifier=True)
    backbone = published.build()
    expected = backbone.state_dict()
    # Of mmpretrain's PoolFormer the norm in front of the classifier is an output's otherwise.
    norm3 = {"norm3.weight", "norm3.bias"} if name == "poolformer mmpretrain" else set()
    assert set(own) == set(expected) - published.new - norm3
    assert all(own[key].shape == expected[key].shape for key in own)
    converted = convert_state_dict(state, backbone)
    assert equal(own, {key: value for key, value in converted.items() if key not in norm3})
    back = export_state_dict(own, SAME[name])
    prefix = "backbone." if SAME[name] == "mmpretrain" else ""
    names = {key: key.removeprefix(published.prefix) for key, ours in published.names().items()
             if ours not in norm3}  # fmt: skip
    assert equal(back, {prefix + name: state[key] for key, name in names.items()})


def test_all_checkpoints_are_covered(checkpoints):
    """Those left out: with names that no target restores, or our own layout."""
    left = set(checkpoints) - set(SAME)
    assert left == {"poolformer retinanet", "metaformer ppaa own", "caformer own", "ffnet seg",
                    "convmixer own", "mixer own"}  # fmt: skip
    assert set(SAME) - set(CLASSIFIERS) == {"poolformer detector", "ffnet detector"}


TARGETS_OF = {
    "poolformer": ("published", "timm", "mmpretrain"),
    "identityformer": ("published", "timm"),
    "randformer": ("published", "timm"),
    "poolformerv2": ("published", "timm"),
    "convformer": ("published", "timm"),
    "caformer": ("published", "timm"),
    "metaformer ppaa": ("published", "mmpretrain"),
    "ffnet": ("published",),
    "convmixer": ("published", "timm", "mmpretrain"),
    "mixer timm": ("timm", "mmpretrain"),
}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: dict(state_dict=s)], ids=["flat", "dict"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", TARGETS_OF)
def test_every_family_to_every_target(name, dtype, wrap, checkpoints):
    """With the classifier: there, on to each other target, and back to the same bits."""
    state = checkpoints[name].state()
    state = {key: t.to(dtype) if t.is_floating_point() else t for key, t in state.items()}
    own = export_state_dict(wrap({f"module.{key}": t for key, t in state.items()}), "mmmetaformer")
    assert len(own) == len(state) and "head.fc.weight" in own or "head.fc1.weight" in own
    there = {to: export_state_dict(wrap(own), to) for to in TARGETS_OF[name]}
    for first, weights in there.items():
        assert len(weights) == len(own)
        assert equal(export_state_dict(wrap(weights), "mmmetaformer"), own)
        for second in TARGETS_OF[name]:
            assert equal(export_state_dict(weights, second), there[second]), (first, second)


@pytest.mark.parametrize(
    ("name", "to"),
    [(name, to) for name, known in TARGETS_OF.items() for to in TARGETS[1:] if to not in known],
)
def test_targets_that_there_are_not(name, to, checkpoints):
    with pytest.raises(WeightsError, match=f"no {to} layout for |has no names for 1 tensors"):
        export_state_dict(checkpoints[name].state(), to)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_backbone_of_a_converted_classifier(name, checkpoints, tmp_path):
    """``Pretrained`` finds its prefix out."""
    published = checkpoints[name]
    own = export_state_dict(published.state(), "mmmetaformer")
    torch.save(own, tmp_path / "own.pth")
    # FFNet's detectors have another norm than its classifier.
    new = [r"^norm3\."] if name == "ffnet" else []
    backbone = published.build()
    report = load_pretrained(backbone, tmp_path / "own.pth", new=new)
    assert report.conversion.prefix == "backbone."
    loaded = backbone.state_dict()
    for ours in published.names().values():
        assert torch.equal(loaded[ours], own[f"backbone.{ours}"]), ours


@pytest.mark.parametrize("name", ["ffnet_1", "ffnet_2", "ffnet_3", "ffnet_seg"])
def test_ffnet_there_and_back(name, randomize):
    """The releases' own tests say that the names are theirs."""
    backbone = randomize(create_backbone(name, depths=[1, 2, 1, 1], dims=[8, 16, 32, 64]))
    own = backbone.state_dict()
    theirs = export_state_dict(own, "published")
    assert "patch_embed.0.c.weight" in theirs and len(theirs) == len(own)
    assert equal(export_state_dict(theirs, "mmmetaformer"), own)
    assert equal(convert_state_dict(theirs, backbone), own)


# ---------------------------------------------------------------- the same function there


# Whole patches, and the grid of the token MLP.
SIDES_OF_IMAGES = {"convmixer": 56, "mixer timm": 64}


def image(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))


def same_logits(model: nn.Module, found: Callable, x: Tensor) -> None:
    with torch.no_grad():
        expected, logits = model.double()(x.double(), mode="tensor"), found(x.double())
    assert logits.shape == expected.shape == (2, 5) and 1e-2 < float(expected.std()) < 1e3
    assert float((logits - expected).abs().max() / expected.std()) < 1e-9


SMALL = dict(depths=(1, 1, 2, 1), dims=(8, 16, 32, 64))
# Model, the function of timm's that builds it, and what makes it small.
IN_TIMM = {
    "poolformer": ("poolformer_s12", "metaformer._create_metaformer", SMALL),
    "poolformerv2": ("poolformerv2_s12", "metaformer._create_metaformer", SMALL),
    "convformer": ("convformer_s18", "metaformer._create_metaformer", SMALL),
    "caformer": ("caformer_s18", "metaformer._create_metaformer", SMALL),
    "convmixer": (
        "convmixer_768_32", "convmixer._create_convmixer", dict(dim=16, depth=6)),
    "mixer timm": (
        "mixer_s16_224", "mlp_mixer._create_mixer",
        dict(embed_dim=16, num_blocks=6, img_size=64)),
}  # fmt: skip


@pytest.fixture
def build_timm(monkeypatch) -> Callable[[str], nn.Module]:
    def build(name: str) -> nn.Module:
        arch, function, small = IN_TIMM[name]
        path, _, function = f"timm.models.{function}".rpartition(".")
        module = importlib.import_module(path)
        whole = getattr(module, function)

        def create(variant: str, pretrained: bool = False, **options) -> nn.Module:
            return whole(variant, pretrained, **(options | small))

        monkeypatch.setattr(module, function, create)
        return timm.create_model(arch, num_classes=5)

    return build


@pytest.mark.parametrize("name", IN_TIMM)
def test_timm_computes_the_same(name, checkpoints, build_classifier, build_timm, randomize_norms):
    published = checkpoints[name]
    # timm has another epsilon in the hidden norm.
    mlp = dict(hidden_norm_cfg=dict(type="LN", eps=1e-6))
    model = build_classifier(published, mlp if name in ("convformer", "caformer") else None)
    randomize_norms(model)
    theirs = build_timm(name)
    theirs.load_state_dict(export_state_dict(model.state_dict(), "timm"), strict=True)
    if name == "poolformer":
        # Its norm is behind the pooling there, see the comment in export.py.
        state = model.state_dict()
        weights = {n.replace("backbone.norm3.", "head.norm."): t for n, t in state.items()}
        model = build_classifier(
            published, dict(type="mmmetaformer.MetaFormerClsHead"), out_norm_cfg=None
        )
        model.load_state_dict(weights, strict=True)
    same_logits(model, theirs.double().eval(), image(SIDES_OF_IMAGES.get(name, 96)))


POOLFORMER = dict(
    layers=[1, 1, 2, 1], embed_dims=[8, 16, 32, 64], mlp_ratios=[4] * 4,
    layer_scale_init_value=1e-5)  # fmt: skip
IN_MMPRETRAIN = {
    "poolformer": (dict(type="PoolFormer", arch=POOLFORMER, frozen_stages=-1), 2),
    "convmixer": (
        dict(type="ConvMixer", act_cfg=dict(type="ReLU"),
             arch=dict(embed_dims=16, depth=6, patch_size=7, kernel_size=7)), 2),
    "mixer timm": (
        dict(type="MlpMixer", norm_cfg=dict(type="LN", eps=1e-6), img_size=64, patch_size=16,
             arch=dict(embed_dims=16, num_layers=6, tokens_mlp_dims=8, channels_mlp_dims=64)), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_MMPRETRAIN)
def test_mmpretrain_computes_the_same(name, checkpoints, build_classifier, randomize_norms):
    published = checkpoints[name]
    model = build_classifier(published)
    randomize_norms(model)
    backbone, dim = IN_MMPRETRAIN[name]
    head = dict(type="LinearClsHead", num_classes=5, in_channels=model.head.in_channels)
    theirs = importlib.import_module("mmpretrain.registry").MODELS.build(
        dict(
            type="ImageClassifier",
            backbone=backbone,
            neck=dict(type="GlobalAveragePooling", dim=dim),
            head=head,
        )
    )
    theirs.load_state_dict(export_state_dict(model.state_dict(), "mmpretrain"), strict=True)
    theirs.double().eval()
    same_logits(model, lambda x: theirs(x, mode="tensor"), image(SIDES_OF_IMAGES.get(name, 96)))


# ---------------------------------------------------------------- what is left out, and refused


def test_what_a_layout_has_no_place_for():
    own = create_backbone("poolformer_s12", depths=[1] * 4, dims=[8] * 4).state_dict()
    with pytest.raises(WeightsError, match="no names for 8 tensors.*norm0.*drop_outputs"):
        export_state_dict(own, "timm")
    assert len(export_state_dict(own, "timm", drop_outputs=True)) == len(own) - 8
    fused = create_backbone("ffnet_1", depths=[1] * 4, dims=[8, 16, 32, 64]).eval()
    fused = fused.switch_to_deploy().state_dict()
    with pytest.raises(WeightsError, match="the FFNet layout has no names for"):
        export_state_dict(fused, "published", drop_outputs=True)
    assert equal(export_state_dict(fused, "mmmetaformer"), fused)


def test_classifiers_without_a_place(checkpoints):
    """That of FFNet_seg's release, which nothing here is trained with, and heads of other kinds."""
    seg = checkpoints["ffnet seg"]
    with pytest.raises(WeightsError, match=r"head1\.0\.c\.weight.*no place.*drop_classifier"):
        export_state_dict(seg.state(), "mmmetaformer")
    own = export_state_dict(seg.state(), "mmmetaformer", drop_classifier=True)
    assert set(own) == set(seg.names().values())
    ours = {f"backbone.{name}": tensor for name, tensor in own.items()}
    ours |= {"head.fc.weight": torch.zeros(5, 64), "head.fc.bias": torch.zeros(5)}
    assert equal(export_state_dict(ours, "mmmetaformer"), ours)
    with pytest.raises(WeightsError, match=r"no names for 2 tensors.*fc.*drop_classifier"):
        export_state_dict(ours, "published")
    state = checkpoints["poolformer mmpretrain"].state()
    for name in ("head.layers.0.weight", "neck.fc.weight"):
        with pytest.raises(WeightsError, match=rf"{name}'\] has no place.*drop_classifier"):
            export_state_dict(state | {name: torch.zeros(1)}, "timm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(drop="head.bias"), "1 missing: fc.bias$"),
        (dict(drop="norm.weight"), "1 missing: norm.weight$"),
        (dict(drop="head"), "2 missing: fc.weight; fc.bias$"),
        (dict(drop="norm"), "2 missing: norm.weight; norm.bias$"),
        ({"head.weight": (5, 63)}, r"1 of another shape: head.weight is \(5, 63\)"),
        ({"norm.scale": (64,)}, "1 unexpected: norm.scale$"),
        ({"head.fc1.weight": (64, 64)}, "missing: fc1.bias; hidden_norm"),
    ],
)
def test_half_a_classifier_is_refused(change, message, checkpoints):
    state = checkpoints["poolformer"].state()
    shapes = {name: shape for name, shape in change.items() if name != "drop"}
    dropped = tuple(change[key] for key in change if key == "drop")
    state = {name: tensor for name, tensor in state.items() if not name.startswith(dropped)}
    state |= {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(WeightsError, match=f"classifier, which drop_classifier .*{message}"):
        export_state_dict(state, "mmmetaformer")
    assert len(export_state_dict(state, "mmmetaformer", drop_classifier=True)) == 58


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        # Without it, what is behind has the numbers of another network.
        ("metaformer ppaa", "network.4.", r"not whole: .* 1 missing: pos_embeds.2.pos_embed"),
        ("convmixer", "8.", r"\['11.weight', '11.bias'\] has no place in our layout"),
        ("poolformer", "network.6.", r"not whole: .* 10 missing: stages.3.0.norm1"),
    ],
)
def test_numbers_that_count_what_is_missing(name, lost, message, checkpoints):
    """Lists of layers tell when a whole layer is lost, where it is the last of them, too."""
    state = checkpoints[name].state()
    left = {key: tensor for key, tensor in state.items() if not key.startswith(lost)}
    assert len(left) < len(state)
    with pytest.raises(WeightsError, match=message):
        export_state_dict(left, "mmmetaformer")


def test_the_account(checkpoints):
    detector = checkpoints["poolformer detector"]
    result = export(detector.state(), "published")
    assert result.dropped == list(detector.beside) and len(result.state_dict) == len(
        detector.names()
    )
    result = export(detector.state(), "timm", drop_outputs=True)
    norms = {f"backbone.norm{i}.{leaf}" for i in (0, 2, 4, 6) for leaf in ("weight", "bias")}
    assert set(result.dropped) == norms | set(detector.beside)
    classifier = checkpoints["caformer timm"]
    result = export(classifier.state(), "published", drop_classifier=True)
    assert set(result.dropped) == set(classifier.classifier)


def test_wrong_targets_and_sources(checkpoints):
    mixer = checkpoints["mixer timm"].state()
    with pytest.raises(WeightsError, match="unknown layout 'jax'"):
        export_state_dict(mixer, "jax")
    with pytest.raises(WeightsError, match="no published layout for mlp_mixer_s16.*timm"):
        export_state_dict(mixer, "published")
    with pytest.raises(WeightsError, match="unknown layout"):
        export_state_dict(dict(a=torch.zeros(1)), "timm")
    state = checkpoints["caformer"].state()
    state["stages.9.strange"] = torch.zeros(1)
    with pytest.raises(WeightsError, match="1 unexpected: stages.9.strange"):
        export_state_dict(state, "timm")
    state = checkpoints["poolformer"].state()
    with pytest.raises(WeightsError, match="1 unexpected: stranger"):
        export_state_dict(state | {"stranger": torch.zeros(1)}, "timm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: torch.full_like(tensor, float("nan")), "holds NaN or infinite values"),
        (lambda tensor: tensor / 0, "holds NaN or infinite values"),
        (Tensor.long, "is of torch.int64, where numbers of torch.float32 belong"),
    ],
)
@pytest.mark.parametrize("key", ["network.2.0.mlp.fc1.weight", "head.weight"])
def test_values_that_nothing_would_load(key, change, message, checkpoints):
    """As everywhere else; the counts of BatchNorm are whole numbers (``ffnet`` above)."""
    state = checkpoints["poolformer"].state()
    state[key] = change(state[key])
    with pytest.raises(WeightsError, match=f"unusable values.*: {key} {message}"):
        export_state_dict(state, "timm")


OWN_MIXER = dict(type="metamixer", query=None, key=dict(type="Conv2d", kernel_size=1),
                 value=dict(type="Conv2d", kernel_size=1))  # fmt: skip


def own_network(name: str) -> nn.Module:
    if name == "hierarchical":
        mixers = ["fourier", "window_attention", "identity", OWN_MIXER]
        options = dict(depths=[1, 2, 2, 2], dims=[8, 32, 32, 40], token_mixers=mixers)
        return build_backbone("poolformerv2_s12", **options)
    return build_backbone("mlp_mixer_s16", dim=32, depth=5, token_mixers="attention")


@pytest.mark.parametrize("name", ["hierarchical", "isotropic"])
def test_networks_of_ones_own(name, randomize):
    """They are given."""
    backbone = own_network(name)
    own = randomize(backbone).state_dict()
    wrapped = dict(state_dict={f"module.backbone.{key}": value for key, value in own.items()})
    assert equal(export_state_dict(wrapped, "mmmetaformer", model=backbone), own)
    with pytest.raises(WeightsError, match=r"not whole.* another network is given with model= or"):
        export_state_dict(wrapped, "mmmetaformer")
    del own[next(key for key in own if "token_mixer" in key)]
    with pytest.raises(WeightsError, match=r"1 missing: \S+token_mixer\S+$"):
        export_state_dict(own, "mmmetaformer", model=backbone)


def test_a_network_of_ones_own_there_and_back(randomize):
    backbone = own_network("hierarchical")
    own = randomize(backbone).state_dict()
    there = export_state_dict(own, "timm", model=backbone)
    assert equal(export_state_dict(there, "mmmetaformer", model=backbone), own)


def test_a_network_of_ones_own_that_a_layout_has_no_names_for():
    backbone = own_network("isotropic")
    with pytest.raises(WeightsError, match="timm MLP-Mixer layout has no names for"):
        export_state_dict(backbone.state_dict(), "timm", model=backbone, drop_outputs=True)


def test_outputs_that_a_given_network_does_not_have(randomize):
    """They are left out where that is asked for, and not in silence."""
    sizes = dict(depths=[1] * 4, dims=[8] * 4)
    own = build_backbone("poolformer_s12", **sizes).state_dict()
    bare = build_backbone("poolformer_s12", out_norm_cfg=None, **sizes)
    with pytest.raises(WeightsError, match="has no place for 8 tensors .*norm0.*drop_outputs"):
        export_state_dict(own, "published", model=bare)
    assert len(export_state_dict(own, "published", model=bare, drop_outputs=True)) == len(own) - 8


@pytest.mark.parametrize(
    ("key", "shape"),
    [("stages.0.0.mlp.fc1.weight", (8, 8, 3, 3)), ("stages.0.0.mlp.fc1.weight", (8,))],
)
def test_shapes_that_no_network_has(key, shape, checkpoints):
    state = checkpoints["caformer"].state()
    assert key in state
    state[key] = torch.zeros(shape)
    with pytest.raises(WeightsError, match=f"1 of another shape: {key} is "):
        export_state_dict(state, "timm")


# ---------------------------------------------------------------- the command


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools/convert_weights.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_command(tmp_path, checkpoints):
    published = checkpoints["caformer"]
    torch.save(dict(model=published.state()), tmp_path / "caformer.pth")
    there = run(str(tmp_path / "caformer.pth"), str(tmp_path / "timm.safetensors"), "--to", "timm")
    assert there.returncode == 0, there.stderr
    back = run(str(tmp_path / "timm.safetensors"), str(tmp_path / "back.pth"), "--to", "published")
    assert "in the published layout" in back.stdout and "left out" not in back.stdout
    assert equal(read_checkpoint(tmp_path / "back.pth"), published.state())
    bare = run(str(tmp_path / "back.pth"), str(tmp_path / "bare.pth"), "--to", "mmmetaformer",
               "--drop-classifier")  # fmt: skip
    assert "left out 8 of the source: head.fc1.bias, " in bare.stdout
    # Others may read all of them who may read any.
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
    assert set(read_checkpoint(tmp_path / "bare.pth")) == set(published.names())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "back.pth", "bare.pth", "caformer.pth", "timm.safetensors"]  # fmt: skip


CONFIG = """
model = dict(type='Detector', backbone=dict(type='mmmetaformer.MetaFormer',
    arch=dict(depths=[1] * 4, dims=[8] * 4), token_mixers={mixer!r}))
"""


def test_command_with_a_config(tmp_path):
    """For a network that no arch is like."""
    backbone = MetaFormer(dict(depths=[1] * 4, dims=[8] * 4), token_mixers=OWN_MIXER)
    source, target, config = (tmp_path / n for n in ("own.pth", "there.pth", "own.py"))
    torch.save(backbone.state_dict(), source)
    command = [str(source), str(target), "--to", "published"]
    assert "given with model= or --config" in run(*command).stderr
    config.write_text(CONFIG.format(mixer=OWN_MIXER))
    assert "wrote" in run(*command, "--config", str(config)).stdout
    names = set(read_checkpoint(target))
    assert (
        len(names) == len(backbone.state_dict()) and "network.0.0.token_mixer.key.weight" in names
    )
    for text, message in (
        (CONFIG.format(mixer="nothing"), "unknown token mixer type 'nothing'"),
        ("model = dict(type='Detector')", "has no backbone"),
        ("model = dict(backbone=dict(type='mmdet.ResNet', depth=18))", "is none of mmmetaformer"),
    ):
        config.write_text(text)
        result = run(*command, "--config", str(config))
        assert result.returncode == 2 and message in result.stderr
        assert "Traceback" not in result.stderr


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


def test_nothing_is_written_of_a_source_that_is_not_whole(tmp_path, checkpoints):
    state = checkpoints["caformer"].state()
    del state["stages.2.1.token_mixer.proj.weight"]
    torch.save(state, tmp_path / "torn.pth")
    result = run(str(tmp_path / "torn.pth"), str(tmp_path / "out.pth"), "--to", "mmmetaformer")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "1 missing: stages.2.1.token_mixer.proj.weight" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["torn.pth"]
