"""Backbones in the hands of other libraries: hooks, wrappers, tracers, counters, adapters.

Each holds with and without the fused path.
"""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

from mmmetaformer import CAFormer, ConvMixer, MlpMixer, PoolFormer, list_archs, switch_to_deploy
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.engine.complexity import saved_for_backward
from mmmetaformer.variants import FAMILIES, VARIANTS

SMALL = dict(depths=[2, 1, 1, 1], dims=[32, 32, 32, 32])
FUSED = pytest.mark.parametrize("fused", ["auto", False])


def thin(name: str, **kwargs) -> nn.Module:
    """A network with one block per stage and few channels, the same in everything else."""
    if FAMILIES[VARIANTS[name]["family"]]["structure"] == "isotropic":
        return build_backbone(name, depth=4, dim=32, **kwargs)
    return build_backbone(name, depths=[1, 1, 1, 1], dims=[32, 64, 128, 256], **kwargs)


def _structures() -> list[str]:
    """The first of all networks that differ in depths and widths only."""
    first: dict[str, str] = {}
    with torch.device("meta"):
        for name in list_archs():
            first.setdefault(repr(thin(name).settings), name)
    return list(first.values())


STRUCTURES = _structures()


def loss(levels: tuple[Tensor, ...]) -> Tensor:
    return sum(level.square().mean() for level in levels)


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss(model(x)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# Hooks and wrappers of stages


@FUSED
def test_a_forward_hook_on_a_stage_sees_its_map(fused):
    backbone = PoolFormer(SMALL, out_norm_cfg=None, fused=fused)
    seen = []
    backbone.stages[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    levels = backbone(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(seen, [levels[-1]])


@FUSED
def test_checkpoint_wrapper_on_a_stage_saves_memory(fused):
    backbone = PoolFormer(SMALL, fused=fused)
    x = torch.randn(1, 3, 128, 128)
    sizes, results = [], []
    for _ in range(2):
        with saved_for_backward() as saved:
            backbone(x)
        sizes.append(saved.total(exclude=backbone, inputs=[x]))
        results.append(list(gradients(backbone, x).values()))
        backbone.stages[0] = checkpoint_wrapper(backbone.stages[0])
    assert sizes[1] < 0.7 * sizes[0]
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.torch("2.6")
@FUSED
def test_fully_sharded_stages(fused, tmp_path):
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        whole = CAFormer(SMALL, fused=fused)
        sharded = copy.deepcopy(whole)
        for stage in sharded.stages:
            fully_shard(stage, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        x = torch.randn(2, 3, 64, 64)
        expected = gradients(whole, x)
        found = {name: grad.full_tensor() for name, grad in gradients(sharded, x).items()}
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(found, expected)


@FUSED
def test_a_compiled_stage_runs(fused):
    backbone = PoolFormer(SMALL, fused=fused)
    x = torch.randn(1, 3, 64, 64)
    expected = gradients(backbone, x)
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    backbone.stages[2].compile(backend=backend)
    torch.testing.assert_close(gradients(backbone, x), expected)
    backbone.stages[1] = torch.compile(backbone.stages[1], backend=backend)
    torch.testing.assert_close(list(gradients(backbone, x).values()), list(expected.values()))
    assert len(compiled) >= 2
    torch._dynamo.reset()


@pytest.mark.parametrize("part", ["token_mixer", "mlp"])
@FUSED
def test_a_compiled_part_of_a_block_runs(fused, part):
    backbone = CAFormer(SMALL, fused=fused)
    compiled = []
    backbone.stages[1][0].get_submodule(part).compile(
        backend=lambda graph, inputs: compiled.append(graph) or graph
    )
    x = torch.randn(1, 3, 64, 64)
    backbone(x)
    assert compiled
    torch._dynamo.reset()


# Modules that others put in the place of ours, or change


class LoRA(nn.Module):
    """A layer with a low-rank adapter beside it, as peft wraps it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        if isinstance(layer, nn.Linear):
            self.down = nn.Linear(layer.in_features, 2, bias=False)
            self.up = nn.Linear(2, layer.out_features, bias=False)
        else:
            sides = layer.kernel_size, layer.stride, layer.padding
            self.down = nn.Conv2d(layer.in_channels, 2, *sides, bias=False)
            self.up = nn.Conv2d(2, layer.out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.up(self.down(x))


ADAPTED = {
    "attention": (CAFormer, {}, "stages.2.0.token_mixer.qkv"),
    "proj": (CAFormer, {}, "stages.2.0.token_mixer.proj"),
    "sr_attention": (
        CAFormer,
        dict(token_mixers=["sepconv", "sepconv", "sr_attention", "sr_attention"]),
        "stages.2.0.token_mixer.qkv",
    ),
    "window_attention": (
        CAFormer,
        dict(token_mixers=["sepconv", "sepconv", "window_attention", "attention"]),
        "stages.2.0.token_mixer.qkv",
    ),
    "mlp": (PoolFormer, {}, "stages.1.0.mlp.fc1"),
    "sepconv": (CAFormer, {}, "stages.0.0.token_mixer.pwconv1"),
    "downsampling": (PoolFormer, {}, "downsample_layers.1.conv"),
    "stem of 14 pixels": (
        MlpMixer,
        dict(arch=dict(depth=4, dim=32, stem=dict(type="PatchEmbedding", patch_size=14))),
        "stem.conv",
    ),
    "stem of ConvMixer": (
        ConvMixer,
        dict(arch=dict(depth=4, dim=32, stem=dict(type="PatchActNorm", patch_size=7))),
        "stem.conv",
    ),
    "spatial FC": (
        PoolFormer,
        dict(token_mixers=dict(type="spatial_fc", size_policy="resample_weights")),
        "stages.3.0.token_mixer.fc",
    ),
    "token MLP": (
        PoolFormer,
        dict(token_mixers=dict(type="token_mlp", size_policy="resample_weights")),
        "stages.3.0.token_mixer.fc1",
    ),
}


def adapted(case: str, fused) -> tuple[nn.Module, str]:
    cls, options, name = ADAPTED[case]
    return cls(**{"arch": SMALL, **options}, fused=fused), name


@pytest.mark.parametrize("case", ADAPTED)
@FUSED
def test_an_adapter_learns_and_has_an_effect(case, fused):
    backbone, name = adapted(case, fused)
    parent, _, child = name.rpartition(".")
    x = torch.randn(2, 3, 96, 96)
    before = backbone.eval()(x)
    adapter = LoRA(backbone.get_submodule(name))
    setattr(backbone.get_submodule(parent), child, adapter)
    assert any(not torch.allclose(a, b) for a, b in zip(before, backbone(x), strict=True))
    grads = gradients(backbone, x)
    for part in ("down", "up"):
        assert grads[f"{name}.{part}.weight"].abs().sum() > 0
    assert f"{name}.base_layer.weight" not in grads


@pytest.mark.parametrize("case", ["sr_attention", "stem of 14 pixels", "mlp", "downsampling"])
@pytest.mark.parametrize("change", ["prune", "weight_norm", "parametrized weight_norm"])
@FUSED
def test_pruning_and_weight_norm_count_in_every_step(case, change, fused):
    backbone, name = adapted(case, fused)
    layer = backbone.eval().get_submodule(name)
    x = torch.randn(2, 3, 96, 96)
    before = backbone(x)
    if change == "prune":
        prune.l1_unstructured(layer, "weight", 0.5)
        learnt = "weight_orig"
    elif change == "weight_norm":
        with pytest.warns(FutureWarning):
            torch.nn.utils.weight_norm(layer)
        layer.weight_g.data.mul_(2)
        learnt = "weight_g"
    else:
        parametrizations.weight_norm(layer)
        layer.parametrizations.weight.original0.data.mul_(2)
        learnt = "parametrizations.weight.original0"
    assert any(not torch.allclose(a, b) for a, b in zip(before, backbone(x), strict=True))
    for _ in range(2):  # a weight that was read once would fail in the second backward pass
        assert gradients(backbone, x)[f"{name}.{learnt}"].abs().sum() > 0


class Int8Weight(Tensor):
    """A quantised weight that knows how to multiply and nothing else, as those of torchao."""

    @staticmethod
    def __new__(cls, weight: Tensor) -> Int8Weight:
        return Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)

    def __init__(self, weight: Tensor) -> None:
        self.scale = weight.detach().abs().amax() / 127
        self.values = (weight.detach() / self.scale).round().to(torch.int8)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is nn.functional.linear:
            x, weight, *bias = args
            return function(x, weight.values.to(x.dtype) * weight.scale, *bias)
        return super().__torch_function__(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(f"{function} of an int8 weight")


@FUSED
def test_int8_weights(fused):
    backbone = CAFormer(SMALL, fused=fused).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = backbone(x)
        for module in backbone.modules():
            if isinstance(module, nn.Linear):
                weight = Int8Weight(module.weight)
                module.weight = nn.Parameter(weight, requires_grad=False)
        found = backbone(x)
    for a, b in zip(found[2:], exact[2:], strict=True):  # the stages of attention
        assert 0 < (a - b).norm() < 0.05 * b.norm()


def test_attributes_of_others_called_fused_do_not_matter():
    class Neck(nn.Module):
        fused = True

    model = nn.ModuleDict(dict(backbone=build_backbone("ffnet_1"), neck=Neck())).eval()
    assert switch_to_deploy(model) is model
    assert isinstance(model.backbone.downsample_layers[0].conv1, nn.Conv2d)


# Modes that interpret operators


@FUSED
def test_fake_tensors(fused):
    with FakeTensorMode():
        backbone = CAFormer(SMALL, fused=fused)
        levels = backbone(torch.randn(2, 3, 64, 96))
        loss(levels).backward()
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_a_counter_sees_every_operation():
    x = torch.randn(1, 3, 64, 64)
    counts = []
    for fused in ("auto", False):
        backbone = PoolFormer("s12", fused=fused)
        with FlopCounterMode(display=False) as counter:
            loss(backbone(x)).backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 400e6


# Tracers


@pytest.mark.parametrize("name", STRUCTURES)
@FUSED
def test_symbolic_trace(name, fused):
    """One graph for all sizes, in both modes, as torchvision wants it."""
    backbone = thin(name, drop_path_rate=0.1, fused=fused)
    train, evaluate = torch.fx.symbolic_trace(backbone.train()), None
    loss(train(torch.randn(2, 3, 64, 64))).backward()
    evaluate = torch.fx.symbolic_trace(backbone.eval())
    with torch.no_grad():
        for size in ((64, 96), (96, 70)):
            x = torch.randn(1, 3, *size)
            torch.testing.assert_close(evaluate(x), backbone(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["poolformer_s12", "caformer_s18", "ffnet_1", "metaformer_s12_ppff"]
)
@FUSED
def test_torchvision_extracts_features(name, fused):
    backbone = thin(name, fused=fused, out_norm_cfg=None).eval()
    extractor = create_feature_extractor(backbone, {"stages.1.0": "block", "stages.3.0": "last"})
    x = torch.randn(1, 3, 64, 64)
    features = extractor(x)
    assert features["block"].shape == (1, 64, 8, 8)
    torch.testing.assert_close(features["last"], backbone(x)[3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STRUCTURES)
def test_script_and_trace(name):
    """TorchScript of both kinds, saved and loaded, at other sizes than the example's."""
    backbone = thin(name).eval()
    scripted = torch.jit.script(backbone)
    traced = torch.jit.trace(backbone, torch.randn(1, 3, 64, 96))
    with torch.no_grad():
        for form in (scripted, traced):
            stored = io.BytesIO()
            torch.jit.save(form, stored)
            stored.seek(0)
            loaded = torch.jit.load(stored)
            for size in ((64, 96), (96, 70)):
                x = torch.randn(1, 3, *size)
                expected = backbone(x)
                torch.testing.assert_close(loaded(x), expected, rtol=1e-4, atol=1e-5)


@FUSED
def test_a_traced_network_is_saved(fused):
    backbone, x = PoolFormer(SMALL, fused=fused).eval(), torch.randn(1, 3, 64, 64)
    stored = io.BytesIO()
    torch.save(torch.fx.symbolic_trace(backbone), stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    torch.testing.assert_close(loaded(x), backbone(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", ["auto", False])
def test_a_scripted_network_has_the_mode_it_was_scripted_in(fused):
    backbone = PoolFormer(SMALL, drop_path_rate=0.5, fused=fused)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(torch.jit.script(backbone.eval())(x), backbone(x))
    loss(torch.jit.script(backbone.train())(x)).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
