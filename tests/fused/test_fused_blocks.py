"""Blocks in their fused form against the literal form, which is the definition."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

from mmmetaformer.backbones import MetaFormerBlock
from mmmetaformer.engine.complexity import saved_for_backward
from mmmetaformer.fused import fuse, residual_functions, unfuse
from mmmetaformer.fused.blocks import FusedBlock
from mmmetaformer.fused.branches import fused_form, residual_branches

DIM = 8
GN = dict(type="GN", num_groups=1)
MLN = dict(type="MLN", bias=False)
LN = dict(type="LN2d", bias=False)
STAR = dict(type="StarReLU")
POOLING = dict(type="pooling")
BARE_MLP = dict(type="mlp", bias=False)
ATTENTION = dict(type="attention", head_dim=4)

# name: what the block is built with, and how many of its residuals have a fused form.
KINDS = {
    "poolformer": (dict(token_mixer=POOLING, norm_cfg=GN, layer_scale_init_value=1e-5), 2),
    "pool of 5": (dict(token_mixer=dict(type="pooling", pool_size=5), norm_cfg=GN), 2),
    "poolformerv2": (
        dict(token_mixer=POOLING, channel_mixer=BARE_MLP, norm_cfg=MLN, act=STAR,
             res_scale_init_value=1.0),
        2,
    ),
    "convformer": (
        dict(token_mixer=dict(type="sepconv"), channel_mixer=BARE_MLP, norm_cfg=LN, act=STAR),
        2,
    ),
    "sepconv with biases": (
        dict(token_mixer=dict(type="sepconv", bias=True), norm_cfg=dict(type="LN2d"),
             layer_scale_init_value=0.5, res_scale_init_value=1.0),
        2,
    ),
    "caformer": (
        dict(token_mixer=ATTENTION, channel_mixer=BARE_MLP, norm_cfg=LN, act=STAR,
             res_scale_init_value=1.0),
        2,
    ),
    "attention, image norm": (
        dict(token_mixer=dict(ATTENTION, qkv_bias=True), norm_cfg=GN, layer_scale_init_value=0.5),
        2,
    ),
    "relu": (dict(token_mixer=dict(type="identity"), norm_cfg=LN, act=dict(type="ReLU")), 1),
    "silu": (dict(token_mixer=dict(type="identity"), norm_cfg=GN, act=dict(type="SiLU")), 1),
    "squared relu": (
        dict(token_mixer=dict(type="identity"), norm_cfg=LN, act=dict(type="SquaredReLU")),
        1,
    ),
    "no residual": (
        dict(token_mixer=POOLING, norm_cfg=GN, layer_scale_init_value=0.5, residual=False),
        1,
    ),
    "no channel mixer": (dict(token_mixer=POOLING, channel_mixer=None, norm_cfg=GN), 1),
    "two groups": (dict(token_mixer=POOLING, norm_cfg=dict(type="GN", num_groups=2)), 0),
    "batch norm": (dict(token_mixer=POOLING, norm_cfg=dict(type="BN")), 0),
}  # fmt: skip


def make(kind: str, dim: int = DIM, **options) -> MetaFormerBlock:
    settings = dict(channel_mixer=dict(type="mlp"), act=dict(type="GELU"), **options)
    settings.update(KINDS[kind][0])
    act = settings.pop("act")
    torch.manual_seed(0)
    block = MetaFormerBlock(dim, part_defaults=dict(act_cfg=act), **settings).double()
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_().mul_(parameter[0].numel() ** -0.5)
            else:  # factors around one, biases around zero
                parameter.normal_().mul_(0.2).add_(name.endswith(("weight", "scale")))
    return fuse(block)


def twin(block: MetaFormerBlock) -> MetaFormerBlock:
    return unfuse(copy.deepcopy(block))


def run(
    block: nn.Module, x: torch.Tensor, loss_scale: float = 1.0, **autocast
) -> dict[str, torch.Tensor]:
    """The output and every gradient, by a random cotangent."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    block.zero_grad()
    torch.manual_seed(1)  # of drop path
    with torch.autocast("cpu", **autocast or dict(enabled=False)):
        y = block(x)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    y.backward(cotangent.to(y.dtype) * loss_scale)
    return dict(
        output=y.detach(), x=x.grad, **{name: p.grad for name, p in block.named_parameters()}
    )


def assert_same(block: MetaFormerBlock, x: torch.Tensor, tolerance: float = 1e-10) -> None:
    fused, plain = run(block, x), run(twin(block), x)
    assert [name for name, value in fused.items() if value is None] == []
    torch.testing.assert_close(fused, plain, rtol=tolerance, atol=tolerance)


