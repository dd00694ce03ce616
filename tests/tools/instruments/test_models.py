"""Networks from what the command line names: archs, configs and checkpoints of every kind."""

from __future__ import annotations

import argparse

import pytest
import torch

from instruments.images import Preprocessing
from instruments.models import ModelSpec, load_model, model_spec
from mmmetaformer import FFNet, create_backbone, switch_to_deploy
from mmmetaformer.engine.errors import UserError
from mmmetaformer.weights import WeightsError

ARCH = dict(depths=[1, 1, 1, 1], dims=[8, 16, 32, 64])
DETECTOR = """
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], bgr_to_rgb={rgb}),
    backbone=dict(type='mmmetaformer.{kind}', arch={arch}, out_indices=(1, 3), init_cfg={init_cfg}))
"""


@pytest.fixture
def config(tmp_path):
    def write(kind="FFNet", arch=ARCH, rgb=True, init_cfg=None, name="config.py"):
        path = tmp_path / name
        path.write_text(DETECTOR.format(kind=kind, arch=arch, rgb=rgb, init_cfg=init_cfg))
        return str(path)

    return write


def detector_checkpoint(backbone: torch.nn.Module, path) -> str:
    """As mmengine's runner saves a detector."""
    weights = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    weights["neck.lateral_convs.0.conv.weight"] = torch.zeros(4, 8, 1, 1)
    torch.save(dict(meta=dict(epoch=12), state_dict=weights), path)
    return str(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("poolformer_s12", ("poolformer_s12", "poolformer_s12", None)),
        ("poolformer_s12@a/w.pth", ("poolformer_s12@w", "poolformer_s12", "a/w.pth")),
        ("mine=poolformer_s12@w.pth", ("mine", "poolformer_s12", "w.pth")),
        ("a/b.py@c/epoch_12.pth", ("b@epoch_12", "a/b.py", "c/epoch_12.pth")),
        ("x=/me@home/b.py", ("x", "/me@home/b.py", None)),
        ("/me@home/b.py@w.pth", ("b@w", "/me@home/b.py", "w.pth")),
        ("a/x=1/b.py", ("b", "a/x=1/b.py", None)),
        ("s@https://a.org/w.pth?x=1", ("s@w", "s", "https://a.org/w.pth?x=1")),
    ],
)
def test_specs(text, expected):
    assert model_spec(text) == ModelSpec(*expected)


@pytest.mark.parametrize("text", ["", "@w.pth", "poolformer_s12@"])
def test_texts_that_are_no_specs(text):
    with pytest.raises(argparse.ArgumentTypeError, match="LABEL="):
        model_spec(text)


def test_random_weights_are_said_to_be_and_depend_on_the_seed():
    models = [load_model(model_spec("poolformer_s12"), seed) for seed in (0, 0, 1)]
    first, same, other = (model.backbone.stages[0][0].mlp.fc1.weight for model in models)
    assert torch.equal(first, same) and not torch.equal(first, other)
    described = models[2].describe()
    assert (described["weights"], described["seed"]) == (None, 1)
    assert described["randomly_initialised"] == "all"
    assert "RANDOM weights (seed 1)" in str(models[2])
    backbone = models[0].backbone
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_checkpoint_of_a_classifier(tmp_path):
    """Without output norms, which stay new."""
    source = create_backbone("poolformer_s12")
    weights = {k: v for k, v in source.state_dict().items() if not k.startswith("norm")}
    torch.save(weights, tmp_path / "w.pth")
    model = load_model(model_spec(f"poolformer_s12@{tmp_path}/w.pth"))
    torch.testing.assert_close(model.backbone.state_dict()["stages.3.1.mlp.fc2.weight"],
                               weights["stages.3.1.mlp.fc2.weight"])  # fmt: skip
    assert model.describe()["weights"] == f"{tmp_path}/w.pth"
    assert model.new == [f"norm{i}.{part}" for i in range(4) for part in ("weight", "bias")]
    assert "RANDOM, not in the file: norm0.weight" in str(model)


