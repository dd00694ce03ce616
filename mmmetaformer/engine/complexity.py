"""Figures of a network that do not depend on the machine: parameters, operations, bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; buffers such as running statistics do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulate operations of convolutions, matrix products and attention for one image
    (3, height, width). What papers call FLOPs, as a rule. Norms, activations, pooling and Fourier
    transforms do not count.

    Args:
        model: A model in eval mode, built under ``torch.device('meta')``: there it costs nothing,
            and attention is seen, which is one opaque operator on the CPU.
        height: Rows of the image.
        width: Columns of the image.

    Raises:
        ValueError: If the model is on another device.
    """
    device = next(model.parameters()).device
    if device.type != "meta":
        raise ValueError(f"operations are counted on the meta device, the model is on {device}")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, height, width, device=device))
    return counter.get_total_flops() // 2


def count_minor_operations(model: nn.Module, height: int, width: int) -> int:
    """What MMCV's counter, with which many papers counted their FLOPs, adds to the
    multiply-accumulate operations: one operation per output of a convolution with a bias, two per
    input of a norm (but not of SyncBN, which it does not know) and one per input of ReLU and
    average pooling. GELU and products inside of attention it does not know either.

    Args:
        model: A model in eval mode, built under ``torch.device('meta')``.
        height: Rows of the image.
        width: Columns of the image.
    """
    total = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() if module.bias is not None else 0
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            total += 2 * inputs[0].numel()
        elif isinstance(module, nn.ReLU | nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            total += inputs[0].numel()

    hooks = [module.register_forward_hook(add) for module in model.modules()]
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, height, width, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return total


class SavedBytes:
    """Bytes of the distinct tensors that autograd holds for the backward pass."""

    def __init__(self) -> None:
        # Views of one storage hold it once. The tensors are kept, so that no address is reused.
        self._storages: dict[int, tuple[int, Tensor]] = {}

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    def total(self, exclude: nn.Module | None = None, inputs: Iterable[Tensor] = ()) -> int:
        """The sum, without the parameters and buffers of a model and without its inputs."""
        tensors = list(inputs)
        if exclude is not None:
            tensors += [*exclude.parameters(), *exclude.buffers()]
        own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        return sum(size for address, (size, _) in self._storages.items() if address not in own)


@contextmanager
def saved_for_backward() -> Iterator[SavedBytes]:
    """Record what the forward pass inside of the block saves for the backward pass."""
    saved = SavedBytes()
    with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda tensor: tensor):
        yield saved
