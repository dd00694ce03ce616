"""A new layout is one object: loading, conversion and export know it then."""

from __future__ import annotations

import pytest
import torch

from mmmetaformer import PoolFormer, export_state_dict
from mmmetaformer.weights import WeightsError, convert, export, load_pretrained
from mmmetaformer.weights.layouts import CLASSIFIER, LAYOUTS, Layout, Rules
from mmmetaformer.weights.layouts.base import pointwise_weights
from mmmetaformer.weights.trained import PublishedNames

SIZES = dict(depths=[1, 2, 1, 1], dims=[8, 16, 24, 32])
_rules = Rules(
    ("entry.{leaf}", "downsample_layers.0.conv.{leaf}"),
    ("merge{later}.{leaf}", "downsample_layers.{later}.conv.{leaf}"),
    ("layer{stage}.{block}.{rest}", "stages.{stage}.{block}.{rest}"),
    ("out{stage}.{leaf}", "norm{stage}.{leaf}"),
    ("logits.norm.{leaf}", f"{CLASSIFIER}.norm.{{leaf}}"),
    ("logits.{param}", f"{CLASSIFIER}.fc.{{param}}"),
)
TOY = Layout(
    "toy",
    owners=("timm",),
    archs=("poolformer_*",),
    signature=(r"entry\.weight", r"layer0\.0\..+"),
    rules=_rules,
    linear=pointwise_weights,
    scale_ndim=3,
)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """As if it was named in ``LAYOUTS``, in the place of timm's."""
    layouts = (*(layout for layout in LAYOUTS if layout.name != "timm MetaFormer"), TOY)
    for module in (convert, export):
        monkeypatch.setattr(module, "LAYOUTS", layouts)
    monkeypatch.setattr(convert.identify, "__defaults__", (None, layouts))
    monkeypatch.setattr(PublishedNames, "layouts", layouts)


def test_there_and_back(randomize, tmp_path):
    backbone = randomize(PoolFormer(SIZES))
    own = backbone.state_dict()
    there = export_state_dict(own, "timm")
    assert {"entry.weight", "merge3.bias", "layer1.1.norm2.weight", "out3.bias"} <= there.keys()
    assert there["layer1.1.mlp.fc1.weight"].shape == (64, 16)
    assert there["layer1.1.layer_scale1.scale"].shape == (16, 1, 1)
    back = export_state_dict(there, "mmmetaformer")
    assert own.keys() == back.keys() and all(torch.equal(back[name], own[name]) for name in own)

    torch.save(there, tmp_path / "toy.pth")
    loaded = PoolFormer(SIZES)
    assert load_pretrained(loaded, tmp_path / "toy.pth").conversion.layout == "toy"
    assert all(torch.equal(t, own[name]) for name, t in loaded.state_dict().items())
    # Inside of a model, whoever loads it.
    model = torch.nn.ModuleDict(dict(backbone=PoolFormer(SIZES)))
    model.load_state_dict({f"backbone.{name}": tensor for name, tensor in there.items()})
    assert all(torch.equal(t, own[name]) for name, t in model["backbone"].state_dict().items())


def test_an_owner_has_one_layout_of_a_network(monkeypatch):
    monkeypatch.setattr(export, "LAYOUTS", (*LAYOUTS, TOY))
    with pytest.raises(ValueError, match="several layouts of 'timm' serve poolformer_.*'toy'"):
        export_state_dict(PoolFormer(SIZES).state_dict(), "timm")


def test_classifier(randomize):
    own = randomize(PoolFormer(SIZES, out_norm_cfg=None)).state_dict()
    classifier = {"logits.weight": (5, 32), "logits.bias": (5,), "logits.norm.weight": (32,),
                  "logits.norm.bias": (32,)}  # fmt: skip
    there = export_state_dict(own, "timm") | {n: torch.rand(s) for n, s in classifier.items()}
    ours = export_state_dict(there, "mmmetaformer")
    assert torch.equal(ours["backbone.norm3.bias"], there["logits.norm.bias"])
    assert torch.equal(ours["head.fc.weight"], there["logits.weight"])
    back = export_state_dict(ours, "timm")
    assert back.keys() == there.keys() and all(torch.equal(back[n], there[n]) for n in there)
    del there["layer3.0.norm1.bias"]
    with pytest.raises(WeightsError, match="toy layout .* 1 missing: stages.3.0.norm1.bias"):
        export_state_dict(there, "mmmetaformer")