@pytest.mark.parametrize("fused", [False, True])
def test_a_config_with_a_checkpoint_of_the_whole_detector(fused, config, tmp_path, randomize):
    source = randomize(FFNet(ARCH, out_indices=(1, 3))).eval()
    image = torch.randn(1, 3, 64, 64)
    expected = source(image)
    checkpoint = detector_checkpoint(switch_to_deploy(source) if fused else source, tmp_path / "w")
    path = config(init_cfg=dict(type="Pretrained", checkpoint="/not/there.pth"))
    model = load_model(model_spec(f"{path}@{checkpoint}"))
    assert (model.fused, model.new, model.weights) == (fused, [], checkpoint)
    assert model.backbone.out_indices == (1, 3)
    torch.testing.assert_close(model.backbone(image), expected, rtol=1e-4, atol=1e-4)
    assert model.preprocessing == Preprocessing((1, 2, 3), (4, 5, 6), "RGB")


def test_what_a_config_says_itself(config, tmp_path, randomize):
    random = load_model(model_spec(config(rgb=False)))
    assert random.weights is None and random.preprocessing.channels == "BGR"
    source = randomize(FFNet(ARCH, out_indices=(1, 3)))
    torch.save(source.state_dict(), tmp_path / "own.pth")
    init_cfg = dict(type="Pretrained", checkpoint=f"{tmp_path}/own.pth")
    model = load_model(model_spec(config(init_cfg=init_cfg)))
    assert model.weights == f"{tmp_path}/own.pth"
    torch.testing.assert_close(dict(model.backbone.state_dict()), dict(source.state_dict()))
    given = Preprocessing((0, 0, 0), (1, 1, 1))
    assert load_model(model_spec(config()), preprocessing=given).preprocessing == given


def test_weights_of_the_catalogue_in_a_config(tmp_path, monkeypatch):
    """``pretrained`` stands for an address, which is asked for like any other."""
    (tmp_path / "config.py").write_text(
        "model = dict(backbone=dict("
        "type='mmmetaformer.PoolFormer', arch='s12', out_indices=(0,), pretrained=True))"
    )
    source = create_backbone("poolformer_s12", out_indices=(0,))
    asked = []
    monkeypatch.setattr(
        "mmmetaformer.weights.loading.read_checkpoint",
        lambda address: asked.append(address) or source.state_dict(),
    )
    model = load_model(model_spec(f"{tmp_path}/config.py"))
    assert len(asked) == 1 and asked[0] == model.weights
    assert model.weights.startswith("https://") and "poolformer_s12" in model.weights


@pytest.mark.parametrize("fused", [False, True])
def test_a_checkpoint_of_another_network(fused, config, tmp_path):
    other = FFNet(dict(ARCH, dims=[4, 8, 16, 32])).eval()
    checkpoint = detector_checkpoint(switch_to_deploy(other) if fused else other, tmp_path / "w")
    with pytest.raises(WeightsError, match="do not fit this FFNet"):
        load_model(model_spec(f"{config()}@{checkpoint}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poolformer_s13", "unknown network 'poolformer_s13'.*such as poolformer_s"),
        ("no/such.py", "config 'no/such.py' does not exist"),
    ],
)
def test_unknown_networks(text, message):
    with pytest.raises(UserError, match=message):
        load_model(model_spec(text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model = dict(type='FCOS', neck=dict())", "has no backbone"),
        ("model = dict(backbone=dict(type='ResNet', depth=50))", "'ResNet': expected one of mmm"),
        ("model = dict(backbone=dict(type='mmmetaformer.PoolFormer', arch='s13'))", "unknown arch"),
        ("x = 1", "has no model: not a whole config"),
    ],
)
def test_configs_without_a_backbone_of_the_package(content, message, tmp_path):
    (tmp_path / "config.py").write_text(content)
    with pytest.raises(UserError, match=message):
        load_model(model_spec(f"{tmp_path}/config.py"))


def test_a_missing_checkpoint():
    with pytest.raises(WeightsError, match="checkpoint 'no.pth' does not exist"):
        load_model(model_spec("poolformer_s12@no.pth"))
