"""The kernels against float64, on a GPU or in Triton's interpreter (``test_interpreter.py``)."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("no GPU; test_interpreter.py runs these tests", allow_module_level=True)

kernels = pytest.importorskip("triton_kernels")
ops = kernels.ops
DEVICE = "cpu" if INTERPRETED else "cuda"
EPS = 1e-5
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMATS = [torch.contiguous_format, torch.channels_last]
# Tiles that end within the map on all sides; a single value a channel; more than one tile of
# channels, rows and columns.
SHAPES = [(2, 5, 7, 6), (1, 3, 1, 1), (1, 17, 6, 19)]
STAR = (0.9, -0.3)


def make(*shape: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    """Normally distributed float32."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (values + mean).to(DEVICE)


def make_map(shape: tuple[int, ...], dtype: torch.dtype, memory_format, **kwargs) -> Tensor:
    return make(*shape, **kwargs).to(dtype).contiguous(memory_format=memory_format)


def check(result: Tensor, wanted: Tensor, dtype: torch.dtype = torch.float32, scale: float = 1.0):
    """The result rounds, once, what was computed in float32 with numbers up to ``scale``.

    A rounding may be off by one unit: the interpreter cuts off what bfloat16 cannot hold.
    """
    assert result.dtype == dtype
    assert result.shape == wanted.shape
    limit = 4e-6 * scale + torch.finfo(dtype).eps * wanted.abs().max().item()
    assert (result.double() - wanted).abs().max().item() <= limit


def check_format(result: Tensor, like: Tensor) -> None:
    for memory_format in FORMATS:
        assert result.is_contiguous(memory_format=memory_format) == like.is_contiguous(
            memory_format=memory_format
        )


def reference_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.double()
    return x.mean((1, 2, 3)), (x.var((1, 2, 3), correction=0) + EPS).rsqrt()


def reference_pool_residual(
    x: Tensor, factor: Tensor, identity: Tensor | None, pool_size: int
) -> Tensor:
    x = x.double()
    pooled = F.avg_pool2d(x, pool_size, 1, pool_size // 2, count_include_pad=False)
    kept = x if identity is None else identity.double()[:, None, None] * x
    return kept + factor.double()[:, :, None, None] * (pooled - x)


ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "squared_relu": lambda z: F.relu(z) ** 2,
    "star_relu": lambda z, scale, bias: scale * F.relu(z) ** 2 + bias,
    "identity": lambda z: z,
}


def star_numbers(act: str) -> tuple[Tensor, ...]:
    return tuple(torch.tensor([n], device=DEVICE) for n in STAR) if act == "star_relu" else ()


# ------------------------------------------------------------------------------------- moments


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_moments(dtype, memory_format) -> None:
    x = make_map((2, 5, 31, 33), dtype, memory_format)  # blocks of 4096 that end within
    for result, wanted in zip(kernels.moments(x, EPS), reference_moments(x), strict=True):
        check(result, wanted)


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_of_a_mean_far_above_the_spread(shape) -> None:
    x = make(*shape, mean=1e3)
    mean, rstd = kernels.moments(x, EPS)
    wanted_mean, wanted_rstd = reference_moments(x)
    check(mean, wanted_mean)
    torch.testing.assert_close(rstd.double(), wanted_rstd, rtol=1e-6, atol=0)


