"""Whole classifiers from published files: logits of independent implementations, and what does not
fit is refused."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import mmmetaformer
from mmmetaformer import convert_classifier_state_dict
from mmmetaformer.weights import WeightsError

Build = Callable[..., nn.Module]


@pytest.fixture
def build(root) -> Build:
    """A classifier from one of the configs of the ImageNet recipes."""
    pytest.importorskip("mmpretrain")
    before = dict(DefaultScope._instance_dict)
    DefaultScope._instance_dict.clear()
    init_default_scope("mmpretrain")

    def make(name: str, head: dict | None = None, **backbone) -> nn.Module:
        (path,) = (root / "configs/imagenet").glob(f"{name}_*_in1k.py")
        cfg = Config.fromfile(path)
        cfg.model.backbone.update(backbone)
        cfg.model.head.update(head or {})
        models = importlib.import_module("mmpretrain.registry").MODELS
        return models.build(cfg.model).eval()

    yield make
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


@pytest.fixture
def randomize_all(randomize) -> Callable[[nn.Module], nn.Module]:
    """Random parameters and random statistics of BatchNorm."""

    def apply(module: nn.Module) -> nn.Module:
        randomize(module)
        generator = torch.Generator().manual_seed(1)
        for norm in module.modules():
            if isinstance(norm, _BatchNorm):
                norm.running_mean.normal_(0, 0.1, generator=generator)
                norm.running_var.uniform_(0.5, 2, generator=generator)
        module.train(False)  # mmpretrain's returns None
        return module

    return apply


def image(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))


def fill(model: nn.Module, source) -> nn.Module:
    """Everything from the source; ``strict`` sees to it that nothing is missing or left over."""
    converted = convert_classifier_state_dict(source, model)
    assert list(converted) == list(model.state_dict())
    model.load_state_dict(converted, strict=True)
    return model


def logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x, mode="tensor")


# ---------------------------------------------------------------- the published implementations

GOLDEN = [
    ("metaformer_pppa_s12_224@224x224", "metaformer-s12-pppa", {}),
    ("metaformer_pppf_s12_224@224x224", "metaformer-s12-pppf", {}),
    ("randformer_s12@224x224", "randformer-s12", {}),
    ("ffnet_1@96x128", "ffnet-1", {}),
    ("ffnet_2@96x128", "ffnet-2", {}),
    # The published code has GELU, the released weights are those of a ReLU network.
    ("convmixer_768_32@112x168", "convmixer-768-32", dict(act_cfg="GELU")),
]


@pytest.mark.parametrize(("case", "name", "options"), GOLDEN, ids=[case[0] for case in GOLDEN])
def test_golden_logits(case, name, options, golden, formula, build):
    entry = golden[case]
    published = {
        key: torch.from_numpy(np.asarray(formula.fill(key, shape)))
        for key, shape in entry["layout"].items()
    }
    model = fill(build(name, **options), published)
    x = torch.from_numpy(formula.image(*entry["input"][2:]))
    for network in (model, mmmetaformer.switch_to_deploy(model)):
        digest, expected = formula.digest(logits(network, x).numpy()), entry["logits"]
        assert digest["shape"] == expected["shape"] == [1, 1000]
        tolerance = 1e-4 * expected["std"]
        worst = np.abs(np.subtract(digest["samples"], expected["samples"])).max()
        print(f"{case}: {worst / expected['std']:.1e} of the standard deviation")
        assert abs(digest["mean"] - expected["mean"]) < tolerance
        assert abs(digest["std"] - expected["std"]) < tolerance
        np.testing.assert_allclose(digest["samples"], expected["samples"], rtol=0, atol=tolerance)


def test_every_golden_with_logits_is_compared(golden):
    assert {case for case, entry in golden.items() if "logits" in entry} == {
        case for case, _, _ in GOLDEN
    }


# By the names in the release: shape of the tensor and name in the model.
_LINEAR = {
    "head.weight": ((1000, 512), "head.fc.weight"),
    "head.bias": ((1000,), "head.fc.bias"),
}
_MLP = {
    "norm.weight": ((512,), "head.norm.weight"),
    "norm.bias": ((512,), "head.norm.bias"),
    "head.fc1.weight": ((2048, 512), "head.fc1.weight"),
    "head.fc1.bias": ((2048,), "head.fc1.bias"),
    "head.norm.weight": ((2048,), "head.hidden_norm.weight"),
    "head.norm.bias": ((2048,), "head.hidden_norm.bias"),
    "head.fc2.weight": ((1000, 2048), "head.fc2.weight"),
    "head.fc2.bias": ((1000,), "head.fc2.bias"),
}
WITHOUT_LOGITS = [
    ("identityformer_s12@96x160", "identityformer-s12",
     {**_LINEAR, "norm.weight": ((512,), "head.norm.weight"),
      "norm.bias": ((512,), "head.norm.bias")}),
    ("convformer_s18@96x160", "convformer-s18", _MLP),
    ("caformer_s18@96x160", "caformer-s18", _MLP),
    ("poolformer_s12@96x128", "poolformer-s12",
     {**_LINEAR, "norm.weight": ((512,), "backbone.norm3.weight"),
      "norm.bias": ((512,), "backbone.norm3.bias")}),
]  # fmt: skip


@pytest.mark.parametrize(("case", "name", "classifier"), WITHOUT_LOGITS,
                         ids=[case[0] for case in WITHOUT_LOGITS])  # fmt: skip
def test_published_layouts_fill_everything(case, name, classifier, golden, formula, build):
    """Networks whose logits are not there; the layout may lack the classifier."""
    layout = {key: shape for key, (shape, _) in classifier.items()}
    for key, shape in golden[case]["layout"].items():
        if not re.match(r"norm\d\.", key):  # those of a detector
            layout[key] = shape
    published = {
        key: torch.from_numpy(np.asarray(formula.fill(key, shape))) for key, shape in layout.items()
    }
    state = fill(build(name), published).state_dict()
    for key, (_, own) in classifier.items():
        assert torch.equal(state[own], published[key])


# ---------------------------------------------------------------- timm

# timm's copy of the MLP head has another epsilon behind the activation than the release.
_TIMM_MLP = dict(hidden_norm_cfg=dict(type="LN", eps=1e-6))
# And it normalises PoolFormer's channels behind the pooling, where the release has a norm over the
# map in front of it.
_TIMM_POOLFORMER = dict(type="mmmetaformer.MetaFormerClsHead")
TIMM = [
    ("poolformer_s12", "poolformer-s12", _TIMM_POOLFORMER, dict(out_norm_cfg=None), (65, 97)),
    ("poolformerv2_s12", "poolformerv2-s12", {}, {}, (65, 97)),
    ("convformer_s18", "convformer-s18", _TIMM_MLP, {}, (65, 97)),
    ("caformer_s18", "caformer-s18", _TIMM_MLP, {}, (65, 97)),
    ("convmixer_768_32", "convmixer-768-32", {}, {}, (35, 49)),
    ("mixer_b16_224", "mlp-mixer-b16", {}, {}, (224, 224)),
    ("mixer_s16_224", "mlp-mixer-b16", dict(in_channels=512), dict(arch="s16"), (224, 224)),
]


def assert_same_logits(ours: nn.Module, theirs: nn.Module, forward: Callable, x: Tensor) -> None:
    """In shares of the logits' standard deviation; float64 leaves no room for another epsilon."""
    fill(ours, theirs.state_dict())
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        found = logits(ours.to(dtype), x.to(dtype))
        with torch.no_grad():
            expected = forward(theirs.to(dtype), x.to(dtype))
        assert found.shape == expected.shape == (2, 1000)
        assert 1e-2 < float(expected.std()) < 1e3
        difference = float((found - expected).abs().max() / expected.std())
        print(f"{dtype}: {difference:.1e} of the standard deviation")
        assert difference < tolerance