def image(size=(5, 7), dtype=torch.double, batch=3) -> torch.Tensor:
    return torch.randn(batch, DIM, *size, dtype=dtype, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
def test_number_of_fused_residuals(kind):
    block, count = make(kind), KINDS[kind][1]
    assert sum(fused_form(branch) is not None for branch in residual_branches(block)) == count
    assert type(block) is (FusedBlock if count else MetaFormerBlock)


@pytest.mark.parametrize("kind", KINDS)
def test_fused_equals_plain(kind):
    assert_same(make(kind, drop_path_rate=0.5), image())


@pytest.mark.parametrize("kind", ["poolformer", "poolformerv2"])
def test_large_maps_are_pooled_again(monkeypatch, kind):
    block, x = make(kind), image().requires_grad_()
    sizes = []
    for limit in (2**19, 0):
        monkeypatch.setattr(residual_functions, "_SMALL", limit)
        assert_same(make(kind, drop_path_rate=0.5), image())
        with saved_for_backward() as saved:
            block(x)
        sizes.append(saved.total(block))
    assert sizes[0] - sizes[1] == x.numel() * x.element_size()


@pytest.mark.parametrize("kind", ["poolformer", "poolformerv2", "convformer", "caformer"])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 2), (9, 4)])
def test_sizes(kind, size):
    assert_same(make(kind), image(size))


@pytest.mark.parametrize("kind", ["poolformer", "poolformerv2", "convformer", "caformer"])
def test_memory_formats(kind):
    block = make(kind)
    channels_last = image().contiguous(memory_format=torch.channels_last)
    assert_same(block, channels_last)
    expected = run(block, image())["output"]
    scattered = image().repeat_interleave(2, dim=3)[..., ::2]
    assert not scattered.is_contiguous()
    for x in (channels_last, scattered):
        torch.testing.assert_close(run(block, x)["output"], expected)


@pytest.mark.parametrize("kind", ["poolformer", "convformer", "caformer"])
def test_without_gradients(kind):
    block = make(kind).eval()
    expected = twin(block)(image())
    x = image()
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected)
    torch.testing.assert_close(x, image())  # which nothing overwrites


@pytest.mark.parametrize("kind", ["poolformer", "convformer"])
def test_float32(kind):
    assert_same(make(kind).float(), image(dtype=torch.float32), tolerance=2e-4)


# Older versions of torch have no autocast to float16 on the CPU.
FLOAT16 = pytest.param(torch.float16, marks=pytest.mark.torch("2.4"))


def error(values: torch.Tensor, exact: torch.Tensor) -> float:
    return float((values.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, FLOAT16])
@pytest.mark.parametrize(
    ("kind", "mean"),
    [
        *itertools.product(["poolformer", "poolformerv2", "convformer"], [0.0, 1e3]),
        ("caformer", 0.0),  # far from zero, chance decides between two attentions
    ],
)
def test_autocast_is_as_accurate_as_plain(kind, dtype, mean):
    torch.manual_seed(0)
    block = make(kind, dim=32).float()
    x = torch.randn(2, 32, 16, 16) + mean
    exact = run(twin(block).double(), x.double())
    fused, plain = run(block, x, dtype=dtype), run(twin(block), x, dtype=dtype)
    assert fused["output"].dtype == plain["output"].dtype
    for name in ("output", "x", "mlp.fc1.weight", "mlp.fc2.weight"):
        assert error(fused[name], exact[name]) <= 1.1 * error(plain[name], exact[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_under_autocast(kind, dtype):
    block = make(kind).float()
    with torch.autocast("cpu", torch.bfloat16):
        x = image(dtype=torch.float32).to(dtype)
        assert block(x).dtype == twin(block)(x).dtype


@pytest.mark.parametrize("kind", ["poolformer", "convformer", "caformer", "attention, image norm"])
def test_drop_path_leaves_out_the_same_branches_under_autocast(kind):
    block = make(kind, drop_path_rate=0.5).float().train()
    x = image(dtype=torch.float32, batch=16)
    outputs = []
    for form in (block, twin(block)):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(form(x).float())
    fused, plain = ((output - x).flatten(1).norm(dim=1) for output in outputs)
    torch.testing.assert_close(fused, plain, rtol=0.05, atol=0.05)
    assert plain.max() > 2 * plain.min()  # some branches are out


@pytest.mark.torch("2.4")
def test_a_small_layer_scale_does_not_vanish_in_half_precision():
    block = make("poolformer").float()
    with torch.no_grad():
        block.layer_scale2.scale.fill_(1e-6)
    x = image(dtype=torch.float32)
    scaled = dict(loss_scale=2.0**14)
    fused = run(block, x, dtype=torch.float16, **scaled)
    exact = run(twin(block).double(), x.double(), **scaled)
    for name in ("layer_scale2.scale", "mlp.fc2.weight", "mlp.fc1.weight"):
        assert error(fused[name], exact[name]) < 0.005


def test_only_the_backward_pass_inside_of_autocast():
    block, x = make("sepconv with biases").float(), image(dtype=torch.float32)
    outside = run(block, x)
    x.requires_grad_()
    block.zero_grad()
    y = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2)))
    inside = dict(x=x.grad, **{name: p.grad for name, p in block.named_parameters()})
    del outside["output"]
    torch.testing.assert_close(inside, outside, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["poolformer", "convformer"])