def test_moments_are_merged_from_any_number_of_parts() -> None:
    counts = torch.arange(1, 1501)
    values = make(2, int(counts.sum()), mean=1e3)
    parts = torch.empty(2, 3, len(counts), device=DEVICE)
    for i, part in enumerate(values.double().split(counts.tolist(), dim=1)):
        mean = part.mean(1)
        parts[:, 0, i] = part.shape[1]
        parts[:, 1, i] = mean
        parts[:, 2, i] = (part - mean[:, None]).square().sum(1)
    mean, rstd = ops._merge_moments(parts, values.shape[1], EPS)
    wanted_mean, wanted_rstd = reference_moments(values[:, None, None])
    check(mean, wanted_mean)
    torch.testing.assert_close(rstd.double(), wanted_rstd, rtol=1e-5, atol=0)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_normalize(dtype, memory_format, affine) -> None:
    x = make_map((2, 5, 7, 9), torch.float32, memory_format, mean=1e3)
    gamma, beta = (make(5, seed=seed) if affine else None for seed in (1, 2))
    mean, rstd = kernels.moments(x, EPS)
    n = kernels.normalize(x, mean, rstd, gamma, beta, dtype)
    wanted = (x.double() - mean[:, None, None, None]) * rstd[:, None, None, None]
    if affine:
        wanted = wanted * gamma.double()[:, None, None] + beta.double()[:, None, None]
    check(n, wanted, dtype)
    check_format(n, x)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(2, 17, 12, 13), (1, 70, 9, 31), (2, 3, 1, 1)])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_normalize_backward(dtype, memory_format, shape, affine) -> None:
    x = make_map(shape, dtype, memory_format, mean=2.0)
    grad = make_map(shape, dtype, torch.contiguous_format, seed=1)
    gamma = make(shape[1], seed=2) if affine else None
    beta = make(shape[1], seed=3)
    leaf, factor, shift = (
        value.detach().double().requires_grad_()
        for value in (x, torch.ones_like(beta) if gamma is None else gamma, beta)
    )
    y = F.group_norm(leaf, 1, factor, shift, eps=EPS)
    wanted = torch.autograd.grad(y, (leaf, factor, shift), grad.double())

    mean, rstd = (value.float() for value in reference_moments(x))
    grad_x, by_gamma, by_beta = kernels.normalize_backward(grad, x, mean, rstd, gamma)
    check(grad_x, wanted[0], dtype, scale=20)
    check(by_gamma, wanted[1], scale=200)
    check(by_beta, wanted[2], scale=200)
    check_format(grad_x, x)


def test_normalize_backward_of_a_mean_far_above_the_spread() -> None:
    x, grad, gamma = make(2, 6, 20, 20, mean=1e3), make(2, 6, 20, 20, seed=1), make(6, seed=2)
    leaf = x.double().requires_grad_()
    y = F.group_norm(leaf, 1, gamma.double(), eps=EPS)
    (wanted,) = torch.autograd.grad(y, leaf, grad.double())
    mean, rstd = (value.float() for value in reference_moments(x))
    grad_x, _, _ = kernels.normalize_backward(grad, x, mean, rstd, gamma)
    torch.testing.assert_close(grad_x.double(), wanted, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------- pooling


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_pool_residual(shape, memory_format) -> None:
    x = make_map(shape, torch.float32, memory_format)
    factor, identity = make(*shape[:2], seed=1), make(shape[1], seed=2)
    y = kernels.pool_residual(x, factor, identity, 3, torch.float32)
    check(y, reference_pool_residual(x, factor, identity, 3), scale=4)
    check_format(y, x)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    ("dtype", "result_dtype"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
    ],
)
def test_pool_residual_in_lower_precision(dtype, result_dtype, memory_format) -> None:
    x = make_map((2, 5, 7, 6), dtype, memory_format)
    factor, identity = make(2, 5, seed=1), make(5, seed=2).to(dtype)
    y = kernels.pool_residual(x, factor, identity, 3, result_dtype)
    check(y, reference_pool_residual(x, factor, identity, 3), result_dtype, scale=4)


@pytest.mark.parametrize(
    ("pool_size", "shape"),
    [(1, (1, 2, 5, 3)), (5, (1, 2, 6, 5)), (9, (1, 2, 3, 2))],  # the last reaches over the map
)
def test_pool_residual_with_other_windows(pool_size, shape) -> None:
    x, factor = make(*shape), make(*shape[:2], seed=1)
    y = kernels.pool_residual(x, factor, None, pool_size, torch.float32)
    check(y, reference_pool_residual(x, factor, None, pool_size), scale=4)


def test_pooling_of_a_mean_far_above_the_spread() -> None:
    x, factor = make(1, 3, 7, 6, mean=1e3), make(1, 3, seed=1)
    nothing = torch.zeros(3, device=DEVICE)
    branch = kernels.pool_residual(x, factor, nothing, 3, torch.float32)
    # As exact as of a map without a mean; x.mean would leave an error of 1e-4.
    check(branch, reference_pool_residual(x, factor, nothing, 3))


