"""Networks with the fused path: argument, environment variable, and what they change."""

import io
import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad

from mmmetaformer.backbones import CAFormer, FFNet, MetaFormer, MlpMixer, PoolFormer
from mmmetaformer.backbones.base import resolve_fused
from mmmetaformer.fused import fuse, unfuse

ATTENTION = dict(type="attention", head_dim=4)
SMALL = dict(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])


def outputs_and_gradients(backbone: torch.nn.Module, x: torch.Tensor) -> list:
    torch.manual_seed(0)
    backbone.zero_grad()
    levels = backbone(x)
    sum(level.square().sum() for level in levels).backward()
    return [*levels, *(parameter.grad for parameter in backbone.parameters())]


@pytest.mark.parametrize("fused", ["auto", True, False])
def test_values(monkeypatch, fused):
    monkeypatch.delenv("MMMETAFORMER_FUSED", raising=False)
    assert resolve_fused(fused) is fused


@pytest.mark.parametrize("fused", ["off", None, 1.0, "cuda"])
def test_other_values_are_refused(fused):
    with pytest.raises(ValueError, match=rf"fused.*{fused!r}|'auto', True, False"):
        PoolFormer(SMALL, fused=fused)


def test_an_implementation_that_is_not_registered_is_refused():
    with pytest.raises(ValueError, match=r"fused='nonsense' .*tools/triton_kernels"):
        PoolFormer(SMALL, fused="nonsense")


