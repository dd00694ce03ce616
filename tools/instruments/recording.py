"""Reaching the mixers inside a backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from mmmetaformer.backbones.base import Backbone
from mmmetaformer.metamixer import MetaMixer, as_metamixer

BRANCHES = ("token", "channel")
# The attribute of a block for each of its branches.
_ATTRIBUTES = dict(token="token_mixer", channel="mlp")
# The most coefficients of one mixer and one image. In float32 they take 512 MiB, and scores,
# coefficients and their rearranged copies are held at once.
MAX_COEFFICIENTS = 2**27

T = TypeVar("T")


@dataclass(frozen=True)
class MixerSite:
    """One residual branch of a block.

    Attributes:
        layer: Number of the block in the network.
        stage: Stage, 0 to 3; of isotropic networks the quarter.
        block: Number of the block in its stage.
        branch: ``'token'`` or ``'channel'``.
        mixer: The mixer; None where the block has no such branch.
    """

    layer: int
    stage: int
    block: int
    branch: str
    mixer: nn.Module | None

    @property
    def mixer_name(self) -> str | None:
        """The class of the mixer; None where there is no mixer."""
        return None if self.mixer is None else type(self.mixer).__name__

    @property
    def why_not(self) -> str | None:
        """Why there are no coefficients here; None where there are."""
        if self.mixer is None:
            return f"the block has no {self.branch} mixer"
        if as_metamixer(self.mixer) is None:
            return f"{self.mixer_name} is not a MetaMixer: it has no keys and no coefficients"
        return None

    def describe(self) -> dict[str, int | str | None]:
        """What files say of it."""
        return dict(
            layer=self.layer,
            stage=self.stage,
            block=self.block,
            branch=self.branch,
            mixer=self.mixer_name,
        )

    def __str__(self) -> str:
        return f"{self.branch} mixer of block {self.stage}.{self.block}"


def mixer_sites(backbone: Backbone, branches: Sequence[str] = BRANCHES) -> list[MixerSite]:
    """The token and channel mixers of a backbone, in the order of the forward pass."""
    return [
        MixerSite(layer, stage, number, branch, getattr(block, _ATTRIBUTES[branch]))
        for layer, (stage, number, block) in enumerate(backbone.numbered_blocks())
        for branch in BRANCHES
        if branch in branches
    ]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; behind it, each module has its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def measure(
    backbone: Backbone,
    image: Tensor,
    sites: Sequence[MixerSite],
    function: Callable[[MetaMixer, Tensor], T],
) -> list[T | None]:
    """Apply a function to MetaMixers and their inputs in the forward pass of an image.

    The results are kept and the inputs are not, so that memory does not grow with the depth.

    Args:
        backbone: The network; it is evaluated in eval mode and left as it was.
        image: Normalised image, (3, H, W).
        sites: Where.
        function: Takes a mixer and its input (1, C, H', W').

    Returns:
        One result for each site, None where there is no MetaMixer.

    Raises:
        ValueError: If a mixer would have more than ``2**27`` coefficients.
    """
    results: dict[int, T] = {}

    def at(index: int) -> Callable:
        def record(mixer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            metamixer = as_metamixer(mixer)
            _check_size(sites[index], metamixer, inputs[0])
            results[index] = function(metamixer, inputs[0])

        return record

    handles = [
        site.mixer.register_forward_pre_hook(at(index))
        for index, site in enumerate(sites)
        if site.why_not is None
    ]
    try:
        with evaluating(backbone), torch.no_grad():
            backbone(image[None])
    finally:
        for handle in handles:
            handle.remove()
    return [results.get(index) for index in range(len(sites))]


def _check_size(site: MixerSite, mixer: MetaMixer, x: Tensor) -> None:
    height, width = x.shape[2:]
    keys = mixer.num_keys(x)
    if keys * height * width > MAX_COEFFICIENTS:
        raise ValueError(
            f"the {site} ({site.mixer_name}) has {keys} keys on a map of {height}x{width}, which "
            f"are {keys * height * width} coefficients (at most {MAX_COEFFICIENTS}): use smaller "
            "images"
        )


def is_softmax(mixer: MetaMixer) -> bool:
    """Whether the coefficients are a softmax, which compares scores with one another: the sign of
    a single score says nothing."""
    return isinstance(mixer.act, nn.Softmax)


def activity_maps(mixer: MetaMixer, x: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients c of an input, and their activity ``|c - c0|``, each (B, K, H, W).

    c0 is the coefficient of a key that does not match, of a score of zero: 0 for softmax, ReLU,
    GELU and most others, the learnt bias of a StarReLU. What it adds to the output is the same
    for every image, so a key says something by how far it is from it.

    Raises:
        ValueError: If a coefficient is not finite.
    """
    coefficients = mixer.coefficient_maps(x)
    if not coefficients.isfinite().all():
        name = getattr(mixer, "shown", None) or type(mixer).__name__
        raise ValueError(f"{name} has coefficients that are not finite")
    if is_softmax(mixer):
        return coefficients, coefficients.abs()
    rest = mixer.act(coefficients.new_zeros(1, coefficients.shape[1], 1, 1))
    return coefficients, (coefficients - rest).abs()