@pytest.mark.parametrize(
    ("dtype", "memory_format"), [(torch.float32, FORMATS[0]), (torch.bfloat16, FORMATS[1])]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_moments_of_the_pooled(shape, memory_format, dtype) -> None:
    x = make_map(shape, dtype, memory_format, mean=100)
    factor, identity = make(*shape[:2], seed=1), make(shape[1], seed=2)
    y, mean, rstd = kernels.pool_residual_moments(x, factor, identity, 3, dtype, EPS)
    assert y.equal(kernels.pool_residual(x, factor, identity, 3, dtype))
    wanted_mean, wanted_rstd = reference_moments(y)
    check(mean, wanted_mean)
    torch.testing.assert_close(rstd.double(), wanted_rstd, rtol=1e-5, atol=0)


def reference_pool_gradients(
    grad: Tensor, x: Tensor, factor: Tensor, identity: Tensor | None, pool_size: int
) -> list[Tensor | None]:
    """Gradients by x, through rstd in the factor, too, by the factor and by the identity."""
    x, factor = x.double().requires_grad_(), factor.double().requires_grad_()
    leaves = [x, factor]
    if identity is not None:
        identity = identity.double().requires_grad_()
        leaves.append(identity)
    share = reference_moments(x)[1] / reference_moments(x.detach())[1]  # one, with a gradient
    y = reference_pool_residual(x, factor * share[:, None], identity, pool_size)
    return list(torch.autograd.grad(y, leaves, grad.double()))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES[::2])
def test_pool_residual_backward(shape, memory_format) -> None:
    x = make_map(shape, torch.float32, memory_format)
    mean, rstd = (part.float() for part in reference_moments(x))
    factor, identity, grad = make(*shape[:2], seed=1), make(shape[1], seed=2), make(*shape, seed=3)
    results = kernels.pool_residual_backward(grad, x, mean, rstd, factor, identity, 3)
    wanted = reference_pool_gradients(grad, x, factor, identity, 3)
    for result, reference in zip(results, wanted, strict=True):
        check(result, reference, scale=10)
    check_format(results[0], x)


@pytest.mark.parametrize(("pool_size", "shape"), [(1, (1, 2, 5, 3)), (9, (2, 2, 3, 2))])
def test_pool_residual_backward_with_other_windows(pool_size, shape) -> None:
    x, factor, grad = make(*shape), make(*shape[:2], seed=1), make(*shape, seed=3)
    mean, rstd = (part.float() for part in reference_moments(x))
    *results, none = kernels.pool_residual_backward(grad, x, mean, rstd, factor, None, pool_size)
    assert none is None
    wanted = reference_pool_gradients(grad, x, factor, None, pool_size)
    for result, reference in zip(results, wanted, strict=True):
        check(result, reference, scale=10)


def test_gradients_of_a_mean_far_above_the_spread() -> None:
    x, factor, grad = make(2, 3, 7, 6, mean=1e3), make(2, 3, seed=1), make(2, 3, 7, 6, seed=3)
    mean, rstd = (part.float() for part in reference_moments(x))
    results = kernels.pool_residual_backward(grad, x, mean, rstd, factor, None, 3)
    for result, reference in zip(
        results[:2], reference_pool_gradients(grad, x, factor, None, 3), strict=True
    ):
        check(result, reference, scale=50)  # the mean, rounded, is off by 3e-5


@pytest.mark.parametrize(
    ("x_dtype", "dtype"), [(torch.float32, torch.bfloat16), (torch.float16, torch.float16)]
)
def test_pool_residual_backward_in_lower_precision(x_dtype, dtype) -> None:
    """The gradient may come in another dtype and memory format than the map."""
    x = make_map((2, 5, 7, 6), x_dtype, torch.channels_last)
    factor, identity = make(2, 5, seed=1), make(5, seed=2).to(dtype)
    grad = make(2, 5, 7, 6, seed=3).to(dtype)
    mean, rstd = (part.float() for part in reference_moments(x))
    results = kernels.pool_residual_backward(grad, x, mean, rstd, factor, identity, 3)
    wanted = reference_pool_gradients(grad, x, factor, identity, 3)
    for result, reference, kind in zip(
        results, wanted, (x_dtype, torch.float32, torch.float32), strict=True
    ):
        check(result, reference, kind, scale=10)


