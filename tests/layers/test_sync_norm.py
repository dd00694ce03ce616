"""BatchNorm over the batches of several processes on the CPU."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from mmmetaformer.layers import CPUSyncBatchNorm, build_norm
from mmmetaformer.layers.checkpoint import checkpoint_block

IMAGES = 3
STEPS = 3


class Case(NamedTuple):
    """How many of the images the first process has, and how a norm of both is trained."""

    first: int = 2
    momentum: float | None = 0.1
    recomputed: bool = False


# The batches need not be of one size.
CASES = {
    "plain": Case(),
    "average of all batches": Case(momentum=None),
    "recomputed in the backward pass": Case(recomputed=True),
    "no image in the second process": Case(first=IMAGES),
}


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps far from zero and a factor for each value in the loss."""
    generator = torch.Generator().manual_seed(step)
    shape = (IMAGES, 4, 3, 5)
    maps = 1e3 + torch.randn(shape, generator=generator, dtype=torch.float64)
    return maps, torch.randn(shape, generator=generator, dtype=torch.float64)


def train(norm: nn.Module, images: slice, recomputed: bool = False) -> list[torch.Tensor]:
    """Outputs and gradients of some steps, then the state of the norm."""
    results = []
    for step in range(STEPS):
        x, factor = (tensor[images].clone() for tensor in batch(step))
        x.requires_grad_()
        y = checkpoint_block(norm, x) if recomputed else norm(x)
        (y * factor).sum().backward()
        results += [y.detach(), x.grad]
    return [*results, norm.weight.grad, norm.bias.grad, *norm.state_dict().values()]


def forward_only(cls: type[nn.Module], images: slice) -> dict[str, torch.Tensor]:
    """Outputs without gradients: of bfloat16 in training, and in eval mode without statistics."""
    x = batch(0)[0][images] - 1e3
    with torch.no_grad():
        return {
            "bfloat16": cls(4)(x.bfloat16()),
            "eval": cls(4, track_running_stats=False).double().eval()(x),
        }


def part(rank: int, first: int) -> slice:
    return slice(0, first) if rank == 0 else slice(first, IMAGES)


def process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=2)
    results = {}
    for name, (first, momentum, recomputed) in CASES.items():
        norm = CPUSyncBatchNorm(4, momentum=momentum, eps=1e-3).double()
        results[name] = train(norm, part(rank, first), recomputed)
    results["forward only"] = forward_only(CPUSyncBatchNorm, part(rank, Case().first))
    with pytest.raises(ValueError, match=r"one value per channel .*\(\d, 4, 1, 1\)"):
        CPUSyncBatchNorm(4)(torch.ones(1 - rank, 4, 1, 1))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    """Of both processes."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(process, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_batch_norm_of_both_batches(results, name):
    both = [result[name] for result in results]
    expected = train(
        nn.BatchNorm2d(4, momentum=CASES[name].momentum, eps=1e-3).double(), slice(None)
    )

    maps = 2 * STEPS
    for first, second, whole in zip(both[0][:maps], both[1][:maps], expected[:maps], strict=True):
        torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-9)
    # Each process has its share of the parameters' gradients, which DDP brings together.
    for first, second, whole in zip(
        both[0][maps : maps + 2], both[1][maps : maps + 2], expected[maps : maps + 2], strict=True
    ):
        torch.testing.assert_close(first + second, whole, rtol=0, atol=1e-9)
    for share in both:
        for tensor, whole in zip(share[maps + 2 :], expected[maps + 2 :], strict=True):
            torch.testing.assert_close(tensor, whole, rtol=1e-12, atol=1e-9)


def test_half_precision_has_the_statistics_of_both(results):
    found = torch.cat([result["forward only"]["bfloat16"] for result in results])
    expected = forward_only(nn.BatchNorm2d, slice(None))["bfloat16"]
    assert found.dtype == torch.bfloat16
    # One step of rounding.
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-6)


def test_processes_do_not_wait_for_each_other_in_eval_mode(results):
    """As torch's SyncBatchNorm, also where batches are the only statistics."""
    for rank, result in enumerate(results):
        expected = forward_only(nn.BatchNorm2d, part(rank, Case().first))["eval"]
        assert torch.equal(result["forward only"]["eval"], expected)


def test_alone_it_is_batch_norm():
    norm, plain = build_norm("CPUSyncBatchNorm", 4).double(), nn.BatchNorm2d(4).double()
    assert (
        isinstance(norm, CPUSyncBatchNorm) and norm.state_dict().keys() == plain.state_dict().keys()
    )
    for result, expected in zip(train(norm, slice(None)), train(plain, slice(None)), strict=True):
        assert torch.equal(result, expected)
    x = batch(0)[0]
    assert torch.equal(norm.eval()(x), plain.eval()(x))