def test_without_it_nothing_of_it_is_imported():
    code = (
        "import sys; from mmmetaformer import PoolFormer; import torch; "
        f"PoolFormer({SMALL}, fused=False)(torch.randn(1, 3, 32, 32)); "
        "sys.exit(any(name.startswith('mmmetaformer.fused') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("fused", ["auto", True])
def test_environment_variable_turns_it_off(monkeypatch, fused, fused_functions):
    x = torch.randn(1, 3, 32, 32)
    assert fused_functions(*PoolFormer(SMALL, fused=fused)(x))
    monkeypatch.setenv("MMMETAFORMER_FUSED", "0")
    assert not fused_functions(*PoolFormer(SMALL, fused=fused)(x))


def test_environment_variable_with_a_wrong_value_is_refused(monkeypatch):
    monkeypatch.setenv("MMMETAFORMER_FUSED", "off")
    with pytest.raises(ValueError, match="fused='off' is no registered implementation"):
        PoolFormer(SMALL)


def test_true_where_nothing_can_be_fused_is_refused():
    with pytest.raises(ValueError, match="nothing of FFNet has a fused form: leave fused='auto'"):
        FFNet(dict(SMALL, dims=[8, 16, 32, 64]), fused=True)


def test_fuse_and_unfuse_a_network_that_is_built(fused_functions):
    backbone, x = PoolFormer(SMALL, fused=False), torch.randn(1, 3, 64, 64)
    modules = {name: type(module) for name, module in backbone.named_modules()}
    literal = backbone(x)
    assert fused_functions(*literal) == []
    for fused in ("auto", True):  # the second time, too
        assert fuse(backbone, fused) is backbone
        found = backbone(x)
        assert "PoolResidualBranch" in fused_functions(*found)
        torch.testing.assert_close(found, literal, rtol=1e-4, atol=1e-5)
    unfuse(backbone)
    assert {name: type(module) for name, module in backbone.named_modules()} == modules
    torch.testing.assert_close(unfuse(backbone)(x), literal, rtol=0, atol=0)


def test_classes_that_others_made_of_fused_ones_stay_theirs():
    """Those of parametrizations and of FSDP, for instance."""

    class Doubled(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    backbone, x = PoolFormer(SMALL), torch.randn(1, 3, 64, 64)
    torch.nn.utils.parametrize.register_parametrization(backbone.norm0, "weight", Doubled())
    block = backbone.stages[0][0]
    block.__class__ = type("Wrapped", (type(block),), {})
    before = backbone(x)
    torch.testing.assert_close(unfuse(backbone)(x), before, rtol=1e-4, atol=1e-5)
    assert type(block).__name__ == "Wrapped"
    torch.testing.assert_close(fuse(backbone, True)(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["GN", "LN2d"])
def test_dtype_behind_output_norms_in_float32(norm):
    norm = dict(type=norm, **(dict(num_groups=1) if norm == "GN" else {}))
    dtypes = []
    for fused in ("auto", False):
        backbone = PoolFormer(SMALL, fused=fused, norm_cfg=norm, out_norm_cfg=norm).bfloat16()
        for index in range(4):
            getattr(backbone, f"norm{index}").float()
        dtypes.append([level.dtype for level in backbone(torch.randn(1, 3, 64, 64).bfloat16())])
    assert dtypes[0] == dtypes[1]


def test_auto_where_nothing_can_be_fused_leaves_the_image_as_it_is():
    backbone = FFNet(dict(SMALL, dims=[8, 16, 32, 64])).eval()
    seen = []
    backbone.downsample_layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(1, 3, 32, 32)
    backbone(x)
    assert seen[0] is x


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (PoolFormer, {}),
        (PoolFormer, dict(with_cp=True)),
        (PoolFormer, dict(frozen_stages=1)),
        (PoolFormer, dict(out_norm_cfg="LN2d", drop_path_rate=0.5)),
        (CAFormer, dict(token_mixers=["sepconv", "pooling", "identity", ATTENTION])),
        (MetaFormer, dict(norm_cfg=None, token_mixers="depthwise")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [(64, 64), (51, 70)])
def test_networks_equal_the_literal_ones(randomize, family, options, size):
    fused = randomize(family(SMALL, **options)).double().train()
    plain = family(SMALL, fused=False, **options).double().train()
    assert list(fused.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.double)
    results = [outputs_and_gradients(backbone, x) for backbone in (fused, plain)]
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8)
    assert all(level.is_contiguous() for level in fused(x))


def test_float32_gradients_of_the_convolutions_between_stages(randomize):
    settings = dict(SMALL, dims=[16, 16, 16, 16])
    fused = randomize(CAFormer(settings, token_mixers="pooling"))
    plain = CAFormer(settings, token_mixers="pooling", fused=False).double()
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 3, 50, 70)
    outputs_and_gradients(fused, x), outputs_and_gradients(plain, x.double())
    for layer, exact in zip(fused.downsample_layers, plain.downsample_layers, strict=True):
        for name, parameter in layer.named_parameters():
            expected = exact.get_parameter(name).grad
            assert (parameter.grad - expected).norm() <= 1e-4 * expected.norm()


def test_a_hook_makes_the_convolution_of_a_downsampling_run_literally(fused_functions):
    layer = PoolFormer(dict(SMALL, dims=[16, 16, 16, 16])).downsample_layers[1]
    x = torch.randn(1, 16, 8, 8)
    fused = layer(x)
    assert fused_functions(fused) == ["Convolution"]
    seen = []
    layer.conv.register_forward_hook(lambda *args: seen.append(args))
    literal = layer(x)
    assert len(seen) == 1 and fused_functions(literal) == []
    torch.testing.assert_close(literal, fused)


def test_isotropic_network(randomize):
    options = dict(arch=dict(depth=4, dim=8, stem=dict(type="PatchEmbedding", patch_size=16)))
    fused = randomize(MlpMixer(**options)).double()
    plain = MlpMixer(fused=False, **options).double()
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 3, 64, 48, dtype=torch.double)
    results = [outputs_and_gradients(backbone, x) for backbone in (fused, plain)]
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8)


def test_output_norm_of_a_large_mean(randomize):
    fused = PoolFormer(SMALL)
    x = (torch.randn(1, 8, 16, 16) + 1e3).contiguous(memory_format=torch.channels_last)
    exact = torch.nn.functional.group_norm(x.double(), 1)
    torch.testing.assert_close(fused.norm0(x).double(), exact, rtol=1e-3, atol=1e-3)


@pytest.fixture
def pair(randomize):
    """A network in its fused and in its plain form."""
    fused, plain = randomize(PoolFormer(SMALL)).double(), PoolFormer(SMALL, fused=False).double()
    plain.load_state_dict(fused.state_dict())
    return fused, plain


def loss(model, x: torch.Tensor, parameters: dict) -> torch.Tensor:
    levels = torch.func.functional_call(model, parameters, (x,))
    return sum(level.square().sum() for level in levels)