@pytest.mark.parametrize(("theirs", "ours", "head", "backbone", "size"), TIMM,
                         ids=[case[0] for case in TIMM])  # fmt: skip
def test_timm(theirs, ours, head, backbone, size, build, randomize_all):
    timm = pytest.importorskip("timm")
    reference = randomize_all(timm.create_model(theirs, pretrained=False))
    model = build(ours, head, **backbone)
    assert_same_logits(model, reference, lambda network, x: network(x), image(*size))


# ---------------------------------------------------------------- mmpretrain

MMPRETRAIN = [
    ("PoolFormer", dict(arch="s12", frozen_stages=-1), 512, "poolformer-s12", (65, 97)),
    ("PoolFormer", dict(arch="m36", frozen_stages=-1), 768, "poolformer-m36", (65, 97)),
    ("ConvMixer", dict(arch="768/32", act_cfg=dict(type="ReLU")), 768, "convmixer-768-32",
     (35, 49)),
    ("MlpMixer", dict(arch="b", norm_cfg=dict(type="LN", eps=1e-6)), 768, "mlp-mixer-b16",
     (224, 224)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "channels", "ours", "size"), MMPRETRAIN,
                         ids=[case[3] for case in MMPRETRAIN])  # fmt: skip
def test_mmpretrain(kind, options, channels, ours, size, build, randomize_all):
    """Its own classifiers, head and all; that of PoolFormer is the published function."""
    model = build(ours)
    registry = importlib.import_module("mmpretrain.registry").MODELS
    if kind == "MlpMixer":
        options = dict(options, img_size=224, patch_size=16)
    reference = registry.build(
        dict(
            type="ImageClassifier",
            backbone=dict(type=kind, **options),
            neck=dict(type="GlobalAveragePooling", dim=1 if kind == "MlpMixer" else 2),
            head=dict(type="LinearClsHead", num_classes=1000, in_channels=channels),
        )
    )
    assert_same_logits(model, randomize_all(reference), logits, image(*size))


