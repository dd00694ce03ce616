"""BatchNorm over the batches of several processes on the CPU."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from mmmetaformer.layers import CPUSyncBatchNorm, build_norm

# Images of each of two processes: the batches need not be of one size.
SHARES = (2, 1)
STEPS = 3


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps far from zero and a factor for each value in the loss."""
    generator = torch.Generator().manual_seed(step)
    shape = (sum(SHARES), 4, 3, 5)
    maps = 1e3 + torch.randn(shape, generator=generator, dtype=torch.float64)
    return maps, torch.randn(shape, generator=generator, dtype=torch.float64)


def train(norm: nn.Module, images: slice) -> list[torch.Tensor]:
    """Outputs and gradients of some steps, then the state of the norm."""
    results = []
    for step in range(STEPS):
        x, factor = (tensor[images].clone() for tensor in batch(step))
        y = norm(x.requires_grad_())
        (y * factor).sum().backward()
        results += [y.detach(), x.grad]
    return [*results, norm.weight.grad, norm.bias.grad, *norm.state_dict().values()]


def process(rank: int, folder: str, options: dict) -> None:
    dist.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=2)
    start = sum(SHARES[:rank])
    norm = CPUSyncBatchNorm(4, **options).double()
    torch.save(train(norm, slice(start, start + SHARES[rank])), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_two_processes_equal_batch_norm_of_both_batches(tmp_path, momentum):
    options = dict(momentum=momentum, eps=1e-3)
    mp.spawn(process, (str(tmp_path), options), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    expected = train(nn.BatchNorm2d(4, **options).double(), slice(None))

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


def test_alone_it_is_batch_norm():
    norm, plain = build_norm("CPUSyncBatchNorm", 4).double(), nn.BatchNorm2d(4).double()
    assert (
        isinstance(norm, CPUSyncBatchNorm) and norm.state_dict().keys() == plain.state_dict().keys()
    )
    for result, expected in zip(train(norm, slice(None)), train(plain, slice(None)), strict=True):
        assert torch.equal(result, expected)
    x = batch(0)[0]
    assert torch.equal(norm.eval()(x), plain.eval()(x))