# ---------------------------------------------------------------------------------- activation


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations(act, dtype) -> None:
    z = make_map((3, 7, 11, 13), dtype, torch.channels_last)  # more than one block
    z[0, :3, 0, 0] = torch.tensor([-9.0, 0.0, 9.0])
    numbers = star_numbers(act)
    grad = make_map(z.shape, dtype, torch.channels_last, seed=1)

    wide = [t.double().requires_grad_() for t in (z, *numbers)]
    wanted = ACTIVATIONS[act](*wide)
    wanted_grads = torch.autograd.grad(wanted, wide, grad.double())

    untouched = z.clone()
    check(kernels.activate(z, act, numbers), wanted, dtype, scale=10)
    assert z.equal(untouched)
    grad_z, h, grad_numbers = kernels.activate_backward(grad, z, act, numbers)
    assert h.equal(kernels.activate(z, act, numbers))
    check(grad_z, wanted_grads[0], dtype, scale=10)
    for result, reference in zip(grad_numbers, wanted_grads[1:], strict=True):
        check(result, reference, scale=100)
    check_format(h, z)
    check_format(grad_z, z)

    assert z.equal(untouched)
    in_place = kernels.activate(z, act, numbers, inplace=True)
    assert in_place.equal(h)
    assert in_place.data_ptr() == z.data_ptr()
    assert grad_z.data_ptr() == grad.data_ptr()


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations_do_not_hide_nan(act) -> None:
    z = torch.full((1, 1, 1, 1), torch.nan, device=DEVICE)
    assert kernels.activate(z, act, star_numbers(act)).isnan()
    grad_z, h, _ = kernels.activate_backward(z.clone(), z, act, star_numbers(act))
    assert h.isnan()
    assert grad_z.isnan()


# -------------------------------------------------------------------------------- of all of them


def arguments(x: Tensor, grad: Tensor) -> dict[str, tuple]:
    """Of each function, on the same map."""
    batch, channels = x.shape[:2]
    factor, identity = make(batch, channels, seed=1), make(channels, seed=2)
    mean, rstd = torch.zeros(batch, device=DEVICE), torch.ones(batch, device=DEVICE)
    numbers = star_numbers("star_relu")
    f32 = torch.float32
    return {
        "moments": (x, EPS),
        "normalize": (x, mean, rstd, identity, identity, f32),
        "normalize_backward": (grad, x, mean, rstd, identity),
        "pool_residual": (x, factor, identity, 3, f32),
        "pool_residual_moments": (x, factor, identity, 3, f32, EPS),
        "pool_residual_backward": (grad, x, mean, rstd, factor, identity, 3),
        "activate": (x, "star_relu", numbers),
        "activate_backward": (grad, x, "star_relu", numbers),
    }


FUNCTIONS = list(arguments(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)))


def flat(result: Tensor | tuple) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in flat(part)]


def fresh(given: Iterable) -> list:
    """Copies, strides included: a gradient may be overwritten."""
    return copy.deepcopy(list(given))


def run(name: str, x: Tensor, grad: Tensor) -> list[Tensor]:
    return flat(getattr(kernels, name)(*fresh(arguments(x, grad)[name])))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_bits_again(name) -> None:
    x, grad = make(2, 3, 5, 4), make(2, 3, 5, 4, seed=1)
    for first, second in zip(run(name, x, grad), run(name, x, grad), strict=True):
        assert first.equal(second)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_maps_of_any_strides(name) -> None:
    wide, wide_grad = make(2, 3, 5, 8), make(2, 3, 8, 5, seed=1)
    x, grad = wide[..., ::2], wide_grad[:, :, ::2].transpose(2, 3)
    results = run(name, x, grad)
    for result, wanted in zip(results, run(name, x.clone(), grad.clone()), strict=True):
        assert result.equal(wanted)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_images(name) -> None:
    x = torch.empty(0, 5, 7, 6, device=DEVICE)
    one = torch.zeros(1, 5, 7, 6, device=DEVICE)
    for result, like in zip(run(name, x, x), run(name, one, one), strict=True):
        of_images = like.ndim > 1 or name in ("moments", "pool_residual_moments")
        assert result.equal(like[:0] if of_images else torch.zeros_like(like))