# ---------------------------------------------------------------- what is refused, what is kept

TINY = dict(arch=dict(depths=[1, 1, 1, 1], dims=[8, 16, 32, 64]))


@pytest.fixture
def tiny(build) -> Callable[[str], nn.Module]:
    """Dims that double, as FFNet's downsampling asks."""
    return lambda name: build(name, dict(in_channels=64, num_classes=5), **TINY)


def published(model: nn.Module) -> dict[str, Tensor]:
    """A tiny ConvFormer in the names of its release."""
    names = {
        "head.norm.": "norm.", "head.hidden_norm.": "head.norm.", "backbone.": "",
    }  # fmt: skip
    state = {}
    for name, tensor in model.state_dict().items():
        old = next((old for old in names if name.startswith(old)), "")
        state[names.get(old, "") + name.removeprefix(old)] = tensor.clone()
    return state


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_and_prefixed(wrapper, prefix, tiny, randomize):
    source = published(randomize(tiny("convformer-s18")))
    model = tiny("convformer-s18")
    fill(model, {wrapper: {prefix + name: value for name, value in source.items()}})
    for name, value in published(model).items():
        assert torch.equal(value, source[name])


@pytest.mark.parametrize("name", ["poolformer-s12", "convformer-s18", "ffnet-1"])
def test_a_checkpoint_of_ones_own_stays_as_it_is(name, tiny, randomize):
    source, model = randomize(tiny(name)), tiny(name)
    fill(model, dict(state_dict=source.state_dict(), meta={}, optimizer={}))
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.bias"), "1 missing: head.norm.bias"),
        (lambda s: s.pop("head.fc2.weight"), "1 missing: head.fc2.weight"),
        (lambda s: s.pop("stages.2.0.norm1.weight"), "1 missing: stages.2.0.norm1.weight"),
        (lambda s: s.update({"head.fc3.weight": torch.zeros(1)}), "1 unexpected: head.fc3.weight"),
        (lambda s: s.update({"norm2.weight": torch.zeros(32)}), "1 unexpected: norm2.weight"),
        (lambda s: s.update({"head.fc2.bias": torch.zeros(21841)}),
         r"1 of another shape: head.fc2.bias is \(21841,\), the model's head.fc2.bias \(5,\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit(change, message, tiny):
    model = tiny("convformer-s18")
    source = published(model)
    change(source)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        convert_classifier_state_dict(source, model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_classifier_of_two_layers_is_no_linear_one(tiny, build):
    head = dict(in_channels=64, num_classes=5, hidden_ratio=None)
    model = build("convformer-s18", head, **TINY)
    with pytest.raises(WeightsError, match="2 missing: head.fc.weight; .* 6 unexpected: head.fc1"):
        convert_classifier_state_dict(published(tiny("convformer-s18")), model)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Module()])
def test_no_classifier(model):
    with pytest.raises(TypeError, match="expected an ImageClassifier with a backbone of mmmeta"):
        convert_classifier_state_dict({}, model)