def test_a_backward_pass_inside_of_autocast_is_the_same(kind):
    block = make(kind).float()
    x = image(dtype=torch.float32)
    outside = run(block, x, dtype=torch.bfloat16)
    x.requires_grad_()
    block.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype))
    inside = dict(x=x.grad, **{name: p.grad for name, p in block.named_parameters()})
    del outside["output"]
    torch.testing.assert_close(inside, outside, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["relu", "poolformer", "poolformerv2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, FLOAT16])
def test_autocast_of_a_map_in_parts(monkeypatch, kind, dtype):
    block = make(kind, drop_path_rate=0.5).float()
    x = image(dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    whole = run(block, x, dtype=dtype)
    monkeypatch.setattr(residual_functions, "_LARGE", 0)
    two_rows = 2 * 7 * 4 * DIM * 2  # bytes of hidden values
    monkeypatch.setattr(residual_functions, "_PART", two_rows)
    parts = run(block, x, dtype=dtype)
    assert run(twin(block), x, dtype=dtype)["output"].dtype == parts["output"].dtype
    for name in ("output", "x", "norm2.weight", "mlp.fc1.weight", "mlp.fc2.weight"):
        assert error(parts[name], whole[name].double()) < 0.01


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_mean(layout):
    block = make("poolformer")
    x = (image((16, 16)) + 1e3).contiguous(memory_format=layout)
    exact = run(twin(block), x)
    fused = run(copy.deepcopy(block).float(), x.float())
    assert error(fused["output"] - 1e3, exact["output"] - 1e3) < 1e-3
    assert error(fused["x"], exact["x"]) < 1e-3


def test_gradient_of_the_bias_that_cancels_is_zero():
    grad = run(make("poolformer"), image())["norm1.bias"]
    assert torch.equal(grad, torch.zeros(DIM, dtype=torch.double))


def test_frozen_parameters_get_no_gradient():
    block = make("convformer")
    for parameter in block.parameters():
        parameter.requires_grad = False
    x = image()
    block.norm2.weight.requires_grad = True
    fused, plain = run(block, x), run(twin(block), x)
    given = {name for name, value in fused.items() if value is not None}
    assert given == {"output", "x", "norm2.weight"}
    for name in given:
        torch.testing.assert_close(fused[name], plain[name])


@pytest.mark.parametrize("kind", ["poolformer", "poolformerv2", "sepconv with biases", "caformer"])
def test_a_single_trained_parameter(kind):
    block, x = make(kind), image()
    for trained, _ in block.named_parameters():
        for name, parameter in block.named_parameters():
            parameter.requires_grad = name == trained
        gradients = []
        for each in (block, twin(block)):
            each.zero_grad()
            each(x).square().sum().backward()
            gradients.append({name: p.grad for name, p in each.named_parameters()})
        given = [name for name, gradient in gradients[0].items() if gradient is not None]
        assert given == [trained]
        torch.testing.assert_close(gradients[0][trained], gradients[1][trained])


@pytest.mark.parametrize("layer_scale", [None, 0.5])
@pytest.mark.parametrize("residual", [True, False])
def test_the_result_may_be_changed_in_place(residual, layer_scale):
    block = make("convformer", residual=residual, layer_scale_init_value=layer_scale).float()
    x = image(dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    gradients = []
    for each in (block, twin(block)):
        each(x).mul_(2).square().sum().backward()
        gradients.append([parameter.grad for parameter in each.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


def test_used_twice():
    block = make("poolformer")
    x = image()

    def twice(block):
        leaf = x.clone().requires_grad_()
        block.zero_grad()
        block(block(leaf)).square().sum().backward()
        return [leaf.grad, *(parameter.grad for parameter in block.parameters())]

    torch.testing.assert_close(twice(block), twice(twin(block)))


def test_copies_and_pickles():
    block = make("caformer")
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        torch.testing.assert_close(other(image()), block(image()))


@pytest.mark.parametrize(
    ("kind", "ratio"),
    [("poolformer", 0.45), ("poolformerv2", 0.45), ("convformer", 0.4), ("caformer", 0.6)],
)
def test_bytes_kept_for_the_backward_pass(kind, ratio):
    x = image((32, 32)).contiguous(memory_format=torch.channels_last).requires_grad_()
    sizes = []
    for block in (make(kind), twin(make(kind))):
        with saved_for_backward() as saved:
            block(x)
        sizes.append(saved.total(block))
    assert sizes[0] <= ratio * sizes[1]


PARTS = ["norm1", "token_mixer", "token_mixer.pool", "layer_scale1"]


@pytest.mark.parametrize("part", [*PARTS, "drop_path"])
@pytest.mark.parametrize("hook", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_a_hook_makes_the_residual_run_literally(part, hook, fused_functions):
    block = make("poolformer", drop_path_rate=0.1)
    seen = []
    module = block.get_submodule(part)
    handle = getattr(module, f"register_{hook}_hook")(lambda *args: seen.append(part))
    run(block, image())
    assert seen
    # Drop path belongs to both residuals.
    assert fused_functions(block(image())) == ([] if part == "drop_path" else ["Branch"])
    handle.remove()
    assert fused_functions(block(image())) == ["PoolResidualBranch"]


def test_a_replaced_forward_makes_the_residual_run_literally(fused_functions):
    block = make("poolformer")
    block.token_mixer.forward = lambda x: x
    torch.testing.assert_close(run(block, image())["output"], run(twin(block), image())["output"])
    assert fused_functions(block(image())) == ["Branch"]


@pytest.mark.parametrize("part", ["drop_path", "layer_scale1", "res_scale1"])
def test_an_unknown_scale_runs_literally(part):
    block = make("poolformer")
    setattr(block, part, nn.Dropout(0.5))
    assert not fused_form(residual_branches(block)[0])


def test_a_subclass_runs_literally():
    class Louder(type(make("poolformer").token_mixer)):
        def forward(self, x):
            return 2 * super().forward(x)

    block = make("poolformer")
    block.token_mixer = Louder(DIM)
    assert not fused_form(residual_branches(block)[0])


@pytest.mark.parametrize(
    ("kind", "part", "attribute", "value"),
    [
        ("poolformer", "pool", "count_include_pad", True),
        ("poolformer", "pool", "divisor_override", 4),
        ("poolformer", "pool", "padding", 0),
        ("convformer", "dwconv", "padding_mode", "circular"),
        ("convformer", "dwconv", "dilation", (2, 2)),
        ("convformer", "dwconv", "padding", "same"),
        ("convformer", "pwconv1", "stride", (2, 2)),
    ],
)
def test_other_settings_run_literally(kind, part, attribute, value):
    block = make(kind)
    assert fused_form(residual_branches(block)[0])
    setattr(getattr(block.token_mixer, part), attribute, value)
    assert not fused_form(residual_branches(block)[0])


@pytest.mark.parametrize("part", ["fc1", "fc2"])
def test_a_larger_kernel_runs_literally(part):
    block = make("poolformer")
    old = getattr(block.mlp, part)
    setattr(block.mlp, part, nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1))
    assert not fused_form(residual_branches(block)[1])


@pytest.mark.parametrize("norm", [GN, dict(type="GN", num_groups=2), dict(type="MLN")])
def test_large_mean_in_a_literal_block(norm):
    """A fused network hands it channels_last maps, of which torch's GroupNorm is far off."""
    block = MetaFormerBlock(DIM, dict(type="identity"), None, norm, {})
    x = (image((16, 16)) + 1e3).contiguous(memory_format=torch.channels_last)
    exact = run(copy.deepcopy(block).double(), x)
    found = run(block, x.float())
    assert error(found["output"] - 1e3, exact["output"] - 1e3) < 1e-3
    assert error(found["x"], exact["x"]) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_literal_block_behind_frozen_layers(dtype):
    """Where torch's GroupNorm of a channels_last map crashes in the backward pass."""
    block = MetaFormerBlock(DIM, dict(type="identity"), None, GN, {}).to(dtype)
    x = image(dtype=dtype).contiguous(memory_format=torch.channels_last)
    block(x).sum().backward()
    wanted = nn.functional.group_norm(x.float(), 1).sum((0, 2, 3))
    torch.testing.assert_close(block.norm1.weight.grad.float(), wanted, rtol=0.05, atol=0.05)


def test_traced_and_transformed_models_run_literally():
    block = make("poolformer").eval()
    traced = torch.jit.trace(block, image())
    torch.testing.assert_close(traced(image()), block(image()))
    per_image = torch.func.vmap(lambda x: block(x[None])[0])(image())
    torch.testing.assert_close(per_image, twin(block)(image()))