def operator(name: str, given: tuple) -> tuple[Callable, list]:
    """What ``torch.compile`` sees of a function, and its arguments."""
    function = getattr(ops, f"_{name}", None) or getattr(ops, name)
    given = [list(part) if isinstance(part, tuple) else part for part in given]
    in_place = [False] if name.startswith("activate") else []
    return function.operator, given + in_place


def check_fake(called: Callable, given: list) -> None:
    """What is promised to ``torch.compile`` is what comes."""
    with FakeTensorMode() as mode:
        fake = tree_map_only(Tensor, mode.from_tensor, given)
        promised = flat(called(*fake))
    for result, promise in zip(flat(called(*given)), promised, strict=True):
        assert result.dtype == promise.dtype
        assert result.shape == promise.shape
        assert result.stride() == promise.stride()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operators_are_what_torch_compile_believes(name) -> None:
    x = make_map((2, 3, 4, 5), torch.bfloat16, torch.channels_last)
    called, given = operator(name, arguments(x, x)[name])
    torch.library.opcheck(called, given, test_utils=("test_schema", "test_faketensor"))
    check_fake(called, given)
    narrow = x[..., :3]  # neither of the two formats: the result is contiguous
    check_fake(called, [narrow if part is x else part for part in given])


def test_an_operator_without_identity_is_what_torch_compile_believes() -> None:
    name, x = "pool_residual_backward", make(2, 3, 4, 5)
    called, given = operator(name, arguments(x, x)[name])
    given[5] = None
    check_fake(called, given)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_compile_does_not_break(name) -> None:
    x, grad = make(2, 3, 4, 5), make(2, 3, 4, 5, seed=1)
    function, given = getattr(kernels, name), arguments(x, grad)[name]
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *given: function(given[0] + 1, *given[1:]), fullgraph=True, backend="aot_eager"
    )
    wanted = flat(function(given[0] + 1, *given[1:]))
    for result, reference in zip(flat(compiled(*given)), wanted, strict=True):
        assert result.equal(reference)


@pytest.mark.parametrize("pool_size", [0, 2, 11, 3.0])
def test_windows_that_are_refused(pool_size) -> None:
    x, vector = make(1, 2, 3, 3), make(1)
    with pytest.raises(ValueError, match=f"odd integer from 1 to 9 .* got {pool_size}"):
        kernels.pool_residual(x, make(1, 2), None, pool_size, x.dtype)
    with pytest.raises(ValueError, match="odd integer"):
        kernels.pool_residual_backward(x, x, vector, vector, make(1, 2), None, pool_size)


def test_activations_that_are_refused() -> None:
    z = make(1, 2, 3, 3)
    with pytest.raises(ValueError, match="unknown activation 'elu': expected one of gelu, relu"):
        kernels.activate(z, "elu")
    with pytest.raises(ValueError, match="star_relu has 2 scalars, got 0"):
        kernels.activate_backward(z, z, "star_relu")


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((1, 2, 3, 3), torch.float64, "is float64 and none of float32, bfloat16, float16"),
        ((1, 2, 9), torch.float32, r"shape \(1, 2, 9\)"),
        ((1, 2, 0, 3), torch.float32, r"shape \(1, 2, 0, 3\)"),
        ((1, 2, 2**15, 2**15), torch.float32, "over 2130706432 elements"),
    ],
)
def test_maps_that_are_refused(shape, dtype, reason) -> None:
    x = torch.zeros((), dtype=dtype, device=DEVICE).expand(shape)
    assert not kernels.available(x)
    with pytest.raises(ValueError, match=reason):
        kernels.moments(x, EPS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_maps_that_are_taken(dtype) -> None:
    assert kernels.available(torch.zeros(0, 2, 3, 3, dtype=dtype, device=DEVICE))