def test_torch_func(pair):
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    per_image = [torch.func.vmap(lambda image, m=model: m(image[None])[3])(x) for model in pair]
    torch.testing.assert_close(*per_image)
    grads = [
        torch.func.grad(lambda p, m=model: loss(m, x, p))(dict(model.named_parameters()))
        for model in pair
    ]
    torch.testing.assert_close(*grads)


def test_derivatives_in_forward_mode(pair):
    x, direction = torch.randn(2, 1, 3, 32, 32, dtype=torch.double)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, direction)
        tangents = [forward_ad.unpack_dual(model(dual)[3]).tangent for model in pair]
    torch.testing.assert_close(*tangents)


def test_tracing_and_export_need_nothing_of_this_package(pair):
    fused, plain = (model.eval() for model in pair)
    x = torch.randn(1, 3, 32, 32, dtype=torch.double)
    stored = io.BytesIO()
    torch.jit.save(torch.jit.trace(fused, x), stored)
    stored.seek(0)
    torch.testing.assert_close(torch.jit.load(stored)(x), plain(x))
    torch.testing.assert_close(torch.export.export(fused, (x,)).module()(x), plain(x))


@pytest.mark.parametrize("family", [PoolFormer, CAFormer])
def test_emitted_maps_may_be_changed_in_place(family):
    model = family(SMALL, token_mixers="pooling").double()
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    results = []
    for add in (torch.Tensor.add_, torch.Tensor.add):
        model.zero_grad()
        sum(add(level, 1).square().sum() for level in model(x)).backward()
        results.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("options", [dict(static_graph=True), dict(find_unused_parameters=True)])
@pytest.mark.parametrize("with_cp", [False, True])
def test_distributed_and_accumulated_gradients(tmp_path, randomize, options, with_cp):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        model = randomize(PoolFormer(SMALL, with_cp=with_cp)).double()
        model(torch.zeros(1, 3, 32, 32, dtype=torch.double))
        wrapped = torch.nn.parallel.DistributedDataParallel(model, **options)
        images = torch.randn(2, 1, 3, 32, 32, dtype=torch.double)
        for x in images:
            sum(level.square().sum() for level in wrapped(x)).backward()
        found = [parameter.grad.clone() for parameter in model.parameters()]
    finally:
        torch.distributed.destroy_process_group()
    plain = PoolFormer(SMALL, fused=False).double()
    plain.load_state_dict(model.state_dict())
    for x in images:
        sum(level.square().sum() for level in plain(x)).backward()
    torch.testing.assert_close(found, [parameter.grad for parameter in plain.parameters()])


@pytest.mark.parametrize("family", [PoolFormer, CAFormer])
def test_an_empty_batch(family):
    """As a process without an image has it."""
    model = family(SMALL, token_mixers=["pooling", "sepconv", "identity", ATTENTION])
    levels = model(torch.zeros(0, 3, 64, 64))
    assert [tuple(level.shape) for level in levels] == [(0, 8, s, s) for s in (16, 8, 4, 2)]
    sum(level.sum() for level in levels).backward()
    assert all(torch.count_nonzero(parameter.grad) == 0 for parameter in model.parameters())


def test_half_precision_models():
    x = torch.randn(2, 3, 64, 64, dtype=torch.bfloat16)
    fused = PoolFormer(SMALL).bfloat16()
    results = outputs_and_gradients(fused, x)
    assert {value.dtype for value in results} == {torch.bfloat16}
    assert all(value.isfinite().all() for value in results)


@pytest.mark.parametrize("backbone", [PoolFormer, CAFormer])
def test_the_literal_path_compiles_as_one_graph(backbone):
    mixers = {} if backbone is PoolFormer else dict(token_mixers="sepconv")
    model = backbone(SMALL, out_indices=(0,), **mixers).double()
    x = torch.randn(1, 3, 32, 32, dtype=torch.double)
    expected = outputs_and_gradients(model, x)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    model.zero_grad()
    levels = compiled(x)
    sum(level.square().sum() for level in levels).backward()
    found = [*levels, *(parameter.grad for parameter in model.parameters())]
    torch.testing.assert_close(found, expected)
    torch._dynamo.reset()
