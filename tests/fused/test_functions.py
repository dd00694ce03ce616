"""The gradients of the fused functions against differences, in float64."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from mmmetaformer.fused import products, residual_functions
from mmmetaformer.fused.functions import (
    Contiguous,
    Convolution,
    Norm,
    NormLinear,
)
from mmmetaformer.fused.maps import has_fast_products
from mmmetaformer.fused.norms import AffineNorm
from mmmetaformer.fused.primitives import ACTIVATIONS, find_implementation
from mmmetaformer.fused.residual_functions import (
    Branch,
    BranchSettings,
    BranchTensors,
    PoolResidual,
    PoolTensors,
)

SHAPE = (2, 3, 4, 5)
NORMS = {
    name: AffineNorm(name == "image", 1e-5, find_implementation("torch"))
    for name in ("image", "position")
}
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.double).add(0.3).requires_grad_()


def image(layout: torch.memory_format = torch.contiguous_format, channels: int = 3):
    x = torch.randn(2, channels, 4, 5, dtype=torch.double).contiguous(memory_format=layout)
    return x.requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("pool_size", [3, 7])
def test_pool_residual(layout, full, pool_size):
    drop = torch.tensor([2.0, 0.0], dtype=torch.double) if full else None
    layer_scale, identity = (leaf(3) if full else None for _ in range(2))
    # The bias cancels, which is exact: its gradient is checked in test_blocks.
    tensors = PoolTensors(leaf(3), None, layer_scale, identity, drop)
    gradcheck(PoolResidual.apply, (image(layout), NORMS["image"], pool_size, *tensors))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("full", [True, False])
def test_norm_linear(layout, norm, full):
    gamma, beta, bias = (leaf(size) if full else None for size in (3, 3, 4))
    gradcheck(NormLinear.apply, (image(layout), gamma, beta, leaf(4, 3), bias, NORMS[norm]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("full", [True, False])
def test_norm(norm, full):
    gamma, beta = (leaf(3) if full else None for _ in range(2))
    gradcheck(Norm.apply, (image(torch.channels_last), gamma, beta, NORMS[norm]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [(1, 1), (4, 5)])
def test_the_result_of_a_norm_may_be_changed_in_place(norm, size):
    x = torch.randn(2, 3, *size, dtype=torch.double).contiguous(memory_format=torch.channels_last)
    y = Norm.apply(x.requires_grad_(), leaf(3), None, NORMS[norm])
    assert y.is_contiguous()
    y.mul_(2).square().sum().backward()


def branch_arguments(act: str, depthwise: bool, full: bool, norm: str = "image", **changes):
    """The arguments of ``Branch`` after its map of 3 channels."""
    settings = dict(norm=NORMS[norm], act=act, residual=True, differentiable=True)
    tensors = dict.fromkeys(BranchTensors._fields)
    tensors.update(weight=leaf(4, 3), weight2=leaf(3, 4))
    if act == "star_relu":
        tensors.update(act_scale=leaf(1), act_bias=leaf(1))
    if depthwise:
        tensors["depthwise"] = leaf(4, 1, 3, 3)
    if full:
        tensors.update(gamma=leaf(3), beta=leaf(3), bias=leaf(4), bias2=leaf(3))
        tensors.update(layer_scale=leaf(3), identity=leaf(3))
        tensors["drop"] = torch.tensor([2.0, 0.5], dtype=torch.double)
        tensors["depthwise_bias"] = leaf(4) if depthwise else None
    settings.update(changes)
    return BranchSettings(**settings), *BranchTensors(**tensors)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("full", [True, False])
def test_branch(act, depthwise, full):
    gradcheck(Branch.apply, (image(torch.channels_last), *branch_arguments(act, depthwise, full)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("full", [True, False])
def test_branch_without_identity_path(layout, full):
    arguments = branch_arguments("gelu", False, full, "position", residual=False)
    gradcheck(Branch.apply, (image(layout), *arguments))


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_branch_in_parts(monkeypatch, full, rows):
    arguments = branch_arguments("star_relu", False, full)
    x = image(torch.channels_last)
    whole = Branch.apply(x, *arguments)
    monkeypatch.setattr(residual_functions, "_LARGE", 0)
    # A row of hidden values: 4 channels, 5 positions, 8 bytes.
    monkeypatch.setattr(residual_functions, "_PART", rows * 4 * 5 * 8)
    result = Branch.apply(x, *arguments)
    kept = [tensor.shape for tensor in result.grad_fn.saved_tensors if tensor is not None]
    assert kept.count((1, 4, {1: 1, 3: 2}[rows], 5)) == {1: 8, 3: 4}[rows]  # 4 rows, evenly
    torch.testing.assert_close(result, whole)
    gradcheck(Branch.apply, (x, *arguments))


def test_small_images_are_taken_at_once(monkeypatch):
    monkeypatch.setattr(residual_functions, "_LARGE", 0)
    monkeypatch.setattr(residual_functions, "_PART", 4 * 20 * 8)  # the hidden values of an image
    result = Branch.apply(image(torch.channels_last), *branch_arguments("gelu", False, True))
    kept = [tensor.shape for tensor in result.grad_fn.saved_tensors if tensor is not None]
    assert (2, 4, 4, 5) in kept


@pytest.mark.parametrize("frozen", ["gamma beta", "weight bias", "weight2 bias2 layer_scale"])
@pytest.mark.parametrize("x_needs_grad", [True, False])
def test_branch_with_frozen_parameters(frozen, x_needs_grad):
    settings, *tensors = branch_arguments("gelu", True, True)
    x = image(torch.channels_last).requires_grad_(x_needs_grad)
    wanted = [
        name
        for name, tensor in zip(BranchTensors._fields, tensors, strict=True)
        if tensor is not None and tensor.requires_grad and name not in frozen.split()
    ]
    for name in frozen.split():
        tensors[BranchTensors._fields.index(name)].requires_grad_(False)
    gradcheck(Branch.apply, (x, settings, *tensors))
    Branch.apply(x, settings, *tensors).sum().backward()
    found = [
        name
        for name, tensor in zip(BranchTensors._fields, tensors, strict=True)
        if tensor is not None and tensor.grad is not None
    ]
    assert found == wanted


GEOMETRIES = [  # kernel, stride, padding
    ((3, 3), (2, 2), (1, 1)),
    ((2, 3), (1, 2), (0, 2)),
    ((4, 4), (4, 4), (0, 0)),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_convolution(layout, full, kernel, stride, padding):
    bias = leaf(4) if full else None
    gradcheck(Convolution.apply, (image(layout), leaf(4, 3, *kernel), bias, stride, padding))


@pytest.mark.parametrize("size", [(16, 16), (9, 14)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_convolution_by_products_over_windows(monkeypatch, size, kernel, stride, padding):
    if not has_fast_products(torch.ones(1, 1, 1, 1)):
        pytest.skip("this torch has no oneDNN")
    calls = []
    product = products.windowed_weight_gradient
    monkeypatch.setattr(
        products, "windowed_weight_gradient", lambda *args: calls.append(1) or product(*args)
    )
    x = torch.randn(2, 5, *size).contiguous(memory_format=torch.channels_last)
    inputs = [x, torch.randn(7, 5, *kernel), torch.randn(7)]

    def results(function, dtype):
        leaves = [value.detach().to(dtype).requires_grad_() for value in inputs]
        y = function(*leaves, stride, padding)
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype))
        return [value.float() for value in (y, *(leaf.grad for leaf in leaves))]

    found = results(Convolution.apply, torch.float)
    assert calls == [1]
    torch.testing.assert_close(
        found, results(torch.nn.functional.conv2d, torch.double), rtol=1e-4, atol=1e-4
    )


def test_contiguous_keeps_the_gradients_in_channels_last():
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    grads = []
    inner = x * 1
    inner.register_hook(grads.append)
    y = Contiguous.apply(inner)
    assert y.is_contiguous()
    grad = torch.randn(2, 3, 4, 5)
    y.backward(grad)
    assert grads[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(grads[0], grad, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (Norm, lambda: (leaf(3), leaf(3), NORMS["image"])),
        (NormLinear, lambda: (leaf(3), leaf(3), leaf(4, 3), leaf(4), NORMS["image"])),
        (PoolResidual, lambda: (NORMS["image"], 3, *PoolTensors(leaf(3), *[None] * 4))),
        (Branch, lambda: branch_arguments("gelu", True, True)),
    ],
)
def test_checkpoints_hand_out_saved_tensors_once(function, arguments):
    x, arguments = image(), arguments()

    def run(x):
        return function.apply(x, *arguments)

    (wanted,) = torch.autograd.grad(run(x).square().sum(), x)
    (found,) = torch.autograd.grad(checkpoint(run, x, use_reentrant=False).square().sum(), x)
    torch.testing.assert_close(found, wanted)


def test_second_derivatives_are_refused():
    x = image()
    y = NormLinear.apply(x, leaf(3), None, leaf(4, 3), None, NORMS["image"])
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
